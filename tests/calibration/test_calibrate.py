import copy
import random

import pytest
import torch
from helpers import images
from torch import nn
from zoo.convolutional import small_net

from reflow_lightning import calibrate, prune
from reflow_lightning.calibration import Calibration

BATCHES = list(images(64).split(16))


def state(model):
    return copy.deepcopy(model.state_dict())


def differing(before, model):
    return {name for name, value in model.state_dict().items() if not torch.equal(before[name], value)}


def test_only_the_buffers_of_batchnorm_change():
    model = small_net()
    before = state(model)
    result = calibrate(model, BATCHES, max_batches=4)
    buffers = ("running_mean", "running_var", "num_batches_tracked")
    assert differing(before, model) == {f"{layer}.{buffer}" for layer in (1, 5) for buffer in buffers}
    assert result.repaired == ("1", "5")
    assert result.batches == 4


def test_undo_is_exact_and_survives_a_move():
    model = small_net()
    before = state(model)
    result = calibrate(model, BATCHES, max_batches=4)
    model.double().float()  # replaces every tensor
    result.undo()
    assert differing(before, model) == set()


def test_dropout_does_not_act_and_flags_and_momentum_are_restored():
    model = small_net().train()
    model[1].eval()
    model[1].momentum, model[5].momentum = 0.3, None
    flags = [m.training for m in model.modules()]
    seen = []
    model[3].register_forward_hook(lambda m, args, out: seen.append(torch.equal(args[0], out)))
    model[5].register_forward_pre_hook(lambda m, args: seen.append(m.training))
    calibrate(model, BATCHES, max_batches=4)
    assert seen == [True, True] * 4
    assert [m.training for m in model.modules()] == flags
    assert (model[1].momentum, model[5].momentum) == (0.3, None)


class Breaks(nn.Module):
    """Raises at its third call."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        if self.calls == 3:
            raise RuntimeError("third call")
        return x


def test_a_batch_that_raises_leaves_everything_as_it_was():
    model = nn.Sequential(nn.BatchNorm2d(1), Breaks(), nn.BatchNorm2d(1).eval()).train()
    before, flags = state(model), [m.training for m in model.modules()]
    torch.manual_seed(0)
    rng = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="third call"):
        calibrate(model, BATCHES, max_batches=4)
    assert differing(before, model) == set()
    assert [m.training for m in model.modules()] == flags
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert torch.equal(rng, torch.get_rng_state())


def test_nan_activations_are_an_error_that_names_the_layer():
    model = small_net()
    before = state(model)
    bad = [*BATCHES[:2], torch.full((4, 1, 6, 6), torch.nan)]
    with pytest.raises(ValueError, match=r"layer '1' gets values that are NaN, infinite.* in 8 of 8 channels"):
        calibrate(model, bad, max_batches=3)
    assert differing(before, model) == set()


def test_the_random_state_is_unchanged_though_the_loader_draws():
    def drawing():
        while True:
            yield torch.randn(8, 1, 6, 6) + random.random()

    model = small_net()
    rng, python = torch.get_rng_state(), random.getstate()
    calibrate(model, drawing(), max_batches=3)
    assert torch.equal(rng, torch.get_rng_state())
    assert random.getstate() == python


def test_layers_without_running_statistics_are_left_alone_and_named():
    model = nn.Sequential(nn.BatchNorm2d(1, track_running_stats=False), nn.BatchNorm2d(1))
    with pytest.warns(UserWarning, match=r"left alone '0': it keeps no running statistics"):
        result = calibrate(model, BATCHES, max_batches=4)
    assert result.repaired == ("1",)
    assert list(result.skipped) == ["0"]


def test_a_layer_that_no_batch_reaches_is_named():
    model = nn.ModuleDict({"used": nn.BatchNorm2d(1), "unused": nn.BatchNorm2d(1)})
    with pytest.warns(UserWarning, match="left alone unused: no batch reached them"):
        result = calibrate(model, BATCHES, max_batches=4, forward=lambda model, batch: model["used"](batch))
    assert result.skipped == {"unused": "no batch reached it"}
    assert model["unused"].num_batches_tracked == 0


def test_a_model_without_batchnorm_says_that_nothing_was_repaired():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.GroupNorm(1, 2))
    with pytest.warns(UserWarning, match="no BatchNorm layer with running statistics: nothing was repaired"):
        result = calibrate(model, BATCHES)
    assert result.repaired == ()
    result.undo()


def test_repairs_by_name_and_callable():
    model = small_net()
    before = state(model)
    assert calibrate(model, BATCHES, repair="none").repaired == ()
    assert differing(before, model) == set()
    names = r"\['align', 'auto', 'batchnorm', 'best', 'moments', 'none', "
    with pytest.raises(ValueError, match=rf"repair='moment' is unknown: use one of {names}.* nearest: moments"):
        calibrate(model, BATCHES, repair="moment")
    seen = []
    done = Calibration((), {}, 0, 0.0)
    calibrate(model, BATCHES, repair=lambda *arguments: seen.append(arguments) or done, max_batches=4, reference=model)
    assert seen[0][0] is model
    assert seen[0][3] is model


def test_an_empty_loader_leaves_the_model_alone():
    model = small_net()
    before = state(model)
    with pytest.raises(ValueError, match="gave no batch for calibration"):
        calibrate(model, [])
    assert differing(before, model) == set()


def test_odd_batches_go_through_forward():
    model = small_net()
    batches = [{"tokens": batch} for batch in BATCHES]
    with pytest.raises(TypeError, match="pass forward="):
        calibrate(model, batches, max_batches=4)
    result = calibrate(model, batches, max_batches=4, forward=lambda model, batch: model(batch["tokens"]))
    assert result.batches == 4


def test_a_compiled_module_is_calibrated_like_a_plain_one():
    plain = small_net()
    compiled = torch.compile(copy.deepcopy(plain), backend="eager")
    compiled(BATCHES[0])
    calibrate(plain, BATCHES, max_batches=4)
    calibrate(compiled, BATCHES, max_batches=4)
    torch.testing.assert_close(plain[5].running_var, compiled._orig_mod[5].running_var)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_pruned_network_gets_its_accuracy_back(seed):
    """The claim of the paper, on a separable toy problem."""
    torch.manual_seed(seed)
    x = torch.randn(1024, 16)
    y = (x[:, :4].sum(1) > 0).long()
    layers = [nn.Sequential(nn.Linear(i, 64), nn.BatchNorm1d(64), nn.ReLU()) for i in (16, 64, 64, 64)]
    model = nn.Sequential(*layers, nn.Linear(64, 2))
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=5e-3)
    for _ in range(20):
        for batch in torch.randperm(1024).split(128):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
            optimizer.step()

    def accuracy():
        with torch.no_grad():
            return float((model.eval()(x).argmax(1) == y).float().mean())

    dense = accuracy()
    prune(model, 0.9)
    pruned = accuracy()
    calibrate(model, [x], max_batches=1)
    assert dense > 0.97
    assert pruned < 0.75
    assert accuracy() > 0.93


def test_statistics_too_large_for_the_layer_are_an_error():
    model = nn.BatchNorm1d(4).half()
    with pytest.raises(ValueError, match=r"too large for torch.float16"):
        calibrate(model, [torch.randn(64, 4).half() * 1000], max_batches=1)
    assert torch.equal(model.running_var, torch.ones(4).half())


def test_lazy_layers_are_an_error_that_says_what_to_do():
    with pytest.raises(ValueError, match="layer '0' is not initialised yet: run one forward pass"):
        calibrate(nn.Sequential(nn.LazyBatchNorm1d()), [torch.randn(4, 3)], max_batches=1)


def test_what_an_own_repair_does_is_undone_and_it_must_say_what_it_did():
    def shifts(model, *_):
        with torch.no_grad():
            next(model.parameters()).add_(1.0)
        return Calibration(("0",), {}, 1, 0.0)

    model = small_net()
    before = state(model)
    for repair in (shifts, [shifts, "batchnorm"]):
        result = calibrate(model, BATCHES, repair=repair, max_batches=4)
        assert differing(before, model)
        result.undo()
        assert differing(before, model) == set()
    with pytest.raises(TypeError, match="returned NoneType: it must return a Calibration"):
        calibrate(model, BATCHES, repair=lambda model, *_: shifts(model) and None, max_batches=4)
    assert differing(before, model) == set()
