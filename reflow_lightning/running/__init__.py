"""Running a model on batches and leaving no trace. Plain PyTorch, used by calibration and signal alike."""
