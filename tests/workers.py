"""What the processes of the distributed tests do; a module of its own, since a spawned process imports it by name."""

from __future__ import annotations

import torch
import torch.distributed as dist
from helpers import images, small_net

from reflow_lightning import calibrate, measure_signal, prune

BATCHES = list(images(96).split(16))


def network() -> torch.nn.Sequential:
    torch.manual_seed(0)
    return small_net()


def prune_calibrate_measure(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", store=dist.FileStore(f"{folder}/store", 2), rank=rank, world_size=2)
    model = network()
    torch.manual_seed(rank)  # ranks differ in their random state
    masks = prune(model, 0.5, criterion="random")
    calibrate(model, BATCHES[rank::2], max_batches=3)
    signal = measure_signal(model, BATCHES[rank::2], max_batches=3)
    torch.save((masks.state_dict(), model.state_dict(), signal.variances()), f"{folder}/{rank}.pt")
    dist.destroy_process_group()
