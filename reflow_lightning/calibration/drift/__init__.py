"""Do calibration batches look like the training data?"""

from reflow_lightning.calibration.drift.check import DriftReport, check_drift, is_trained, warn_of_drift

__all__ = ["DriftReport", "check_drift", "is_trained", "warn_of_drift"]
