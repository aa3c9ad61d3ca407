"""What benchmarks/collapse.py says of a network is so."""

import json
from pathlib import Path

import collapse
import collapse_networks
import pytest
import torch

from reflow_lightning import prune
from reflow_lightning.experiments.models.resnet import ResNet

ROOT = Path(__file__).parent.parent

pytestmark = pytest.mark.filterwarnings("ignore:sparsity=.* leaves no weight in")  # that is wanted here


@pytest.fixture
def given():
    torch.manual_seed(0)
    batches = [(torch.randn(16, 1, 8, 8), torch.randint(10, (16,))) for _ in range(3)]
    dense = ResNet(blocks=1, in_channels=1, width=4)
    for inputs, _ in batches:
        dense(inputs)
    return collapse_networks.Material(dense.eval(), batches, batches)


def case(criterion):
    return collapse_networks.Case("ResNet", "noise", (), (0.7,), "batchnorm", criterion, ("linear.weight",))


@pytest.mark.parametrize("criterion", ["magnitude", collapse_networks.row_norm])
def test_a_row_tells_what_went_and_that_nothing_changed(given, criterion, monkeypatch):
    monkeypatch.setattr(collapse, "ROUNDS", {1: 2, 8: 2})
    measured = collapse.measure(case(criterion), 0.7, given)
    for row, report in measured:
        assert row["repaired"] == row["collapsed"]
        assert float(row["difference"]) < 1e-4
        assert report.deviation < 1e-4
        assert 0 <= row["multiply-adds"] <= row["parameters"] < 1
    if criterion != "magnitude":
        assert measured[0][0]["channels"] > 0


def test_the_norm_of_rows_prunes_whole_channels():
    model = ResNet(blocks=1, in_channels=1, width=4)
    prune(model, 0.5, criterion=collapse_networks.row_norm, progress=False)
    kept = [weight.ne(0).flatten(1).float().mean(1) for name, weight in model.named_parameters() if weight.ndim > 1]
    partly = [share for share in torch.cat(kept).tolist() if 0 < share < 1]
    assert len(partly) <= 1, "but for the last one, which the number of weights divides"
    assert any((shares == 0).any() for shares in kept)


def test_ratios_are_those_of_rounds_that_belong_together():
    seconds = {"slow": [2.0, 20.0, 2.0, 20.0], "fast": [1.0, 10.0, 1.0, 10.0]}
    assert collapse.ratio(seconds, "slow", "fast") == "2.00 (2.00-2.00)"


def test_the_published_numbers_are_of_every_case_and_of_unchanged_outputs():
    rows = json.loads((ROOT / "benchmarks" / "results" / "collapse.json").read_text())["rows"]
    published = {(row["network"], row["data"], row["sparsity"]) for row in rows}
    assert published == {(c.network, c.data, f"{s:g}") for c in collapse_networks.CASES for s in c.sparsities}
    assert all(row["repaired"] == row["collapsed"] and float(row["difference"]) < 1e-4 for row in rows)
