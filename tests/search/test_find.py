import copy
import importlib
import logging
import math
import random

import numpy as np
import pytest
import torch
from helpers import everything, images, selected_size, zeros
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from zoo.convolutional import small_net

from reflow_lightning import calibrate, find_sparsity, prune
from reflow_lightning.search.bisection import sparsest
from reflow_lightning.search.find import COARSE

choose_module = importlib.import_module("reflow_lightning.pruning.choose")  # the package has a function of that name
BATCHES = list(images(64).split(16))
QUICK = {"max_batches": 2, "coarse": (0.5, 0.9), "tolerance": 0.05, "progress": False}


def network():
    torch.manual_seed(0)
    return small_net()


def sparsity(model):
    return zeros(model) / selected_size(model)


def falling(model):
    """A score that falls by as much as the sparsity rises."""
    return 1 - sparsity(model)


# -- bisection, on curves alone

curves = st.lists(st.booleans(), min_size=1, max_size=40)
tolerances = st.floats(0.002, 0.5)
grids = st.lists(st.floats(0.01, 0.99), max_size=6)


def recorded(curve):
    """Whether a sparsity is within the drop, by a table of any shape, and all that was asked."""
    asked = {}

    def within(sparsity):
        asked[sparsity] = curve[min(int(sparsity * len(curve)), len(curve) - 1)]
        return asked[sparsity]

    return within, asked


@given(curves, grids, tolerances)
def test_what_is_found_was_asked_about_and_held_whatever_the_curve(curve, coarse, tolerance):
    within, asked = recorded(curve)
    found = sparsest(within, coarse, 0.0, 1.0, tolerance)
    assert found == 0 or asked[found]
    assert found == max([s for s, held in asked.items() if held], default=0.0)


@given(curves, grids, tolerances)
def test_just_above_it_something_did_not_hold_unless_it_is_the_end(curve, coarse, tolerance):
    within, asked = recorded(curve)
    found = sparsest(within, coarse, 0.0, 1.0, tolerance)
    assert 1 - found <= tolerance or any(not held and 0 < s - found <= tolerance for s, held in asked.items())


@given(curves, grids, tolerances)
def test_it_asks_a_logarithmic_number_of_times_and_never_twice_the_same(curve, coarse, tolerance):
    calls = []
    within, asked = recorded(curve)
    sparsest(lambda s: calls.append(s) or within(s), coarse, 0.0, 1.0, tolerance)
    assert len(calls) == len(asked) <= len(set(coarse)) + math.ceil(math.log2(1 / tolerance))


@given(st.floats(0, 1), grids, tolerances)
def test_of_a_falling_curve_it_finds_the_limit_to_the_tolerance(limit, coarse, tolerance):
    found = sparsest(lambda s: s <= limit, coarse, 0.0, 1.0, tolerance)
    assert found <= limit <= found + tolerance


@given(curves, st.floats(0, 0.9), st.floats(0.1, 1), grids, tolerances)
def test_it_asks_for_nothing_outside_the_bounds(curve, least, most, coarse, tolerance):
    within, asked = recorded(curve)
    sparsest(within, coarse, least, most, tolerance)
    assert all(least <= s < most and s > 0 for s in asked)


def test_a_coarse_step_that_fails_by_chance_ends_nothing():
    assert sparsest(lambda s: s < 0.85 and s != 0.5, (0.5, 0.8, 0.9), 0.0, 1.0, 0.02) > 0.8


# -- with a model


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(-1, 1), min_size=2, max_size=12), st.floats(0, 1), st.sampled_from((0.02, 0.1, 0.3)))
def test_the_result_is_a_trial_within_the_drop_and_so_is_the_model(scores, max_drop, tolerance):
    model = network()
    dense = sparsity(model)
    given_for = {}

    def evaluate(model):
        s = sparsity(model)
        given_for[s] = scores[0] if s == dense else scores[int(s * len(scores))]
        return given_for[s]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("reflow_lightning.search.find.warn", lambda *_, **__: None)
        search = find_sparsity(model, BATCHES, evaluate, max_drop=max_drop, **QUICK | {"tolerance": tolerance})
    measured = {trial.sparsity: trial.score for trial in search.trials} | {0.0: search.dense_score}
    assert measured[search.sparsity] == search.score
    assert search.score >= search.dense_score - max_drop - 1e-6
    assert sparsity(model) == pytest.approx(search.sparsity, abs=1e-12) == search.masks.sparsity
    assert given_for[sparsity(model)] == search.score
    assert search.sparsity == max((s for s, score in measured.items() if search.is_within(score)))
    assert len(search.trials) <= len(QUICK["coarse"]) + math.ceil(math.log2(1 / tolerance))


def test_the_model_is_the_one_that_pruning_and_repairing_the_dense_one_gives():
    model, by_hand = network(), network()
    search = find_sparsity(model, BATCHES, falling, max_drop=0.72, **QUICK)
    assert 0.67 < search.sparsity <= 0.72
    assert prune(by_hand, search.sparsity) == search.masks
    calibrate(by_hand, BATCHES, max_batches=2, reference=network())
    for name, value in by_hand.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name


def test_each_trial_starts_from_the_dense_weights_and_sees_the_same_batches():
    seen = []

    class Drawing:
        def __iter__(self):
            return (torch.randn(16, 1, 6, 6) for _ in range(2))

    def repair(model, batches, forward, reference):
        seen.append((reference, torch.cat(list(batches)), copy.deepcopy(model)))
        return calibrate(model, BATCHES, max_batches=1)

    dense, model = network(), network()
    search = find_sparsity(model, Drawing(), falling, max_drop=0.6, repair=repair, **QUICK)
    assert len(seen) == len(search.trials) >= 4
    for trial, (reference, batches, pruned) in zip(search.trials, seen, strict=True):
        assert torch.equal(batches, seen[0][1])
        assert all(torch.equal(a, b) for a, b in zip(reference.parameters(), dense.parameters(), strict=True))
        expected = copy.deepcopy(dense)
        prune(expected, trial.sparsity)
        assert all(torch.equal(a, b) for a, b in zip(pruned.parameters(), expected.parameters(), strict=True))


def rewriting(model, batches, forward, reference):
    """A repair that changes all there is: every parameter and buffer, but for the zeros."""
    with torch.no_grad():
        for value in (*model.parameters(), *model.buffers()):
            value.mul_(3)
    return calibrate(model, batches, repair="none")


@pytest.mark.parametrize("repair", ["auto", rewriting])
def test_undo_puts_back_every_bit_whatever_the_repair_changed(repair):
    model = network()
    with torch.no_grad():
        model[1].running_mean[0] = -0.0
        model[4].bias[0] = -0.0
    before = everything(model)
    search = find_sparsity(model, BATCHES, falling, max_drop=0.6, repair=repair, **QUICK)
    assert everything(model)["values"] != before["values"]
    model.double().float()  # replaces every tensor
    search.undo()
    assert everything(model) == before
    search.undo()
    assert everything(model) == before


def test_training_flags_and_the_random_state_are_left_alone_though_evaluate_changes_them():
    model = network().train()
    model[1].eval()
    before = everything(model)

    def evaluate(model):
        assert not any(module.training for module in model.modules())
        model.train()
        torch.rand(1), random.random(), np.random.rand()
        return falling(model)

    find_sparsity(model, BATCHES, evaluate, max_drop=0.6, **QUICK)
    after = everything(model)
    assert all(after[key] == before[key] for key in before.keys() - {"values"})


def test_what_evaluate_does_to_the_model_is_not_kept():
    model, expected = network(), network()

    def evaluate(model):
        score = falling(model)
        nn.init.ones_(model[0].weight)
        return score

    search = find_sparsity(model, BATCHES, evaluate, max_drop=0.6, **QUICK)
    assert prune(expected, search.sparsity) == search.masks
    assert torch.equal(model[0].weight, expected[0].weight)


def test_evaluate_draws_the_same_in_each_trial():
    draws = []

    def evaluate(model):
        draws.append((torch.rand(1).item(), random.random(), np.random.rand()))
        return falling(model)

    find_sparsity(network(), BATCHES, evaluate, max_drop=0.6, **QUICK)
    assert len(set(draws)) == 1


def at_call(number, action):
    calls = []

    def evaluate(model):
        calls.append(1)
        return action() if len(calls) == number else falling(model)

    return evaluate


def interrupted():
    raise KeyboardInterrupt


def broken():
    raise ZeroDivisionError("in evaluate")


@pytest.mark.parametrize("call", [1, 2, 4])
@pytest.mark.parametrize(
    ("action", "error", "message"),
    [
        (broken, ZeroDivisionError, "in evaluate"),
        (interrupted, KeyboardInterrupt, None),
        (lambda: math.nan, ValueError, "evaluate returned nan"),
        (lambda: math.inf, ValueError, "evaluate returned inf"),
        (lambda: None, TypeError, "evaluate returned None: it must return one number"),
        (lambda: torch.ones(3), TypeError, r"evaluate returned a tensor of shape \(3,\)"),
        (lambda: "0.9", TypeError, "evaluate returned '0.9'"),
        (lambda: True, TypeError, "evaluate returned True"),
    ],
)
def test_whatever_fails_the_model_is_as_it_was(call, action, error, message):
    model = network()
    before = everything(model)
    with pytest.raises(error, match=message):
        find_sparsity(model, BATCHES, at_call(call, action), max_drop=0.6, **QUICK)
    assert everything(model) == before


def test_so_it_is_if_the_repair_fails_or_there_is_no_batch():
    model = network()
    before = everything(model)
    with pytest.raises(ValueError, match="gave no batch for calibration"):
        find_sparsity(model, [], falling, **QUICK)
    bad = [torch.full((4, 1, 6, 6), torch.nan)]
    with pytest.raises(ValueError, match="layer '1' gets values that are NaN"):
        find_sparsity(model, bad, falling, **QUICK | {"max_batches": 1})
    assert everything(model) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_drop": -0.1}, "max_drop=-0.1 must be a number of at least 0"),
        ({"max_drop": math.nan}, "max_drop=nan must be"),
        ({"max_drop": "1%"}, "max_drop='1%' must be"),
        ({"tolerance": 0}, r"tolerance=0 is outside \(0, 1\)"),
        ({"tolerance": 1}, r"tolerance=1 is outside \(0, 1\)"),
        ({"coarse": (0.5, 1.0)}, r"coarse=\(0.5, 1.0\) must hold sparsities in \(0, 1\)"),
        ({"criterion": "size"}, "criterion='size' is unknown"),
        ({"repair": "moment"}, "repair='moment' is unknown"),
        ({"include": "nothing"}, "include pattern 'nothing' matches no"),
    ],
)
def test_arguments_out_of_range_are_errors_before_anything_is_evaluated(arguments, message):
    def evaluate(model):
        raise AssertionError("too early")

    with pytest.raises(ValueError, match=message):
        find_sparsity(network(), BATCHES, evaluate, **QUICK | arguments)


def test_batches_that_can_be_read_only_once_are_refused():
    with pytest.raises(TypeError, match=r"batches is a list_iterator, .* pass a DataLoader or a list"):
        find_sparsity(network(), iter(BATCHES), falling, **QUICK)


def test_with_nothing_within_the_drop_the_model_stays_dense_and_a_warning_says_so():
    model = network()
    before = everything(model)
    with pytest.warns(UserWarning, match=r"no sparsity that was tried is within max_drop=0.001: .* 1.0000 dense"):
        search = find_sparsity(model, BATCHES, falling, max_drop=0.001, **QUICK)
    assert everything(model) == before
    assert (search.sparsity, search.score, search.masks.sparsity) == (0.0, 1.0, 0.0)
    assert len(search.trials) == 2 + math.ceil(math.log2(0.5 / 0.05))
    assert "nothing within the drop, the model is dense" in str(search)


def test_a_score_of_minus_infinity_is_only_too_low():
    search = find_sparsity(
        network(), BATCHES, lambda model: 1.0 if sparsity(model) < 0.8 else -math.inf, max_drop=0.1, **QUICK
    )
    assert 0.75 <= search.sparsity < 0.8


def test_a_score_may_be_a_tensor_of_one_element_and_of_any_unit():
    search = find_sparsity(
        network(), BATCHES, lambda model: torch.tensor([[100 * falling(model)]]), max_drop=60, **QUICK
    )
    assert 0.55 < search.sparsity <= 0.6


@pytest.mark.filterwarnings("ignore:sparsity=.*leaves no weight")
def test_all_that_is_asked_of_a_pruning_is_kept_to():
    model = network()
    how = {"allocation": "uniform", "exclude": "9.*", "criterion": "random"}
    search = find_sparsity(model, BATCHES, falling, max_drop=0.6, **QUICK, **how)
    assert bool((model[9].weight != 0).all())
    assert list(search.masks) == ["0.weight", "4.weight"]
    assert search.masks.sparsities["0.weight"] == pytest.approx(search.masks.sparsities["4.weight"], abs=0.02)


def test_with_a_pattern_nothing_below_its_sparsity_is_tried():
    model = nn.Sequential(nn.Linear(16, 16), nn.BatchNorm1d(16), nn.Linear(16, 8))
    batches = [torch.randn(16, 16)]
    search = find_sparsity(model, batches, falling, pattern="1:4", max_drop=0.8, **QUICK | {"max_batches": 1})
    assert min(search.trials).sparsity == 0.75
    assert 0.75 <= search.sparsity <= 0.8
    search.undo()
    with pytest.warns(UserWarning, match="no sparsity that was tried"):
        search = find_sparsity(model, batches, falling, pattern="1:4", max_drop=0.7, **QUICK | {"max_batches": 1})
    assert min(search.trials).sparsity == 0.75
    assert sparsity(model) == 0


def test_with_a_minimum_threshold_nothing_is_tried_that_it_rules_out():
    search = find_sparsity(network(), BATCHES, falling, min_kept=0.1, max_drop=1, **QUICK | {"tolerance": 0.01})
    kept = [int(mask.sum()) for mask in search.masks.values()]
    least = int(0.1 * selected_size(network()))
    assert all(count >= min(least, mask.numel()) for count, mask in zip(kept, search.masks.values(), strict=True))
    assert sum(kept) <= 1.1 * sum(min(least, mask.numel()) for mask in search.masks.values())


def test_the_table_tells_trials_in_order_and_what_was_found(caplog):
    with caplog.at_level(logging.INFO, logger="reflow_lightning.search"):
        search = find_sparsity(network(), BATCHES, falling, max_drop=0.6, **QUICK)
    lines = str(search).splitlines()
    assert lines[0].split() == ["sparsity", "score", "change", "within", "seconds"]
    assert [float(line.split()[0]) for line in lines[1:-1]] == sorted(round(t.sparsity, 4) for t in search.trials)
    assert lines[-1].startswith(f"found: sparsity {search.sparsity:.4f}, score {search.score:.4f}; dense 1.0000")
    assert len(caplog.messages) == len(search.trials)


def test_a_criterion_that_needs_data_gets_the_batches():
    model = network()
    batches = [(batch, torch.arange(len(batch)) % 3) for batch in BATCHES]
    search = find_sparsity(model, batches, falling, max_drop=0.6, criterion="wanda", **QUICK)
    assert sparsity(model) == pytest.approx(search.sparsity)
    assert search.masks == prune(network(), search.sparsity, criterion="wanda", batches=batches, max_batches=2)


def test_the_default_takes_a_dozen_trials_at_most():
    search = find_sparsity(network(), BATCHES, falling, max_drop=0.45, max_batches=1, progress=False)
    assert len(search.trials) <= len(COARSE) + 7
    assert 0.445 <= search.sparsity <= 0.45


# -- what is done once for all trials


def test_a_function_scores_each_weight_once():
    asked = []
    model = network()
    search = find_sparsity(
        model, BATCHES, falling, max_drop=0.6, criterion=lambda name, w: asked.append(name) or w.abs(), **QUICK
    )
    assert len(search.trials) > 2
    assert asked == list(search.masks)


@pytest.mark.parametrize(
    "spec", [{"criterion": "fisher"}, {"criterion": "woodfisher"}, {"criterion": "wanda"}, {"allocation": "entropy"}]
)
def test_data_are_read_once_for_criterion_and_allocation(spec, monkeypatch):
    estimated = []
    learn = choose_module._learned
    monkeypatch.setattr(choose_module, "_learned", lambda *args: estimated.append(1) or learn(*args))
    batches = [(images, torch.randint(3, (len(images),))) for images in BATCHES]
    search = find_sparsity(network(), batches, falling, max_drop=0.6, **spec, **QUICK)
    assert len(search.trials) > 2
    assert len(estimated) == 1


@pytest.mark.parametrize("criterion", ["fisher", "magnitude", "random", "woodfisher"])
def test_the_masks_are_those_of_pruning_the_dense_model(criterion):
    batches = [(images, torch.randint(3, (len(images),))) for images in BATCHES]
    search = find_sparsity(network(), batches, falling, max_drop=0.6, criterion=criterion, **QUICK)
    masks = prune(network(), search.sparsity, criterion=criterion, batches=batches, max_batches=QUICK["max_batches"])
    assert search.masks == masks


def test_a_criterion_that_draws_does_so_by_the_seed_in_several_prunings_too():
    def found(seed):
        torch.manual_seed(seed)
        model = network()
        criterion = lambda _, weight: torch.rand_like(weight)  # noqa: E731
        torch.manual_seed(seed)
        state = torch.get_rng_state()
        search = find_sparsity(model, BATCHES, lambda _: 1.0, criterion=criterion, steps=2, max_drop=0.1, **QUICK)
        assert torch.equal(torch.get_rng_state(), state)
        return search.masks

    assert found(1) == found(2)


# -- trials that are known


@pytest.mark.parametrize("stopped_at", range(1, 6))
@pytest.mark.parametrize("steps", [1, 2])
def test_a_search_that_was_stopped_goes_on_to_the_same_bits(stopped_at, steps):
    arguments = {"max_drop": 0.72, "criterion": "random", "steps": steps, **QUICK}
    whole, model, known = network(), network(), {}
    uninterrupted = find_sparsity(whole, BATCHES, falling, **arguments)
    scores = iter([falling] * stopped_at)
    with pytest.raises(StopIteration):
        find_sparsity(model, BATCHES, lambda model: next(scores)(model), known=known, **arguments)
    assert len(known) == stopped_at - 1  # the dense network's score is none of a trial
    evaluated, before = [], {trial.sparsity for trial in known.values()}
    again = find_sparsity(model, BATCHES, lambda model: evaluated.append(1) or falling(model), known=known, **arguments)
    made_again = again.sparsity in before  # what is found is measured in any case
    assert len(evaluated) == 1 + len(uninterrupted.trials) - len(before) + made_again
    assert [trial[:2] for trial in again.trials] == [trial[:2] for trial in uninterrupted.trials]
    assert again.masks == uninterrupted.masks
    assert everything(model)["values"] == everything(whole)["values"]


def test_with_all_trials_known_the_dense_network_and_what_is_found_are_evaluated():
    model, known = network(), {}
    found = find_sparsity(model, BATCHES, falling, max_drop=0.6, known=known, **QUICK)
    values = everything(model)["values"]
    found.undo()
    evaluated = []
    count = lambda model: evaluated.append(1) or falling(model)  # noqa: E731
    again = find_sparsity(model, BATCHES, count, max_drop=0.6, known=known, **QUICK)
    assert len(evaluated) == 2
    assert [trial[:2] for trial in again.trials] == [trial[:2] for trial in found.trials]
    assert everything(model)["values"] == values


def test_trials_of_another_model_are_made_again_with_a_warning():
    known = {}
    find_sparsity(network(), BATCHES, falling, max_drop=0.72, known=known, **QUICK)
    steeper = lambda model: 1 - 2 * sparsity(model)  # noqa: E731
    with pytest.warns(UserWarning, match="known holds trials of another model or other arguments: all are made again"):
        found = find_sparsity(network(), BATCHES, steeper, max_drop=0.72, known=known, **QUICK)
    alone = find_sparsity(network(), BATCHES, steeper, max_drop=0.72, **QUICK)
    assert found.sparsity <= 0.36
    assert [trial[:2] for trial in found.trials] == [trial[:2] for trial in alone.trials]
