"""The signal measured. Plain PyTorch."""

from reflow_lightning.signal.cka import LinearCKA
from reflow_lightning.signal.classes import ClassShare
from reflow_lightning.signal.cosine import CenteredCosine
from reflow_lightning.signal.entropy import EntropyReport, measure_entropy
from reflow_lightning.signal.heatmap import VarianceHistory, plot_heatmap
from reflow_lightning.signal.histogram import Histogram, ValueCounts, plot_histograms, value_counts
from reflow_lightning.signal.layer_entropy import LayerEntropy
from reflow_lightning.signal.measure import measure_signal
from reflow_lightning.signal.neurons import (
    NeuronCounts,
    NeuronStates,
    Signs,
    layer_entropy,
    neuron_entropy,
    neuron_states,
)
from reflow_lightning.signal.profile_plot import plot_profiles
from reflow_lightning.signal.quality import plot_quality, strong_but_wrong
from reflow_lightning.signal.rectifiers import Rectified, watching_rectifiers
from reflow_lightning.signal.report import LayerSignal, SignalReport
from reflow_lightning.signal.statistic import Statistic
from reflow_lightning.signal.statistics import DeadChannels, Moments

__all__ = [
    "CenteredCosine",
    "ClassShare",
    "DeadChannels",
    "EntropyReport",
    "Histogram",
    "LayerEntropy",
    "LayerSignal",
    "LinearCKA",
    "Moments",
    "NeuronCounts",
    "NeuronStates",
    "Rectified",
    "SignalReport",
    "Signs",
    "Statistic",
    "ValueCounts",
    "VarianceHistory",
    "layer_entropy",
    "measure_entropy",
    "measure_signal",
    "neuron_entropy",
    "neuron_states",
    "plot_heatmap",
    "plot_histograms",
    "plot_profiles",
    "plot_quality",
    "strong_but_wrong",
    "value_counts",
    "watching_rectifiers",
]
