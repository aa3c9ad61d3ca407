"""Two processes, each with its own share of the data, agree with one that has it all."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from helpers import images, small_net

from reflow_lightning import calibrate, measure_signal, prune

pytestmark = pytest.mark.distributed
BATCHES = list(images(96).split(16))


def network():
    torch.manual_seed(0)
    return small_net()


def process(rank, folder):
    store = dist.FileStore(f"{folder}/store", 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    torch.manual_seed(rank)  # ranks differ in their random state
    model = network()
    masks = prune(model, 0.5, criterion="random")
    calibrate(model, BATCHES[rank::2], max_batches=3)
    signal = measure_signal(model, BATCHES[rank::2], max_batches=3)
    torch.save((masks.state_dict(), model.state_dict(), signal.variances()), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.skipif(not dist.is_gloo_available(), reason="needs gloo")
def test_masks_and_statistics_are_those_of_the_union(tmp_path):
    mp.spawn(process, (str(tmp_path),), nprocs=2)
    model = network()
    masks = prune(model, 0.5, criterion="random")
    calibrate(model, BATCHES, max_batches=6)
    variances = measure_signal(model, BATCHES, max_batches=6).variances()
    for rank in range(2):
        rank_masks, state, signal = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert all(torch.equal(rank_masks[name], masks[name]) for name in masks)
        for name, value in model.state_dict().items():
            if "num_batches" not in name:
                torch.testing.assert_close(state[name], value, rtol=1e-6, atol=1e-7)
        assert signal == pytest.approx(variances, rel=1e-6)
