"""Properties that hold whatever the network, and however it is pruned."""

import io

import pytest
import torch
from hypothesis import given
from scenarios.fuzzing import OPTIMIZERS, Case, bits, cases, many, state
from zoo.layers import data, prunable

from reflow_lightning import Masks, Reflow, calibrate, prune
from reflow_lightning.layers import Inventory
from reflow_lightning.pruning import make_masks
from reflow_lightning.pruning.keeping import ZeroKeeper
from reflow_lightning.pruning.patterns import Pattern

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*leaves no weight.*", "ignore:.*is not optimal.*", "ignore:.*all there were.*", "ignore:training ended.*"
)


def same_bits(model, before):
    return all(torch.equal(bits(value), bits(before[name])) for name, value in model.state_dict().items())


def steps(case, model):
    """Prune further and further, as a gradual schedule does; the masks after each step, and those before."""
    how, previous = case.fitting(model), None
    for sparsity in case.sparsities:
        masks = make_masks(model, sparsity, previous=previous, **how)
        yield sparsity, how, masks, previous
        masks.apply(model)
        previous = masks


def random_batches(case, count=3):
    return [data(8, case.dtype, case.seed + i) for i in range(count)]


# -- the properties


def the_count_is_exact_and_nothing_else_is_touched(case):
    model = case.model()
    before = state(model)
    for sparsity, how, masks, _ in steps(case, model):
        total = sum(mask.numel() for mask in masks.values())
        if how["pattern"] is None:
            assert total == prunable(case.kinds)
        assert sum(int((~mask).sum()) for mask in masks.values()) == round(sparsity * total)
        masks.apply(model)
        for name, value in model.state_dict().items():
            mask = masks.get(name)
            if mask is not None:
                assert not bits(value[~mask]).any()
            kept = ... if mask is None else mask
            if "tied" not in name:
                assert torch.equal(bits(value[kept]), bits(before[name][kept]))


def minimum_and_pattern_hold_in_every_layer(case):
    model = case.model()
    for _, how, masks, _ in steps(case, model):
        total = sum(mask.numel() for mask in masks.values())
        pattern = None if how["pattern"] is None else Pattern.parse(how["pattern"])
        known = Inventory.of(model).stored
        for mask, parameter in zip(masks.values(), masks.parameters(model), strict=True):
            most = mask.numel() if pattern is None else mask.numel() * pattern.n // pattern.m
            assert min(int(how["min_kept"] * total + 1e-9), most) <= int(mask.sum()) <= most
            if pattern is not None and mask.numel():
                along_inputs = mask.movedim(known[id(parameter)].inputs, -1)
                assert along_inputs.reshape(-1, pattern.m).sum(-1).max() <= pattern.n


def no_weight_comes_back(case):
    model = case.model()
    for _, _, masks, previous in steps(case, model):
        assert previous is None or not any((masks[name] & ~previous[name]).any() for name in masks)
        for weight in masks.parameters(model):
            weight.detach()[:1] = 0  # a training may bring a weight that is kept to zero


def pruning_twice_is_pruning_once(case):
    model = case.model()
    how = case.fitting(model)
    first = prune(model, case.sparsities[0], **how)
    once = state(model)
    assert prune(model, case.sparsities[0], **how) == first
    first.apply(model)
    assert same_bits(model, once)


def masks_depend_on_no_other_call(case):
    other = Case(case.kinds[::-1], case.dtype, case.seed + 1, "normal", case.sparsities, case.how)

    def masks(case):
        model = case.model()
        return make_masks(model, case.sparsities[-1], **case.fitting(model))

    first, second = masks(case), masks(other)
    torch.rand(case.seed % 7)
    assert masks(other) == second
    assert masks(case) == first


def the_order_of_the_layers_does_not_matter_to_a_global_ranking(case):
    kept = []
    for reverse in (False, True):
        model = case.model(reverse)
        how = case.fitting(model) | {"allocation": "global", "criterion": "magnitude"}
        masks = make_masks(model, case.sparsities[-1], **how)
        weights = [model.get_parameter(name)[mask].abs().double() for name, mask in masks.items()]
        kept.append(torch.cat(weights).sort().values)
    assert torch.equal(*kept)


def masks_survive_a_file_bit_for_bit(case):
    *_, (_, _, masks, _) = steps(case, case.model())
    file = io.BytesIO()
    torch.save(masks.state_dict(), file)
    file.seek(0)
    loaded = Masks.from_state_dict(torch.load(file, weights_only=True))
    assert loaded == masks
    assert list(loaded) == list(masks)
    assert loaded.sparsities == masks.sparsities


def zeros_survive_random_steps_and_further_pruning(case):
    model = case.model()
    generator = torch.Generator().manual_seed(case.seed)
    trainable = [p for p in model.parameters() if p.requires_grad]
    optimizer = list(OPTIMIZERS.values())[case.seed % len(OPTIMIZERS)](trainable)
    keeper = ZeroKeeper()
    keeper.watch()
    for sparsity, _, masks, _ in steps(case, model):
        masks.apply(model)
        keeper.bind(model, masks)
        masks_gradients = sparsity < case.sparsities[-1]  # in the end the weights are set back by themselves
        if masks_gradients:
            keeper.forget_moments(optimizer)
        for odd in (None, float("nan"), float("inf")):
            for p in trainable:
                p.grad = (torch.randn(p.shape, generator=generator) / 100).to(p)
            if masks_gradients:
                for weight, mask in zip(masks.parameters(model), masks.values(), strict=True):
                    if weight.grad is not None and odd is not None:
                        weight.grad[~mask] = odd
                keeper.mask_gradients()
            optimizer.step()
            for weight, mask in zip(masks.parameters(model), masks.values(), strict=True):
                assert not bits(weight[~mask]).any()
        assert all(p.isfinite().all() for p in model.parameters())
        assert all(value.isfinite().all() for state in optimizer.state.values() for value in state.values())


def calibration_is_undone_bit_for_bit(case):
    model = case.model()
    prune(model, case.sparsities[-1], **case.fitting(model))
    before = state(model)
    flags = [module.training for module in model.modules()]
    result = calibrate(model, random_batches(case), max_batches=3)
    assert f"layers.{len(case.kinds)}_batchnorm" in result.repaired
    assert flags == [module.training for module in model.modules()]
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert all(name.endswith(("running_mean", "running_var", "num_batches_tracked")) for name in changed)
    assert changed
    result.undo()
    assert same_bits(model, before)


def statistics_do_not_depend_on_the_order_of_the_batches(case):
    model = case.model()
    prune(model, case.sparsities[-1], **case.fitting(model))
    found = []
    for batches in (random_batches(case), random_batches(case)[::-1]):
        calibrate(model, batches, max_batches=3)
        found.append(state(model))
    tolerance = max(1e-6, torch.finfo(case.dtype).eps)
    for name, value in found[0].items():
        torch.testing.assert_close(value, found[1][name], rtol=tolerance, atol=tolerance)


def a_failing_repair_leaves_every_bit(case):
    model = case.model()
    before = state(model)
    good = random_batches(case)

    def broken(*_):
        raise RuntimeError("no repair")

    def interrupted():
        yield good[0]
        raise RuntimeError("no batch")

    class Batches:
        def __iter__(self):
            return interrupted()

    how = case.fitting(model)
    for options, batches in (
        ({"repair": broken}, good),
        ({}, Batches()),
        ({}, [good[0], good[1] * float("nan")]),
        ({}, [batch[:, :3] for batch in good]),
        ({}, []),
    ):
        callback = Reflow(case.sparsities[-1], **how, **options, calibration_batches=3, monitor=bool(case.seed % 2))
        flags = [module.training for module in model.modules()]
        with pytest.raises((RuntimeError, ValueError, AssertionError)):  # the last is torch's own
            callback.apply(model, batches)
        assert callback.masks is None
        assert same_bits(model, before)
        assert flags == [module.training for module in model.modules()]
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


PROPERTIES = [
    the_count_is_exact_and_nothing_else_is_touched,
    minimum_and_pattern_hold_in_every_layer,
    no_weight_comes_back,
    pruning_twice_is_pruning_once,
    masks_depend_on_no_other_call,
    the_order_of_the_layers_does_not_matter_to_a_global_ranking,
    masks_survive_a_file_bit_for_bit,
    zeros_survive_random_steps_and_further_pruning,
    calibration_is_undone_bit_for_bit,
    statistics_do_not_depend_on_the_order_of_the_batches,
    a_failing_repair_leaves_every_bit,
]


def of_name(function):
    return function.__name__


@pytest.mark.parametrize("holds", PROPERTIES, ids=of_name)
@given(case=cases())
@many(50)
def test_in_a_few_networks(holds, case):
    holds(case)


@pytest.mark.slow
@pytest.mark.parametrize("holds", PROPERTIES, ids=of_name)
@given(case=cases())
@many(300)
def test_in_many_networks(holds, case):
    holds(case)
