"""What was done in processes that Lightning started is known in the main process."""

import copy
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from torch import nn

from reflow_lightning import OneShot, Reflow, prune
from reflow_lightning.callbacks import home
from reflow_lightning.events.binding import BoundMasks

SCRIPT = """
import sys
import warnings
import lightning.pytorch as pl
import torch
from helpers import Module, loader, trainer
from reflow_lightning import Gradual, Reflow

if __name__ == "__main__":
    warnings.simplefilter("ignore")
    module, reflow = Module(), Reflow(0.5, schedule=Gradual(every_n_steps=2), repair="none", monitor=False)
    trainer(reflow, strategy=sys.argv[1], devices=int(sys.argv[2])).fit(module, loader())
    masks = {name: mask for name, mask in (reflow.masks or {}).items()}
    zero = all(bool((module.get_parameter(name)[~mask] == 0).all()) for name, mask in masks.items())
    trainer(reflow).fit(module, loader())
    still = all(bool((module.get_parameter(name)[~mask] == 0).all()) for name, mask in masks.items())
    known = round(reflow.masks.sparsity, 2), reflow.completed, len(reflow.events) > 1
    print("RESULT", sorted(masks), *known, zero, still)
"""


@pytest.mark.distributed
@pytest.mark.parametrize(("strategy", "devices"), [("ddp_spawn", 1), ("ddp_fork", 1), ("ddp_spawn", 2)])
def test_masks_events_and_completion_come_home(strategy, devices, tmp_path):
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    tests = Path(__file__).parent.parent
    paths = os.pathsep.join([str(tests), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}  # a fork of threads may wait for ever
    command = [sys.executable, str(script), strategy, str(devices)]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    [result] = [line for line in done.stdout.splitlines() if line.startswith("RESULT")] or [done.stderr[-2000:]]
    assert result == "RESULT ['net.0.weight', 'net.4.weight', 'net.9.weight'] 0.5 True True True True"


def test_a_letter_is_delivered_to_the_callback_that_was_copied():
    here, other = Reflow(0.5), Reflow(0.5)
    there = pickle.loads(pickle.dumps(here))  # as a process that is spawned gets it
    there.load_state_dict({"masks": None, "last": {"step": 3, "epoch": 1, "fraction": None}, "rounds": None})
    pickle.loads(pickle.dumps(home._Letter(there._home, (there.state_dict(), []))))
    assert here.completed
    assert not other.completed


def test_a_letter_to_a_callback_that_is_gone_is_thrown_away():
    pickle.loads(pickle.dumps(home._Letter(-1, None)))


def test_copies_are_callbacks_of_their_own():
    first = Reflow(0.5, schedule=OneShot(step=3))
    second = copy.deepcopy(first)
    assert home._LIVE[id(second)] is second
    assert repr(second) == repr(first)


def test_masks_that_came_home_are_of_the_module_that_has_their_zeros():
    trained, other = nn.Linear(4, 4), nn.Linear(4, 4)
    masks = prune(trained, 0.5)
    for model, is_theirs in ((trained, True), (other, False), (nn.Linear(4, 3), False)):
        bound = BoundMasks()
        bound.bring(masks)
        assert bound.adopt(model) is is_theirs
        assert (bound.masks is masks) is is_theirs
