import re
import textwrap
from collections import OrderedDict, defaultdict, deque, namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from reflow_lightning.cost import sparse_state
from reflow_lightning.cost.sparse_file import load_sparse, save_sparse
from reflow_lightning.running.formats import FormatError

HARD = [float("nan"), -float("nan"), float("inf"), -float("inf"), -0.0, 0.0, -1.0, 1e-45, 0.0, 0.0, 0.0, 0.0]
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.float8_e4m3fn, torch.float8_e5m2)
OTHERS = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16, torch.uint32)
OTHERS += (torch.complex64, torch.complex128)


def sparse(*shape, sparsity=0.9, dtype=torch.float32):
    """Random numbers and zeros; multiplying with a mask would make some of the zeros -0.0."""
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    return values.masked_fill(torch.rand(*shape, generator=torch.Generator().manual_seed(1)) < sparsity, 0)


def written(state, tmp_path):
    save_sparse(state, tmp_path / "file")
    return load_sparse(tmp_path / "file")


def bits(tensor):
    return tensor.contiguous().flatten().view(torch.uint8).tolist() if tensor.numel() else []


def with_torch_alone(path):
    """The lines that the documentation gives."""
    lines = save_sparse.__doc__.partition("These lines do:")[2].partition("Args:")[0]
    found = {"path": path, "torch": torch}
    exec(textwrap.dedent(lines.strip("\n")), found)
    return found["state"]


def assert_equal(found, expected):
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert (found[name].dtype, found[name].shape) == (value.dtype, value.shape), name
        assert bits(found[name]) == bits(value), name


@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 0.53), (torch.float64, 0.93), (torch.bfloat16, 0.33)])
def test_nine_tenths_of_zeros_take_a_bit_a_weight_and_what_is_left(dtype, most, tmp_path):
    save_sparse({"weight": sparse(1000, 1000, dtype=dtype)}, tmp_path / "file")
    assert (tmp_path / "file").stat().st_size < most * 1000_000


def test_a_dense_network_takes_no_more_than_torch_writes(tmp_path):
    state = nn.Linear(300, 300).state_dict()
    save_sparse(state, tmp_path / "sparse")
    torch.save(state, tmp_path / "dense")
    assert (tmp_path / "sparse").stat().st_size < (tmp_path / "dense").stat().st_size + 1000


@pytest.mark.parametrize("dtype", FLOATS)
def test_every_float_comes_back_bit_for_bit(dtype, tmp_path):
    state = {"hard": torch.tensor(HARD).to(dtype), "sparse": sparse(50, 50, dtype=torch.float32).to(dtype)}
    assert_equal(written(state, tmp_path), state)
    assert_equal(with_torch_alone(tmp_path / "file"), state)


@pytest.mark.parametrize("dtype", OTHERS)
def test_so_does_every_other_type(dtype, tmp_path):
    state = {
        "few": (10 * sparse(40, 40)).to(dtype),
        "all": torch.arange(1, 9).to(dtype),
        "one": torch.ones((), dtype=dtype),
    }
    assert_equal(written(state, tmp_path), state)
    assert_equal(with_torch_alone(tmp_path / "file"), state)


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1,)])
def test_so_do_scalars_and_what_is_empty(shape, tmp_path):
    state = {"a": torch.zeros(shape), "b": torch.ones(shape)}
    assert_equal(written(state, tmp_path), state)
    assert_equal(with_torch_alone(tmp_path / "file"), state)


@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.9, 0.99, 1.0])
def test_the_lines_in_the_documentation_read_every_kind(sparsity, tmp_path):
    values = sparse(64, 65, sparsity=sparsity)
    state = {"a": values, "with -0.0": -values.abs()}
    assert_equal(written(state, tmp_path), state)
    assert_equal(with_torch_alone(tmp_path / "file"), state)


def test_the_order_in_memory_comes_back_too(tmp_path):
    images = sparse(4, 6, 5, 5).to(memory_format=torch.channels_last)
    state = {"images": images, "transposed": sparse(8, 3).t(), "expanded": torch.ones(1).expand(5)}
    found = written(state, tmp_path)
    assert_equal(found, state)
    assert {name: value.stride() for name, value in found.items()} == {n: v.stride() for n, v in state.items()}


def test_tied_weights_are_written_once_and_stay_tied(tmp_path):
    model = nn.Sequential(nn.Embedding(400, 50), nn.Linear(50, 400, bias=False))
    model[1].weight = model[0].weight
    found = written(model, tmp_path)
    assert (tmp_path / "file").stat().st_size < 4 * 400 * 50 + 3000
    found["0.weight"][0, 0] = 7
    assert found["1.weight"][0, 0] == 7


def test_views_of_one_memory_stay_views_of_one(tmp_path):
    memory = sparse(100)
    state = {"whole": memory, "part": memory[10:40].view(5, 6), "other": memory[20:60:2]}
    found = written(state, tmp_path)
    assert_equal(found, state)
    found["whole"][20] = 7
    assert found["part"].flatten()[10] == found["other"][0] == 7


def test_of_a_memory_only_what_is_used_is_written(tmp_path):
    save_sparse({"part": torch.randn(1000_000)[500_003:500_013]}, tmp_path / "file")
    assert (tmp_path / "file").stat().st_size < 3000
    memory = torch.randn(1000)
    state = {"part": memory[503:513]}
    assert_equal(written(state, tmp_path), state)


def test_tensors_of_several_types_may_share_a_memory(tmp_path):
    memory = torch.arange(1, 30, dtype=torch.uint8)
    state = {
        "bytes": memory[:29],
        "floats": memory[4:24].view(torch.float32),
        "double": memory[8:16].view(torch.float64),
    }
    assert_equal(written(state, tmp_path), state)


def test_conjugates_are_written_as_they_are_read(tmp_path):
    state = {"a": torch.randn(5, dtype=torch.complex64).conj(), "b": torch.randn(5, dtype=torch.complex64).conj().imag}
    found = written(state, tmp_path)
    assert all(torch.equal(found[name], state[name]) for name in state)


def test_a_module_and_its_state_are_the_same_and_neither_is_changed(tmp_path):
    model = nn.Sequential(nn.Linear(20, 20), nn.BatchNorm1d(20))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert_equal(written(model, tmp_path), before)
    other = nn.Sequential(nn.Linear(20, 20), nn.BatchNorm1d(20))
    print(other.load_state_dict(load_sparse(tmp_path / "file")))
    assert_equal(dict(model.state_dict()), before)
    assert_equal(other.state_dict(), before)


def test_what_is_no_tensor_is_kept_if_it_is_of_plain_types(tmp_path):
    extra = {"epoch": 3, "names": ["a", None], "nested": {"mean": torch.ones(2)}}
    state = OrderedDict(zip(("z", "extra", "a"), (torch.ones(2), extra, torch.zeros(1)), strict=True))
    found = written(state, tmp_path)
    assert list(found) == ["z", "extra", "a"]
    assert str(found["extra"]) == str(extra)


class Own(torch.Tensor):
    pass


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (object(), "'a' holds a object, neither a tensor nor a plain type: leave it out"),
        (torch.ones(2).to_sparse(), "'a' is of the layout torch.sparse_coo: pass a dense state dictionary"),
        (torch.ones(2, device="meta"), "'a' has no values, as it is on the device 'meta': load the network first"),
        (torch.ones(2).as_subclass(Own), "'a' is a Own: convert it to a plain tensor, or write it with torch.save"),
        (nn.LazyLinear(2).weight, "'a' is a UninitializedParameter"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_can_not_be_written_is_named_and_no_file_is_touched(value, why, tmp_path):
    (tmp_path / "file").write_text("before")
    with pytest.raises(TypeError, match=re.escape(why)):
        save_sparse({"good": torch.ones(1), "a": value}, tmp_path / "file")
    assert (tmp_path / "file").read_text() == "before"


@pytest.mark.parametrize("given", [[1], None, torch.ones(1), "file"])
def test_only_a_module_or_a_state_is_written(given, tmp_path):
    with pytest.raises(TypeError, match="pass a module or its state_dict"):
        save_sparse(given, tmp_path / "file")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(OSError, match="nowhere"):
        save_sparse({}, tmp_path / "nowhere" / "file")
    with pytest.raises(OSError, match="nowhere"):
        load_sparse(tmp_path / "nowhere" / "file")


def test_a_newer_format_is_refused_with_what_to_do(tmp_path):
    content = sparse_state.packed({"a": torch.ones(1)})
    torch.save(content | {"format": 2}, tmp_path / "file")
    with pytest.raises(FormatError, match=r"file: these are sparse weights of format 2, .*upgrade it"):
        load_sparse(tmp_path / "file")


def test_a_file_that_is_cut_off_anywhere_is_named(tmp_path):
    save_sparse({"a": sparse(30, 30)}, tmp_path / "whole")
    content = (tmp_path / "whole").read_bytes()
    for length in range(0, len(content), 97):
        (tmp_path / "cut").write_bytes(content[:length])
        with pytest.raises(ValueError, match="cut is damaged, or no file of save_sparse"):
            load_sparse(tmp_path / "cut")


@pytest.mark.parametrize("piece", ["values", "where", "negative"])
def test_a_bit_that_was_turned_is_noticed(piece, tmp_path):
    content = sparse_state.packed({"a": -sparse(30, 30).abs()})
    content["memory"][0][piece][1] += 1
    torch.save(content, tmp_path / "file")
    with pytest.raises(ValueError, match=r"file is damaged, .*: it was changed since it was written"):
        load_sparse(tmp_path / "file")


@pytest.mark.parametrize(
    "content", [torch.ones(3), [1], None, {}, {"format": 1}, {"format": True}, {"a": torch.ones(1)}]
)
def test_another_kind_of_file_is_refused(content, tmp_path):
    torch.save(content, tmp_path / "file")
    with pytest.raises(ValueError, match="file is damaged, or no file of save_sparse"):
        load_sparse(tmp_path / "file")


def test_a_view_beyond_its_memory_is_refused(tmp_path):
    content = sparse_state.packed({"a": torch.ones(3)})
    content["tensors"]["a"]["shape"] = [300]
    content["checksum"] = sparse_state._checksum(content)
    torch.save(content, tmp_path / "file")
    with pytest.raises(ValueError, match="file is damaged"):
        load_sparse(tmp_path / "file")


def test_no_code_in_a_file_is_run(tmp_path):
    class RunsCode:
        def __reduce__(self):
            return Path.touch, (tmp_path / "made by the file",)

    torch.save(sparse_state.packed({}) | {"others": {"a": RunsCode()}}, tmp_path / "file")
    with pytest.raises(ValueError, match="it holds more than tensors and plain types"):
        load_sparse(tmp_path / "file")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.gpu
def test_what_is_on_a_gpu_is_read_to_the_cpu(tmp_path):
    state = {"a": sparse(30, 30).cuda()}
    assert_equal(written(state, tmp_path), {"a": state["a"].cpu()})


def test_tensors_within_other_values_are_told_by_their_bytes_and_not_by_how_they_print(tmp_path):
    held = torch.randn(2000, requires_grad=True) * 2
    save_sparse({"state": {"exp_avg": [held]}}, tmp_path / "state.pt")
    torch.set_printoptions(precision=8)
    try:
        found = load_sparse(tmp_path / "state.pt")
    finally:
        torch.set_printoptions(profile="default")
    assert torch.equal(found["state"]["exp_avg"][0], held.detach())


@pytest.mark.parametrize("value", [defaultdict(int, a=1), deque([1]), namedtuple("Pair", "x y")(1, 2), np.float64(3)])
def test_types_that_a_file_can_not_hold_without_their_class_are_refused_before_it_is_written(value, tmp_path):
    with pytest.raises(TypeError, match="'state' holds a"):
        save_sparse({"state": {"inner": [value]}}, tmp_path / "state.pt")
    assert not list(tmp_path.iterdir())
