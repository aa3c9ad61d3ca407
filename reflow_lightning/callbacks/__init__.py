"""The Lightning callbacks, what they ask of the Trainer, and a strategy that suits them."""

from reflow_lightning.callbacks.consolidating import consolidate
from reflow_lightning.callbacks.fully_shard import FullyShard
from reflow_lightning.callbacks.monitor import SignalMonitor
from reflow_lightning.callbacks.reflow import Reflow

__all__ = ["FullyShard", "Reflow", "SignalMonitor", "consolidate"]
