"""Stacks of matrices."""

import pytest
import torch
from torch import nn

from reflow_lightning import prune
from reflow_lightning.layers import Inventory, StackLayer, TransposedStackLayer, Weight, layer_of
from reflow_lightning.pruning import PerOutput, make_masks, select


class Experts(nn.Module):
    """Known under the name that transformers has for it."""

    def __init__(self, transposed=None):
        super().__init__()
        if transposed is not None:
            self.is_transposed = transposed
        self.gate_up_proj, self.down_proj = nn.Parameter(torch.randn(2, 8, 4)), nn.Parameter(torch.randn(2, 4, 8))
        self.gate_up_proj_bias = nn.Parameter(torch.randn(2, 8))


def named(qualified, **how):
    module, _, name = qualified.rpartition(".")
    return type(name, (Experts,), {"__module__": module})(**how)


MIXTRAL = "transformers.models.mixtral.modeling_mixtral.MixtralExperts"
GPT_OSS = "transformers.models.gpt_oss.modeling_gpt_oss.GptOssExperts"


@pytest.mark.parametrize(
    ("experts", "transposed"),
    [
        (named(MIXTRAL), False),
        (named(MIXTRAL, transposed=True), True),
        (named(GPT_OSS), True),
        (named("transformers.models.llama4.modeling_llama4.Llama4TextExperts"), True),
    ],
)
def test_stacks_of_transformers_are_known_by_name(experts, transposed):
    model = nn.ModuleList([experts, nn.Linear(4, 4)])
    assert list(select(model)) == ["0.gate_up_proj", "0.down_proj", "1.weight"]
    assert prune(model, 0.5).coverage(model).left == {}
    assert {weight.inputs for weight in layer_of.known(experts).weights} == {1 if transposed else 2}


def test_a_list_of_modules_under_such_a_name_is_no_stack():
    kind = type("SwitchExperts", (nn.ModuleDict,), {"__module__": "transformers.models.switch"})
    assert layer_of.known(kind({"a": nn.Linear(2, 2)})) is None


@pytest.mark.parametrize("kind", ["Linear", "HeteroLinear"])
def test_layers_of_pyg_are_known_by_name(kind):
    made = type(kind, (nn.Module,), {"__module__": "torch_geometric.nn.dense.linear"})()
    made.weight = nn.Parameter(torch.randn(*([3] if kind == "HeteroLinear" else []), 4, 8))
    model = nn.Sequential(made)
    assert list(select(model)) == ["0.weight"]
    assert {key: weight.inputs for key, weight in Inventory.of(model).stored.items()} == {id(made.weight): 1}


@pytest.mark.parametrize(("layer", "inputs"), [(StackLayer, 2), (TransposedStackLayer, 1)])
def test_patterns_and_rows_run_along_the_inputs_of_each_matrix(layer, inputs):
    kind = type("Stacked", (Experts,), {})
    layer_of.register(kind, layer)
    model = kind()
    for how in ({"pattern": "2:4"}, {"criterion": PerOutput("magnitude")}):
        for mask in make_masks(model, 0.5, **how).values():
            kept = mask.sum(inputs)
            assert bool((kept == mask.shape[inputs] // 2).all())


class Handwritten(nn.Module):
    """A mixture by einsum, as people write it."""

    def __init__(self):
        super().__init__()
        self.router = nn.Linear(4, 2)
        self.w1, self.w2 = nn.Parameter(torch.randn(2, 4, 8)), nn.Parameter(torch.randn(2, 8, 4))
        self.b1, self.bias2 = nn.Parameter(torch.randn(2, 8)), nn.Parameter(torch.randn(2, 4))

    def forward(self, x):
        hidden = (torch.einsum("nd,edh->enh", x, self.w1) + self.b1[:, None]).relu()
        return torch.einsum("enh,ehd,ne->nd", hidden, self.w2, self.router(x).softmax(1))


@pytest.mark.parametrize("include", [("*", "0.*"), ("*", "*.w?"), ("*", "0.w1", "0.w2")])
def test_stacks_written_by_hand_are_pruned_by_name_and_their_biases_are_not(include):
    model = nn.Sequential(Handwritten(), nn.Linear(4, 2))
    assert set(select(model, include)) == {"0.w1", "0.w2", "0.router.weight", "1.weight"}
    masks = prune(model, 0.5, include=include)
    assert masks.coverage(model).share == masks.sparsity
    model(torch.ones(3, 4))


def test_they_are_named_without_their_biases_where_they_stay_dense():
    model = nn.Sequential(Handwritten(), nn.Linear(4, 2))
    assert dict(Inventory.of(model).unknown) == {"0.w1": "Handwritten", "0.w2": "Handwritten"}
    with pytest.warns(UserWarning, match="left dense: '0.w1'"):
        assert prune(model, 0.5).coverage(model).left == {"Handwritten": 2}


def test_what_is_known_of_a_stack():
    assert layer_of.known(named(GPT_OSS)).weights[0] == Weight("gate_up_proj", inputs=1, outputs=2, stacked=True)
