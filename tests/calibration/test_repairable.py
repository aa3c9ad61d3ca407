"""Repairs leave alone what they are told to leave, and repair around it."""

import copy

import pytest
import torch
from torch import nn

from reflow_lightning import calibrate, prune
from reflow_lightning.calibration import Align
from reflow_lightning.calibration.repairable import layers_to_repair, leaving, norms_to_repair

REPAIRS = ["auto", "batchnorm", "moments", "reconstruct", Align(steps=30)]


def network():
    torch.manual_seed(0)
    part = [nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU()]
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Sequential(*part), nn.Linear(8, 8), nn.LayerNorm(8))


def repaired(repair, left):
    model, batches = network(), [torch.randn(32, 4) for _ in range(2)]
    dense = copy.deepcopy(model)
    prune(model, 0.5, exclude=[f"{name}.*" for name in left])
    before = copy.deepcopy(model)
    with leaving(left):
        done = calibrate(model, batches, repair=repair, reference=dense, max_batches=2)
    values = before.state_dict()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, values[name])}
    return done, changed


@pytest.mark.parametrize("repair", REPAIRS, ids=str)
def test_what_is_left_stays_and_all_else_is_repaired(repair):
    _, by_default = repaired(repair, [])
    done, changed = repaired(repair, ["2"])
    assert {name for name in changed if name.startswith("2.")} == set()
    assert not any(name.startswith("2") for name in (*done.repaired, *done.skipped))
    assert changed >= {name for name in by_default if not name.startswith("2.")}


def test_a_layer_is_matched_where_the_norm_after_it_is_left():
    done, _ = repaired("auto", ["1"])
    assert "0" in done.repaired
    assert "0" not in repaired("auto", [])[0].repaired


def test_names_are_those_of_modules_and_no_beginnings():
    model = nn.ModuleDict({"net": nn.BatchNorm1d(2), "network": nn.BatchNorm1d(2), "other": nn.Linear(2, 2)})
    with leaving(["net"]):
        assert list(norms_to_repair(model)) == ["network"]
        assert list(layers_to_repair(model).known) == ["network", "other"]
    assert list(norms_to_repair(model)) == ["net", "network"]
