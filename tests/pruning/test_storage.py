"""Parameters whose memory overlaps, against sets of addresses."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from reflow_lightning import prune
from reflow_lightning.pruning import select
from reflow_lightning.pruning.storage import check_storage


def pair(first, second):
    model = nn.ModuleDict({name: nn.Linear(4, 4, bias=False) for name in "ab"})
    model["a"].weight, model["b"].weight = nn.Parameter(first), nn.Parameter(second)
    return model


def addresses(tensor):
    places = torch.zeros((), dtype=torch.int64).expand(tensor.shape).clone()
    for dim, stride in enumerate(tensor.stride()):
        places += (torch.arange(tensor.shape[dim]) * stride).view(-1, *[1] * (tensor.ndim - dim - 1))
    size = tensor.element_size()
    return {tensor.data_ptr() + place * size + byte for place in places.flatten().tolist() for byte in range(size)}


@st.composite
def views(draw):
    """Several views of one buffer, of two types: rows and columns from anywhere, with steps, some transposed."""
    buffer = torch.zeros(8, 8)
    found = {}
    for name in "abcd"[: draw(st.integers(1, 4))]:
        whole = buffer.view(torch.float16) if draw(st.booleans()) else buffer
        rows, columns = (
            slice(draw(st.integers(0, 7)), draw(st.integers(0, size)), draw(st.integers(1, 3))) for size in whole.shape
        )
        found[name] = whole[rows, columns].t() if draw(st.booleans()) else whole[rows, columns]
    return found


@given(views())
@settings(deadline=None, max_examples=300)
def test_views_of_one_buffer_may_interleave_but_have_no_byte_in_common(tensors):
    owned = [addresses(tensor) for tensor in tensors.values()]
    if sum(map(len, owned)) == len(set().union(*owned)):
        check_storage(tensors)
    else:
        with pytest.raises(ValueError, match=r"parameters '\w' and '\w' share memory"):
            check_storage(tensors)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (lambda big: big[:4], lambda big: big[:4]),
        (lambda big: big[:4], lambda big: big[:4].t()),
        (lambda big: big[:4], lambda big: big[3:7]),
        (lambda big: big[::2], lambda big: big[2:6]),
    ],
    ids=["identical", "transposed", "one row", "between"],
)
def test_both_are_named_with_the_remedy_and_nothing_is_changed(first, second):
    big = torch.randn(8, 4)
    before = big.clone()
    model = pair(first(big), second(big))
    with pytest.raises(ValueError, match=r"'a.weight' and 'b.weight' share memory.* the same Parameter.*exclude"):
        prune(model, 0.5)
    assert torch.equal(big, before)


def test_a_small_view_in_between_hides_no_larger_one():
    big = torch.randn(8, 8)
    with pytest.raises(ValueError, match="'a' and 'c' share memory"):
        check_storage({"a": big[:, ::2], "b": big[:1, 1::2], "c": big[5:6, :1]})


def test_the_remedies_work():
    big = torch.randn(4, 4)
    model = pair(big, big)
    model["b"].weight = model["a"].weight
    assert list(select(model)) == ["a.weight"]
    model = pair(big, big.clone())
    assert list(select(model)) == ["a.weight", "b.weight"]
    model = pair(big, big)
    prune(model, 0.5, exclude="b.*")
    assert int((model["b"].weight == 0).sum()) == 8  # it is the same memory


def test_interleaved_columns_of_one_tensor_are_pruned_each_for_itself():
    big = torch.randn(4, 8)
    before = big.clone()
    model = pair(big[:, ::2], big[:, 1::2])
    masks = prune(model, 0.5)
    kept = torch.stack([masks["a.weight"], masks["b.weight"]], dim=2).view(4, 8)
    assert int(kept.sum()) == 16
    assert torch.equal(big, before.where(kept, 0))


def test_an_expanded_parameter_is_named_with_the_remedy_and_the_remedy_works():
    model = nn.Sequential(nn.Linear(4, 4))
    model[0].weight = nn.Parameter(torch.randn(4, 1).expand(4, 4))
    with pytest.raises(ValueError, match=r"'0.weight' has elements that share memory.*\(1, 0\).*contiguous\(\)"):
        prune(model, 0.5)
    model[0].weight.data = model[0].weight.data.contiguous()
    prune(model, 0.5)
    assert int((model[0].weight == 0).sum()) == 8


@pytest.mark.parametrize(
    "weight",
    [
        torch.randn(4, 8).t(),
        torch.randn(16, 8)[::2, ::2],
        torch.randn(8, 1, 4)[:, 0],
        torch.randn(1, 4).expand(1, 4),
        torch.randn(1, 1).expand(1, 1),
        torch.empty(0, 3),
    ],
    ids=["transposed", "strided", "of more dimensions", "expanded to what it was", "one element", "empty"],
)
def test_any_order_in_memory_will_do(weight):
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = nn.Parameter(weight)
    address, before = model[1].weight.data_ptr(), weight.clone()
    masks = prune(model, 0.5)
    assert torch.equal(weight, before.where(masks["1.weight"], 0))
    assert model[1].weight.data_ptr() == address


def test_float8_is_named_with_its_type():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[0].weight = nn.Parameter(model[0].weight.detach().to(torch.float8_e4m3fn), requires_grad=False)
    with pytest.raises(ValueError, match=r"'0.weight' is torch.float8_e4m3fn, .*prune before you convert it.*exclude"):
        prune(model, 0.5)
    assert prune(model, 0.5, exclude="0.*").sparsity == 0.5


def test_a_sparse_layout_is_named():
    model = nn.Linear(4, 4)
    model.weight = nn.Parameter(torch.eye(4).to_sparse_coo())
    with pytest.raises(ValueError, match=r"'weight' is a torch.sparse_coo, whose values can't be set one by one"):
        prune(model, 0.5)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype stage")
@pytest.mark.parametrize("layout", [torch.strided, torch.jagged])
def test_nested_tensors_are_named(layout):
    model = nn.Linear(4, 4)
    nested = torch.nested.nested_tensor(list(torch.eye(4).split(2)), layout=layout)
    model.weight = nn.Parameter(nested, requires_grad=False)
    with pytest.raises(ValueError, match=r"'weight' is a nested tensor, whose values can't be set one by one"):
        prune(model, 0.5)
    beside = nn.Sequential(nn.Linear(4, 4))
    beside.register_parameter("nested", model.weight)
    assert list(prune(beside, 0.5)) == ["0.weight"]
