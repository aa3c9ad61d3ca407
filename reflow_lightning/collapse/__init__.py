"""What pruning has made dead or linear, removed exactly. Plain PyTorch."""

from reflow_lightning.collapse.collapsing import collapse
from reflow_lightning.collapse.graph.tracing import NotTraceableError
from reflow_lightning.collapse.report import CollapseReport, collapse_report

__all__ = ["CollapseReport", "NotTraceableError", "collapse", "collapse_report"]
