"""Constant, huge, tiny and missing values, and BatchNorm of every kind."""

import copy

import pytest
import torch
from helpers import Module, everything, selected_size, trainer, zeros
from torch import nn

from reflow_lightning import OneShot, Reflow, calibrate, measure_signal, prune
from reflow_lightning.pruning import ColumnSum

SIZE = selected_size(Module())
HALF = round(0.5 * SIZE)
PRUNED_ONCE = OneShot(step=2)


def test_constant_channels_have_their_mean_no_variance_and_give_no_nan():
    model = nn.Sequential(nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 2))
    values = torch.randn(64, 3)
    values[:, 1] = 7.0
    calibrate(model, values.split(16), max_batches=4)
    assert model[0].running_mean[1] == 7
    assert model[0].running_var[1] == 0
    assert torch.isfinite(model.eval()(values)).all()
    assert measure_signal(model, [values], max_batches=1).rows[0].dead == pytest.approx(1 / 3)


@pytest.mark.parametrize("value", [0.0, 1.0, -1e4, 1e-30])
def test_a_network_without_any_signal_is_dead_and_its_report_can_be_drawn(value, tmp_path):
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    batches = [torch.full((16, 4), value)] * 2
    calibrate(model, batches, max_batches=2)
    assert (model[1].running_var < 1e-6).all()
    assert torch.isfinite(model.eval()(batches[0])).all()
    report = measure_signal(model, batches, reference=copy.deepcopy(model), max_batches=2)
    assert [row.dead for row in report.rows] == [1.0, 1.0]
    assert [row.cosine for row in report.rows] == [0.0, 0.0]
    assert "1.000" in report.table()
    report.figure("no signal").savefig(tmp_path / "signal.png")


def test_a_fit_on_constant_input_prunes_and_ends_with_finite_weights():
    x = torch.ones(64, 1, 6, 6)
    batches = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, torch.zeros(64).long()), 16)
    callback, module = Reflow(0.5, schedule=PRUNED_ONCE, calibration_batches=2), Module()
    trainer(callback).fit(module, batches)
    assert zeros(module) == HALF
    assert all(torch.isfinite(value).all() for value in module.state_dict().values())


# -- BatchNorm of every kind


@pytest.mark.parametrize(("options", "features"), [({}, 1), ({"momentum": None}, 4), ({"affine": False}, 4)])
def test_batchnorm_of_any_kind_gets_population_statistics(options, features):
    layer, values = nn.BatchNorm1d(features, **options).eval(), torch.randn(50, features) * 3 + 1
    calibrate(layer, values.split(10), max_batches=5)
    torch.testing.assert_close(layer.running_mean, values.mean(0))
    torch.testing.assert_close(layer.running_var, values.var(0, correction=0))
    assert not layer.training  # frozen in eval mode before, and so it stays
    assert layer.momentum == options.get("momentum", 0.1)


def test_batchnorm_without_statistics_is_named_and_the_others_are_repaired():
    model = nn.Sequential(nn.BatchNorm1d(4, track_running_stats=False), nn.BatchNorm1d(4))
    with pytest.warns(UserWarning, match=r"left alone '0': it keeps no running statistics \(track_running_stats=False"):
        result = calibrate(model, [torch.randn(16, 4)], max_batches=1)
    assert result.repaired == ("1",)
    assert list(result.skipped) == ["0"]


def test_batches_of_one_sample_are_enough_where_there_are_positions():
    layer, values = nn.BatchNorm2d(3), torch.randn(6, 3, 4, 4)
    calibrate(layer, values.split(1), max_batches=6)
    torch.testing.assert_close(layer.running_var, values.var((0, 2, 3), correction=0))
    model, batches = nn.Sequential(nn.BatchNorm1d(3)), torch.randn(6, 3).split(1)
    before = everything(model)
    with pytest.raises(ValueError, match="one value a channel: use batches of more samples"):
        calibrate(model, batches, max_batches=6)
    assert everything(model) == before


def test_input_that_the_layer_refuses_is_refused_with_its_own_words():
    with pytest.raises(ValueError, match="expected 2D or 3D input"):
        calibrate(nn.BatchNorm1d(3), [torch.randn(3)], max_batches=1)


def test_an_empty_batch_counts_for_nothing():
    layer, values = nn.BatchNorm1d(3), torch.randn(8, 3)
    assert calibrate(layer, [values[:0], values, values[:0]], max_batches=3).batches == 1
    torch.testing.assert_close(layer.running_var, values.var(0, correction=0))


# -- weights of every size


@pytest.mark.parametrize("allocation", ["global", "uniform", "erk", "lamp"])
@pytest.mark.parametrize(
    ("dtype", "scale"),
    [
        (torch.float32, 1e38),  # sums, squares and norms are infinite in float32
        (torch.float32, 1e-45),
        (torch.float16, 65504),
        (torch.float16, 6e-8),
        (torch.bfloat16, 3e38),
        (torch.float64, 1e300),
    ],
)
def test_huge_and_tiny_weights_are_ranked_like_any_others(dtype, scale, allocation):
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)).to(dtype)
    shares = torch.arange(1, 65, dtype=torch.float64).view(8, 8)[torch.randperm(8)] / 64
    for layer in model:
        layer.weight.data = ((shares if scale > 1 else shares.mul(64).round()) * scale).to(dtype)
    before = [layer.weight.detach().clone() for layer in model]
    masks = prune(model, 0.5, allocation=allocation)
    assert sum(int((~mask).sum()) for mask in masks.values()) == 64
    for layer, old, mask in zip(model, before, masks.values(), strict=True):
        assert torch.equal(layer.weight, torch.where(mask, old, 0))
        assert old[mask].min() >= old[~mask].max()


def test_columns_whose_sums_overflow_are_ranked_by_their_sums():
    model = nn.Linear(4, 8, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([3e38, 1e38, 2e38, 2.5e38]).expand(8, 4))
    assert prune(model, 0.5, criterion=ColumnSum())["weight"][0].tolist() == [True, False, False, True]


def test_negative_zeros_go_first_and_become_plain_zeros():
    model = nn.Linear(4, 1)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1e-45, -0.0, -1e-45, 0.0]]))
    assert prune(model, 0.5)["weight"].tolist() == [[True, False, True, False]]
    assert not torch.signbit(model.weight[0, 1])


@pytest.mark.filterwarnings("ignore:Initializing zero-element.*", "ignore:.*leaves no weight.*")
@pytest.mark.parametrize("allocation", ["global", "uniform", "erk", "lamp"])
def test_layers_of_no_weight_and_of_one(allocation):
    model = nn.Sequential(nn.Linear(0, 3), nn.Linear(1, 1), nn.Linear(3, 3))
    masks = prune(model, 0.5, allocation=allocation)
    assert masks["0.weight"].shape == (3, 0)
    assert sum(int((~mask).sum()) for mask in masks.values()) == 5
    single = nn.Linear(1, 1)
    assert prune(single, 0.4, allocation=allocation)["weight"].item()  # round(0.4) = 0
    assert not prune(single, 0.6, allocation=allocation)["weight"].item()
