import copy
import math

import pytest
import torch
from helpers import images
from torch import nn
from zoo.convolutional import small_net
from zoo.routed import Experts

from reflow_lightning import calibrate, measure_signal, prune
from reflow_lightning.running.forward import default_forward
from reflow_lightning.signal.measure import Profile

BATCHES = list(images(64).split(16))


def test_rows_are_the_statistics_of_the_outputs_in_eval_mode():
    model = small_net().train()
    report = measure_signal(model, BATCHES, max_batches=4)
    assert [row.name for row in report.rows] == ["1", "5", "9"]
    model.eval()
    with torch.no_grad():
        outputs = model[:2](torch.cat(BATCHES)).double()
    row = report.rows[0]
    assert row.channels == 8
    assert row.mean == pytest.approx(float(outputs.mean()), abs=1e-9)
    assert row.total_variance == pytest.approx(float(outputs.var(correction=0)))
    assert row.variance == pytest.approx(float(outputs.var((0, 2, 3), correction=0).mean()))
    assert row.cosine is None


def test_rows_follow_the_forward_pass_not_the_registration():
    class Reversed(nn.Module):
        def __init__(self):
            super().__init__()
            self.last, self.first = nn.Linear(3, 3), nn.Linear(2, 3)

        def forward(self, x):
            return self.last(self.first(x))

    assert [row.name for row in measure_signal(Reversed(), [torch.ones(4, 2)], max_batches=1).rows] == ["first", "last"]


def test_a_network_equals_itself_and_a_pruned_one_does_not():
    model = small_net()
    calibrate(model, BATCHES, max_batches=4)
    dense = copy.deepcopy(model)
    for row in measure_signal(model, BATCHES, reference=dense, max_batches=4).rows:
        assert row.cosine == pytest.approx(1)
        assert row.cka == pytest.approx(1)
        assert row.variance_ratio == pytest.approx(1)
        assert row.channel_ratio == pytest.approx(1)
    prune(model, 0.8)
    rows = measure_signal(model, BATCHES, reference=dense, max_batches=4).rows
    assert rows[1].cosine < 0.999
    assert rows[1].variance_ratio < 1
    calibrate(model, BATCHES, max_batches=4)
    assert measure_signal(model, BATCHES, max_batches=4).rows[0].variance > rows[0].variance


def test_dead_channels_are_counted():
    model = small_net()
    nn.init.zeros_(model[0].weight[:2].detach())
    assert measure_signal(model, BATCHES, max_batches=4).rows[0].dead == 0.25


def test_saturated_channels_and_entropy_are_those_of_all_samples_and_positions():
    model = small_net()
    nn.init.constant_(model[1].bias.detach()[:2], 100.0)
    with torch.no_grad():
        outputs = model.eval()[:2](torch.cat(BATCHES))
    on = (outputs > 0).double().mean((0, 2, 3))
    row = measure_signal(model, BATCHES, max_batches=4).rows[0]
    assert row.saturated == 0.25
    assert row.entropy == pytest.approx(
        float(torch.special.entr(torch.stack([on, 1 - on])).sum(0).mean() / math.log(2))
    )


def test_labels_in_the_batch_tell_how_well_classes_are_separated():
    model = nn.Sequential(nn.Linear(2, 2))
    nn.init.eye_(model[0].weight.detach())
    x, labels = torch.tensor([[0.0, 1.0], [2.0, 1.0], [2.0, 1.0], [4.0, 1.0]]), torch.tensor([0, 0, 1, 1])
    for batch in ((x, labels), [x, labels], {"x": x, "label": labels}):
        assert measure_signal(model, [batch], max_batches=1).rows[0].class_share == pytest.approx(0.5)
    assert measure_signal(model, [x], max_batches=1).rows[0].class_share is None


def test_a_layer_that_sees_samples_cut_into_windows_has_no_class_share():
    model = nn.Sequential(nn.Linear(4, 3), nn.Unflatten(1, (3, 1)), nn.Flatten(0, 1), nn.Linear(1, 2))
    rows = measure_signal(model, [(torch.randn(6, 4), torch.arange(6) % 2)], max_batches=1).rows
    assert rows[0].class_share is not None
    assert rows[1].class_share is None


def test_samples_of_a_time_first_layer_are_its_second_dimension():
    model = nn.Sequential(nn.GRU(3, 4, batch_first=True))
    other = nn.Sequential(nn.GRU(3, 4))
    other.load_state_dict(model.state_dict())
    x, labels = torch.randn(6, 5, 3), torch.arange(6) % 2
    swap = lambda model, batch: model(batch[0].transpose(0, 1))  # noqa: E731
    expected = measure_signal(model, [(x, labels)], max_batches=1).rows[0]
    found = measure_signal(other, [(x, labels)], max_batches=1, forward=swap).rows[0]
    assert found.class_share == pytest.approx(expected.class_share)
    assert found.variance == pytest.approx(expected.variance)


def test_nothing_is_changed():
    model = small_net().train()
    model[1].eval()
    before, flags = copy.deepcopy(model.state_dict()), [m.training for m in model.modules()]
    rng = torch.get_rng_state()
    measure_signal(model, BATCHES, reference=copy.deepcopy(model), max_batches=4)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert [m.training for m in model.modules()] == flags
    assert torch.equal(rng, torch.get_rng_state())


def test_a_reference_with_other_layers_is_an_error():
    with pytest.raises(ValueError, match=r"reference=Linear lacks \['1', '5', '9'\]"):
        measure_signal(small_net(), BATCHES, reference=nn.Linear(2, 2))
    wide = small_net()
    wide[0], wide[1] = nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16)
    wide[4] = nn.Conv2d(16, 8, 3, padding=1)
    with pytest.raises(ValueError, match=r"layer '1' puts out \(16, 8\).*\(16, 16\) in the reference"):
        measure_signal(small_net(), BATCHES, reference=wide)


def test_a_profile_compares_states_of_one_network_like_a_reference_would():
    model = small_net()
    dense = copy.deepcopy(model)
    profile = Profile(BATCHES, default_forward)
    profile.measure(model, "dense")
    prune(model, 0.8)
    profile.measure(model, "pruned")
    expected = measure_signal(model, BATCHES, reference=dense, max_batches=4)
    for row, other in zip(profile.reports["pruned"].rows, expected.rows, strict=True):
        assert row.cosine == pytest.approx(other.cosine)
        assert row.cka == pytest.approx(other.cka)
        assert row.entropy == pytest.approx(other.entropy)
        assert row.variance_ratio == pytest.approx(other.variance_ratio)


@pytest.mark.parametrize("balanced", [True, False])
def test_layers_that_get_other_rows_are_not_compared_row_by_row_and_named_once(balanced):
    torch.manual_seed(3)
    model, batches = Experts(balanced), [torch.randn(64, 8) for _ in range(3)]
    dense = copy.deepcopy(model)
    prune(model, 0.6)
    with pytest.warns(UserWarning, match=r"'experts.0.0', 'experts.1.0' got other rows") as caught:
        rows = {row.name: row for row in measure_signal(model, batches, reference=dense, max_batches=3).rows}
    assert len(caught) == 1
    for name, row in rows.items():
        assert (row.cosine is None) == (row.cka is None) == name.startswith("experts")
        assert row.variance_ratio is not None
    report = measure_signal(dense, batches, reference=copy.deepcopy(dense), max_batches=3)
    assert all(row.cosine == pytest.approx(1) for row in report.rows)


def test_a_row_without_cosine_leaves_a_gap_in_the_figure():
    torch.manual_seed(3)
    model, batches = Experts(), [torch.randn(64, 8) for _ in range(3)]
    dense = copy.deepcopy(model)
    prune(model, 0.6)
    with pytest.warns(UserWarning, match="got other rows"):
        figure = measure_signal(model, batches, reference=dense, max_batches=3).quality_figure()
    assert sum(math.isnan(value) for value in figure.axes[1].lines[1].get_ydata()) == 2
