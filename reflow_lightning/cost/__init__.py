"""What a network costs: multiply-adds, parameters, latency, memory, and files that run elsewhere. Plain PyTorch."""

from reflow_lightning.cost.comparison import Comparison, compare
from reflow_lightning.cost.cost import measure_cost
from reflow_lightning.cost.export import check_onnx, export_onnx, save_program
from reflow_lightning.cost.latency import measure_latency, paired_latency
from reflow_lightning.cost.memory import measure_memory
from reflow_lightning.cost.sparse_file import load_sparse, save_sparse
from reflow_lightning.cost.sparse_network import sparse_linear
from reflow_lightning.cost.sparse_speeds import sparse_report

__all__ = [
    "Comparison",
    "check_onnx",
    "compare",
    "export_onnx",
    "load_sparse",
    "measure_cost",
    "measure_latency",
    "measure_memory",
    "paired_latency",
    "save_program",
    "save_sparse",
    "sparse_linear",
    "sparse_report",
]
