"""Layers of which next to nothing is left."""

import os
import re
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from reflow_lightning import Pruner
from reflow_lightning.experiments.checkpoints import load_weights
from reflow_lightning.experiments.models.resnet import ResNet
from reflow_lightning.pruning import make_masks
from reflow_lightning.pruning.empties import nearly_empty


def network(scale=1.0):
    """Two layers, of which the first is the smaller in magnitude."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(100, 50), nn.ReLU(), nn.Linear(50, 100))
    nn.init.normal_(model[0].weight, std=0.55 * scale)
    nn.init.normal_(model[2].weight)
    return model


def said(model, sparsity, **how):
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        masks = make_masks(model, sparsity, **how)
    return masks, [str(warning.message) for warning in found]


def test_a_nearly_empty_layer_is_named_with_what_is_left_of_it():
    masks, [text] = said(network(), 0.95)
    left = int(masks["0.weight"].sum())
    assert 0 < left < 50
    assert f"sparsity=0.95 leaves {left} of 5000 weights in 0.weight: hardly any signal passes there" in text


@pytest.mark.parametrize("sparsity", [0.9, 0.95, 0.99])
@pytest.mark.parametrize("scale", [1.0, 0.5, 1e-3])
def test_the_remedy_does_what_it_says(sparsity, scale):
    model = network(scale)
    _, texts = said(model, sparsity)
    for text in texts:
        floor, left = re.search(r"min_kept=([\d.]+) would leave (\d+) there", text).groups()
        masks, others = said(model, sparsity, min_kept=float(floor))
        assert int(masks["0.weight"].sum()) == int(left)
        assert masks.sparsity == pytest.approx(sparsity)
        assert not any("leaves no weight" in other for other in others)
        by_lamp = int(make_masks(model, sparsity, allocation="lamp")["0.weight"].sum())
        assert text.endswith(f"allocation='lamp' would leave {by_lamp} there")
    assert texts or (sparsity, scale) == (0.9, 1.0)


@pytest.mark.parametrize("allocation", ["uniform", "erk", "lamp"])
def test_allocations_with_a_share_for_each_layer_alarm_nobody(allocation):
    assert said(network(), 0.95, allocation=allocation)[1] == []


def test_a_large_layer_may_keep_a_small_share_of_many_weights():
    shapes = {"classifier": (4096, 25088), "features": (512, 512, 3, 3)}
    assert nearly_empty({"classifier": 1_000_000, "features": 2_000_000}, shapes) == []
    assert nearly_empty({"classifier": 1_000, "features": 2_000_000}, shapes) == ["classifier"]


def test_a_layer_of_one_output_needs_one_weight():
    shapes = {"body": (64, 64), "head": (1, 64)}
    assert nearly_empty({"body": 400, "head": 1}, shapes) == []
    assert nearly_empty({"body": 400, "head": 0}, shapes) == ["head"]


def test_where_floors_are_not_heeded_it_says_what_else_helps():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    nn.init.constant_(model[0].weight, 1e-6)
    _, [text] = said(model, 0.8, allocation=lambda scores, keep, floors: {"0.weight": 0, "1.weight": keep})
    assert "leaves no weight in 0.weight" in text
    left = int(make_masks(model, 0.8, allocation="lamp")["0.weight"].sum())
    assert text.endswith(f"except through a shortcut; allocation='lamp' would leave {left} there")


def test_each_layer_is_named_once_in_a_training():
    model = network()
    pruner = Pruner(0.99, repair="none", monitor=False)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        for sparsity in (0.5, 0.9, 0.95, 0.97, 0.98, 0.99):
            pruner.carry_out(model, sparsity, pruner.plan())
    assert len([w for w in found if "in 0.weight" in str(w.message)]) == 1


def test_a_published_network_that_is_pruned_well_alarms_nobody():
    if not (folder := os.environ.get("REFLOW_DATA")):
        pytest.skip("REFLOW_DATA names no folder")
    net = ResNet(blocks=3)
    load_weights(net, Path(folder) / "weights" / "resnet20-12fca82f.th")
    assert all(said(net, sparsity)[1] == [] for sparsity in (0.5, 0.8, 0.9))


def test_of_many_layers_three_are_named_and_what_helps_each_of_them():
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(20, 20) for _ in range(9)))
    for layer in model[:7]:
        nn.init.normal_(layer.weight, std=1e-3)
    _, [text] = said(model, 0.9)
    assert "no weight in 0.weight, 1.weight, 2.weight and 4 more layers" in text
    floor, least = re.search(r"min_kept=([\d.]+) would leave (\d+) or more in each", text).groups()
    masks = make_masks(model, 0.9, min_kept=float(floor))
    assert min(int(masks[f"{place}.weight"].sum()) for place in range(7)) == int(least)
