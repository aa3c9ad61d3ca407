"""Learning-rate schedules, made of torch's."""

from __future__ import annotations

from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, SequentialLR


def cosine(optimizer: Optimizer, epochs: int, warmup_epochs: int = 0) -> LRScheduler:
    """A linear warm-up, then half a cosine down to zero; to be stepped once an epoch.

    Args:
        optimizer: Its learning rate is the highest.
        epochs: Length of the training, warm-up included.
        warmup_epochs: Epochs until the highest rate is reached.

    Raises:
        ValueError: If the warm-up leaves no epoch.

    Example:
        >>> import torch
        >>> sgd = torch.optim.SGD([torch.zeros(1)], lr=1.0)
        >>> schedule, rates = cosine(sgd, epochs=4, warmup_epochs=2), []
        >>> for _ in range(4):
        ...     rates.append(round(sgd.param_groups[0]["lr"], 2))
        ...     sgd.step()
        ...     schedule.step()
        >>> rates
        [0.5, 1.0, 1.0, 0.5]
    """
    if not 0 <= warmup_epochs < max(1, epochs):
        raise ValueError(
            f"warmup_epochs={warmup_epochs} must be less than epochs={epochs}: lower it (scheduler.warmup_epochs=...)"
        )
    decay = CosineAnnealingLR(optimizer, max(1, epochs - warmup_epochs))
    if warmup_epochs == 0:
        return decay
    for group in optimizer.param_groups:  # what the first schedule of a sequence starts from
        group["lr"] = group["initial_lr"]
    warmup = LinearLR(optimizer, 1 / warmup_epochs, total_iters=warmup_epochs - 1 or 1)
    return SequentialLR(optimizer, [warmup, decay], [warmup_epochs])
