import copy
import io
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from reflow_lightning.cost.sparse_layers import SparseLinear, SparsePointwise, compressed_rows, multiply


def pruned(layer, sparsity=0.9):
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        layer.weight[torch.rand(layer.weight.shape, generator=generator) < sparsity] = 0
    return layer


def pair(sparsity=0.9, bias=True, dtype=torch.float32):
    torch.manual_seed(0)
    linear = pruned(nn.Linear(20, 30, bias=bias, dtype=dtype), sparsity)
    return linear, SparseLinear(linear.weight, linear.bias)


CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")
@given(rows=st.integers(0, 9), columns=st.integers(1, 9), seed=st.integers(0, 99), sparsity=st.floats(0, 1))
def test_the_rows_are_those_of_torch(rows, columns, seed, sparsity):
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(rows, columns, generator=generator)
    matrix[torch.rand(rows, columns, generator=generator) < sparsity] = 0
    found, expected = compressed_rows(matrix), matrix.to_sparse_csr()
    assert torch.equal(found["rows"], expected.crow_indices().int())
    assert torch.equal(found["columns"], expected.col_indices().int())
    assert torch.equal(found["values"], expected.values())


@settings(max_examples=30, deadline=None)
@given(outputs=st.integers(1, 9), inputs=st.integers(1, 9), n=st.integers(0, 9), bias=st.booleans())
def test_a_product_is_that_of_the_dense_matrices(outputs, inputs, n, bias):
    weight, columns = torch.randn(outputs, inputs), torch.randn(inputs, n)
    added = torch.randn(outputs) if bias else None
    expected = weight @ columns + (0 if added is None else added[:, None])
    torch.testing.assert_close(multiply(weight.to_sparse_csr(), added, columns), expected)


@pytest.mark.parametrize("sparsity", [0.0, 0.9, 1.0])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(20,), (1, 20), (64, 20), (65, 20), (200, 20), (3, 50, 20), (0, 20), (2, 0, 20)])
def test_a_linear_layer_puts_out_what_the_dense_one_does(sparsity, bias, shape):
    dense, sparse = pair(sparsity, bias)
    inputs = torch.randn(shape)
    found, expected = sparse(inputs), dense(inputs)
    torch.testing.assert_close(found, expected)
    assert found.stride() == expected.stride()


def test_so_it_does_for_inputs_in_any_order_in_memory():
    dense, sparse = pair()
    inputs = torch.randn(20, 7, 5)
    torch.testing.assert_close(sparse(inputs.permute(1, 2, 0)), dense(inputs.permute(1, 2, 0)))
    wide = torch.randn(40, 40)
    torch.testing.assert_close(sparse(wide[::3, ::2]), dense(wide[::3, ::2]))


@pytest.mark.parametrize("rank", CONVOLUTIONS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("samples", [None, 0, 1, 3])
def test_a_pointwise_convolution_puts_out_what_the_dense_one_does(rank, bias, samples):
    dense = pruned(CONVOLUTIONS[rank](6, 10, 1, bias=bias))
    sparse = SparsePointwise(dense.weight, dense.bias)
    inputs = torch.randn(*(() if samples is None else (samples,)), 6, *range(17, 17 + rank))
    found, expected = sparse(inputs), dense(inputs)
    torch.testing.assert_close(found, expected)
    assert found.stride() == expected.stride()


def test_the_transposed_layer_of_gpt_2_does_too():
    conv1d = pytest.importorskip("transformers.pytorch_utils").Conv1D
    dense = pruned(conv1d(30, 20))
    sparse = SparseLinear(dense.weight, dense.bias, outputs=1)
    inputs = torch.randn(2, 5, 20)
    torch.testing.assert_close(sparse(inputs), dense(inputs))
    assert torch.equal(sparse.state_dict()["weight"], dense.weight)


def test_the_state_is_that_of_the_dense_layer_both_ways():
    for dense in (pruned(nn.Linear(5, 7)), pruned(nn.Conv2d(5, 7, 1))):
        kind = SparseLinear if isinstance(dense, nn.Linear) else SparsePointwise
        sparse = kind(dense.weight, dense.bias)
        state = sparse.state_dict()
        assert state.keys() == dense.state_dict().keys()
        assert all(torch.equal(state[name], value) for name, value in dense.state_dict().items())
        other = pruned(type(dense)(5, 7, 1) if isinstance(dense, nn.Conv2d) else nn.Linear(5, 7), 0.5)
        sparse.load_state_dict(other.state_dict())
        assert torch.equal(sparse.dense(), other.weight)
        inputs = torch.randn(2, 5, 4, 4) if isinstance(dense, nn.Conv2d) else torch.randn(2, 5)
        torch.testing.assert_close(sparse(inputs), other(inputs))


def test_loading_does_not_change_the_state_that_is_loaded():
    dense, sparse = pair()
    state = {f"0.{name}": value.clone() for name, value in dense.state_dict().items()}
    nn.Sequential(sparse).load_state_dict(state)
    assert list(state) == ["0.weight", "0.bias"]


def test_a_state_that_does_not_fit_is_refused_as_torch_does():
    _, sparse = pair()
    with pytest.raises(RuntimeError, match=r'Missing key\(s\) in state_dict: "0.weight"'):
        nn.Sequential(sparse).load_state_dict({"0.bias": torch.zeros(30)})
    nn.Sequential(sparse).load_state_dict({"0.bias": torch.zeros(30)}, strict=False)
    with pytest.raises(RuntimeError, match=r"size mismatch for weight: \(2, 2\) can't be loaded as \(30, 20\)"):
        sparse.load_state_dict({"weight": torch.ones(2, 2), "bias": torch.zeros(30)})
    with pytest.raises(RuntimeError, match=r'Unexpected key\(s\) in state_dict: "other"'):
        sparse.load_state_dict(sparse.state_dict() | {"other": torch.ones(1)})


def test_the_weight_is_no_parameter_and_takes_the_memory_of_what_is_left():
    dense = pruned(nn.Linear(1000, 1000))
    sparse = SparseLinear(dense.weight, dense.bias)
    assert [name for name, _ in sparse.named_parameters()] == ["bias"]
    assert sum(buffer.nbytes for buffer in sparse.buffers()) < 0.22 * dense.weight.nbytes  # 8 bytes a non-zero


def test_gradients_flow_to_the_inputs_and_the_bias():
    dense, sparse = pair()
    inputs = torch.randn(100, 20)
    found, expected = inputs.clone().requires_grad_(), inputs.clone().requires_grad_()
    sparse(found).square().sum().backward()
    bias = sparse.bias.grad.clone()
    sparse.bias.grad = None
    dense(expected).square().sum().backward()
    torch.testing.assert_close(found.grad, expected.grad)
    torch.testing.assert_close(bias, dense.bias.grad)


def test_copies_and_files_do_the_same():
    dense, sparse = pair()
    inputs = torch.randn(4, 20)
    buffer = io.BytesIO()
    torch.save(sparse, buffer)
    buffer.seek(0)
    for other in (copy.deepcopy(sparse), torch.load(buffer, weights_only=False)):
        assert torch.equal(other(inputs), sparse(inputs))
        other.load_state_dict({"weight": torch.zeros(30, 20), "bias": torch.zeros(30)})
        assert not other(inputs).any()
    torch.testing.assert_close(sparse(inputs), dense(inputs))


def test_it_moves_to_another_type():
    dense, sparse = pair()
    inputs = torch.randn(4, 20, dtype=torch.float64)
    torch.testing.assert_close(sparse.double()(inputs), dense.double()(inputs))


def test_under_autocast_it_calculates_in_the_type_of_its_weight():
    dense, sparse = pair()
    inputs = torch.randn(4, 20)
    expected = dense(inputs)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(sparse(inputs), expected)
        assert sparse(inputs.bfloat16()).dtype == torch.float32


def test_whoever_reads_the_weight_gets_the_dense_one():
    dense, sparse = pair()
    assert sparse.weight.shape == (30, 20)
    assert sparse.weight.dtype == torch.float32
    assert torch.equal(sparse.weight + 0, dense.weight)
    torch.testing.assert_close(
        nn.functional.linear(torch.ones(1, 20), sparse.weight), dense(torch.ones(1, 20)) - dense.bias
    )


def test_many_zeros_are_counted_in_wide_numbers(monkeypatch):
    monkeypatch.setattr("reflow_lightning.cost.sparse_layers._FEW", 10)
    dense, sparse = pair()
    assert sparse.columns.dtype == torch.int64
    torch.testing.assert_close(sparse(torch.ones(2, 20)), dense(torch.ones(2, 20)))


def test_nothing_is_said_of_sparse_tensors_being_new():
    """Torch says it once a process."""
    code = (
        "import torch; from reflow_lightning.cost.sparse_layers import SparseLinear\n"
        "layer = torch.nn.Linear(2, 2); SparseLinear(layer.weight, layer.bias)(torch.ones(1, 2))"
    )
    done = subprocess.run([sys.executable, "-W", "error::UserWarning", "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.gpu
def test_it_runs_on_a_gpu_too():
    dense, sparse = pair()
    inputs = torch.randn(100, 20).cuda()
    torch.testing.assert_close(sparse.cuda()(inputs), dense.cuda()(inputs))
