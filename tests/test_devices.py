"""What the package does on the CPU it does on another device; ``REFLOW_DEVICE`` names that, ``cuda`` by default."""

import copy
import os

import lightning.pytorch as pl
import pytest
import torch
from helpers import Module, loader, selected_size
from scenarios.sharded_repairs import ALLOCATIONS, CRITERIA, REPAIRS, batches, network
from torch import nn
from zoo.convolutional import small_net

from reflow_lightning import Gradual, Masks, OneShot, Reflow, calibrate, collapse, find_sparsity, measure_signal, prune
from reflow_lightning.cost import load_sparse, save_sparse
from reflow_lightning.events.pruner import Pruner
from reflow_lightning.signal import measure_entropy

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("ignore:.*leaves no weight.*")]

DEVICE = torch.device(os.environ.get("REFLOW_DEVICE", "cuda"))


def pair(dtype=torch.float64):
    """One network, on the CPU and on the device; float64, in which both compute alike."""
    model = network().to(dtype)
    return model, copy.deepcopy(model).to(DEVICE)


def given(dtype=torch.float64):
    return [(inputs.to(dtype), labels) for inputs, labels in batches()]


def close(first, second, atol=1e-6):
    for (name, value), (other, found) in zip(first.state_dict().items(), second.state_dict().items(), strict=True):
        assert name == other
        assert found.device.type == DEVICE.type
        torch.testing.assert_close(found.cpu(), value, rtol=atol, atol=atol)


# -- functions


@pytest.mark.parametrize("criterion", [*CRITERIA, "random"])
def test_every_criterion_chooses_the_same_weights(criterion):
    here, there = pair()
    how = {"criterion": criterion, "batches": given(), "max_batches": 6}
    torch.manual_seed(1)
    expected = prune(here, 0.6, **how)
    torch.manual_seed(1)
    assert prune(there, 0.6, **how).to("cpu") == expected
    close(here, there)


@pytest.mark.parametrize("allocation", ALLOCATIONS)
def test_every_allocation_chooses_the_same_weights(allocation):
    here, there = pair()
    how = {"allocation": allocation, "batches": given(), "max_batches": 6}
    assert prune(there, 0.6, **how).to("cpu") == prune(here, 0.6, **how)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_ties_are_cut_at_the_same_place(dtype):
    """Narrow types have many; a pattern has some in each group."""
    here, there = pair(dtype)
    assert prune(there, 0.7).to("cpu") == prune(here, 0.7)
    only = {"pattern": "2:4", "include": ("*.up.weight",)}
    assert prune(there, 0.5, **only).to("cpu") == prune(here, 0.5, **only)


@pytest.mark.parametrize("repair", REPAIRS)
def test_every_repair_gives_the_same_network(repair):
    here, there = pair()
    masks = []
    for model in (here, there):
        torch.manual_seed(1)
        pruner = Pruner(0.7, repair=REPAIRS[repair], calibration_batches=6)
        pruner.apply(model, given())
        masks.append(pruner.masks.to("cpu"))
    assert masks[0] == masks[1]
    close(here, there, 1e-4 if repair == "align" else 1e-6)


def test_a_repair_is_undone_to_the_last_bit_and_draws_no_random_number():
    _, model = pair()
    dense = copy.deepcopy(model)
    prune(model, 0.5)
    before, state = copy.deepcopy(model.state_dict()), random_state()
    result = calibrate(model, given(), repair="reconstruct", reference=dense, max_batches=6)
    assert torch.equal(random_state(), state)
    assert not torch.equal(model[3].weight, before["3.weight"])
    result.undo()
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())


def random_state():
    return torch.cuda.get_rng_state() if DEVICE.type == "cuda" else torch.get_rng_state()


def test_signal_and_entropy_are_measured_alike():
    here, there = pair()
    first, second = (measure_signal(m, given(), reference=m, max_batches=6).to_dict()["layers"] for m in (here, there))
    for row, found in zip(first, second, strict=True):
        numbers = {key: value for key, value in row.items() if isinstance(value, float)}
        assert {key: found[key] for key in numbers} == pytest.approx(numbers, rel=1e-5, abs=1e-7)
    rows = [measure_entropy(m, given(), max_batches=6).rows for m in (here, there)]
    assert [r.entropy for r in rows[1]] == pytest.approx([r.entropy for r in rows[0]], rel=1e-5)


def test_a_search_ends_at_the_same_sparsity():
    """The judge is how much of the output is left, so that no label is needed."""
    found = []
    for model in pair():
        inputs = given()[0][0].to(next(model.parameters()).device)
        dense = model(inputs).detach()

        def score(pruned, dense=dense, inputs=inputs):
            return -float((pruned(inputs) - dense).square().mean().detach())

        found.append(find_sparsity(model, given(), score, max_drop=0.05, repair="none"))
    assert found[0].sparsity == pytest.approx(found[1].sparsity)


def test_a_smaller_network_stays_on_the_device_and_does_the_same():
    torch.manual_seed(0)
    model = small_net().to(DEVICE).eval()
    with torch.no_grad():
        model[0].weight[:4] = 0
    example = torch.randn(4, 1, 6, 6, device=DEVICE)
    smaller = collapse(model, example)
    assert {p.device.type for p in smaller.parameters()} == {DEVICE.type}
    assert sum(p.numel() for p in smaller.parameters()) < sum(p.numel() for p in model.parameters())
    torch.testing.assert_close(smaller(example), model(example), rtol=1e-4, atol=1e-5)


def test_masks_and_sparse_files_are_read_on_a_cpu(tmp_path):
    here, there = pair(torch.float32)
    masks = prune(there, 0.7)
    masks.save(tmp_path / "masks.pt")
    assert Masks.load(tmp_path / "masks.pt") == prune(here, 0.7)
    save_sparse(there, tmp_path / "sparse.pt")
    there.cpu()
    assert all(
        torch.equal(value, there.state_dict()[name]) for name, value in load_sparse(tmp_path / "sparse.pt").items()
    )


# -- trainings


@pytest.mark.parametrize("precision", ["32-true", "64-true", "16-mixed", "bf16-mixed", "bf16-true"])
@pytest.mark.parametrize("schedule", [OneShot(step=3), Gradual(every_n_steps=2)])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_zeros_hold_in_every_precision(precision, schedule, optimizer, tmp_path):
    callback = Reflow(0.7, schedule=schedule, calibration_batches=2)
    module = Module(optimizer)
    trainer = fit(callback, module, precision=precision)
    if precision == "16-mixed" and DEVICE.type == "cuda":
        assert trainer.precision_plugin.scaler.get_scale() > 0
    assert sum(int((~mask).sum()) for mask in callback.masks.values()) == round(0.7 * selected_size(module))
    for (name, mask), weight in zip(callback.masks.items(), callback.masks.parameters(module), strict=True):
        assert weight.isfinite().all(), name
        assert not weight[~mask.to(weight.device)].any()
    assert all(torch.tensor(row.variance).isfinite() for s in callback.events[-1].signal.values() for row in s.rows)
    trainer.save_checkpoint(tmp_path / "end.ckpt")
    state = torch.load(tmp_path / "end.ckpt", weights_only=False, map_location="cpu")["state_dict"]
    Module().load_state_dict(state)


def test_a_step_that_the_scaler_skips_changes_nothing():
    """Its first scale is too large, so that the first gradients overflow."""
    model = nn.Linear(16, 16).to(DEVICE)
    masks = prune(model, 0.5)
    optimizer = torch.optim.AdamW(model.parameters(), 0.1)
    scaler = torch.amp.GradScaler(DEVICE.type, init_scale=2.0**127)
    with masks.keep(model, optimizer):
        before = model.weight.detach().clone()
        for step in range(3):
            with torch.autocast(DEVICE.type, torch.bfloat16):
                loss = (1e3 * model(torch.ones(4, 16, device=DEVICE))).square().mean()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update(1.0 if step == 0 else None)
            optimizer.zero_grad()
            if step == 0:
                assert torch.equal(model.weight, before)
        assert not torch.equal(model.weight, before)
        assert not model.weight[~masks["weight"].to(DEVICE)].any()


def fit(callback, module, **options):
    accelerator = {"accelerator": "gpu" if DEVICE.type == "cuda" else "cpu", "devices": 1}
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = pl.Trainer(
        callbacks=[callback], max_epochs=2, enable_model_summary=False, **accelerator, **quiet, **options
    )
    trainer.fit(module, loader(pin_memory=DEVICE.type == "cuda"), loader(32, shuffle=False))
    return trainer
