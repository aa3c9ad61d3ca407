import copy

import pytest
import torch
from helpers import images, zeros
from zoo.convolutional import small_net

from reflow_lightning.calibration import BatchNormStatistics
from reflow_lightning.events.event import prune_and_repair
from reflow_lightning.events.plan import Plan
from reflow_lightning.pruning import PruneSpec
from reflow_lightning.running.forward import default_forward
from reflow_lightning.signal import measurement

BATCHES = list(images(32).split(16))


def plan(**options):
    return Plan(
        PruneSpec(), **{"repair": "auto", "batches": lambda: BATCHES, "forward": default_forward, "limit": 2} | options
    )


@pytest.mark.parametrize("failing", ["dense", "pruned", "repaired", "repair"])
def test_a_failure_at_any_point_leaves_the_model_as_it_was(failing):
    model = small_net()
    before = copy.deepcopy(model.state_dict())

    def listener(stage, _):
        if stage == failing:
            raise RuntimeError(stage)

    def repair(*arguments):
        if failing == "repair":
            raise RuntimeError("repair")
        return BatchNormStatistics()(*arguments)

    with pytest.raises(RuntimeError, match=failing):
        prune_and_repair(model, 0.5, plan(repair=repair, listeners=[listener]))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_what_finishes_the_event_belongs_to_it():
    model = small_net()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ZeroDivisionError):
        prune_and_repair(model, 0.5, plan(finish=lambda masks: 1 / 0))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_averaged_weights_are_pruned_and_repaired_too():
    model, average = small_net(), small_net()
    _, masks = prune_and_repair(model, 0.5, plan(averages=[average]))
    assert all(not average.get_parameter(name)[~mask].any() for name, mask in masks.items())
    assert average[1].num_batches_tracked == 2


def test_a_failing_repair_of_the_average_leaves_both_as_they_were():
    model, average = small_net(), small_net()
    before = copy.deepcopy([model.state_dict(), average.state_dict()])
    average[4].register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        prune_and_repair(model, 0.5, plan(averages=[average]))
    for saved, network in zip(before, (model, average), strict=True):
        assert all(torch.equal(saved[name], value) for name, value in network.state_dict().items())


def test_the_stages_come_in_order():
    model = small_net()
    seen = []

    def listener(stage, network):
        seen.append((stage, zeros(network) > 0, bool(network[1].num_batches_tracked)))

    event, masks = prune_and_repair(model, 0.5, plan(step=7, listeners=[listener]))
    assert seen == [("dense", False, False), ("pruned", True, False), ("repaired", True, True)]
    assert event.step == 7
    assert event.sparsity == masks.sparsity
    assert set(event.seconds) == {"prune", "repair", "total"}
    assert event.seconds["total"] > event.seconds["prune"] + event.seconds["repair"]


@pytest.mark.parametrize("stage", ["dense", "pruned"])
def test_an_event_that_cannot_measure_still_prunes_and_repairs(stage, monkeypatch):
    model, passes = small_net(), []

    def fails(*_):
        passes.append(1)
        raise ValueError("too odd")

    def listener(now, _):
        if now == stage:
            monkeypatch.setattr(measurement, "read", fails)

    if stage == "dense":
        monkeypatch.setattr(measurement, "read", fails)
    with pytest.warns(UserWarning, match="can't be measured|not measured") as caught:
        event, masks = prune_and_repair(model, 0.5, plan(profile=1, listeners=[listener]))
    assert zeros(model) == sum(int((~mask).sum()) for mask in masks.values()) > 0
    assert set(event.calibration.repaired) == {"1", "5", "9"}
    assert set(event.signal) == (set() if stage == "dense" else {"dense", "pruned"})
    assert len([w for w in caught if "can't be measured" in str(w.message)]) == 1
