"""Networks whose parameters are spread over devices (``trainer=fsdp``), and their states as whole tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import lightning.pytorch as pl
import torch.distributed as dist
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from reflow_lightning.running.sharding import is_sharded, reshard, sharded_modules

State = dict[str, Tensor]


def check_spread(cfg: DictConfig) -> None:
    """Check that the number of devices is known, and nothing needs the network whole, if it will be spread.

    Raises:
        ValueError: If something is missing or can't be done.
    """
    strategy = cfg.trainer.get("strategy")
    if not OmegaConf.is_dict(strategy) or not str(strategy.get("_target_")).endswith("ModelParallelStrategy"):
        return
    if not isinstance(cfg.trainer.devices, int):
        raise ValueError(f"trainer.devices={cfg.trainer.devices}: trainer=fsdp needs a number, such as 4")
    if cfg.collapse:
        raise ValueError(
            "collapse=true needs the network whole, and trainer=fsdp spreads it: leave it out, and collapse the "
            "network of pruned.ckpt on one device, with train=false ckpt=PATH collapse=true"
        )
    if not cfg.train:
        raise ValueError(
            "train=false with trainer=fsdp: there is nothing to spread without a training, use trainer=ddp"
        )


def share_buffers(module: nn.Module) -> None:
    """Have all processes hold the buffers of the first, as DDP does, where each keeps running statistics of its own."""
    if sharded_modules(module):
        for buffer in module.buffers():
            if not is_sharded(buffer):
                dist.broadcast(buffer, src=0)


class SharedBuffers(pl.Callback):
    """Calls `share_buffers` before a validation, which else depended on what a checkpoint does not hold."""

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Share them."""
        share_buffers(pl_module)


def copy_state(module: nn.Module) -> State:
    """A copy of the module's state on the CPU; of parameters that are spread over processes, all have the whole."""
    reshard(module)
    share_buffers(module)
    state: Mapping[str, Tensor] = module.state_dict()
    if sharded_modules(module):
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

        state = cast(
            "Mapping[str, Tensor]", get_model_state_dict(module, options=StateDictOptions(full_state_dict=True))
        )
    return {name: value.detach().cpu().clone() for name, value in state.items()}


def load_state(module: nn.Module, state: Mapping[str, Tensor], strict: bool = True) -> None:
    """Load a state of whole tensors, also into parameters that are spread over processes."""
    if not sharded_modules(module):
        module.load_state_dict(state, strict=strict)
        return
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

    reshard(module)
    options = StateDictOptions(full_state_dict=True, strict=strict)
    set_model_state_dict(module, {name: value.clone() for name, value in state.items()}, options=options)
