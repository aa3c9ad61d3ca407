"""The Lightning callbacks, and what they ask of the Trainer."""

from reflow_lightning.callbacks.monitor import SignalMonitor
from reflow_lightning.callbacks.reflow import Reflow

__all__ = ["Reflow", "SignalMonitor"]
