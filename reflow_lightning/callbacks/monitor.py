"""SignalMonitor: curves of the signal in any Lightning training."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl
import torch

from reflow_lightning.callbacks.curves import FEW, Curves, check_curves
from reflow_lightning.callbacks.logs import log_metrics, of_layers
from reflow_lightning.callbacks.pictures import log_picture
from reflow_lightning.callbacks.steps import Steps
from reflow_lightning.callbacks.strategies import enter_world
from reflow_lightning.callbacks.trainer import forward_in_precision
from reflow_lightning.callbacks.trying import forward_that_works
from reflow_lightning.layers import Order
from reflow_lightning.running.as_forward import AnyForward, as_forward
from reflow_lightning.running.compat.lightning import callbacks_checked, logged_step, state_key
from reflow_lightning.running.describing import as_call
from reflow_lightning.running.forward import Forward
from reflow_lightning.running.generators import generators_in
from reflow_lightning.running.isolation import isolated_rng, only_training
from reflow_lightning.running.names import Patterns, as_patterns
from reflow_lightning.running.own import own
from reflow_lightning.running.processes import PeerEndedError, gather, warn
from reflow_lightning.running.world import rejoin
from reflow_lightning.signal.heatmap import VarianceHistory, plot_heatmap
from reflow_lightning.signal.leaving import NothingToMeasureError
from reflow_lightning.signal.measure import learn_order, measure_signal
from reflow_lightning.signal.metrics import ALONE, check_metrics
from reflow_lightning.signal.report import SignalReport, values_of

HEATMAP = "activations/over_training"
"""What the picture of all layers over the training is called."""


class SignalMonitor(pl.Callback):
    """Log ``variance/<layer>`` and other curves of some layers' outputs in eval mode, as the training goes on.

    At the end of the training, and at each prune event of `Reflow`, loggers that show pictures get a heat map of the
    variance of all layers over the training. A CSV file gets the curves of all layers.

    Every ``every_n_steps`` steps it runs the network once more on the batch just trained on, in eval mode, since that
    is where collapse shows: in train mode BatchNorm hides it. Parameters, BatchNorm's statistics, modes, random state
    and the batch are left alone, so that the training is the same with and without it; until then it keeps a copy of
    such a batch. A layer that can't be measured is named once and left out. If the first forward pass fails, that is an
    error; a later one that fails is told once.

    Args:
        every_n_steps: Optimizer steps between two measurements; the first comes after the first step.
        metrics: Fields of `LayerSignal` that need no reference; each is logged as ``<metric>/<layer>``. Nothing else is
            computed: ``("variance",)`` costs hardly more than the forward pass. ``class_share`` takes batches with
            labels, and each value comes from a single batch: compare it over time rather than with 0.
            ``rectifier_entropy`` and ``rectifier_saturated`` are fields of `LayerEntropy`, logged for every weighted
            layer whose output enters a rectifier; ``layers`` does not choose among them.
        layers: Which layers are measured, as glob patterns on module names. Default: BatchNorm layers, and weighted
            layers that none follows.
        curves: Which of them have curves: so many, evenly spaced from input to output, or patterns; ``"*"`` for all.
        forward: ``(module, batch) -> anything`` for batches that the default does not understand.

    Example:
        >>> trainer = pl.Trainer(callbacks=[SignalMonitor(every_n_steps=100)], logger=False, accelerator="cpu")
    """

    def __init__(
        self,
        every_n_steps: int = 50,
        *,
        metrics: Sequence[str] = (
            "variance",
            "dead",
            "saturated",
            "entropy",
            "class_share",
            "rectifier_entropy",
            "rectifier_saturated",
        ),
        layers: Patterns | None = None,
        curves: Curves = FEW,
        forward: AnyForward | None = None,
    ) -> None:
        if isinstance(every_n_steps, bool) or not isinstance(every_n_steps, int) or every_n_steps < 1:
            raise ValueError(f"every_n_steps={every_n_steps!r} must be a whole number of at least 1")
        as_forward(forward)
        self.every_n_steps = every_n_steps
        self.metrics = check_metrics(metrics, ALONE)
        self.layers = None if layers is None else as_patterns(layers)
        self.curves = check_curves(curves)
        self.forward = forward
        self.history = VarianceHistory()
        self._before: dict[str, Any] | None = None  # the history in the checkpoint that the next training resumes
        self._module: weakref.ref[pl.LightningModule] | None = None  # the one that the history shows
        self._shown = self._place = 0
        self._last: int | None = None
        self._order: Order | None = None
        self.steps = Steps()
        self._logged = self._failed = False
        self._given: Any = None
        self._at_start = 0
        self._a_batch = 1
        self._told: set[str] = set()

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Wait for no process that this training has nothing to do with."""
        enter_world(self, trainer, pl_module)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """The training is over."""
        rejoin(self)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """The training is over."""
        rejoin(self)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin with a measurement."""
        self._last = self._order = None
        goes_on = trainer.global_step > 0 and self._module is not None and self._module() is pl_module
        if self._before is not None or not goes_on:
            self.history = VarianceHistory()
        if self._before is not None:
            self.history.load_state_dict(self._before)
        self._before, self._module, self._shown = None, weakref.ref(pl_module), self.history.seen
        self._failed, self._told = False, set()
        self.steps = Steps()
        self._logged = any(gather(bool(trainer.loggers)))  # measuring takes all processes, though one may log alone

    def __repr__(self) -> str:
        return as_call(type(self), vars(self))

    @property
    def state_key(self) -> str:
        """Tells several monitors of a Trainer apart, by their places among its callbacks."""
        monitors = [each for each in callbacks_checked() if type(each) is type(self)]  # while a Trainer is made
        self._place = next((place for place, each in enumerate(monitors) if each is self), self._place)
        return state_key(self, place=self._place) if self._place else super().state_key

    def state_dict(self) -> dict[str, Any]:
        """The history that the heat map shows."""
        return self.history.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the history of a checkpoint, once a training starts from it."""
        self._before = state_dict

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_module": None}  # a weak reference can't be sent to another process

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """See whether Lightning counts the steps, and keep the batch if it may be measured."""
        self.steps.batch_starts(trainer, pl_module)
        self.keep(trainer, batch)

    def keep(self, trainer: pl.Trainer, batch: Any) -> None:
        """Keep a batch as it is before it is trained on, which may change it, if it is likely to be measured."""
        self._at_start = self.steps.done(trainer)
        likely = self._logged and self._is_due(self._at_start + self._a_batch - 1)
        self._given = own(batch, self._told) if likely else None

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Measure and log, if it is time."""
        self.steps.batch_ends(trainer)
        step = self.steps.done(trainer) - 1  # the first step is 0; it repeats while gradients accumulate
        self._a_batch = max(1, step + 1 - self._at_start)
        given, self._given = self._given, None
        if not self._logged or step < 0 or not self._is_due(step):
            return
        batch = batch if given is None else given
        is_first, self._last = self._last is None, step
        try:
            report = self._measured(trainer, pl_module, batch, is_first and self.forward is None)
        except NothingToMeasureError as reason:
            self._logged = False  # it will be so each time
            warn(f"SignalMonitor measures nothing in this training: {reason}")
            return
        except PeerEndedError:
            raise
        except Exception as error:  # a forward pass may raise anything on an odd batch that the training did without
            if is_first:
                raise
            if not self._failed:
                warn(
                    f"SignalMonitor could not measure at step {step}, and goes on without it ({type(error).__name__}: "
                    f"{error}): pass forward=... that runs the module on such a batch, or monitor=False"
                )
            self._failed = True
            return
        self.history.add(step, report.variances())
        found: dict[str, float] = {}
        hidden: set[str] = set()
        for metric in self.metrics:
            values, without = of_layers(metric, values_of(report, metric), self.curves)
            found |= values
            hidden |= without
        log_metrics(trainer, found, logged_step(trainer), hidden)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """End with the heat map of the whole training."""
        self.show(trainer)

    def show(self, trainer: pl.Trainer) -> None:
        """Log the heat map, unless it is there already."""
        columns, before = self.history.columns, self._shown
        self._shown = self.history.seen
        if columns and self._shown != before and trainer.is_global_zero:
            log_picture(
                trainer.loggers,
                HEATMAP,
                lambda: plot_heatmap(columns, f"the training until step {columns[-1].step}"),
                logged_step(trainer),
                columns[-1].step,
            )

    def _is_due(self, step: int) -> bool:
        return self._last is None or step // self.every_n_steps > self._last // self.every_n_steps

    def _measured(self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any, may_try: bool) -> SignalReport:
        """The signal of a batch; where the default forward fails at first, by a step of the module that does not."""
        try:
            return self._measure(module, batch, forward_in_precision(trainer, self.forward))
        except (NothingToMeasureError, PeerEndedError):
            raise
        except Exception:
            if not may_try:
                raise
            with torch.no_grad(), isolated_rng(generators=generators_in(module)), only_training(module, ()):
                self.forward = forward_that_works(trainer, module, batch, None)
            return self._measure(module, batch, forward_in_precision(trainer, self.forward))

    def _measure(self, module: pl.LightningModule, batch: Any, forward: Forward) -> SignalReport:
        if self._order is None and self.layers is None:
            self._order = learn_order(module, [batch], forward=forward)
        return measure_signal(
            module,
            [batch],
            max_batches=1,
            forward=forward,
            layers=self.layers,
            order=self._order,
            metrics=self.metrics,
            progress=False,
            told=self._told,
        )
