"""What a criterion or an allocation of a user's returns is checked; an error names it and what it must return."""

import copy

import pytest
import torch
from helpers import images
from zoo.convolutional import small_net

from reflow_lightning import prune
from reflow_lightning.pruning import Magnitude, PerOutput, uniform


class Finds:
    """A criterion, or an allocation, that finds this on data."""

    def __init__(self, found):
        self.found = found

    def __repr__(self):
        return "Finds"

    def estimate(self, model, weights, batches, forward, /):
        return self.found


class Compensates(Magnitude):
    def __init__(self, changes):
        object.__setattr__(self, "changes", changes)

    def compensate(self, masks, /):
        return self.changes


class InPieces(Magnitude):
    def __init__(self, pieces):
        object.__setattr__(self, "given", pieces)

    def pieces(self, name, weight, /, start=0):
        return self.given


WRONG = [
    ("criterion", lambda name, weight: None, "gave NoneType for '0.weight': it must return one floating-point score"),
    ("criterion", lambda name, weight: weight.abs().tolist(), "gave list for '0.weight'"),
    ("criterion", lambda name, weight: weight.abs().numpy(), "gave ndarray for '0.weight'"),
    ("criterion", lambda name, weight: weight.abs().sum(), r"gave \(\) torch.float32 for '0.weight'"),
    ("criterion", lambda name, weight: weight.abs()[:1], r"gave \(1, 1, 3, 3\) torch.float32 for '0.weight'"),
    ("criterion", lambda name, weight: weight > 0, r"gave \(8, 1, 3, 3\) torch.bool for '0.weight'"),
    ("criterion", lambda name, weight: weight / 0, "gave NaN or infinite scores for '0.weight'"),
    ("criterion", PerOutput(lambda name, weight: None), "gave NoneType for '0.weight': it must return one"),
    (
        "criterion",
        Finds(None),
        "criterion Finds: its estimate gave NoneType, but must return a callable .name",
    ),
    ("criterion", Finds({}), "criterion Finds: its estimate gave dict"),
    ("criterion", PerOutput(Finds(None)), "criterion Finds: its estimate gave NoneType"),
    ("criterion", Compensates(None), "its compensate gave NoneType, but must return changes of weights by name"),
    ("criterion", Compensates({"0.weight": torch.zeros(2)}), r"its compensate gave torch.Size\(\[2\]\) for '0.weight'"),
    ("criterion", Compensates({"0.weight": 1.0}), "its compensate gave float for '0.weight'"),
    ("criterion", Compensates({"none": torch.zeros(2)}), "its compensate gave .* for 'none'"),
    ("criterion", InPieces([]), "gave a piece NoneType for '0.weight'"),
    ("criterion", InPieces([torch.zeros(2)]), r"gave a piece \(2,\) torch.float32 for '0.weight'"),
    ("criterion", InPieces(["x"]), "gave a piece str for '0.weight'"),
    ("allocation", lambda *_: [1, 2, 3], "gave list: it must return the number of weights to keep by name"),
    ("allocation", lambda *_: None, "gave NoneType: it must return the number"),
    ("allocation", lambda *_: 7, "gave int: it must return the number"),
    (
        "allocation",
        lambda s, k, f: dict.fromkeys(s, None),
        "gave None for '0.weight': it must be a whole number",
    ),
    ("allocation", lambda s, k, f: {n: float(v) for n, v in uniform(s, k, f).items()}, r"gave [\d.]+ for '0.weight'"),
    ("allocation", lambda s, k, f: dict.fromkeys(s, "all"), "gave 'all' for '0.weight'"),
    ("allocation", lambda s, k, f: {}, "gave 0 weights for 0 tensors: it must share out"),
    (
        "allocation",
        Finds(None),
        "allocation Finds: its estimate gave NoneType, but must return a callable .scores",
    ),
]


@pytest.mark.parametrize(("argument", "given", "message"), WRONG, ids=range(len(WRONG)))
def test_an_error_names_it_and_nothing_is_changed(argument, given, message):
    model = small_net()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=message):
        prune(model, 0.5, **{argument: given}, batches=[(images(4), torch.zeros(4).long())], max_batches=1)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
