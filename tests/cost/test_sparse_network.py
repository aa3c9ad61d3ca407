import copy
import io
import re

import pytest
import torch
from torch import nn

from reflow_lightning import collapse
from reflow_lightning.cost import compare, load_sparse, save_sparse, sparse_linear, sparse_report
from reflow_lightning.cost.sparse_layers import SparseLayer, SparseLinear, SparsePointwise
from reflow_lightning.layers import LinearLayer, layer_of

ALWAYS = {"margin": 1e-9, "rounds": 1}
"""Layers are swapped whatever the clock says."""

pytestmark = pytest.mark.filterwarnings("ignore:with .* sparse layers the whole network is")


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def pruned(model, sparsity=0.9):
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter[torch.rand(parameter.shape) < sparsity] = 0
    return model


def mlp():
    return pruned(nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Dropout(), nn.Linear(30, 10)))


def rows(model):
    return {layer.name: layer for layer in sparse_report(model).layers}


def reasons(model, example, **options):
    return {name: row.reason for name, row in rows(sparse_linear(model, example, **ALWAYS | options)).items()}


INPUTS = torch.randn(8, 20, generator=torch.Generator().manual_seed(0))


def with_times(monkeypatch, dense, sparse):
    """Milliseconds of each layer in the place of a measurement."""

    def seconds(networks, names, *_, **__):
        return {key: dict.fromkeys(names, {"dense": dense, "sparse": sparse}[key] / 1e3) for key in networks}

    monkeypatch.setattr("reflow_lightning.cost.sparse_network.layer_seconds", seconds)


def test_a_layer_is_swapped_if_it_is_faster_by_the_margin(monkeypatch):
    with_times(monkeypatch, dense=3, sparse=2)
    assert isinstance(sparse_linear(mlp(), INPUTS, margin=1.5, rounds=1)[0], SparseLinear)
    left = sparse_linear(mlp(), INPUTS, margin=1.51, rounds=1)
    assert isinstance(left[0], nn.Linear)
    row = rows(left)["0"]
    assert (row.dense_ms, row.sparse_ms, row.speedup) == pytest.approx((3, 2, 1.5))
    assert (row.swapped, row.reason) == (False, "not 1.51 times as fast")


def test_a_very_sparse_large_layer_is_faster_and_a_small_one_is_not():
    model = pruned(nn.Sequential(nn.Linear(1024, 1024), nn.Linear(1024, 4)), 0.99)
    found = rows(sparse_linear(model, torch.randn(128, 1024)))
    assert (found["0"].swapped, found["1"].swapped) == (True, False)
    assert found["0"].density == pytest.approx(0.01, abs=0.002)


def test_the_output_is_the_same_and_the_model_is_not_changed():
    model = mlp()
    before = copy.deepcopy(model.state_dict())
    result = sparse_linear(model, INPUTS, **ALWAYS)
    assert sum(isinstance(module, SparseLayer) for module in result.modules()) == sparse_report(result).swapped == 2
    assert sparse_report(result).largest_difference < 1e-6
    torch.testing.assert_close(result(INPUTS), model.eval()(INPUTS))
    model.train()
    assert [type(module) for module in model] == [nn.Linear, nn.ReLU, nn.Dropout, nn.Linear]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_the_result_is_in_eval_mode_and_asks_for_no_gradients():
    result = sparse_linear(mlp(), INPUTS, **ALWAYS)
    assert not any(module.training for module in result.modules())
    assert not any(parameter.requires_grad for parameter in result.parameters())
    inputs = INPUTS.clone().requires_grad_()
    result(inputs).sum().backward()
    assert inputs.grad.any()


def test_its_state_loads_into_the_dense_network_and_back(tmp_path):
    model, other = mlp(), mlp()
    result = sparse_linear(model, INPUTS, **ALWAYS)
    other.load_state_dict(result.state_dict())
    assert torch.equal(other.eval()(INPUTS), model.eval()(INPUTS))
    save_sparse(result, tmp_path / "weights")
    state = load_sparse(tmp_path / "weights")
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    result.load_state_dict(state)


def test_the_report_is_kept_in_copies_and_files_and_written_in_plain_types_and_words():
    result = sparse_linear(mlp(), INPUTS, **ALWAYS)
    buffer = io.BytesIO()
    torch.save(result, buffer)
    buffer.seek(0)
    report = sparse_report(result)
    for other in (copy.deepcopy(result), torch.load(buffer, weights_only=False)):
        assert sparse_report(other) == report
    plain = report.to_dict()
    assert plain["layers"][0]["name"] == "0"
    assert plain["layers"][0]["kind"] == "Linear"
    assert plain["layers"][0]["swapped"]
    assert plain["latency"]["batch_size"] == 8
    assert plain["swapped"] == 2
    text = str(report)
    assert re.search(r"^0 +Linear +0\.\d+ .* swapped$", text, flags=re.MULTILINE)
    assert "2 of 2 layers are sparse now" in text
    assert "times as fast, the median of 1 pairs" in text
    with pytest.raises(ValueError, match="Sequential carries no report"):
        sparse_report(mlp())


def test_a_pointwise_convolution_is_swapped_and_no_other():
    layers = (
        nn.Conv2d(4, 8, 1),
        nn.Conv2d(8, 8, 3),
        nn.Conv2d(8, 8, 1, stride=2),
        nn.Conv2d(8, 8, 1, padding=1),
        nn.Conv2d(8, 8, 1, groups=2),
        nn.Conv2d(8, 8, 1, padding="same", bias=False),
    )
    model, images = pruned(nn.Sequential(*layers), 0.7), torch.randn(2, 4, 9, 9)
    result = sparse_linear(model, images, **ALWAYS)
    assert [isinstance(layer, SparsePointwise) for layer in result] == [True, False, False, False, False, True]
    assert list(rows(result)) == ["0", "5"]
    torch.testing.assert_close(result(images), model(images))


def test_images_with_channels_last_keep_their_order_in_memory():
    """What comes after may count on it."""
    images = torch.randn(2, 4, 9, 9).to(memory_format=torch.channels_last)
    reason = reasons(pruned(nn.Conv2d(4, 8, 1)), images)[""]
    assert reason == "its output would have another type or another order in memory"


def test_a_model_that_is_a_layer_itself_becomes_a_sparse_one():
    layer = pruned(nn.Linear(20, 30))
    result = sparse_linear(layer, INPUTS, **ALWAYS)
    assert isinstance(result, SparseLinear)
    assert not result.training
    torch.testing.assert_close(result(INPUTS), layer(INPUTS))


def test_a_layer_of_several_names_is_swapped_under_all_of_them():
    shared = pruned(nn.Linear(20, 20))
    model = nn.Sequential(shared, nn.Sequential(shared, nn.ReLU()))
    result = sparse_linear(model, INPUTS, **ALWAYS)
    assert list(rows(result)) == ["0"]
    assert result[0] is result[1][0]
    assert isinstance(result[0], SparseLinear)
    torch.testing.assert_close(result(INPUTS), model(INPUTS))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.fc, self.head = nn.Embedding(50, 20), nn.Linear(20, 20), nn.Linear(20, 50, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens):
        return self.head(self.fc(self.embed(tokens)))


def test_a_head_that_is_tied_to_an_embedding_stays_dense_and_tied():
    model = pruned(Tied())
    result = sparse_linear(model, torch.randint(50, (2, 7)), **ALWAYS)
    assert {name: row.reason for name, row in rows(result).items()} == {
        "fc": "",
        "head": "it shares a parameter with another layer",
    }
    assert result.head.weight is result.embed.weight


class Reading(nn.Module):
    """Multiplies with the weight of a layer, which it never calls, and reads the type of another."""

    def __init__(self):
        super().__init__()
        self.read, self.called, self.unused = (pruned(nn.Linear(20, 20)) for _ in range(3))

    def forward(self, x):
        x = nn.functional.linear(x, self.read.weight, self.read.bias)
        return self.called(x.to(self.called.weight.dtype)) + nn.functional.linear(x, self.called.weight)


def test_layers_that_are_never_called_stay_dense_and_weights_can_be_read():
    model = Reading()
    result = sparse_linear(model, INPUTS, **ALWAYS)
    never = "not called with this input"
    assert {name: row.reason for name, row in rows(result).items()} == {"read": never, "called": "", "unused": never}
    torch.testing.assert_close(result(INPUTS), model(INPUTS))


class Doubled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


class Named(nn.Linear):
    """The same as its base, so far as one can see."""


class Mine(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(20, 20))

    def forward(self, x):
        return x @ self.weight.T


def hooked(register):
    layer = pruned(nn.Linear(20, 20))
    getattr(layer, register)(lambda *_: None)
    return layer


COMPUTED = (
    "its weight is no plain parameter, but computed in each pass: take that off, as by remove_parametrizations, once "
    "its zeros are final"
)
LEFT = {
    "a forward of one's own": (Doubled(20, 20), "Doubled has a forward of its own: register it with layer_of"),
    "a class of one's own": (Named(20, 20), "Named is a class of one's own and may do more: register it with layer_of"),
    "parametrized": (nn.utils.parametrizations.weight_norm(nn.Linear(20, 20)), COMPUTED),
    "torch's pruning": (
        nn.utils.prune.l1_unstructured(nn.Linear(20, 20), "weight", 0.9),
        COMPUTED,
    ),
    "forward hook": (hooked("register_forward_hook"), "hooks are registered on it, which would be lost"),
    "pre-hook": (hooked("register_forward_pre_hook"), "hooks are registered on it, which would be lost"),
    "backward hook": (hooked("register_full_backward_hook"), "hooks are registered on it, which would be lost"),
    "dense": (nn.Linear(20, 20), "more than 50% of its weights are not zero"),
}


@pytest.mark.parametrize("case", LEFT)
def test_what_can_not_be_swapped_stays_as_it_is_and_says_why(case):
    layer, reason = LEFT[case]
    model = nn.Sequential(layer, pruned(nn.Linear(20, 20)))
    result = sparse_linear(model, INPUTS, **ALWAYS)
    assert {name: row.reason for name, row in rows(result).items()} == {"0": reason, "1": ""}
    assert type(result[0]) is type(layer)
    torch.testing.assert_close(result(INPUTS), model(INPUTS))


def test_a_layer_of_ones_own_that_is_registered_is_swapped():
    layer_of.register(Mine, LinearLayer)
    model = pruned(Mine())
    result = sparse_linear(model, INPUTS, **ALWAYS)
    assert isinstance(result, SparseLinear)
    torch.testing.assert_close(result(INPUTS), model(INPUTS))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_dense(dtype):
    found = reasons(mlp().to(dtype), INPUTS.to(dtype))
    assert set(found.values()) == {
        f"its weight is {str(dtype)[6:]}, and torch multiplies sparse weights in float32 and float64 alone"
    }


def test_float64_is_swapped():
    model = mlp().double()
    result = sparse_linear(model, INPUTS.double(), **ALWAYS)
    assert sparse_report(result).swapped == 2
    torch.testing.assert_close(result(INPUTS.double()), model.eval()(INPUTS.double()))


def test_a_torch_without_the_kernel_leaves_layers_dense(monkeypatch):
    def refuse(*_):
        raise NotImplementedError("no kernel\nand more")

    monkeypatch.setattr("reflow_lightning.cost.sparse_layers.multiply", refuse)
    assert set(reasons(mlp(), INPUTS).values()) == {"torch can't multiply it by a sparse weight: no kernel"}


def test_a_layer_whose_output_differs_stays_dense():
    """As where infinite inputs meet zeros: dense that is NaN, sparse it is not."""
    model = nn.Sequential(nn.Linear(20, 20), nn.Linear(20, 20))
    pruned(model, 1.0)
    with torch.no_grad():
        model[0].bias.fill_(float("inf"))
    found = reasons(model, INPUTS)
    assert found == {"0": "", "1": "its output would differ by inf"}
    found = reasons(pruned(nn.Linear(500, 9), 0.6), INPUTS.repeat(1, 25), tolerance=1e-12, margin=9e9)
    assert found[""].startswith("its output would differ by ")


def test_a_weight_of_zeros_alone_is_swapped_too():
    model = pruned(nn.Linear(20, 5), 1.0)
    result = sparse_linear(model, INPUTS, **ALWAYS)
    assert torch.equal(result(INPUTS), model(INPUTS))


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = pruned(nn.Linear(20, 20))

    def forward(self, x, scale=1.0, *, shift=0.0):
        return self.fc(input=x * scale) + shift


def test_a_tuple_holds_the_arguments_a_mapping_those_by_name_and_forward_says_all_else():
    for example, options in (
        (INPUTS, {}),
        ((INPUTS, 2.0), {}),
        ({"x": INPUTS, "scale": 2.0, "shift": torch.ones(20)}, {}),
        ([INPUTS, "label"], {}),
        ({"label": None, "deep": [INPUTS]}, {"forward": lambda model, batch: model(batch["deep"][0], shift=1.0)}),
    ):
        report = sparse_report(sparse_linear(Two(), example, **ALWAYS, **options))
        assert report.swapped == 1
        assert report.latency.batch_size == 8


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(20, 20))

    def forward(self, x, scale=1.0):
        return scale * (x @ self.weight.T)


layer_of.register(Scaled, LinearLayer)


@pytest.mark.parametrize("call", [lambda fc, x: fc(x, 2.0), lambda fc, x: fc(x, scale=2.0), lambda fc, x: fc(x=x)])
def test_a_layer_that_is_called_in_a_way_of_its_own_stays_dense(call):
    class Calling(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = pruned(Scaled())

        def forward(self, x):
            return call(self.fc, x)

    assert reasons(Calling(), INPUTS) == {"fc": "it is called with more than its input, or by another name"}


def test_a_network_that_asks_for_more_than_calls_is_named():
    class Asking(Two):
        def forward(self, x):
            assert isinstance(self.fc, nn.Linear)
            return self.fc(x)

    with pytest.raises(ValueError, match=r"(?s)Asking does not run with sparse layers \(Assertion.*so keep it dense"):
        sparse_linear(Asking(), INPUTS, **ALWAYS)


def test_the_example_is_not_changed_by_a_network_that_writes_into_it():
    model = nn.Sequential(nn.ReLU(inplace=True), pruned(nn.Linear(20, 20)))
    before = INPUTS.clone()
    sparse_linear(model, INPUTS, **ALWAYS)
    assert torch.equal(INPUTS, before)


def test_random_numbers_and_buffers_are_left_alone():
    class Drawing(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.norm = pruned(nn.Linear(20, 20)), nn.BatchNorm1d(20)

        def forward(self, x):
            return self.norm(self.fc(x + torch.randn_like(x)))

    model, state = Drawing(), torch.get_rng_state()
    buffers = copy.deepcopy(dict(model.named_buffers()))
    result = sparse_linear(model, INPUTS, **ALWAYS)
    assert sparse_report(result).largest_difference < 1e-5
    assert torch.equal(torch.get_rng_state(), state)
    for network in (model, result):
        assert all(torch.equal(buffer, buffers[name]) for name, buffer in network.named_buffers() if name in buffers)


@pytest.mark.filterwarnings("ignore:.*nested tensors")
def test_the_encoder_of_torch_which_reads_its_weights_does_the_same():
    """Its fused kernel is for dense weights."""
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    model = pruned(nn.TransformerEncoder(layer, 2), 0.6).eval()
    inputs, padding = torch.randn(3, 5, 16), torch.arange(5).expand(3, 5) > 3
    result = sparse_linear(model, inputs, **ALWAYS)
    found = {name: row.reason for name, row in rows(result).items()}
    assert {name: reason for name, reason in found.items() if reason} == {
        f"layers.{i}.self_attn.out_proj": "not called with this input" for i in (0, 1)
    }
    assert sparse_report(result).swapped == 4
    with torch.no_grad():
        torch.testing.assert_close(result(inputs), model(inputs))
        kept = result(inputs, src_key_padding_mask=padding)[:, :4]
        torch.testing.assert_close(kept, model(inputs, src_key_padding_mask=padding)[:, :4])


CONFIGURATIONS = {
    "GPT2LMHeadModel": {"n_embd": 16, "n_layer": 1, "n_head": 2, "vocab_size": 40, "n_positions": 16},
    "LlamaForCausalLM": {
        **{"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 4},
        **{"num_key_value_heads": 2, "vocab_size": 40},
    },
    "BertForSequenceClassification": {
        **{"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2},
        **{"vocab_size": 40, "max_position_embeddings": 16},
    },
}
SWAPPED = {"GPT2LMHeadModel": 4, "LlamaForCausalLM": 8, "BertForSequenceClassification": 8}


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_networks_of_transformers_take_what_a_tokenizer_gives(name):
    transformers = pytest.importorskip("transformers")
    kind = getattr(transformers, name)
    model = pruned(kind(kind.config_class(**CONFIGURATIONS[name])), 0.6).eval()
    tokens = transformers.BatchEncoding(
        {"input_ids": torch.randint(40, (2, 6)), "attention_mask": torch.ones(2, 6, dtype=torch.long)}
    )
    result = sparse_linear(model, tokens, **ALWAYS)
    assert sparse_report(result).swapped == SWAPPED[name], str(sparse_report(result))
    assert sparse_report(result).latency.batch_size == 2
    torch.testing.assert_close(result(**tokens).logits, model(**tokens).logits)
    model.load_state_dict(result.state_dict())


def test_a_collapsed_network_is_made_faster_still_and_both_are_compared():
    model = pruned(nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 10)))
    small = collapse(model, INPUTS)
    result = sparse_linear(small, INPUTS, **ALWAYS)
    assert sparse_report(result).swapped
    torch.testing.assert_close(result(INPUTS), model(INPUTS))
    assert compare(small, result, INPUTS, rounds=1).largest_difference < 1e-6


def test_compiled_networks_are_taken_apart():
    model = mlp()
    for compiled in (torch.compile(model, backend="eager"), nn.Sequential(torch.compile(mlp(), backend="eager"))):
        result = sparse_linear(compiled, INPUTS, **ALWAYS)
        assert sparse_report(result).swapped == 2
    result = torch.compile(sparse_linear(model, INPUTS, **ALWAYS), backend="eager")
    torch.testing.assert_close(result(INPUTS), model.eval()(INPUTS))


def test_it_works_in_inference_mode_and_twice():
    with torch.inference_mode():
        result = sparse_linear(mlp(), INPUTS, **ALWAYS)
    assert sparse_report(result).swapped == 2
    again = sparse_linear(result, INPUTS, **ALWAYS)
    assert sparse_report(again).layers == ()
    assert torch.equal(again(INPUTS), result(INPUTS))


def test_a_network_that_is_slower_as_a_whole_is_named(monkeypatch, recwarn):
    with_times(monkeypatch, dense=2, sparse=1)
    times = {"before": (1.0,), "after": (4.0,)}
    monkeypatch.setattr("reflow_lightning.cost.latency.paired_latency", lambda *args, **options: times)
    sparse_linear(mlp(), INPUTS, rounds=1)
    (warning,) = recwarn.list
    assert "with 2 sparse layers the whole network is 0.25 times as fast" in str(warning.message)
    assert warning.filename == __file__


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"margin": 0}, "margin=0 must be a positive number"),
        ({"margin": "big"}, "margin='big' must be a positive number"),
        ({"margin": True}, "margin=True must be a positive number"),
        ({"margin": float("nan")}, "margin=nan must be a positive number"),
        ({"tolerance": -1e-5}, "tolerance=-1e-05 must be a positive number"),
        ({"rounds": 0}, "rounds=0 must be a whole number of at least 1"),
        ({"rounds": True}, "rounds=True must be a whole number of at least 1"),
        ({"example_input": torch.zeros(0, 20)}, "is empty: pass at least one sample"),
        ({"example_input": torch.full((2, 20), torch.nan)}, "example_input holds NaN"),
        ({"example_input": (INPUTS, None)}, "example_input holds None: leave out"),
        (
            {"example_input": torch.zeros(2, 3)},
            r"Sequential does not run on example_input \(RuntimeError: .*pass what it",
        ),
        ({"model": nn.Sequential(nn.LazyLinear(3))}, "Sequential has lazy layers that never ran: run it once"),
    ],
)
def test_bad_arguments_are_named_with_the_remedy(options, why):
    with pytest.raises(ValueError, match=why):
        sparse_linear(**{"model": mlp(), "example_input": INPUTS} | options)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning", "ignore::FutureWarning")
def test_only_modules_of_python_are_taken():
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module, not a function"):
        sparse_linear(mlp, INPUTS)
    with pytest.raises(TypeError, match="model is a ScriptModule"):
        sparse_linear(torch.jit.trace(mlp().eval(), INPUTS), INPUTS)


@pytest.mark.gpu
def test_on_a_gpu_all_stays_dense():
    result = sparse_linear(mlp().cuda(), INPUTS, **ALWAYS)
    assert {row.reason for row in rows(result).values()} == {
        "its weight is on cuda:0, and sparse weights are for the CPU"
    }
