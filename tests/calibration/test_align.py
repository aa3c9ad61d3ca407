"""Gradient descent without labels towards the dense network."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from helpers import Module, loader, trainer
from scenarios.thinned import bits, make, plain, zeros
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from reflow_lightning import Pruner, Reflow, calibrate, prune
from reflow_lightning.calibration import Align, InTurn, Reconstruct
from reflow_lightning.calibration.compared import Compared

SHORT = Align(steps=40, lr=0.05, logits=1.0)
NAMES = ["mlp", "layernorm", "rmsnorm", "convolutions", "groupnorm", "batchnorm", "attention", "gru", "repeated"]


def apart(model, dense, batches, logits=1.0):
    return Compared(model.eval(), dense.eval(), plain, logits).mean_loss(batches)


def aligned(model, dense, batches, repair=SHORT, **options):
    return calibrate(model, batches, repair=repair, reference=dense, max_batches=len(batches), **options)


@pytest.mark.parametrize("name", NAMES)
def test_the_network_comes_closer_to_the_dense_one_and_its_zeros_stay(name):
    model, dense, batches = make(name, 4)
    before, pruned = apart(model, dense, batches), zeros(model)
    result = aligned(model, dense, batches)
    assert apart(model, dense, batches) < 0.8 * before
    assert all(torch.equal(zero, zeros(model)[key]) for key, zero in pruned.items())
    assert set(result.how.values()) == {"alignment"}


@pytest.mark.parametrize("name", ["mlp", "layernorm", "attention"])
def test_a_forward_that_returns_a_loss_aligns_what_the_last_layer_puts_out(name):
    """As where a training is calibrated with its own step: the layers behind the last block count, too."""
    found = []
    for forward in (plain, lambda network, x: network(x).square().mean()):
        model, dense, batches = make(name, 4)
        found.append((aligned(model, dense, batches, forward=forward).repaired, bits(model)))
    assert found[0] == found[1]


def test_it_goes_on_from_least_squares():
    losses = []
    for repair in (Reconstruct(), InTurn([Reconstruct(), SHORT])):
        model, dense, batches = make("convolutions", 4, size=256)
        result = aligned(model, dense, batches, repair)
        losses.append(apart(model, dense, batches))
    assert losses[1] < losses[0]
    assert "least squares, then alignment" in result.how.values()


@pytest.mark.parametrize("repair", [SHORT, [Reconstruct(), SHORT]], ids=str)
def test_it_is_the_same_in_every_run_and_undone_to_the_bit(repair):
    found = []
    for _ in range(2):
        model, dense, batches = make("batchnorm", 4)
        before = bits(model)
        result = aligned(model, dense, batches, repair)
        found.append(bits(model))
        result.undo()
        assert bits(model) == before
    assert found[0] == found[1] != before


def test_nothing_of_the_model_is_touched_meanwhile():
    model, dense, batches = make("batchnorm", 4)
    model.train()
    frozen = model[0].weight.requires_grad_(False)
    model(batches[0]).sum().backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    moved = []
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(moved.append)  # an optimizer that is fused into backward
    statistics = bits(nn.ModuleList(m for m in model.modules() if isinstance(m, nn.BatchNorm2d)))
    aligned(model, dense, batches)
    assert not moved
    assert not frozen.requires_grad
    assert all(torch.equal(p.grad, gradients[name]) for name, p in model.named_parameters() if name in gradients)
    assert model.training
    assert statistics.keys() == bits(nn.ModuleList(m for m in model.modules() if isinstance(m, nn.BatchNorm2d))).keys()


def test_the_first_of_ten_batches_is_held_out_and_the_network_that_fits_it_best_is_taken(monkeypatch):
    model, dense, batches = make("mlp", 12, size=8)
    trained, looked = [], []
    loss, mean_loss = Compared.loss, Compared.mean_loss

    def note(self, batch, seed):
        if torch.is_grad_enabled():
            trained.append(next(i for i, known in enumerate(batches) if torch.equal(known, batch)))
        return loss(self, batch, seed)

    monkeypatch.setattr(Compared, "loss", note)
    monkeypatch.setattr(Compared, "mean_loss", lambda self, held: looked.append(mean_loss(self, held)) or looked[-1])
    aligned(model, dense, batches, replace(SHORT, blend=0))
    assert set(trained) == set(range(12)) - {0, 10}
    monkeypatch.undo()
    assert apart(model, dense, [batches[0], batches[10]]) == pytest.approx(min(looked), rel=1e-5)


@pytest.mark.parametrize(("blend", "others"), [(0, 0), (0.5, 10), (1, 20)])
def test_after_ten_passes_a_share_of_the_inputs_is_blended_and_never_those_held_out(blend, others, monkeypatch):
    """Of three batches one is held out, so that twenty of the forty steps are ten passes."""
    model, dense, batches = make("mlp", 3, size=8)
    unknown, held_out = [], []
    loss = Compared.loss

    def note(self, batch, seed):
        known = any(torch.equal(known, batch) for known in batches)
        (unknown if torch.is_grad_enabled() else held_out).append(not known)
        return loss(self, batch, seed)

    monkeypatch.setattr(Compared, "loss", note)
    aligned(model, dense, batches, replace(SHORT, blend=blend))
    assert (len(unknown), sum(unknown)) == (40, others)
    assert held_out
    assert not any(held_out)


def test_blended_inputs_help_where_images_are_few():
    """On others, the network is closer to the dense one than after as many steps on the few as they are."""
    apart_after = {}
    for blend in (0, 0.5):
        model, dense, batches = make("mlp", 20, size=32)
        aligned(model, dense, batches[:2], Align(steps=200, lr=0.05, blend=blend))
        apart_after[blend] = apart(model, dense, batches[2:])
    assert apart_after[0.5] < apart_after[0]


def test_where_nothing_gets_better_nothing_is_changed_and_it_ends_early(monkeypatch):
    model, dense, batches = make("mlp", 4)
    before, steps = bits(model), []
    worse = iter(range(1, 100))
    monkeypatch.setattr(Compared, "mean_loss", lambda self, held: float(next(worse)))
    monkeypatch.setattr(Compared, "loss", lambda self, *_, loss=Compared.loss: steps.append(1) or loss(self, *_))
    with pytest.warns(UserWarning, match="alignment found no network that fits held-out batches better"):
        result = aligned(model, dense, batches, Align(steps=100))
    assert (bits(model), result.repaired) == (before, ())
    assert set(result.skipped.values()) == {"alignment did not improve it"}
    assert len(steps) < 100


def test_gradients_that_are_not_finite_end_it_with_the_best_network_so_far(monkeypatch):
    model, dense, batches = make("mlp", 4)
    before, steps = apart(model, dense, batches), []

    def loss(self, batch, seed, loss=Compared.loss):
        steps.append(seed)
        return loss(self, batch, seed) * (math.nan if len(steps) > 30 and torch.is_grad_enabled() else 1)

    monkeypatch.setattr(Compared, "loss", loss)
    with pytest.warns(UserWarning, match=r"alignment ended at step \d+ of 40, where a gradient was not finite"):
        result = aligned(model, dense, batches)
    assert result.repaired
    monkeypatch.undo()
    assert apart(model, dense, batches) < before


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_a_failure_midway_leaves_the_model_as_it_was(error):
    model, dense, batches = make("batchnorm", 4)
    before, calls = bits(model), []

    def fail(network, batch):
        calls.append(1)
        if len(calls) == 40:
            raise error
        return network(batch)

    with pytest.raises(error):
        aligned(model, dense, batches, forward=fail)
    assert bits(model) == before


def test_a_network_that_was_made_in_inference_mode_is_aligned_too():
    with torch.inference_mode():
        model, dense, batches = make("mlp", 3)
        before = apart(model, dense, batches)
        aligned(model, dense, batches)
        assert apart(model, dense, batches) < 0.8 * before


def test_noise_in_the_forward_pass_is_the_same_in_both_networks():
    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(8, 16), nn.Linear(16, 4)

        def forward(self, x):
            return self.second(torch.relu(self.first(x + torch.randn_like(x))))

    model = Noisy()
    batches = [torch.randn(16, 8) for _ in range(3)]
    with pytest.warns(UserWarning, match="found no network that fits held-out batches better"):
        aligned(model, copy.deepcopy(model), batches)  # equal networks differ in nothing, so nothing can get better


class Routed(nn.Module):
    """Experts, each of which gets the rows that a gate chooses."""

    def __init__(self):
        super().__init__()
        self.gate, self.head = nn.Linear(8, 3), nn.Linear(8, 4)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8)) for _ in range(3))

    def forward(self, x):
        shares = self.gate(x).softmax(-1)
        chosen, y = shares.argmax(-1), torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            rows = chosen == number
            y[rows] = expert(x[rows]) * shares[rows, number, None]
        return self.head(y)


@pytest.mark.parametrize("idle", [False, True])
def test_experts_are_aligned_by_what_both_networks_choose_alike(idle):
    dense = Routed().eval()
    if idle:
        dense.gate.bias.data[2] = -100.0  # no row ever
    model, batches = copy.deepcopy(dense), [torch.randn(64, 8) for _ in range(4)]
    prune(model, 0.5, exclude="gate.*")
    before = apart(model, dense, batches)
    aligned(model, dense, batches)
    assert apart(model, dense, batches) < 0.8 * before


@pytest.mark.filterwarnings("error:alignment found no")
def test_under_an_autocast_of_the_users_the_weights_that_move_are_used():
    model, dense, batches = make("mlp", 3, size=128)
    before = apart(model, dense, batches)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        aligned(model, dense, batches)
        assert torch.is_autocast_cache_enabled()
    assert apart(model, dense, batches) < 0.8 * before


def test_a_network_that_keeps_what_it_computed_is_aligned():
    class Keeps(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 4)
            self.register_buffer("last", torch.zeros(8))
            self.hidden = 0.0

        def forward(self, x):
            hidden = torch.relu(self.first(x) + self.hidden + self.last)
            self.hidden, self.last = 0.1 * hidden, 0.1 * hidden.mean(0)
            return self.second(hidden)

    dense = Keeps().eval()
    model, batches = copy.deepcopy(dense), [torch.randn(32, 8) for _ in range(4)]
    prune(model, 0.5)
    assert aligned(model, dense, batches).repaired == ("first", "second")


def clamps(model, batch):
    output = model(batch)
    with torch.no_grad():
        model[2].weight.clamp_(-1, 1)
    return output


@pytest.mark.parametrize("forward", [torch.no_grad()(plain), clamps], ids=["no_grad", "clamps"])
def test_a_forward_pass_without_gradients_is_told_and_nothing_is_changed(forward):
    model, dense, batches = make("mlp", 3)
    before = bits(model)
    with pytest.raises(ValueError, match=r"alignment can't take gradients through the forward pass \(.*reconstruct"):
        aligned(model, dense, batches, forward=forward)
    assert bits(model) == before


def test_hooks_of_the_training_are_not_called():
    model, dense, batches = make("mlp", 3)
    heard = []
    model[0].register_full_backward_hook(lambda *_: heard.append("backward"))
    model[0].weight.register_hook(lambda gradient: heard.append("gradient"))
    handle = register_optimizer_step_post_hook(lambda *_: heard.append("step"))
    try:
        aligned(model, dense, batches)
    finally:
        handle.remove()
    assert heard == []


def test_of_a_single_batch_every_look_draws_the_same(monkeypatch):
    class Noisy(nn.Sequential):
        def forward(self, x):
            return super().forward(x + torch.randn_like(x))

    dense, looked = Noisy(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)), []
    model, mean_loss = copy.deepcopy(dense), Compared.mean_loss
    prune(model, 0.5)
    monkeypatch.setattr(Compared, "mean_loss", lambda self, held: looked.append(mean_loss(self, held)) or looked[-1])
    with pytest.warns(UserWarning, match="alignment found no network"):
        aligned(model, dense, [torch.randn(16, 8)], Align(steps=20, lr=1e-30))
    assert len(set(looked)) == 1


def test_a_training_prunes_in_steps_and_aligns():
    module = Module()
    reflow = Reflow(0.8, steps=2, repair=SHORT, calibration_batches=3, monitor=False)
    trainer(reflow, precision="bf16-mixed").fit(module, loader())
    assert any("alignment" in how for how in reflow.events[0].calibration.how.values())


def test_a_pruner_takes_it_by_name():
    _, dense, batches = make("mlp", 3)
    pruner = Pruner(0.5, repair="align", calibration_batches=3, monitor=False)
    pruner.apply(dense, batches)
    assert set(pruner.events[0].calibration.how.values()) == {"alignment"}


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"steps": 0}, "steps=0 must be a whole number of at least 1"),
        ({"steps": 2.5}, "steps=2.5"),
        ({"lr": 0}, "lr=0 must be a number, positive"),
        ({"lr": math.nan}, "lr=nan"),
        ({"logits": -1}, "logits=-1 must be a number, at least 0"),
        ({"logits": True}, "logits=True"),
        ({"blend": 1.5}, "blend=1.5 must be a share of the steps, from 0 to 1"),
        ({"blend": "half"}, "blend='half'"),
    ],
)
def test_arguments_are_checked(arguments, text):
    with pytest.raises(ValueError, match=text):
        Align(**arguments)
