"""Layers that pruning has made linear. Plain PyTorch."""

from reflow_lightning.depth.budget import EntropyBudget, EntropyShares
from reflow_lightning.depth.collapse import collapse
from reflow_lightning.depth.entropy import EntropyReport, measure_entropy
from reflow_lightning.depth.report import CollapseReport, collapse_report
from reflow_lightning.signal.layer_entropy import LayerEntropy
from reflow_lightning.signal.neurons import NeuronCounts, NeuronStates, layer_entropy, neuron_entropy, neuron_states
from reflow_lightning.signal.rectifiers import Rectified, watching_rectifiers

__all__ = [
    "CollapseReport",
    "EntropyBudget",
    "EntropyReport",
    "EntropyShares",
    "LayerEntropy",
    "NeuronCounts",
    "NeuronStates",
    "Rectified",
    "collapse",
    "collapse_report",
    "layer_entropy",
    "measure_entropy",
    "neuron_entropy",
    "neuron_states",
    "watching_rectifiers",
]
