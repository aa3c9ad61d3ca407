"""The signal restored. Plain PyTorch, for any training loop."""

from reflow_lightning.calibration.align import Align
from reflow_lightning.calibration.auto import Auto, ThenBatchNorm
from reflow_lightning.calibration.best import Best
from reflow_lightning.calibration.calibrate import (
    AnyRepair,
    calibrate,
    register_repair,
    resolve_repair,
    within,
)
from reflow_lightning.calibration.drift.check import DriftReport, check_drift, warn_of_drift
from reflow_lightning.calibration.in_turn import InTurn
from reflow_lightning.calibration.matching import Target
from reflow_lightning.calibration.moments import Moments, batchnorm_targets
from reflow_lightning.calibration.recipes import Recipe
from reflow_lightning.calibration.reconstruct import Reconstruct
from reflow_lightning.calibration.reflow import BatchNormStatistics, NoRepair
from reflow_lightning.calibration.repair import Calibration, Repair, needs_reference
from reflow_lightning.calibration.reselect import Reselect
from reflow_lightning.layers.affine import AffineMap, Stage
from reflow_lightning.layers.layer import Layer, NotSupportedError
from reflow_lightning.layers.registry import layer_of
from reflow_lightning.running.hooks import Call
from reflow_lightning.running.snapshot import Snapshot

__all__ = [
    "AffineMap",
    "Align",
    "AnyRepair",
    "Auto",
    "BatchNormStatistics",
    "Best",
    "Calibration",
    "Call",
    "DriftReport",
    "InTurn",
    "Layer",
    "Moments",
    "NoRepair",
    "NotSupportedError",
    "Recipe",
    "Reconstruct",
    "Repair",
    "Reselect",
    "Snapshot",
    "Stage",
    "Target",
    "ThenBatchNorm",
    "batchnorm_targets",
    "calibrate",
    "check_drift",
    "layer_of",
    "needs_reference",
    "register_repair",
    "resolve_repair",
    "warn_of_drift",
    "within",
]
