import copy

import pytest
import torch
from helpers import images, small_net, zeros

from reflow_lightning import calibrate
from reflow_lightning.event import prune_and_repair
from reflow_lightning.pruning import make_masks

BATCHES = list(images(32).split(16))


@pytest.mark.parametrize("failing", ["dense", "pruned", "repaired", "repair"])
def test_a_failure_at_any_point_leaves_the_model_as_it_was(failing):
    model = small_net()
    before = copy.deepcopy(model.state_dict())

    def reached(stage):
        if stage == failing:
            raise RuntimeError(stage)

    def repair():
        if failing == "repair":
            raise RuntimeError("repair")
        return calibrate(model, BATCHES, max_batches=2)

    with pytest.raises(RuntimeError, match=failing):
        prune_and_repair(model, lambda: make_masks(model, 0.5), repair, reached)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_the_stages_come_in_order():
    model = small_net()
    seen = []
    event, masks = prune_and_repair(
        model,
        lambda: make_masks(model, 0.5),
        lambda: calibrate(model, BATCHES, max_batches=2),
        lambda stage: seen.append((stage, zeros(model) > 0, bool(model[1].num_batches_tracked))),
        step=7,
    )
    assert seen == [("dense", False, False), ("pruned", True, False), ("repaired", True, True)]
    assert event.step == 7
    assert event.sparsity == masks.sparsity
    assert set(event.seconds) == {"prune", "repair"}
