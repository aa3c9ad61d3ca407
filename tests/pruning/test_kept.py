"""Masks.keep: zeros stay zero in a training loop of one's own."""

import copy
import gc
import weakref
from collections import OrderedDict

import pytest
import torch
from helpers import images, selected_size, zeros
from torch import nn, optim
from torch.optim.swa_utils import AveragedModel
from zoo.convolutional import small_net

from reflow_lightning import Masks, prune
from reflow_lightning.pruning import make_masks
from reflow_lightning.pruning.bits import zero_where_pruned


def step(model, *optimizers):
    def closure():
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss = model(images(8)).square().sum()
        loss.backward()
        return loss

    for optimizer in optimizers:
        optimizer.step(closure)


def is_sparse(model, masks):
    return all(not p[~mask].any() for p, mask in zip(masks.parameters(model), masks.values(), strict=True))


def stays_sparse(model, masks, *optimizers, steps=3):
    for _ in range(steps):
        step(model, *optimizers)
        assert is_sparse(model, masks)


def hooks(*optimizers):
    return sum(len(optimizer._optimizer_step_post_hooks) for optimizer in optimizers)


OPTIMIZERS = {
    "momentum": lambda p: optim.SGD(p, 0.1, momentum=0.9, weight_decay=0.01),
    "adamw": lambda p: optim.AdamW(p, 0.01, amsgrad=True),
    "lbfgs": lambda p: optim.LBFGS(p, 0.1),
}


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_zeros_stay_until_the_handle_is_removed(kind):
    model = small_net()
    optimizer = OPTIMIZERS[kind](model.parameters())
    step(model, optimizer)  # momentum from before the pruning
    masks = make_masks(model, 0.5)
    handle = masks.keep(model, optimizer)
    assert is_sparse(model, masks), "they are applied at once"
    expected = zeros(model)
    stays_sparse(model, masks, optimizer)
    assert zeros(model) == expected, "and nothing else is zero"
    handle.remove()
    step(model, optimizer)
    assert zeros(model) < expected
    assert not hooks(optimizer)
    handle.remove()  # once more changes nothing


def test_the_end_of_a_with_block_ends_it_even_by_an_error():
    model = small_net()
    optimizer = OPTIMIZERS["momentum"](model.parameters())
    masks = prune(model, 0.5)
    with masks.keep(model, optimizer) as handle:
        stays_sparse(model, masks, optimizer)
        assert handle is not None
    assert not hooks(optimizer)
    with pytest.raises(RuntimeError, match="broken off"), masks.keep(model, optimizer):
        raise RuntimeError("broken off")
    assert not hooks(optimizer)


def test_what_the_optimizer_remembers_of_pruned_weights_is_forgotten_once():
    model = small_net()
    optimizer = OPTIMIZERS["adamw"](model.parameters())
    step(model, optimizer)
    masks = make_masks(model, 0.5)
    kept = {
        n: optimizer.state[p]["exp_avg"][mask].clone()
        for (n, mask), p in zip(masks.items(), masks.parameters(model), strict=True)
    }
    masks.keep(model, optimizer)
    for (name, mask), parameter in zip(masks.items(), masks.parameters(model), strict=True):
        moments = optimizer.state[parameter]
        assert not moments["exp_avg"][~mask].any()
        assert not moments["exp_avg_sq"][~mask].any()
        assert torch.equal(moments["exp_avg"][mask], kept[name])
        assert moments["step"] == 1


def test_several_optimizers_and_their_schedulers():
    model = small_net()
    first = optim.SGD(model[0].parameters(), 0.1, momentum=0.9)
    second = optim.AdamW([*model[4].parameters(), *model[9].parameters()], 0.01)
    schedulers = [optim.lr_scheduler.StepLR(first, 1), optim.lr_scheduler.OneCycleLR(second, 0.1, total_steps=9)]
    masks = prune(model, 0.7)
    with masks.keep(model, first, second):
        for _ in range(3):
            stays_sparse(model, masks, first, second, steps=1)
            for scheduler in schedulers:
                scheduler.step()
    assert not hooks(first, second)


def test_a_step_that_a_scaler_skips_changes_nothing():
    model = small_net()
    optimizer = OPTIMIZERS["momentum"](model.parameters())
    masks = prune(model, 0.5)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    with masks.keep(model, optimizer):
        for factor, skipped in ((1.0, False), (float("inf"), True), (1.0, False)):
            optimizer.zero_grad()
            scaler.scale(model(images(8)).square().sum() * factor).backward()
            before = copy.deepcopy(model.state_dict())
            scaler.step(optimizer)
            scaler.update()
            assert is_sparse(model, masks)
            assert all(torch.equal(before[n], p) for n, p in model.named_parameters()) == skipped


def test_averages_of_the_weights_are_left_alone():
    model = small_net()
    averaged = AveragedModel(model)  # of the dense network
    before = copy.deepcopy(averaged.state_dict())
    optimizer = OPTIMIZERS["momentum"](model.parameters())
    masks = make_masks(model, 0.5)
    with masks.keep(model, optimizer):
        stays_sparse(model, masks, optimizer)
        assert all(torch.equal(value, before[name]) for name, value in averaged.state_dict().items())
        averaged.update_parameters(model)
        assert hooks(optimizer) == 1
    masks.apply(averaged.module)
    assert is_sparse(averaged.module, masks)


def test_pruning_further_adds_up_and_the_keepers_end_one_by_one():
    model = small_net()
    optimizer = OPTIMIZERS["adamw"](model.parameters())
    early = prune(model, 0.5)
    first = early.keep(model, optimizer)
    stays_sparse(model, early, optimizer)
    late = prune(model, 0.8)
    second = late.keep(model, optimizer)
    stays_sparse(model, late, optimizer)
    first.remove()
    stays_sparse(model, late, optimizer)
    assert zeros(model) == round(0.8 * selected_size(model))
    second.remove()
    step(model, optimizer)
    assert not is_sparse(model, late)


def test_keepers_of_other_weights_do_not_know_of_each_other():
    model = small_net()
    optimizer = OPTIMIZERS["momentum"](model.parameters())
    one, other = prune(model, 0.5, include="0.*"), prune(model, 0.9, include="9.*")
    first, _ = one.keep(model, optimizer), other.keep(model, optimizer)
    stays_sparse(model, one, optimizer)
    stays_sparse(model, other, optimizer)
    first.remove()
    stays_sparse(model, other, optimizer)
    assert not is_sparse(model, one)


def test_a_parameter_that_is_replaced_is_found_by_its_name():
    model = small_net()
    optimizer = OPTIMIZERS["momentum"](model.parameters())
    masks = prune(model, 0.5)
    with masks.keep(model, optimizer):
        model[9] = nn.Linear(8, 3)
        assert not is_sparse(model, masks)
        stays_sparse(model, masks, optimizer)
        model[0].weight = nn.Parameter(torch.ones_like(model[0].weight))
        stays_sparse(model, masks, optimizer)


@pytest.mark.parametrize("overwrites", [False, True])
def test_a_model_that_changes_its_type_is_followed(overwrites):
    model = small_net()
    optimizer = OPTIMIZERS["momentum"](model.parameters())
    masks = prune(model, 0.5)
    before = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(overwrites)
    try:
        with masks.keep(model, optimizer):
            step(model, optimizer)
            model.double()
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.fill_(1)
            optimizer.step()
            assert is_sparse(model, masks)
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(before)


@pytest.mark.gpu
def test_a_model_that_is_moved_is_followed():
    model = small_net()
    optimizer = OPTIMIZERS["momentum"](model.parameters())
    masks = prune(model, 0.5)
    with masks.keep(model, optimizer):
        model.cuda()
        model(images(8).cuda()).square().sum().backward()
        optimizer.step()
        assert not any(p.cpu()[~mask].any() for p, mask in zip(masks.parameters(model), masks.values(), strict=True))


def another_layer(model):
    model[9] = nn.Linear(8, 5)


def other_data(model):
    model[9].weight.data = torch.ones(5, 8)
    model[9].bias.data = torch.ones(5)


@pytest.mark.parametrize("change", [another_layer, other_data])
def test_a_layer_that_no_longer_fits_is_named_with_the_remedy(change):
    model = small_net()
    optimizer = optim.SGD(model.parameters(), 0.1)
    handle = prune(model, 0.5).keep(model, optimizer)
    change(model)
    with pytest.raises(ValueError, match=r"'9.weight' has shape \(3, 8\).*\(5, 8\).*by remove\(\) of its handle"):
        step(model, optimizer)
    handle.remove()
    step(model, optimizer)


def test_gradients_are_masked_before_they_are_clipped():
    model = small_net()
    optimizer = OPTIMIZERS["momentum"](model.parameters())
    masks = prune(model, 0.5)
    handle = masks.keep(model, optimizer)
    model(images(8)).square().sum().backward()
    whole = nn.utils.clip_grad_norm_(model.parameters(), float("inf"))
    handle.mask_gradients()
    assert not any(p.grad[~mask].any() for p, mask in zip(masks.parameters(model), masks.values(), strict=True))
    assert nn.utils.clip_grad_norm_(model.parameters(), float("inf")) < whole


def test_the_model_is_held_until_the_handle_is_removed():
    model = small_net()
    optimizer = OPTIMIZERS["momentum"](small_net().parameters())
    optimizer.add_param_group({"params": [model[0].weight]})
    handle, alive = prune(model, 0.5).keep(model, optimizer), weakref.ref(model)
    optimizer.param_groups.pop()
    del model
    gc.collect()
    assert alive() is not None
    handle.remove()
    handle.mask_gradients()  # there are none of its own any more
    gc.collect()
    assert alive() is None


class Wrapper(optim.Optimizer):
    """As some packages write them: an optimizer by name, whose own part was never made."""

    def __init__(self, wrapped):
        self.wrapped = wrapped
        self.param_groups = wrapped.param_groups


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (lambda o: [], ValueError, r"no optimizer was given: call masks.keep\(model, optimizer\)"),
        (lambda o: [[o]], TypeError, r"optimizers\[0\] is a list: pass each torch.optim.Optimizer by itself"),
        (lambda o: [o, optim.lr_scheduler.StepLR(o, 1)], TypeError, r"optimizers\[1\] is a StepLR"),
        (
            lambda o: [o, optim.SGD(small_net().parameters(), 0.1)],
            ValueError,
            r"optimizers\[1\], a SGD, trains none of the 3 pruned parameters of Sequential: make it from this model's",
        ),
        (lambda o: [o, Wrapper(o)], TypeError, r"optimizers\[1\], a Wrapper, runs no hooks .* pass the optimizer that"),
    ],
)
def test_what_can_not_keep_zeros_is_refused_and_nothing_changed(given, error, message):
    model = small_net()
    optimizer = OPTIMIZERS["adamw"](model.parameters())
    step(model, optimizer)
    before, state = copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.state_dict())
    with pytest.raises(error, match=message):
        make_masks(model, 0.5).keep(model, *given(optimizer))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not hooks(optimizer)
    for number, moments in optimizer.state_dict()["state"].items():
        assert all(torch.equal(value, state["state"][number][name]) for name, value in moments.items())


def test_masks_of_another_model_are_refused_and_nothing_changed():
    model = small_net()
    optimizer = OPTIMIZERS["momentum"](model.parameters())
    before = copy.deepcopy(model.state_dict())
    for name, match in (("none.weight", "has no parameter in Sequential"), ("9.weight", "has shape")):
        masks = Masks({"0.weight": torch.zeros(8, 1, 3, 3, dtype=torch.bool), name: torch.zeros(1, dtype=torch.bool)})
        with pytest.raises(ValueError, match=match):
            masks.keep(model, optimizer)
    with pytest.raises(TypeError, match=r"model is a SGD: call masks.keep\(model, \*optimizers\)"):
        masks.keep(optimizer, model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not hooks(optimizer)


def test_a_compiled_model_is_kept_too():
    model = small_net()
    masks = make_masks(model, 0.5)
    compiled = torch.compile(model, backend="eager")
    optimizer = OPTIMIZERS["momentum"](compiled.parameters())
    with make_masks(compiled, 0.5).keep(compiled, optimizer):
        stays_sparse(model, masks, optimizer)


def test_no_weight_that_stays_is_touched():
    model = small_net()
    twin = copy.deepcopy(model)
    masks = make_masks(model, 0.5)
    ours, plain = (optim.SGD(m.parameters(), 0.1) for m in (model, twin))
    with masks.keep(model, ours):
        masks.apply(twin)
        for _ in range(3):
            torch.manual_seed(0)
            step(model, ours)
            torch.manual_seed(0)
            step(twin, plain)
            zero_where_pruned([p.detach() for p in masks.parameters(twin)], list(masks.values()))
    assert all(torch.equal(value, twin.state_dict()[name]) for name, value in model.state_dict().items())


class Lookahead(optim.Optimizer):
    """Wraps an optimizer, and takes its attributes instead of calling ``Optimizer.__init__``, as timm's does."""

    def __init__(self, wrapped):
        self.wrapped, self.param_groups, self.state, self.defaults = wrapped, wrapped.param_groups, wrapped.state, {}
        for name in ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks"):
            setattr(self, name, OrderedDict())
        self.slow = [p.detach().clone() for group in self.param_groups for p in group["params"]]

    @torch.no_grad()
    def step(self, closure=None):
        self.wrapped.step(closure)
        for slow, fast in zip(self.slow, (p for group in self.param_groups for p in group["params"]), strict=True):
            fast.copy_(slow.lerp_(fast, 0.5))


def test_zeros_stay_under_a_wrapper_that_was_never_set_up_as_an_optimizer():
    model = small_net()
    optimizer = Lookahead(optim.AdamW(model.parameters(), 0.01))
    masks = prune(model, 0.5)
    masks.keep(model, optimizer)
    for _ in range(3):
        model.zero_grad()  # not the optimizer's, which would set it up
        optimizer.step(lambda: model(images(8)).square().sum())
        assert is_sparse(model, masks)
