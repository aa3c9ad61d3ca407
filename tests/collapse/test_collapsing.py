import copy
import random
import subprocess
import sys

import lightning as L
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scenarios.wrecked import (
    PRUNINGS,
    build,
    chain,
    folded,
    inputs_for,
    multiply_adds,
    parameters,
    refusals,
    same,
    widths,
    wreck,
)
from torch import nn
from zoo import networks
from zoo.blocks import BLOCKS, IMAGES
from zoo.odd import Branching, Forward

from reflow_lightning.collapse import collapse, collapse_report, work
from reflow_lightning.collapse.facts.removal import MismatchError

ALONE = """
import sys
sys.modules["reflow_lightning"] = None  # importing it would fail
import torch
model, image = torch.load(sys.argv[1], weights_only=False)
torch.save((model(image), model.state_dict()), sys.argv[2])
"""


@pytest.mark.parametrize("pruning", PRUNINGS)
@pytest.mark.parametrize("name", networks("collapse"))
def test_the_smaller_network_does_the_same_and_nothing_is_left_to_do(name, pruning):
    model, inputs = wreck(build(name), pruning), inputs_for(name)
    collapsed, reference = collapse(model, inputs), folded(model, inputs)
    assert same(model, collapsed, inputs_for(name, samples=5, seed=7)) < 1e-5
    assert refusals(collapsed) == []
    assert parameters(collapsed) <= parameters(reference)
    assert multiply_adds(collapsed, inputs) <= multiply_adds(reference, inputs)
    again = collapse(collapsed, inputs)
    assert parameters(again) == parameters(collapsed)
    assert collapse_report(again).removed == ()


@settings(deadline=None, max_examples=15)
@given(
    kinds=st.lists(st.sampled_from(sorted(BLOCKS)), min_size=1, max_size=5),
    flat=st.booleans(),
    pruning=st.sampled_from(PRUNINGS),
    seed=st.integers(0, 10**6),
)
def test_random_networks_do_the_same(kinds, flat, pruning, seed):
    model, inputs = chain(kinds, flat, pruning, seed), (torch.randn(2, *IMAGES),)
    collapsed, reference = collapse(model, inputs), folded(model, inputs)
    assert same(model, collapsed, (torch.randn(5, *IMAGES) * 3,)) < 1e-5
    assert refusals(collapsed) == []
    assert parameters(collapsed) <= parameters(reference)
    assert multiply_adds(collapsed, inputs) <= multiply_adds(reference, inputs)
    assert parameters(collapse(collapsed, inputs)) == parameters(collapsed)


@pytest.mark.parametrize("name", ["flattened", "projection", "mixer", "two inputs"])
def test_something_is_removed_from_a_network_with_dead_rows(name):
    model, inputs = wreck(build(name), "rows", seed=2), inputs_for(name)
    collapsed = collapse(model, inputs)
    assert parameters(collapsed) < parameters(folded(model, inputs))
    assert any(row.what == "channels" for row in collapse_report(collapsed).removed)


def test_the_model_is_not_touched():
    model = wreck(build("flattened"), "rows").train()
    model[1].eval()
    model[0].weight.requires_grad_(False)
    calls = []
    model.register_forward_pre_hook(lambda *_: calls.append(1))
    model(torch.randn(2, *IMAGES)).sum().backward()
    before, gradients = copy.deepcopy(model), [p.grad if p.grad is None else p.grad.clone() for p in model.parameters()]
    state, python_state = torch.get_rng_state(), random.getstate()
    given = torch.randn(2, *IMAGES, generator=torch.Generator().manual_seed(0))
    kept = given.clone()
    collapse(model, given, batches=[given, (given, 0)])
    assert torch.equal(state, torch.get_rng_state())
    assert python_state == random.getstate()
    assert torch.equal(given, kept)
    assert [m.training for m in model.modules()] == [m.training for m in before.modules()]
    assert all(
        torch.equal(a, b) for a, b in zip(model.state_dict().values(), before.state_dict().values(), strict=True)
    )
    assert [p.requires_grad for p in model.parameters()] == [p.requires_grad for p in before.parameters()]
    assert [p.grad is None for p in model.parameters()] == [g is None for g in gradients]
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), gradients, strict=True) if g is not None)
    assert len(model._forward_pre_hooks) == 1
    assert torch.is_grad_enabled()


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float16, 5e-3), (torch.bfloat16, 4e-2)]
)
@pytest.mark.parametrize("name", ["flattened", "projection"])
def test_the_type_stays_and_loses_no_more_than_its_rounding(name, dtype, tolerance):
    model, inputs = wreck(build(name), "rows", seed=2).to(dtype), tuple(x.to(dtype) for x in inputs_for(name))
    collapsed = collapse(model, inputs)
    assert {p.dtype for p in collapsed.parameters()} == {dtype}
    assert parameters(collapsed) < parameters(folded(model.float(), inputs_for(name)))
    assert same(model.to(dtype), collapsed, inputs) < tolerance


def test_it_can_be_copied_saved_trained_and_exported(tmp_path):
    model, inputs = wreck(build("projection"), "rows"), inputs_for("projection")
    collapsed = collapse(model, inputs)
    assert same(collapsed, copy.deepcopy(collapsed), inputs) == 0
    assert collapse_report(copy.deepcopy(collapsed)) == collapse_report(collapsed)
    torch.save((collapsed, inputs[0]), tmp_path / "model.pt")
    subprocess.run([sys.executable, "-c", ALONE, "model.pt", "out.pt"], cwd=tmp_path, check=True)
    output, state = torch.load(tmp_path / "out.pt")
    torch.testing.assert_close(output, collapsed(*inputs))
    assert state.keys() == collapsed.state_dict().keys()
    loaded, _ = torch.load(tmp_path / "model.pt", weights_only=False)
    assert collapse_report(loaded) == collapse_report(collapsed)
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(collapsed, inputs, dynamic_shapes=({0: batch},))
    assert same(collapsed, program.module(), inputs_for("projection", samples=5)) < 1e-6
    assert not any(p.requires_grad for p in collapsed.parameters())
    collapsed.requires_grad_(True)
    collapsed(*inputs).square().mean().backward()
    assert all(p.grad is not None and p.is_leaf for p in collapsed.parameters())


def test_an_example_whose_first_dimension_is_no_batch_is_taken_as_a_whole():
    """Of one step of time a padded convolution would see nothing but border."""
    torch.manual_seed(0)
    layers = {"embed": nn.Linear(3, 6), "conv": nn.Conv1d(6, 4, 3, padding=1), "head": nn.Conv1d(4, 2, 1)}
    model = Forward(lambda m, x: m.head(m.conv(m.embed(x).relu().permute(1, 2, 0)).relu()), **layers)
    with torch.no_grad():
        model.embed.weight[:4], model.embed.bias[:4] = 0, 1.0
        model.conv.weight[:2, 4:] = 0  # read constants only, of which the border has fewer
        model.conv.bias[:2] = 9.0
    series = torch.randn(7, 2, 3)
    collapsed = collapse(model, series)
    assert refusals(collapsed) == []
    assert widths(collapsed) == {"embed": 3, "conv": 4, "head": 2}
    assert same(model, collapsed, (series,)) < 1e-5


def test_what_was_observed_counts_if_batches_are_given():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    with torch.no_grad():
        model[0].bias[:3], model[0].bias[3:] = -50.0, 50.0
    batches = [(torch.randn(16, 4), torch.zeros(16)) for _ in range(3)]
    assert widths(collapse(model, torch.randn(2, 4))) == {"0": 8, "2": 2}
    collapsed = collapse(model, torch.randn(2, 4), batches=batches)
    assert widths(collapsed) == {"2": 2}
    assert same(model, collapsed, (batches[0][0],)) < 1e-5
    assert "on 3 batches" in str(collapse_report(collapsed))


def test_batches_of_a_model_with_two_inputs_hold_both():
    model = wreck(build("two inputs"), "rows")
    x, y = inputs_for("two inputs", samples=8)
    collapsed = collapse(model, (x, y), batches=[(x, y, torch.zeros(8))])
    assert same(model, collapsed, (x, y)) < 1e-5


def test_only_so_many_batches_are_taken():
    def endless():
        while True:
            yield torch.randn(2, 5)

    collapsed = collapse(build("small mlp"), torch.randn(2, 5), batches=endless(), max_batches=2)
    assert same(build("small mlp"), collapsed, (torch.randn(2, 5),)) < 1e-5


class Module(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.save_hyperparameters()
        self.net = wreck(build("residual"), "rows")

    def forward(self, x):
        self.log("size", x.shape[0]) if self.training else None
        return self.net(x)


@pytest.mark.filterwarnings("ignore:You are trying to `self.log")
def test_a_lightning_module_becomes_an_ordinary_one():
    model, inputs = Module().eval(), inputs_for("residual")
    collapsed = collapse(model, inputs)
    assert isinstance(collapsed, torch.fx.GraphModule)
    assert parameters(collapsed) < parameters(model)
    assert same(model, collapsed, inputs) < 1e-5


def test_one_layer_that_can_not_lose_channels_does_not_keep_the_others_from_it(monkeypatch):
    model = wreck(build("small mlp"), "nothing")
    with torch.no_grad():
        model[0].weight[:4], model[2].weight[:4] = 0, 0

    def remove(steps, channels, bounds, removal):
        remove_channels(steps, channels, bounds, removal)
        if len(steps.traced.get_submodule("2").weight) < 7:
            raise MismatchError("no")

    remove_channels = work.remove_channels
    monkeypatch.setattr(work, "remove_channels", remove)
    collapsed = collapse(model, torch.randn(2, 5))
    assert widths(collapsed) == {"0": 5, "2": 7, "4": 3}
    assert "does not fit this network (MismatchError: no)" in str(collapse_report(collapsed))


def test_a_step_that_would_change_the_output_is_not_taken(monkeypatch):
    def spoil(analysis):
        with torch.no_grad():
            analysis.traced.get_submodule("0").weight.mul_(2)
        return [work.Row("identity", "0", "wrong")]

    monkeypatch.setattr(sys.modules["reflow_lightning.collapse.simplifying"], "drop_identities", spoil)
    model, inputs = build("small mlp"), inputs_for("small mlp")
    collapsed = collapse(model, inputs)
    assert same(model, collapsed, inputs) < 1e-5
    assert any(row.what == "identity" and "would change an output" in row.why for row in refusals(collapsed))


@pytest.mark.parametrize(
    ("model", "inputs"),
    [
        (nn.Identity(), (torch.randn(2, 3),)),
        (nn.Dropout(), (torch.randn(2, 3),)),
        (nn.Linear(3, 2), (torch.randn(2, 3),)),
        (nn.Sequential(nn.ReLU(), nn.Flatten()), (torch.randn(2, 3, 2),)),
        (Forward(lambda _, x: x[:, :1]), (torch.randn(2, 3),)),
        (Forward(lambda _, x: (x, x.view(-1))), (torch.randn(2, 3),)),
        (Forward(lambda m, x: m.a(x) * 0, a=nn.Linear(3, 2)), (torch.randn(2, 3),)),
        (Forward(lambda m, x: m.a(x).view(2, -1), a=nn.Linear(3, 2)), (torch.randn(2, 3),)),
        (nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), (torch.randn(3),)),
        (
            nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)),
            (torch.randint(0, 5, (2, 7)),),
        ),
        (Forward(lambda m, x: m.a(x.float()), a=nn.Linear(3, 2)), (torch.randint(0, 5, (2, 3)),)),
        (Forward(lambda m, x: m.a(x["image"]), a=nn.Linear(3, 2)), ({"image": torch.randn(2, 3)},)),
        (Forward(lambda m, x: m.a(x[0]) + x[1], a=nn.Linear(3, 2)), ([torch.randn(2, 3), torch.randn(2, 2)],)),
        (nn.Sequential(nn.Conv2d(3, 2, 3), nn.InstanceNorm2d(2), nn.PixelShuffle(1)), (torch.randn(2, 3, 5, 5),)),
        (nn.Sequential(nn.ConvTranspose2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1)), (torch.randn(2, 3, 5, 5),)),
        (nn.Sequential(nn.Linear(3, 3), nn.LSTM(3, 2)), (torch.randn(2, 4, 3),)),
    ],
)
def test_odd_networks_pass_through(model, inputs):
    assert same(model.eval(), collapse(model, inputs), inputs) < 1e-5


def test_a_network_of_nan_stays_one():
    model = build("small mlp")
    with torch.no_grad():
        model[2].weight[0] = torch.nan
    inputs = inputs_for("small mlp")
    assert collapse(model, inputs)(*inputs).isnan().all()


@pytest.mark.parametrize("tolerance", [0, -1.0, float("nan")])
def test_a_tolerance_that_is_not_positive_is_refused(tolerance):
    with pytest.raises(ValueError, match=r"tolerance=.* must be positive"):
        collapse(build("small mlp"), torch.randn(2, 5), tolerance=tolerance)


def test_an_example_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="Sequential does not run on example_input"):
        collapse(build("small mlp"), torch.randn(2, 6))


def test_a_model_that_can_not_be_traced_stays_what_it_is_and_is_named():
    model, x = Branching(), torch.randn(2, 5)
    collapsed = collapse(model, x)
    assert isinstance(collapsed, Branching)
    assert torch.equal(model(x), collapsed(x))
    (row,) = collapse_report(collapsed).left
    assert row.where == "the whole network"
    assert "cannot be used as inputs to control flow" in row.why


def test_a_model_whose_graph_does_something_else_stays_what_it_is_and_is_named():
    model = wreck(build("small mlp"), "rows")
    model.register_forward_hook(lambda module, args, output: output * 2)
    x = torch.randn(2, 5)
    collapsed = collapse(model, x)
    assert torch.equal(model(x), collapsed(x))
    assert any("does something else than the module" in row.why for row in collapse_report(collapsed).left)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["resnet18", "mobilenet_v2", "shufflenet_v2_x0_5", "googlenet", "efficientnet_b0", "squeezenet1_1"]
)
def test_networks_of_torchvision_do_the_same(name):
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    options = {"init_weights": False} if name == "googlenet" else {}
    model = wreck(models.get_model(name, weights=None, num_classes=10, **options), "rows").eval()
    image = torch.randn(2, 3, 64, 64)
    collapsed = collapse(model, image)
    assert same(model, collapsed, (torch.randn(3, 3, 64, 64),)) < 1e-5
    assert refusals(collapsed) == []
    assert parameters(collapsed) < 0.7 * parameters(model)


@pytest.mark.parametrize("batches", [[], iter(())])
def test_batches_that_are_empty_are_refused(batches):
    with pytest.raises(ValueError, match="batches gave no batch"):
        collapse(nn.Linear(2, 2), torch.ones(1, 2), batches=batches)


@pytest.mark.parametrize("number", [0, -1, True, 1.5])
def test_the_number_of_batches_is_a_whole_one(number):
    with pytest.raises(ValueError, match="max_batches="):
        collapse(nn.Linear(2, 2), torch.ones(1, 2), batches=[torch.ones(1, 2)], max_batches=number)


def test_odd_batches_are_read_by_the_forward_that_is_given():
    model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2))
    with torch.no_grad():
        model[0].bias.fill_(100)
    batches = [{"picture": torch.rand(8, 2)}]
    collapsed = collapse(
        model, torch.rand(1, 2), batches=batches, forward=lambda network, batch: network(batch["picture"])
    )
    assert any("on 1 batches" in row.why for row in collapse_report(collapsed).removed)
    assert sum(isinstance(module, nn.Linear) for module in collapsed.modules()) == 1


def test_of_a_compiled_network_the_one_that_was_compiled_is_collapsed():
    model = nn.Sequential(nn.Linear(2, 4), nn.Linear(4, 2))
    collapsed = collapse(torch.compile(model, backend="eager"), torch.ones(1, 2))
    assert same(model, collapsed, (torch.randn(5, 2),)) < 1e-5


def test_sums_of_sums_lose_what_is_constant_in_each_operand():
    torch.manual_seed(0)
    one, two, three, last = nn.Linear(4, 32), nn.Linear(4, 32), nn.Linear(4, 32), nn.Linear(32, 3)
    with torch.no_grad():
        two.weight[:16], three.weight[:24] = 0, 0
    layers = {"one": one, "two": two, "three": three, "last": last}
    model = Forward(lambda net, x: net.last((net.one(x) + (net.two(x) + net.three(x))).relu()), **layers).eval()
    x = torch.randn(5, 4)
    collapsed = collapse(model, x)
    assert not [row for row in collapse_report(collapsed).left if row.what == "error"]
    assert same(model, collapsed, (x,)) < 1e-6
    assert widths(collapsed) == {"one": 32, "two": 16, "three": 8, "last": 3}
