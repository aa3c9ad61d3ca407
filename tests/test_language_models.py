"""Every function of the package on networks of transformers, with a tokenizer's batch and nothing else said."""

import copy
import math

import pytest
import torch
from zoo.language import NETWORKS, batch_for, make

from reflow_lightning import calibrate, measure_signal, prune
from reflow_lightning.calibration import Align
from reflow_lightning.cost import measure_cost
from reflow_lightning.layers import find_layers
from reflow_lightning.pruning import Fisher, make_masks
from reflow_lightning.running.outputs import logits_of
from reflow_lightning.signal import measure_entropy

pytest.importorskip("transformers")
pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.parametrize("name", NETWORKS),
]
QUICK = {"max_batches": 1, "progress": False}


@pytest.mark.parametrize("criterion", ["magnitude", "taylor", "snip", "fisher", "woodfisher", "wanda"])
def test_every_criterion_chooses_as_many_weights_as_it_is_asked_to(name, criterion):
    model = make(name)
    experts = {"exclude": "*experts*"} if (name, criterion) == ("Mixtral", "wanda") else {}
    masks = prune(model, 0.5, criterion=criterion, batches=[batch_for(name)], **experts, **QUICK)
    assert masks.sparsity == pytest.approx(0.5, abs=1e-3)
    assert all(bool((p[~masks[n]] == 0).all()) for n, p in model.named_parameters() if n in masks)


def test_the_default_loss_is_the_model_s_own(name):
    model, batch = make(name), batch_for(name)

    def own(output, _):
        return output.loss

    expected = make_masks(model, 0.5, criterion=Fisher(loss=own), batches=[batch], **QUICK)
    assert make_masks(model, 0.5, criterion="fisher", batches=[batch], **QUICK) == expected


@pytest.mark.parametrize("allocation", ["uniform", "erk", "lamp", "entropy"])
def test_every_allocation_shares_them_out(name, allocation):
    masks = prune(make(name), 0.5, allocation=allocation, min_kept=0.001, batches=[batch_for(name)], **QUICK)
    assert masks.sparsity == pytest.approx(0.5, abs=1e-3)


def wide(name):
    """The network with larger matrices: as it begins, hardly anything passes but by the residual stream."""
    network = make(name)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim > 1:
                parameter.mul_(3)
    return network


@torch.no_grad()
def logits(network, batches):
    """Those that count, (positions, classes)."""
    return torch.cat([logits_of(network(**batch))[batch["labels"] != -100] for batch in batches])


def repaired(dense, batches, repair):
    """The network when it is pruned, and when it is repaired; and what was repaired."""
    model = copy.deepcopy(dense)
    prune(model, 0.6, allocation="uniform")
    pruned = copy.deepcopy(model)
    return pruned, model, calibrate(model, batches, repair=repair, reference=dense, max_batches=4, progress=False)


@pytest.mark.parametrize("repair", ["reconstruct", "reselect", Align(steps=20)], ids=str)
def test_repairs_bring_the_logits_closer_to_the_dense_ones(name, repair):
    dense, batches = wide(name), [batch_for(name, seed) for seed in range(4)]
    pruned, model, result = repaired(dense, batches, repair)
    wanted = logits(dense, batches)
    assert (logits(model, batches) - wanted).square().sum() < (logits(pruned, batches) - wanted).square().sum()
    layers = {n for n, layer in find_layers(model).known.items() if layer.weights}
    assert layers <= set(result.repaired) | set(result.skipped)


@pytest.mark.parametrize("repair", ["auto", "moments"])
def test_matched_moments_bring_the_variance_of_every_layer_closer_to_the_dense_one(name, repair):
    dense, batches = wide(name), [batch_for(name, seed) for seed in range(4)]
    pruned, model, result = repaired(dense, batches, repair)

    def off(network):
        rows = measure_signal(network, batches, reference=dense, max_batches=4, progress=False).rows
        return sum(abs(math.log(row.variance_ratio)) for row in rows if row.variance_ratio)

    assert off(model) < 0.5 * off(pruned)  # the experts of Mixtral are not repaired
    assert set(find_layers(model).known) == set(result.repaired)


def test_its_signal_its_rectifiers_and_its_cost_are_measured(name):
    model, batch = make(name), batch_for(name)
    signal = measure_signal(model, [batch], reference=model, **QUICK)
    layers = {n for n, layer in find_layers(model).known.items() if layer.weights}
    assert {row.name for row in signal.rows} >= layers
    assert all(row.cosine == pytest.approx(1, abs=1e-4) for row in signal.rows if row.variance > 1e-12)
    entropy = measure_entropy(model, [batch], **QUICK)
    blocks = [row for row in entropy.rows if not row.layer.endswith(("pooler.dense", "pre_classifier", "head.dense"))]
    assert len(blocks) == (4 if name == "T5" else 2)  # one in each block, and what follows is the layer that made it
    cost = measure_cost(model, batch)
    assert not cost.uncounted
    assert cost.parameters == sum(kind.parameters for kind in cost.kinds)
