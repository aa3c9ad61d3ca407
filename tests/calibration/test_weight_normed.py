"""Layers under weight_norm are repaired like plain ones; the norm computes the new weights afterwards."""

import pytest
import torch
from scenarios.thinned import bits
from torch import nn

from reflow_lightning import Pruner, calibrate, prune
from reflow_lightning.calibration import Align
from reflow_lightning.layers.weight_norm import without_weight_norm

pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated")
NORMS = {"older": nn.utils.weight_norm, "newer": nn.utils.parametrizations.weight_norm}
REPAIRS = ["auto", "moments", "reconstruct", "reselect", Align(steps=60, lr=0.05)]


def network(norm, **how):
    torch.manual_seed(0)
    layers = [nn.Conv1d(4, 16, 3), nn.ReLU(), nn.Conv1d(16, 8, 3, padding=1), nn.ReLU(), nn.Conv1d(8, 3, 1)]
    return nn.Sequential(*(layer if isinstance(layer, nn.ReLU) else norm(layer, **how) for layer in layers)).eval()


def taken_off(layer):
    nn.utils.parametrize.remove_parametrizations(layer, "weight")


def batches():
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(32, 4, 12, generator=generator) for _ in range(4)]


def error(model, dense):
    with torch.no_grad():
        return float(sum((model(x) - dense(x)).square().mean() for x in batches()))


def zeros(model):
    return {n: p == 0 for n, p in model.named_parameters() if n.endswith(("weight_v", "original1"))}


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("repair", REPAIRS, ids=str)
def test_it_comes_closer_to_the_dense_network_and_is_undone_to_the_bit(norm, repair):
    model, dense = network(NORMS[norm]), network(NORMS[norm])
    prune(model, 0.6)
    names, before, of_dense = [n for n, _ in model.named_parameters()], bits(model), bits(dense)
    pruned, hooks = error(model, dense), [len(m._forward_pre_hooks) for m in model.modules()]
    gone = zeros(model)
    result = calibrate(model, batches(), repair=repair, reference=dense, max_batches=4)
    assert set(result.repaired) == {"0", "2", "4"}
    assert error(model, dense) < 0.8 * pruned
    assert [n for n, _ in model.named_parameters()] == names
    assert [len(m._forward_pre_hooks) for m in model.modules()] == hooks
    assert bits(dense) == of_dense
    if repair != "reselect":
        assert all(torch.equal(zero, gone[n]) for n, zero in zeros(model).items())
    result.undo()
    assert bits(model) == before
    assert error(model, dense) == pytest.approx(pruned)


@pytest.mark.parametrize("norm", NORMS)
def test_it_becomes_what_a_plain_network_becomes(norm):
    found = []
    for plain in (False, True):
        model, dense = network(NORMS[norm]), network(NORMS[norm])
        prune(model, 0.6)
        for layer in (*model[::2], *dense[::2]) if plain else ():
            weight = layer.weight.detach().clone()
            (nn.utils.remove_weight_norm if norm == "older" else taken_off)(layer)
            torch.testing.assert_close(layer.weight.detach(), weight)
        calibrate(model, batches(), repair="reconstruct", reference=dense, max_batches=4)
        found.append(model(batches()[0]))
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("norm", NORMS)
def test_an_event_compares_with_the_dense_network_and_a_training_goes_on(norm):
    model = network(NORMS[norm])
    pruner = Pruner(0.6, calibration_batches=4)
    event = pruner.apply(model, batches())
    assert len(event.calibration.repaired) == 3
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pruner.masks.keep(model, optimizer):
        for x in batches():
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
    assert all(not model.get_parameter(name)[~mask].any() for name, mask in pruner.masks.items())
    assert torch.isfinite(model(batches()[0])).all()


@pytest.mark.parametrize("norm", NORMS)
def test_a_repair_that_fails_leaves_every_bit(norm):
    model, dense = network(NORMS[norm]), network(NORMS[norm])
    prune(model, 0.6)
    before, names = bits(model), [n for n, _ in model.named_parameters()]

    def breaks(net, x):
        breaks.calls += 1
        if breaks.calls == 7:
            raise ZeroDivisionError
        return net(x)

    breaks.calls = 0
    with pytest.raises(ZeroDivisionError):
        calibrate(model, batches(), repair="reconstruct", reference=dense, max_batches=4, forward=breaks)
    assert bits(model) == before
    assert [n for n, _ in model.named_parameters()] == names
    model(batches()[0]).sum().backward()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dim", [0, 1, None])
def test_the_norm_computes_what_was_written_and_keeps_the_length_of_its_direction(norm, dim):
    layer = NORMS[norm](nn.Linear(3, 4), dim=dim)
    stored = next(p for n, p in layer.named_parameters() if n.endswith(("weight_v", "original1")))
    with torch.no_grad():
        stored.mul_(3.0)
    length = torch.norm_except_dim(stored.detach(), 2, -1 if dim is None else dim)
    wanted = torch.randn(4, 3)
    with without_weight_norm(layer):
        layer.weight.data.copy_(wanted)
    layer(torch.ones(1, 3))
    torch.testing.assert_close(layer.weight.detach(), wanted)
    torch.testing.assert_close(torch.norm_except_dim(stored.detach(), 2, -1 if dim is None else dim), length)


@pytest.mark.parametrize("norm", NORMS)
def test_a_row_of_zeros_stays_finite(norm):
    layer = NORMS[norm](nn.Linear(3, 4))
    with without_weight_norm(layer):
        layer.weight.data[1] = 0
    assert torch.isfinite(layer(torch.ones(1, 3))).all()
    assert not layer.weight[1].any()
