"""A strategy that spreads the networks of any LightningModule over processes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import nn

from reflow_lightning.running.compat.lightning import split_data_only
from reflow_lightning.running.sharding import sharded_modules
from reflow_lightning.running.spreading import spread_children


class FullyShard(ModelParallelStrategy):
    """FSDP2 in one line, ``Trainer(strategy=FullyShard(), devices=2)``, for modules without `configure_model`.

    The policy: within each network of the LightningModule (each of its children that has parameters), every outermost
    block whose type occurs several times is a unit of `torch.distributed.fsdp.fully_shard`, and what is left of the
    network is one more. A module whose `configure_model` shards its networks is taken as it is. Each process trains on
    its share of the data; no layer is split over processes.

    A network has to be called as a whole, ``self.net(x)``, as FSDP2 has it: its methods and inner layers find their
    parameters in parts.

    Args:
        sharding: Further arguments of `fully_shard`, such as ``{"mp_policy": MixedPrecisionPolicy(...)}`` or
            ``{"offload_policy": CPUOffloadPolicy()}``.
        save_distributed_checkpoint: Checkpoints are folders to which each process writes its part. ``False``: one file.
        **options: As of `ModelParallelStrategy`.

    Raises:
        ValueError: When ``fit`` starts, if a parameter can't be spread, or is shared between units.

    Example:
        >>> strategy = FullyShard(process_group_backend="gloo")
    """

    def __init__(
        self,
        sharding: Mapping[str, Any] | None = None,
        *,
        save_distributed_checkpoint: bool = True,
        **options: Any,
    ) -> None:
        for name in ("data_parallel_size", "tensor_parallel_size"):
            if name in options:
                raise ValueError(
                    f"{name}={options[name]}: FullyShard takes all processes; use ModelParallelStrategy for others"
                )
        super().__init__(save_distributed_checkpoint=save_distributed_checkpoint, **options)
        self.sharding = dict(sharding or {})

    def setup_environment(self) -> None:
        """Take all processes for one dimension of the mesh."""
        split_data_only(self, self.num_nodes * self.num_processes)
        super().setup_environment()

    def setup(self, trainer: pl.Trainer) -> None:
        """Spread the networks before they are moved and their optimizers are made."""
        module = self.lightning_module
        assert module is not None
        shard = partial(spread_children, module, self.device_mesh["data_parallel"], **self.sharding)
        if not sharded_modules(module):  # units that its configure_model made are taken as they are
            shard()
        with _configured(module, shard):
            super().setup(trainer)


@contextmanager
def _configured(module: pl.LightningModule, shard: Any) -> Iterator[None]:
    """Have a module without `configure_model` show one, which Lightning insists on."""
    if is_overridden("configure_model", module):
        yield
        return
    nn.Module.__setattr__(module, "configure_model", shard)
    try:
        yield
    finally:
        del module.configure_model
