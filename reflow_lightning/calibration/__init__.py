"""The signal restored. Plain PyTorch, for any training loop."""

from reflow_lightning.calibration.calibrate import Calibration, Repair, calibrate, resolve_repair

__all__ = ["Calibration", "Repair", "calibrate", "resolve_repair"]
