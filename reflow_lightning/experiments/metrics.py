"""What an evaluation logged, by name, and whether that is what was asked for."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import lightning.pytorch as pl

_SPLITS = {"val": "validation", "test": "test"}


def validated(tester: pl.Trainer, module: pl.LightningModule, data: pl.LightningDataModule) -> dict[str, float]:
    """Validate a module: all that it logs, by name; see `logged`."""
    return logged(tester, tester.validate(module, datamodule=data, verbose=False))


def tested(tester: pl.Trainer, module: pl.LightningModule, data: pl.LightningDataModule) -> dict[str, float]:
    """Test a module: all that it logs, by name; see `logged`."""
    return logged(tester, tester.test(module, datamodule=data, verbose=False))


def logged(tester: pl.Trainer, results: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """What an evaluation logged: of all its loaders, and also what went to no logger or was logged at each step, too.

    Args:
        tester: The trainer that ran it.
        results: What it returned, a mapping for each loader.
    """
    found = {name: value for result in results for name, value in result.items()}
    return found | {name: float(value) for name, value in tester.callback_metrics.items() if name not in found}


def check_metric(metric: str, split: str, names: Collection[str]) -> None:
    """Check that a metric is among what a split logs.

    Args:
        metric: The name of the metric, without the prefix of the split.
        split: ``"val"`` or ``"test"``.
        names: The names of what was logged.

    Raises:
        ValueError: If it is not.

    Example:
        >>> check_metric("f1", "test", ["test/loss", "test/accuracy"])
        Traceback (most recent call last):
        ValueError: metric=f1 is not among what the test logs: loss, accuracy
    """
    if f"{split}/{metric}" not in names:
        known = ", ".join(name.removeprefix(f"{split}/") for name in names) or "nothing"
        raise ValueError(f"metric={metric} is not among what the {_SPLITS[split]} logs: {known}")


def check_monitor(name: str, monitor: str, names: Collection[str]) -> None:
    """Check that a monitor is among what the validation logs, if its name says that it is of the validation.

    Trainings and callbacks log, too, so that nothing is said of other names.

    Args:
        name: Where the configuration has it.
        monitor: The metric.
        names: The names of what the validation logged.

    Raises:
        ValueError: If it is not.

    Example:
        >>> check_monitor("monitor", "train/loss", ["val/loss", "val/accuracy"])
        >>> check_monitor("monitor", "val/acc", ["val/loss", "val/accuracy"])
        Traceback (most recent call last):
        ValueError: monitor=val/acc is not among what the validation logs: val/loss, val/accuracy
    """
    if monitor not in names and monitor.startswith("val") and any(other.startswith("val") for other in names):
        raise ValueError(f"{name}={monitor} is not among what the validation logs: {', '.join(names)}")
