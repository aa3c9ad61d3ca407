import copy
from collections import Counter
from contextlib import contextmanager, nullcontext
from types import MethodType

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from reflow_lightning import calibrate, measure_signal, prune
from reflow_lightning.running.compat.torch import function_modes
from reflow_lightning.running.hooks import watching
from reflow_lightning.running.through_layers import ThroughLayers


class Called(nn.Module):
    """Calls its layers."""

    def __init__(self, bias=True):
        super().__init__()
        self.first, self.norm, self.second = nn.Linear(6, 32, bias), nn.LayerNorm(32), nn.Linear(32, 6, bias)

    def forward(self, x):
        return self.second(self.norm(self.first(x)).relu())


class Functional(Called):
    """Multiplies by the weights of its layers."""

    def forward(self, x):
        hidden = functional.linear(x, self.first.weight, bias=self.first.bias)
        return functional.linear(self.norm(hidden).relu(), self.second.weight, self.second.bias)


class Within(Called):
    """Calls its layers below another mode of torch."""

    def forward(self, x):
        with torch.device("cpu"):
            return super().forward(x)


def pair():
    torch.manual_seed(0)
    called, functional_one = Called().eval(), Functional().eval()
    functional_one.load_state_dict(called.state_dict())
    return called, functional_one


def batches():
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(64, 6, generator=generator) for _ in range(3)]


@contextmanager
def counted(model):
    """How often each linear layer is called, as those see it who watch it."""
    calls = Counter()
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    with watching(model, names, lambda name, _: calls.update([name])):
        yield calls


@pytest.mark.parametrize("repair", ["moments", "reconstruct", "reselect"])
def test_layers_of_which_only_the_parameters_are_used_are_repaired_as_others(repair):
    called, by_functions = pair()
    states = []
    for model in (called, by_functions):
        dense = copy.deepcopy(model)
        prune(model, 0.6)
        result = calibrate(model, batches(), repair=repair, reference=dense, max_batches=3)
        assert not result.skipped
        states.append(model.state_dict())
    assert all(torch.equal(states[0][name], value) for name, value in states[1].items())


def test_their_inputs_count_in_wanda():
    masks = [prune(model, 0.5, criterion="wanda", batches=batches(), max_batches=3) for model in pair()]
    assert masks[0] == masks[1]


def test_their_signal_is_measured():
    of_called, by_functions = (measure_signal(model, batches(), max_batches=3) for model in pair())
    assert [row.name for row in of_called.rows] == [row.name for row in by_functions.rows] == ["first", "second"]
    assert of_called.rows[1].variance == by_functions.rows[1].variance


class Below(Called):
    """Calls its layers below a mode of a user's own, which takes a detour."""

    class Mode(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            return self.run(func, args, kwargs or {})

        def run(self, func, args, kwargs):
            return func(*args, **kwargs)

    def forward(self, x):
        with self.Mode():
            return super().forward(x)


class Both(Called):
    """Calls a layer and multiplies by its weight as well, as a penalty does."""

    def forward(self, x):
        hidden = self.first(x)
        return self.second(self.norm(hidden + functional.linear(x, self.first.weight, self.first.bias)))


@pytest.mark.parametrize("kind", [Called, Within, Functional, Below, Both])
def test_every_layer_is_called_once_a_pass(kind):
    model = kind()
    run = ThroughLayers().forward(nn.Module.__call__)
    with counted(model) as calls:
        for passes in (1, 2, 3):
            run(model, batches()[0])
            assert calls == {"first": passes, "second": passes}


class Product(nn.Sequential):
    """A product with the first layer."""

    def __init__(self, product):
        super().__init__(nn.Linear(6, 6))
        self.product = product

    def forward(self, x):
        return self.product(x, self[0])


@pytest.mark.parametrize(
    "product",
    [
        lambda x, layer: functional.linear(x, layer.weight),
        lambda x, layer: functional.linear(x, layer.weight, layer.bias.clone()),
        lambda x, layer: functional.linear(x, layer.weight.t().contiguous().t(), layer.bias),
    ],
)
def test_another_product_is_no_call(product):
    model = Product(product)
    with counted(model) as calls:
        ThroughLayers().forward(nn.Module.__call__)(model, batches()[0])
    assert not calls


def test_a_penalty_on_a_weight_without_bias_is_no_call():
    class Penalty(Called):
        def forward(self, x):
            self.penalty = functional.linear(10 * torch.eye(6), self.first.weight).square().sum()
            return super().forward(x)

    model = Penalty(bias=False)
    with counted(model) as calls:
        ThroughLayers().forward(nn.Module.__call__)(model, batches()[0])
    assert calls == {"first": 1, "second": 1}


def test_a_product_within_a_transform_of_functions_is_no_call():
    model = Product(lambda x, layer: functional.linear(x, layer.weight, layer.bias).sum())
    with counted(model) as calls:
        ThroughLayers().forward(lambda network, x: torch.func.grad(network)(x))(model, batches()[0])
    assert not calls


def doubles(model):
    model[0].forward = MethodType(lambda self, x: 2 * functional.linear(x, self.weight, self.bias), model[0])


def is_hooked(model):
    model[0].register_forward_hook(lambda module, inputs, output: output * 0)


def shares(model):
    model.other = nn.Linear(6, 6)
    model.other.weight = model[0].weight


@pytest.mark.parametrize("change", [doubles, is_hooked, shares])
def test_a_layer_that_does_more_than_to_multiply_is_left_to_its_network(change):
    model = Product(lambda x, layer: functional.linear(x, layer.weight, layer.bias))
    change(model)
    expected = model(batches()[0])
    with counted(model) as calls:
        assert torch.equal(ThroughLayers().forward(nn.Module.__call__)(model, batches()[0]), expected)
    assert not calls


def test_a_layer_of_a_forward_of_its_own_is_called_as_before():
    model = nn.Sequential(nn.Linear(6, 6))
    doubles(model)
    expected = model(batches()[0])
    with counted(model) as calls:
        assert torch.equal(ThroughLayers().forward(nn.Module.__call__)(model, batches()[0]), expected)
    assert calls == {"0": 1}


def test_a_layer_may_go_after_the_first_pass():
    class Once(Called):
        def forward(self, x):
            if hasattr(self, "first"):
                x = functional.linear(x, self.first.weight, self.first.bias)
                del self.first
                return x
            return x

    model, run = Once(), ThroughLayers().forward(nn.Module.__call__)
    for _ in range(2):
        run(model, batches()[0])


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("repair", ["moments", "reconstruct", "reselect", "align", ["reconstruct", "align"]])
def test_a_repair_leaves_the_settings_of_torch_as_they_were(repair, fails):
    def forward(model, batch):
        passes.append(batch)
        if fails and len(passes) > 4:
            raise RuntimeError("it ends here")
        return model(batch)

    passes, (model, _) = [], pair()
    dense = copy.deepcopy(model)
    prune(model, 0.5)
    with pytest.raises(RuntimeError, match="it ends here") if fails else nullcontext():
        calibrate(model, batches(), repair=repair, reference=dense, max_batches=3, forward=forward)
    assert torch.backends.mha.get_fastpath_enabled()
    compiled = []
    torch.compiler.reset()
    torch.compile(lambda x: x + 1, backend=lambda graph, _: compiled.append(graph) or graph)(torch.ones(1))
    assert compiled
    assert not function_modes()


def test_no_mode_stays_where_no_such_layer_was_found():
    def forward(model, batch):
        modes.append(len(function_modes()))
        return model(batch)

    modes, run = [], ThroughLayers().forward(forward)
    model, other = Called(), Functional()
    for network in (model, model, other, other):
        run(network, batches()[0])
    assert modes == [1, 0, 1, 1]
    assert not function_modes()


def test_a_pass_that_ended_early_is_looked_at_again():
    def forward(model, batch):
        if len(failures) < 1:
            failures.append(batch)
            raise RuntimeError("too early")
        return model(batch)

    failures, model = [], Functional()
    run = ThroughLayers().forward(forward)
    with counted(model) as calls:
        with pytest.raises(RuntimeError, match="too early"):
            run(model, batches()[0])
        run(model, batches()[0])
        run(model, batches()[0])
    assert calls == {"first": 2, "second": 2}


def test_all_passes_through_an_encoder_with_padding_are_alike():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model, words = nn.TransformerEncoder(layer, 2).eval(), torch.randn(3, 5, 8)
    padding = torch.arange(5) >= torch.tensor([[3], [4], [2]])
    run = ThroughLayers().forward(lambda network, batch: network(batch, src_key_padding_mask=padding))
    with torch.no_grad():
        first, second = run(model, words), run(model, words)
    assert torch.equal(first, second)


def test_nothing_is_compiled():
    def backend(graph, _):
        compiled.append(graph)
        return graph

    compiled, run = [], ThroughLayers().forward(nn.Module.__call__)
    model = torch.compile(Functional(), backend=backend)
    for _ in range(2):
        run(model, batches()[0])
    assert not compiled


def test_the_attention_of_torchvisions_swin_is_repaired():
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    sizes = {"patch_size": [4, 4], "embed_dim": 8, "depths": [2], "num_heads": [2], "window_size": [2, 2]}
    model = models.SwinTransformer(**sizes, num_classes=4, stochastic_depth_prob=0.0).eval()
    dense = copy.deepcopy(model)
    prune(model, 0.5)
    images = [torch.randn(8, 3, 16, 16) for _ in range(2)]
    result = calibrate(model, images, repair="reconstruct", reference=dense, max_batches=2)
    assert not result.skipped
    assert {"features.1.0.attn.qkv", "features.1.1.attn.proj"} <= set(result.repaired)
