"""HAR-2: of UCI HAR's six activities the even against the odd ones, as in *FastGRNN* (arXiv 1901.02358)."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from reflow_lightning.experiments.data.har_files import download, open_reader, read_split
from reflow_lightning.experiments.data.signals import JitteredSignals
from reflow_lightning.experiments.data.splits import SplitDataModule, hold_out, hold_out_groups

Task = Literal["har2", "activities"]
Validation = Literal["subjects", "windows"]
_TASKS: dict[str, list[int]] = {  # class of the activities 1 to 6
    "har2": [0, 1, 0, 1, 0, 1],  # upstairs, sitting, laying against walking, downstairs, standing
    "activities": [0, 1, 2, 3, 4, 5],
}


class HAR2DataModule(SplitDataModule):
    """Windows of 128 steps x 9 channels; the official split by subject, validation held out of its training part.

    Every one of the 1,152 values of a window is normalised by its mean and standard deviation over the training
    windows, as in the code of the FastGRNN authors. The training transform turns each window a little, as a phone sits
    differently on each body, and adds noise; without it the network learns the training subjects by heart.

    Args:
        folder: Holds the data; see `har_files.open_reader`. Downloaded to there when absent.
        task: ``"har2"``: activities {2, 4, 6} against {1, 3, 5}; ``"activities"``: all six.
        validation: Hold out whole ``"subjects"``, as the test set does, or ``"windows"`` of every subject.
        val_share: Share of the training subjects, or of the windows of each class, that is held out.
        rotation: Standard deviation of the random rotation about each axis, in radians.
        noise: Standard deviation of the noise, in units of the normalised values.
        batch_size: Windows a batch.
        calibration_batch_size: Windows a calibration batch.
        num_workers: Processes that load the data.
        seed: Seed of the validation split.
    """

    def __init__(
        self,
        folder: str | Path,
        task: Task = "har2",
        validation: Validation = "subjects",
        val_share: float = 0.2,
        rotation: float = 0.0,
        noise: float = 0.0,
        batch_size: int = 100,
        calibration_batch_size: int = 128,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, calibration_batch_size, num_workers)
        if task not in _TASKS:
            raise ValueError(f"task={task!r} is unknown: use one of {sorted(_TASKS)}")
        if validation not in ("subjects", "windows"):
            raise ValueError(f"validation={validation!r} must be 'subjects' or 'windows'")
        self.folder = Path(folder)
        self.task = task
        self.validation = validation
        self.val_share = val_share
        self.rotation, self.noise = rotation, noise
        self.seed = seed

    def prepare_data(self) -> None:
        """Download the data if they are not there."""
        try:
            open_reader(self.folder)
        except FileNotFoundError:
            download(self.folder)

    def setup(self, stage: str | None = None) -> None:
        """Read, split and normalise the data."""
        if self.splits:
            return
        read = open_reader(self.folder)
        windows, activities, subjects = read_split(read, "train")
        test_windows, test_activities, _ = read_split(read, "test")
        classes, test_classes = self._classes(activities), self._classes(test_activities)
        by_subject = self.validation == "subjects"
        train, val = (hold_out_groups if by_subject else hold_out)(
            subjects if by_subject else classes, self.val_share, self.seed
        )
        mean, std = windows[train].mean(0), windows[train].std(0)
        std = torch.where(std < 1e-6, 1.0, std)
        train_set = JitteredSignals(windows[train], classes[train], mean, std, self.rotation, self.noise)
        self.splits = {
            "train": train_set,
            "calibration": train_set,
            "val": TensorDataset((windows[val] - mean) / std, classes[val]),
            "test": TensorDataset((test_windows - mean) / std, test_classes),
        }

    def _classes(self, activities: Tensor) -> Tensor:
        if odd := sorted(set(activities.tolist()) - set(range(1, 7))):
            raise ValueError(f"activities must be 1 to 6, there are {odd[:5]}: the data in {self.folder} are damaged")
        return torch.tensor(_TASKS[self.task])[activities - 1]
