"""The strongest repair that fits into a time."""

import copy
import time

import pytest
import torch
from helpers import Module, loader, trainer
from hypothesis import given
from hypothesis import strategies as st
from scenarios.thinned import bits, make
from torch import nn

from reflow_lightning import OneShot, Pruner, Reflow, calibrate
from reflow_lightning.calibration import Auto, Best, best, recipes
from reflow_lightning.calibration.best import seconds_of
from reflow_lightning.calibration.pace import Pace, pace_of
from reflow_lightning.calibration.recipes import recipe, recipe_keeping_zeros
from reflow_lightning.calibration.then_align import ThenAlign


@pytest.fixture
def seconds(monkeypatch):
    """Sets how long a network takes for a batch."""
    found = best.pace_of
    return lambda value: monkeypatch.setattr(best, "pace_of", lambda *told: Pace(2 * value, 0.0, found(*told).batches))


@pytest.mark.parametrize(
    ("budget", "seconds"), [(5, 5), (0.5, 0.5), ("90s", 90), ("90", 90), ("1.5 min", 90), ("2m", 120), ("1h", 3600)]
)
def test_a_time_is_a_number_of_seconds_or_has_a_unit(budget, seconds):
    assert seconds_of(budget) == seconds


@pytest.mark.parametrize(
    "budget", ["soon", "", "5 days", "-1s", "1.2.3s", 0, -1, float("nan"), float("inf"), True, [1]]
)
def test_what_is_no_time_is_refused(budget):
    with pytest.raises(ValueError, match=r"budget=.* must be a number of seconds or a time such as '90s'"):
        Best(budget)


RECIPES = st.sampled_from([recipe, recipe_keeping_zeros])


@given(RECIPES, st.floats(0.1, 1e5), st.floats(1e-4, 10), st.integers(1, 100))
def test_more_time_never_means_less_repair(recipe, budget, forward, batches):
    less, more = (recipe(time_, Pace(forward, forward / 3, batches)) for time_ in (budget, 2 * budget))
    assert less.prunings <= more.prunings
    assert not (isinstance(more.repair, Auto) and not isinstance(less.repair, Auto))


@given(RECIPES, st.floats(0.1, 1e5), st.floats(1e-4, 10), st.integers(1, 100), st.integers(1, 20))
def test_a_number_of_prunings_that_is_asked_for_is_kept(recipe, budget, forward, batches, prunings):
    assert recipe(budget, Pace(forward, 0.1, batches), [prunings]).prunings == prunings


def test_what_the_equations_take_counts_and_falls_with_the_cube_of_what_rows_keep():
    pace = Pace(1e-3, 0.0, 1, solving=64.0)
    few, many = (recipe_keeping_zeros(2.5, pace, (1,), sparsity=sparsity).repair for sparsity in (0.5, 0.75))
    assert isinstance(few, Auto)  # 8 seconds
    assert isinstance(many, ThenAlign)  # 1 second
    assert recipe_keeping_zeros(2.5, pace, (4, 1), sparsity=0.75).prunings == 1, "the first of four takes 22 seconds"


def test_the_time_of_the_equations_grows_with_the_cube_of_the_inputs():
    small, large = (pace_of(nn.Linear(n, 64), [torch.ones(2, n)], nn.Module.__call__).solving for n in (64, 512))
    assert large > 100 * small


@pytest.mark.parametrize(
    ("budget", "how", "prunings"),
    [
        (1, "BatchNorm statistics", 1),
        (17, "least squares", 1),
        (40, "least squares over other zeros", 1),
        (1000, "least squares over other zeros", 1),
    ],
)
def test_an_event_does_what_fits_and_says_so(budget, how, prunings, seconds, monkeypatch):
    monkeypatch.setattr(recipes, "_MOST_STEPS", 100)
    seconds(0.5)
    dense, batches = make("batchnorm", 3)[1:]
    pruner = Pruner(0.8, repair="best", budget=budget, calibration_batches=3, monitor=False)
    event = pruner.apply(copy.deepcopy(dense), batches)
    assert any(text.startswith(how) for text in event.calibration.how.values())
    assert len(event.steps) == prunings
    assert event.recipe == recipe(budget, Pace(1.0, 0.0, 3)).words
    assert event.sparsity == pytest.approx(0.8, abs=1e-2)


@pytest.mark.parametrize("arguments", [{"pattern": "2:4"}, {"tied": {"1.*": "0.*"}}])
def test_where_more_is_asked_of_the_zeros_they_stay(arguments, seconds):
    seconds(0.5)
    dense = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    pruner = Pruner(0.5, repair="best", budget=1000, calibration_batches=1, monitor=False, **arguments)
    event = pruner.apply(dense, [torch.randn(64, 8)])
    assert "prunings, each with least squares, then" in event.recipe
    assert all(
        ((weight != 0) == pruner.masks[name]).all() for name, weight in dense.named_parameters() if weight.ndim > 1
    )


def test_steps_that_are_asked_for_are_taken(seconds):
    seconds(0.5)
    dense, batches = make("mlp", 3)[1:]
    event = Pruner(0.8, steps=3, repair="best", budget=46, calibration_batches=3, monitor=False).apply(dense, batches)
    assert (len(event.steps), event.recipe) == (3, "3 prunings, each with least squares")


def test_without_an_event_the_weights_are_pruned_already(seconds):
    seconds(0.5)
    model, dense, batches = make("batchnorm", 3)
    expected = copy.deepcopy(model)
    calibrate(model, batches, repair=Best(17), reference=dense, max_batches=3)
    calibrate(expected, batches, repair="reconstruct", reference=dense, max_batches=3)
    assert bits(model) == bits(expected)


def test_without_the_dense_network_there_are_statistics():
    model, _, batches = make("batchnorm", 3)
    expected = copy.deepcopy(model)
    calibrate(model, batches, repair="best", max_batches=3)
    calibrate(expected, batches, repair="auto", max_batches=3)
    assert bits(model) == bits(expected)


def test_a_pattern_is_reached_over_others(seconds):
    seconds(0.5)
    dense, batches = make("mlp", 3)[1:]
    event = Pruner(0.5, pattern="2:4", repair="best", budget=70, monitor=False, calibration_batches=3).apply(
        dense, batches
    )
    assert [step.sparsity for step in event.steps] == [0.25, 0.5]
    assert event.recipe.startswith("2 prunings, each with least squares")  # there are no more over 3:4


def test_a_training_says_what_was_chosen(seconds, monkeypatch):
    said = []
    monkeypatch.setattr("reflow_lightning.callbacks.logs.rank_zero_info", said.append)
    seconds(0.5)
    reflow = Reflow(0.8, schedule=OneShot(), repair="best", budget="30s", calibration_batches=2, monitor=False)
    trainer(reflow).fit(Module(), loader())
    [line] = [text for text in said if "at step" in text]
    assert line.endswith(f"; the best in its time: {recipe(30, Pace(1.0, 0.0, 2)).words}")
    assert repr(reflow) == (
        "Reflow(0.8, schedule=OneShot(), repair='best', budget='30s', calibration_batches=2, monitor=False)"
    )


def test_what_a_loader_takes_counts_too():
    def slowly():
        for _ in range(4):
            time.sleep(0.05)
            yield torch.randn(2, 4)

    found = pace_of(nn.Linear(4, 4), slowly(), lambda model, x: model(x))
    assert (found.batches, found.reading >= 0.04, found.forward < 0.02) == (4, True, True)


def test_the_time_is_measured_on_the_first_batch_and_leaves_no_trace():
    dense, batches = make("batchnorm", 3)[1:]
    dense.train()
    before, read = bits(dense), []
    found = Best(60).recipe(dense, (read.append(1) or batch for batch in batches), lambda m, x: m(x))
    assert found.prunings == 1
    assert Best(60).keeping_zeros().recipe(dense, batches, lambda m, x: m(x)).prunings == 12
    assert (bits(dense), dense.training, len(read)) == (before, True, 3)


@pytest.mark.parametrize("repair", ["auto", "reconstruct", Best(3)])
def test_a_budget_is_for_the_best_alone(repair):
    with pytest.raises(ValueError, match=r"budget='1min' is for repair='best', not for .*: leave out the one"):
        Pruner(0.5, repair=repair, budget="1min")


def test_a_network_without_a_batch_is_left_to_the_error_of_the_repair():
    dense = make("batchnorm", 1)[1]
    before = bits(dense)
    with pytest.raises(ValueError, match="gave no batch for calibration"):
        Pruner(0.5, repair="best", monitor=False).apply(dense, [])
    assert bits(dense) == before
    assert torch.isfinite(torch.cat([p.flatten() for p in dense.parameters()])).all()


def test_the_batches_that_there_are_count_and_not_those_that_may_be(seconds):
    seconds(0.5)
    dense, batches = make("mlp", 3)[1:]
    event = Pruner(0.8, repair="best", budget=40, monitor=False, calibration_batches=50).apply(dense, batches)
    assert event.recipe == recipe(40, Pace(1.0, 0.0, 3)).words


def test_batches_are_moved_and_a_network_that_changes_its_input_gets_copies(seconds):
    class Doubles(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))

        def forward(self, x):
            return self.layers(x.mul_(2))

    class ToBeMoved:
        def __init__(self, x):
            self.x = x

        def to(self, device):
            return self.x.to(device)

    inputs = [torch.randn(16, 8) for _ in range(3)]
    before = [x.clone() for x in inputs]
    Pruner(0.5, repair="best", budget=3, monitor=False).apply(Doubles(), [ToBeMoved(x) for x in inputs])
    assert all(torch.equal(x, y) for x, y in zip(inputs, before, strict=True))


@pytest.mark.parametrize("steps", [1, 3])
def test_where_alignment_is_impossible_least_squares_stay(steps, seconds):
    seconds(0.01)
    dense, batches = make("batchnorm", 3)[1:]
    pruner = Pruner(
        0.5, steps=steps, repair="best", budget=60, monitor=False, forward=torch.no_grad()(lambda m, x: m(x))
    )
    expected = copy.deepcopy(dense)
    with pytest.warns(UserWarning, match="alignment was left out, and least squares stay: .*no_grad"):
        event = pruner.apply(dense, batches)
    assert "least squares over other zeros" in event.calibration.how.values()
    if steps == 1:
        other = Pruner(0.5, repair="reselect", monitor=False, calibration_batches=3)
        other.apply(expected, batches)
        assert bits(dense) == bits(expected)
    event.calibration.undo()
