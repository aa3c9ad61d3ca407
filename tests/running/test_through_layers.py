import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from reflow_lightning import calibrate, measure_signal, prune
from reflow_lightning.running.compat.torch import function_modes
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


def pair(bias=True):
    torch.manual_seed(0)
    called, functional_one = Called(bias).eval(), Functional(bias).eval()
    functional_one.load_state_dict(called.state_dict())
    return called, functional_one


def batches():
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(64, 6, generator=generator) for _ in range(3)]


def counted(model):
    """How often each layer is called, as its hooks tell."""
    calls = dict.fromkeys(name for name, module in model.named_modules() if isinstance(module, nn.Linear))

    def count(name):
        def hook(*_):
            calls[name] = (calls[name] or 0) + 1

        return hook

    for name in calls:
        model.get_submodule(name).register_forward_hook(count(name))
    return calls


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("repair", ["moments", "reconstruct", "reselect"])
def test_layers_of_which_only_the_weights_are_used_are_repaired_as_others(repair, bias):
    called, by_functions = pair(bias)
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


@pytest.mark.parametrize("kind", [Called, Within, Functional])
def test_every_layer_is_called_once_a_pass(kind):
    model = kind()
    calls, run = counted(model), ThroughLayers().forward(nn.Module.__call__)
    for passes in (1, 2, 3):
        run(model, batches()[0])
        assert calls == {"first": passes, "second": passes}


def test_a_layer_that_is_called_and_used_is_called_for_both_in_every_pass():
    class Both(Called):
        def forward(self, x):
            used = functional.linear(x, self.first.weight, self.first.bias)
            return self.second(self.norm(self.first(x) + used))

    model = Both()
    calls, run = counted(model), ThroughLayers().forward(nn.Module.__call__)
    for passes in (1, 2):
        run(model, batches()[0])
        assert calls == {"first": 2 * passes, "second": passes}


@pytest.mark.parametrize(
    "product",
    [
        lambda x, layer: functional.linear(x, layer.weight),
        lambda x, layer: functional.linear(x, layer.weight, layer.bias.clone()),
        lambda x, layer: functional.linear(x, layer.weight.t().contiguous().t(), layer.bias),
    ],
)
def test_another_product_is_no_call(product):
    class Other(nn.Sequential):
        def forward(self, x):
            return product(x, self[0])

    model = Other(nn.Linear(6, 4))
    calls = counted(model)
    ThroughLayers().forward(nn.Module.__call__)(model, batches()[0])
    assert calls == {"0": None}


def test_a_layer_that_shares_its_weight_with_the_one_that_is_called_is_not_called():
    model = nn.Sequential(nn.Linear(6, 6, bias=False), nn.Linear(6, 6, bias=False))
    model[1].weight = model[0].weight
    calls = counted(model)
    ThroughLayers().forward(nn.Module.__call__)(model, batches()[0])
    assert calls == {"0": 1, "1": 1}


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
    calls, run = counted(model), ThroughLayers().forward(forward)
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
