"""Layer types of users: registered in one place, and then known everywhere."""

import copy
from functools import cached_property

import pytest
import torch
from torch import nn

from reflow_lightning import calibrate, measure_signal, prune
from reflow_lightning.layers import AffineMap, LinearLayer, OneMap, Stage, Weight, layer_of, writable
from reflow_lightning.layers.find import check_maps
from reflow_lightning.pruning import Wanda, select


class Scaled(nn.Module):
    """``y = s * (x W)``, of a weight (inputs, outputs) that has a name of its own."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.kernel, self.scale = nn.Parameter(torch.randn(inputs, outputs)), nn.Parameter(torch.ones(outputs))

    def forward(self, x):
        return x @ self.kernel * self.scale


class ScaledLayer(OneMap):
    weights = (Weight("kernel", inputs=0, outputs=1),)
    stages = (Stage((0,)),)

    def make_map(self):
        kernel = writable(self.module, "kernel").T
        return AffineMap(self.name, len(kernel), (kernel,))

    def outputs(self, call):
        return [call.output.reshape(-1, call.output.shape[-1])]

    def inputs(self, index, call):
        yield call.first.reshape(1, -1, call.first.shape[-1])


@pytest.fixture
def kind():
    """A type that is registered by this test alone."""

    class Own(Scaled):
        pass

    layer_of.register(Own, ScaledLayer)
    return Own


def test_a_registered_type_is_pruned_scored_measured_and_repaired(kind):
    torch.manual_seed(0)
    dense, batch = nn.Sequential(kind(8, 6), nn.Tanh(), nn.Linear(6, 3)), torch.randn(64, 8)
    assert list(select(dense)) == ["0.kernel", "2.weight"]
    for criterion in ("magnitude", Wanda("all")):
        for repair in ("auto", "moments", "reconstruct", "align"):
            model = copy.deepcopy(dense)
            prune(model, 0.5, criterion=criterion, batches=[batch], max_batches=1, progress=False)
            off = (model(batch) - dense(batch)).square().mean()
            result = calibrate(model, [batch], repair=repair, reference=dense, max_batches=1)
            assert result.repaired == ("0", "2")
            assert (model(batch) - dense(batch)).square().mean() < off
    assert [row.name for row in measure_signal(dense, [batch], max_batches=1).rows] == ["0", "2"]


def test_a_pattern_counts_along_the_inputs_that_it_names(kind):
    mask = prune(kind(8, 3), 0.5, pattern="2:4")["kernel"]
    assert (mask.view(2, 4, 3).sum(1) <= 2).all()


def test_what_derives_from_a_registered_type_is_known_too(kind):
    class More(kind):
        pass

    assert list(select(nn.Sequential(More(2, 2)))) == ["0.kernel"]


def test_a_type_is_registered_once():
    class Own(nn.Linear):
        pass

    layer_of.register(Own, LinearLayer)
    layer_of.register(Own, LinearLayer)  # the same again, as when a module is imported twice
    with pytest.raises(
        ValueError, match="Own is registered with layer_of already, as LinearLayer: derive a type of your"
    ):
        layer_of.register(Own, ScaledLayer)
    assert isinstance(layer_of(Own(2, 2)), LinearLayer)


def test_only_types_can_be_registered():
    with pytest.raises(TypeError, match=r"pass a type of torch\.nn\.Module, not an instance"):
        layer_of.register(nn.Linear(2, 2), LinearLayer)


class Columns(Scaled):
    pass


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda m: AffineMap("", 5, (m.kernel.detach().T,)), r"a weight of map '' is \(6, 8\), not 5 rows"),
        (
            lambda m: AffineMap("", 8, (m.kernel.detach(),), (m.scale.detach(),)),
            r"a bias of map '' is \(6,\), not 8 rows",
        ),
        (lambda m: AffineMap("", 6, (m.kernel.detach().T.clone(),)), "is no view of a parameter"),
    ],
)
def test_maps_that_do_not_fit_are_an_error_that_names_them_and_nothing_is_changed(make, reason):
    class Own(Scaled):
        pass

    class Wrong(ScaledLayer):
        def make_map(self):
            return make(self.module)

    layer_of.register(Own, Wrong)
    model = nn.Sequential(Own(8, 6))
    before = model[0].kernel.clone()
    with pytest.raises(ValueError, match=rf"layer '0' \(Own\): .*{reason}.*: mend Wrong, which is registered"):
        calibrate(model, [torch.randn(4, 8)], repair="moments", reference=copy.deepcopy(model), max_batches=1)
    assert torch.equal(model[0].kernel, before)


def test_maps_that_are_remembered_are_an_error_once_the_parameters_have_moved():
    """As they do under `fully_shard`; what would be written into the old ones would be lost."""

    class Own(Scaled):
        pass

    class Remembering(ScaledLayer):
        @cached_property
        def maps(self):
            return (self.make_map(),)

    layer_of.register(Own, Remembering)
    layer = layer_of(Own(8, 6))
    check_maps(layer)
    layer.module.kernel.data = layer.module.kernel.data.clone()
    with pytest.raises(ValueError, match="is no view of a parameter as it is now"):
        check_maps(layer)


class Unknown(nn.Module):
    """Nothing is known of its matrix."""

    def __init__(self):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(64, 64)), nn.Parameter(torch.zeros(64))
        self.pos_embed = nn.Parameter(torch.zeros(1, 5, 64))

    def forward(self, x):
        return x @ self.weight.T + self.bias


def unknown():
    return nn.Sequential(Unknown(), nn.ReLU(), Unknown(), nn.ReLU(), nn.Linear(64, 4))


def test_matrices_of_unknown_types_are_named_once_with_what_to_do():
    with pytest.warns(UserWarning, match=r"left dense: '0.weight', '2.weight': of Unknown.*layer_of") as seen:
        assert list(prune(unknown(), 0.9)) == ["4.weight"]
    assert len([w for w in seen if "left dense" in str(w.message)]) == 1
    assert "pos_embed" not in str(seen[0].message)


@pytest.mark.parametrize(
    ("include", "selected"),
    [
        ("*.weight", ["0.weight", "2.weight", "4.weight"]),
        ("0.*", ["0.weight"]),
        (["0.weight", "2.weight"], ["0.weight", "2.weight"]),
        (["*", "0.*"], ["0.weight", "4.weight"]),
        ("*.bias", ["0.bias", "2.bias", "4.bias"]),
    ],
)
@pytest.mark.filterwarnings("ignore:left dense")
def test_a_glob_selects_the_matrices_that_it_names_or_what_it_names_otherwise(include, selected):
    assert list(select(unknown(), include=include)) == selected


def test_to_exclude_them_says_that_they_shall_stay(recwarn):
    select(unknown(), exclude=["0.*", "2.*"])
    assert not recwarn


def test_gpt2_is_pruned_as_a_whole():
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(n_embd=32, n_layer=2, n_head=2, vocab_size=100, n_positions=32, num_labels=3)
    model = transformers.GPT2ForSequenceClassification(config)
    prune(model, 0.9)
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "wte" not in n and "wpe" not in n]
    zeros = sum(int((p == 0).sum()) for p in matrices)
    assert zeros == round(0.9 * sum(p.numel() for p in matrices))


class Factored(nn.Linear):
    """A linear layer that goes without torch's weight."""

    def __init__(self, inputs, outputs):
        super().__init__(inputs, outputs)
        del self.weight
        self.u, self.v = nn.Parameter(torch.randn(outputs, 2)), nn.Parameter(torch.randn(2, inputs))

    def forward(self, x):
        return x @ (self.u @ self.v).T + self.bias


def test_a_subclass_of_a_known_type_may_go_without_its_weight_and_what_it_has_instead_is_named():
    with pytest.warns(UserWarning, match=r"left dense: '0.u', '0.v': of Factored"):
        assert list(select(nn.Sequential(Factored(3, 8), nn.Linear(8, 2)))) == ["1.weight"]


@pytest.mark.parametrize("names", [("proj", "proj_out"), ("compose", "head"), ("token_mix", "head"), ("ws", "head")])
def test_unknown_matrices_are_named_whatever_they_are_called(names):
    class Net(nn.Module):
        pass

    net, (unknown, known) = Net(), names
    values = nn.Parameter(torch.randn(8, 8))
    setattr(net, unknown, nn.ParameterList([values]) if unknown == "ws" else values)
    setattr(net, known, nn.Linear(8, 2))
    with pytest.warns(UserWarning, match=f"left dense: '{unknown}"):
        assert list(select(net)) == [f"{known}.weight"]


@pytest.mark.parametrize("table", ["pos_embed", "cls_token", "relative_position_bias_table", "rel_pos_h"])
def test_tables_that_are_added_are_no_matrices(table, recwarn):
    net = nn.Sequential(nn.Linear(8, 2))
    net.register_parameter(table, nn.Parameter(torch.randn(5, 8)))
    select(net)
    assert not recwarn


def test_what_is_no_layer_is_refused_with_what_to_derive_it_from():
    class Own(nn.Linear):
        pass

    layer_of.register(Own, lambda module, name: object())
    with pytest.raises(TypeError, match=r"gave a object: derive it from reflow_lightning\.layers\.Layer"):
        select(nn.Sequential(Own(2, 2)))
