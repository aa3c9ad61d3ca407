"""The states of a network as runs of their own in TensorBoard."""

import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from reflow_lightning import measure_signal, prune
from reflow_lightning.callbacks.state_runs import WEAKEST, add_level, log_states, state_run


def signal_of():
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    batches = [torch.randn(32, 8)]
    dense = measure_signal(model, batches, max_batches=1)
    prune(model, 0.5)
    return {"dense": dense, "pruned": measure_signal(model, batches, max_batches=1)}


def steps(folder, name):
    found = EventAccumulator(str(folder))
    found.Reload()
    return [event.step for event in found.Scalars(name)]


def test_nothing_of_a_new_run_is_purged_though_its_files_are_read_in_another_order(tmp_path):
    """Files of one second are read in the order of their names, and 10 stands before 9."""
    logger = TensorBoardLogger(tmp_path, name="", version="")
    log_states([logger], signal_of(), [], step=3)
    with state_run(logger, "pruned") as writer:
        add_level(writer, "states/accuracy", 0.5, 7)
    *_, last = sorted((tmp_path / "pruned").iterdir())
    last.rename(last.with_name("events.out.tfevents.0"))
    assert steps(tmp_path / "pruned", "states/accuracy") == [7, 8]


def test_what_a_run_that_is_resumed_wrote_of_later_steps_is_purged(tmp_path):
    for step in (9, 3):
        logger = TensorBoardLogger(tmp_path, name="", version="")
        log_states([logger], signal_of(), [], step=step)
        for file in (tmp_path / "pruned").iterdir():
            file.rename(file.with_name(file.name.replace("tfevents.1", f"tfevents.{9 - step}1")))
    assert steps(tmp_path / "pruned", WEAKEST) == pytest.approx([3, 4])
