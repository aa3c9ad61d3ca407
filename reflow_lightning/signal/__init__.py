"""The signal measured. Plain PyTorch, but for `monitor`."""

from reflow_lightning.signal.cka import LinearCKA
from reflow_lightning.signal.classes import ClassShare
from reflow_lightning.signal.cosine import CenteredCosine
from reflow_lightning.signal.layer_entropy import LayerEntropy
from reflow_lightning.signal.measure import measure_signal
from reflow_lightning.signal.quality import plot_quality, strong_but_wrong
from reflow_lightning.signal.report import LayerSignal, SignalReport, plot_profiles
from reflow_lightning.signal.signs import Signs
from reflow_lightning.signal.statistics import DeadChannels, Moments

__all__ = [
    "CenteredCosine",
    "ClassShare",
    "DeadChannels",
    "LayerEntropy",
    "LayerSignal",
    "LinearCKA",
    "Moments",
    "SignalReport",
    "Signs",
    "measure_signal",
    "plot_profiles",
    "plot_quality",
    "strong_but_wrong",
]
