import copy
import io
import weakref

import pytest
import torch
from helpers import zeros
from torch import nn
from zoo.convolutional import small_net

from reflow_lightning import Masks, prune


def test_a_mapping_with_sparsities():
    masks = Masks({"a": torch.tensor([True, False]), "b": torch.tensor([True, True])})
    assert list(masks) == ["a", "b"]
    assert masks.sparsity == 0.25
    assert masks.sparsities == {"a": 0.5, "b": 0.0}


def test_apply_leaves_positive_zeros():
    model = nn.Linear(4, 1)
    nn.init.constant_(model.weight, -1.0)
    Masks({"weight": torch.tensor([[True, False, False, True]])}).apply(model)
    assert model.weight.tolist() == [[-1.0, 0.0, 0.0, -1.0]]
    assert not torch.signbit(model.weight[0, 1])


def test_they_travel_as_plain_tensors():
    model = small_net()
    masks = prune(model, 0.7)
    file = io.BytesIO()
    torch.save(masks.state_dict(), file)
    file.seek(0)
    loaded = Masks.from_state_dict(torch.load(file, weights_only=True))
    assert loaded == masks


def test_masks_of_another_model_change_nothing():
    model = small_net()
    before = copy.deepcopy(model.state_dict())
    masks = {name: torch.zeros_like(p, dtype=torch.bool) for name, p in model.named_parameters()}
    with pytest.raises(ValueError, match=r"mask 'other.weight' has no parameter in Sequential"):
        Masks(masks | {"other.weight": torch.ones(1, dtype=torch.bool)}).apply(model)
    with pytest.raises(ValueError, match=r"mask '0.weight' has shape \(3,\), the model's parameter \(8, 1, 3, 3\)"):
        Masks(masks | {"0.weight": torch.ones(3, dtype=torch.bool)}).apply(model)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert zeros(model) == 0


def test_only_bool_tensors_are_masks():
    with pytest.raises(ValueError, match=r"mask 'a' is torch.float32, not a bool tensor"):
        Masks({"a": torch.ones(2)})


def test_a_tied_parameter_is_found_by_any_of_its_names():
    model = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})
    model["b"].weight = model["a"].weight
    Masks({"b.weight": torch.zeros(2, 2, dtype=torch.bool)}).apply(model)
    assert not model["a"].weight.any()


def test_a_loaded_mask_holds_nothing_of_the_others():
    masks = Masks.from_state_dict(Masks({"a": torch.ones(9) > 0, "b": torch.ones(1000) > 0}).state_dict())
    assert masks["a"].untyped_storage().nbytes() == 9


def test_they_take_a_bit_a_weight():
    masks = Masks({"a": torch.ones(80, 10, dtype=torch.bool), "b": torch.ones(3, dtype=torch.bool)})
    assert masks.nbytes == 101


def test_of_pairs_one_mask_at_a_time_is_held():
    alive = weakref.WeakSet()

    def pairs():
        for name in "abc":
            assert not alive
            mask = torch.ones(4, dtype=torch.bool)
            alive.add(mask)
            yield name, mask
            del mask

    assert list(Masks(pairs())) == ["a", "b", "c"]


def test_a_mask_that_was_given_out_is_the_callers_to_change():
    masks = Masks({"a": torch.tensor([True, False])})
    masks["a"].fill_(True)
    assert masks["a"].tolist() == [True, False]
    assert masks.sparsity == 0.5


def test_joined_masks_take_the_place_of_those_of_the_same_name():
    masks = Masks({"a": torch.ones(2, dtype=torch.bool), "b": torch.ones(2, dtype=torch.bool)})
    joined = masks.joined([("a", torch.zeros(3, dtype=torch.bool)), ("c", torch.tensor([True]))])
    assert joined.sparsities == {"a": 1.0, "b": 0.0, "c": 0.0}
    assert joined.shapes == {"a": (3,), "b": (2,), "c": (1,)}
    assert masks.sparsity == 0


def test_they_are_saved_whatever_the_default_device_is():
    masks = Masks({"a": torch.tensor([True, False, True])})
    with torch.device("meta"):
        state = masks.state_dict()
    assert Masks.from_state_dict(state) == masks


def test_a_mask_that_was_read_in_inference_mode_serves_in_training():
    masks = Masks({"a": torch.tensor([True, False])})
    with torch.inference_mode():
        mask = masks["a"]
    (torch.ones(2, requires_grad=True) * mask).sum().backward()


@pytest.mark.parametrize("odd", [lambda: torch.ones(2, dtype=torch.complex128), lambda: torch.eye(2).to_sparse()])
def test_apply_changes_nothing_where_one_tensor_cannot_be_masked(odd):
    model = nn.ParameterDict({"a": nn.Parameter(torch.ones(2)), "b": nn.Parameter(odd())})
    masks = Masks({name: torch.zeros(parameter.shape, dtype=torch.bool) for name, parameter in model.items()})
    with pytest.raises(Exception, match=r"16|Sparse"):
        masks.apply(model)
    assert model["a"].all()


def test_they_may_be_parameters_of_torch():
    given = nn.ParameterDict({"a": nn.Parameter(torch.tensor([True, False]), requires_grad=False)})
    assert Masks(given).sparsity == 0.5


def test_many_small_and_some_large_weights_are_set_to_zero():
    torch.manual_seed(0)
    sizes = (3, 1 << 20, 5, 1 << 24, 7, 1 << 20)
    model = nn.ParameterList(nn.Parameter(torch.ones(size)) for size in sizes)
    masks = Masks((str(i), torch.rand(size) > 0.5) for i, size in enumerate(sizes))
    masks.apply(model)
    assert all(torch.equal(model[int(name)] != 0, mask) for name, mask in masks.items())
