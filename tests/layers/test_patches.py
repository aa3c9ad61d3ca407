"""What a transposed convolution multiplies with its kernel, times the kernel, is its output."""

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from reflow_lightning import calibrate, prune
from reflow_lightning.layers import find_layers
from reflow_lightning.layers.patches import output_size, transposed_patches
from reflow_lightning.running.hooks import Call

KINDS = [nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d]
axes = st.tuples(*(st.integers(1, 3) for _ in range(3)))


def computed(conv, x, given=None):
    """The output by rows of patches."""
    size = output_size(conv, x, given)
    kernel = conv.weight.transpose(0, 1).flatten(1)
    rows = transposed_patches(x, conv, size)[0] @ kernel.T
    return rows.view(len(x), *size, -1).movedim(-1, 1)


@settings(deadline=None, max_examples=60)
@given(st.sampled_from([0, 1, 2]), axes, axes, axes, axes, st.tuples(*(st.integers(0, 2) for _ in range(3))))
def test_it_is_the_output_of_any_transposed_convolution(rank, kernel, stride, dilation, size, more):
    n = rank + 1
    padding = [min(d * (k - 1), 1) for d, k in zip(dilation, kernel, strict=True)]
    assume(all(m < max(s, d) for m, s, d in zip(more[:n], stride, dilation, strict=False)))
    how = {"stride": stride[:n], "dilation": dilation[:n], "padding": padding[:n], "output_padding": more[:n]}
    conv = KINDS[rank](2, 3, kernel[:n], bias=False, **how)
    x = torch.randn(2, 2, *size[:n])
    assume(min(output_size(conv, x, None)) > 0)
    torch.testing.assert_close(computed(conv, x), conv(x), rtol=1e-4, atol=1e-5)


def test_a_size_that_the_call_asks_for_counts():
    conv, x = nn.ConvTranspose2d(2, 3, 3, stride=2, padding=1, bias=False), torch.randn(2, 2, 4, 5)
    torch.testing.assert_close(computed(conv, x, [8, 10]), conv(x, [8, 10]), rtol=1e-4, atol=1e-5)
    layer = find_layers(conv).known[""]
    rows = [torch.cat(list(layer.inputs(0, Call((x,), {"output_size": size}, None))), 1) for size in ([8, 10], None)]
    assert [found.shape[1] for found in rows] == [2 * 8 * 10, 2 * 7 * 9]


@pytest.mark.parametrize("repair", ["reconstruct", "reselect"])
def test_a_decoder_is_fitted_to_the_dense_one(repair):
    torch.manual_seed(0)

    def decoder():
        torch.manual_seed(0)
        up = nn.ConvTranspose2d(8, 8, 4, stride=2, padding=1)
        return nn.Sequential(up, nn.ReLU(), nn.ConvTranspose2d(8, 3, 4, stride=2, padding=1)).eval()

    mix = torch.randn(8, 2)  # inputs that depend on each other, so that what is left can stand in for what went
    batches = [torch.einsum("ij,njhw->nihw", mix, torch.randn(16, 2, 6, 6)) for _ in range(3)]
    dense, model = decoder(), decoder()
    prune(model, 0.6)
    before = (model(batches[0]) - dense(batches[0])).norm()
    result = calibrate(model, batches, repair=repair, reference=dense, max_batches=3)
    assert set(result.repaired) == {"0", "2"}
    assert (model(batches[0]) - dense(batches[0])).norm() < 0.8 * before
