"""The end of an experiment with ``collapse=true``: the network without what pruning has made dead or linear."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from omegaconf import DictConfig
from torch import Tensor, nn

from reflow_lightning.collapse import collapse, collapse_report
from reflow_lightning.cost.comparison import compare
from reflow_lightning.cost.export import check_onnx, export_onnx, save_program
from reflow_lightning.experiments.inputs import calibration_loader, first_test_input
from reflow_lightning.experiments.metrics import tested
from reflow_lightning.experiments.results import describe_error
from reflow_lightning.running.fresh import fresh
from reflow_lightning.running.processes import together
from reflow_lightning.running.samples import map_samples

PROGRAM, ONNX = "collapsed.pt2", "collapsed.onnx"
SAMPLES = 16
"""How many test samples the networks are compared and timed on, at most."""


def collapse_network(
    cfg: DictConfig, tester: pl.Trainer, module: pl.LightningModule, data: pl.LightningDataModule, folder: Path
) -> tuple[dict[str, Any], str]:
    """Collapse the network as it is, test and compare the smaller one, and write it; the module stays as it is.

    A network that can't be collapsed or compared, or not be written as a file, is no error: the report says why.
    Where processes run together, all must call it; only the first writes.

    Args:
        cfg: The configuration.
        tester: Runs the test.
        module: Its ``net`` is collapsed; without one, the module itself, and then it is not tested.
        data: Gives calibration and test data.
        folder: Where ``collapsed.pt2`` and ``collapsed.onnx`` go.

    Returns:
        What goes into ``report.json``, and tables to print; on all processes but the first, nothing to print.
    """
    device = tester.strategy.root_device
    net: nn.Module = getattr(module, "net", module).to(device)
    try:
        (example,) = map_samples(lambda tensor: tensor[:SAMPLES], (first_test_input(data, device),))
        with together("collapse"):
            batches = fresh(calibration_loader(data), shuffle=True, seed=int(cfg.seed))  # the same in all processes
            collapsed = collapse(net, example, batches=batches)
        metric = _test(cfg, tester, module, collapsed, data)
        net.to(device), collapsed.to(device)  # the test leaves what it tested on the CPU
        with together("comparing the collapsed network"):
            if not tester.is_global_zero:
                return {}, ""
            report, comparison = collapse_report(collapsed), compare(net, collapsed, example)
            files, notes = _write(collapsed, example, folder)
    except Exception as error:
        return {"error": describe_error(error)}, f"not collapsed: {describe_error(error)}"
    section = {
        **report.to_dict(),
        "comparison": comparison.to_dict(),
        str(cfg.metric): metric,
        **files,
    }
    tested = "" if metric is None else f"{cfg.metric} of the collapsed network: {metric:.4f}"
    return section, "\n\n".join(filter(None, (str(report), str(comparison), "\n".join([tested, *notes]).strip())))


def _test(
    cfg: DictConfig, tester: pl.Trainer, module: pl.LightningModule, net: nn.Module, data: pl.LightningDataModule
) -> float | None:
    """The metric with another network in the module."""
    if not hasattr(module, "net"):
        return None
    before = module.net
    module.net = net
    try:
        return tested(tester, module, data)[f"test/{cfg.metric}"]
    finally:
        module.net = before


def _write(net: nn.Module, example: Tensor, folder: Path) -> tuple[dict[str, Any], list[str]]:
    """Write the files; what could not be written is ``None``, and a note says why."""
    files: dict[str, Any] = {"program": None, "onnx": None}
    notes = []
    for name in (PROGRAM, ONNX):  # of an earlier run in this folder
        (folder / name).unlink(missing_ok=True)
    try:
        save_program(net, example, folder / PROGRAM)
        files["program"] = {"file": PROGRAM}
    except Exception as error:
        notes.append(f"no {PROGRAM}: {describe_error(error)}")
    try:
        export_onnx(net, example, folder / ONNX)
        files["onnx"] = {"file": ONNX, "largest_difference": check_onnx(net, example, folder / ONNX)}
    except Exception as error:
        (folder / ONNX).unlink(missing_ok=True)
        notes.append(f"no {ONNX}: {error if isinstance(error, ImportError) else describe_error(error)}")
    return files, notes
