"""Gradient descent without labels, until the pruned network computes what the dense one does."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import nn

from reflow_lightning.calibration.blending import blended, is_blended
from reflow_lightning.calibration.changing import changing, check_reference
from reflow_lightning.calibration.collecting import moments_of
from reflow_lightning.calibration.compared import Compared
from reflow_lightning.calibration.descent import Descent, survivors
from reflow_lightning.calibration.enough import sufficient
from reflow_lightning.calibration.repair import Calibration
from reflow_lightning.calibration.repairable import layers_to_repair
from reflow_lightning.layers.find import find_layers
from reflow_lightning.running.batches import progress_bar, without_bar
from reflow_lightning.running.compat.hooks import forget_backward_hooks
from reflow_lightning.running.copying import dense_copy
from reflow_lightning.running.forward import Forward
from reflow_lightning.running.inference import ordinary
from reflow_lightning.running.isolation import recurrent_gradients
from reflow_lightning.running.own import own
from reflow_lightning.running.processes import gather, together, warn

DONE = "alignment"
_HELD_OUT = 10  # one batch in so many
_LOOKS = 20  # so often the held-out batches are looked at
_FRESH = 10  # passes over the batches before inputs are blended: a few passes need no further samples
_PATIENCE = 10  # so many looks without a better network are enough: the first, large steps may cost something


@dataclass(frozen=True)
class Align:
    """Move the weights that are left by gradient descent until the network computes what the dense one does.

    The loss is the mean of ``mean((x - y)^2) / var(y)`` over the states x of the pruned network, which its blocks and
    the network itself put out, and the states y of the dense one; plus ``logits`` times the Kullback-Leibler divergence
    of the classes. No label is used. Steps of Adam under a cosine; zeros stay zero; norms normalise by the statistics
    that they have. It is kin to STARFISH (arXiv 2606.01126).

    The first of every ten batches is held out, if there are several: the network that fits these best is taken, and
    where it gets no better for some time, the descent ends. If it never gets better than at the start, nothing
    is changed. A loader that draws other batches in each pass shows the descent some of what was held out, too. Blocks
    whose rows the data choose, such as experts, are compared where both networks choose alike.

    After ten passes over the batches the inputs of every other step are blended in pairs, as in mixup
    (arXiv 1710.09412): without labels any input will do, and few samples become many. Inputs that are no tensor of
    floating point, such as tokens, stay as they are.

    In memory it takes a copy of the network, with gradients, two moments and the best weights so far: six times the
    weights; the held-out batches; and what a training step on a batch takes.

    Args:
        steps: At most so many steps, of a batch each.
        lr: Learning rate of the first step, relative to the root mean square of what is left of each tensor.
        logits: Weight of the divergence. 0 suits a network whose outputs are no logits of classes.
        blend: Share of the steps after ten passes whose inputs are blended. 0 suits inputs with nothing between two of
            them, and those whose first dimension is not the samples.

    Example:
        >>> import copy
        >>> _ = torch.manual_seed(0)
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> dense, batch = copy.deepcopy(model), torch.randn(64, 4)
        >>> with torch.no_grad():
        ...     _ = model[0].weight[:, 0].zero_(), model[2].weight[:, 1:].mul_(0.5)
        >>> before = nn.functional.mse_loss(model(batch), dense(batch))
        >>> Align(steps=50)(model, [batch], lambda network, x: network(x), dense).repaired
        ('0', '2')
        >>> bool(nn.functional.mse_loss(model(batch), dense(batch)) < 0.7 * before), bool(model[0].weight[:, 0].any())
        (True, False)
    """

    writes_weights: ClassVar[bool] = True
    restores_itself: ClassVar[bool] = True
    leaves_undo_to_caller: ClassVar[bool] = True
    steps: int = 300
    lr: float = 0.02
    logits: float = 0.1
    blend: float = 0.5

    def __post_init__(self) -> None:
        if isinstance(self.steps, bool) or not isinstance(self.steps, int) or self.steps < 1:
            raise ValueError(f"steps={self.steps!r} must be a whole number of at least 1, such as 300")
        for name, least in (("lr", 0.0), ("logits", -1e-300)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not least < value < math.inf:
                wanted = "positive, such as 0.02" if name == "lr" else "at least 0, such as 0.1"
                raise ValueError(f"{name}={value!r} must be a number, {wanted}")
        if isinstance(self.blend, bool) or not isinstance(self.blend, (int, float)) or not 0 <= self.blend <= 1:
            raise ValueError(f"blend={self.blend!r} must be a share of the steps, from 0 to 1, such as 0.5")

    def needs_reference(self, model: nn.Module) -> bool:
        """Whether the dense network is needed: always, since the states are aligned with its own."""
        return True

    def __call__(
        self, model: nn.Module, batches: Iterable[Any], forward: Forward, reference: nn.Module | None, /
    ) -> Calibration:
        """Repair the model."""
        layers, skipped = layers_to_repair(model)
        dense = check_reference(model, layers, reference, DONE)
        if not layers:
            return Calibration((), skipped, 0, 0.0)
        with changing(model, layers, dense, DONE) as change:
            change.unchanged = "no gradient reached it, or nothing is left of it"
            enough = sufficient(batches, lambda batch: moments_of(dense, layers, batch, forward))
            with without_bar(batches) as shown:
                change.repaired = align(model, layers, enough, forward, ordinary(dense), self, shown)
            if change.repaired:
                return change.calibration(batches, layers, skipped)
            warn(
                "alignment found no network that fits held-out batches better than the one it began with, which stays: "
                "give more batches, or a smaller lr"
            )
            done = change.calibration(batches, (), skipped)
            return replace(done, skipped={**dict.fromkeys(layers, "alignment did not improve it"), **done.skipped})


def align(
    model: nn.Module,
    names: Iterable[str],
    batches: Iterable[Any],
    forward: Forward,
    dense: nn.Module,
    how: Align,
    progress: bool = False,
) -> tuple[str, ...]:
    """Align a network with the dense one; see `Align`.

    Args:
        model: The pruned network, which is written once, at the end.
        names: The layers that may be changed.
        batches: Read again and again.
        forward: Runs a network on a batch.
        dense: The dense network.
        how: The arguments.
        progress: Show a bar.

    Returns:
        Names of the layers that were changed; none if nothing better was found.
    """
    with torch.inference_mode(mode=False), torch.enable_grad(), together(DONE):
        moving = dense_copy(model)  # so that no gradient, flag or hook of the model itself is touched
        moving.requires_grad_(False)
        forget_backward_hooks(moving)
        for module in moving.modules():  # the attribute: a model may override eval()
            module.training = False
        found = find_layers(moving).known
        layers = [found[name] for name in names]
        descent = Descent(survivors(layers), how.lr, how.steps)
        compared = Compared(moving, dense, forward, how.logits)
        with recurrent_gradients(moving), _without_cached_casts():
            if not _descend(compared, descent, batches, how, progress):
                return ()
    changed = []
    for name in names:
        own, after = model.get_submodule(name), moving.get_submodule(name)
        pairs = list(zip(own.parameters(), after.parameters(), strict=True))
        if any(not torch.equal(before, new) for before, new in pairs):
            changed.append(name)
        for before, new in pairs:
            before.detach().copy_(new.detach())
    return tuple(changed)


def _descend(compared: Compared, descent: Descent, batches: Iterable[Any], how: Align, progress: bool) -> bool:
    """Go down, and back to the best place; whether there was a better one than the first."""
    count, held, steps = 0, [], how.steps
    for count, batch in enumerate(batches, start=1):
        if count % _HELD_OUT == 1:
            held.append(own(batch))  # a copy, for which the same is drawn at any time
    several = any(gather(count > 1))
    unblended = _FRESH * (count - len(held) if several else count)  # steps
    best, kept, since = compared.mean_loss(held), None, 0
    if not math.isfinite(best):
        raise ValueError("the loss of alignment is NaN or infinite: look at the pruned weights and at the batches")
    trained = _endless(batches, but_held_out=several)
    with progress_bar(None, progress, total=steps, desc=DONE, unit="step") as bar:
        for step, batch in zip(range(1, steps + 1), trained, strict=False):
            given = blended(batch, step) if step > unblended and is_blended(step, how.blend) else batch
            loss = None if batch is None else compared.loss(given, step)
            if not descent.step(loss):
                if any(gather(count)):
                    warn(
                        f"alignment ended at step {step} of {steps}, where a gradient was not finite: the best weights "
                        f"so far are taken; lower lr={descent.lr}, or run in a wider precision"
                    )
                break
            bar.update()
            if step % max(1, steps // _LOOKS) and step != steps:
                continue
            now = compared.mean_loss(held)
            bar.set_postfix(loss=f"{now:.3g}")
            if now < best:
                best, kept, since = now, [value.clone() for value in descent.values], 0
            else:
                since += 1
            if since == _PATIENCE:
                break
    for value, at_best in zip(descent.values, kept or (), strict=False):
        value.copy_(at_best)
    return kept is not None


def _endless(batches: Iterable[Any], but_held_out: bool) -> Iterator[Any]:
    """The batches again and again; ``None`` for ever if there is none."""
    while True:
        found = False
        for place, batch in enumerate(batches):
            if place % _HELD_OUT or not but_held_out:
                found = True
                yield batch
        while not found:
            yield None


@contextmanager
def _without_cached_casts() -> Iterator[None]:
    """A block in which autocast casts weights anew in each pass: of weights that move, a cast that is kept is old."""
    before = torch.is_autocast_cache_enabled()
    torch.clear_autocast_cache()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(before)
