"""The signal measured. Plain PyTorch, but for `monitor`."""

from reflow_lightning.signal.measure import measure_signal
from reflow_lightning.signal.report import LayerSignal, SignalReport, plot_profiles
from reflow_lightning.signal.statistics import CenteredCosine, DeadChannels, Moments

__all__ = [
    "CenteredCosine",
    "DeadChannels",
    "LayerSignal",
    "Moments",
    "SignalReport",
    "measure_signal",
    "plot_profiles",
]
