"""Layers that pruning has made dead or linear: found, steered towards, and removed. Plain PyTorch."""

from reflow_lightning.depth.budget import EntropyBudget, EntropyShares
from reflow_lightning.depth.collapse import collapse
from reflow_lightning.depth.comparison import Comparison, compare
from reflow_lightning.depth.cost import measure_cost
from reflow_lightning.depth.entropy import EntropyReport, measure_entropy
from reflow_lightning.depth.export import check_onnx, export_onnx, save_program
from reflow_lightning.depth.latency import measure_latency, paired_latency
from reflow_lightning.depth.memory import measure_memory
from reflow_lightning.depth.report import CollapseReport, collapse_report
from reflow_lightning.depth.tracing import NotTraceableError
from reflow_lightning.signal.layer_entropy import LayerEntropy
from reflow_lightning.signal.neurons import NeuronCounts, NeuronStates, layer_entropy, neuron_entropy, neuron_states
from reflow_lightning.signal.rectifiers import Rectified, watching_rectifiers

__all__ = [
    "CollapseReport",
    "Comparison",
    "EntropyBudget",
    "EntropyReport",
    "EntropyShares",
    "LayerEntropy",
    "NeuronCounts",
    "NeuronStates",
    "NotTraceableError",
    "Rectified",
    "check_onnx",
    "collapse",
    "collapse_report",
    "compare",
    "export_onnx",
    "layer_entropy",
    "measure_cost",
    "measure_entropy",
    "measure_latency",
    "measure_memory",
    "neuron_entropy",
    "neuron_states",
    "paired_latency",
    "save_program",
    "watching_rectifiers",
]
