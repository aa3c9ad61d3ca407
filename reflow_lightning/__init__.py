"""Prune a PyTorch network in one line of Lightning, and bring its signal back without touching a weight."""

from reflow_lightning.calibration import calibrate
from reflow_lightning.callbacks.monitor import SignalMonitor
from reflow_lightning.callbacks.reflow import Reflow
from reflow_lightning.collapse import collapse
from reflow_lightning.events.pruner import Pruner
from reflow_lightning.pruning import Masks, prune
from reflow_lightning.schedules import Gradual, Iterative, OneShot
from reflow_lightning.search import find_sparsity
from reflow_lightning.signal import measure_signal

__all__ = [
    "Gradual",
    "Iterative",
    "Masks",
    "OneShot",
    "Pruner",
    "Reflow",
    "SignalMonitor",
    "calibrate",
    "collapse",
    "find_sparsity",
    "measure_signal",
    "prune",
]
