"""Two processes, each with its own share of the data, agree with one that has it all."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from workers import BATCHES, network, prune_calibrate_measure

from reflow_lightning import calibrate, measure_signal, prune

pytestmark = pytest.mark.distributed


@pytest.mark.skipif(not dist.is_gloo_available(), reason="needs gloo")
def test_masks_and_statistics_are_those_of_the_union(tmp_path):
    mp.spawn(prune_calibrate_measure, (str(tmp_path),), nprocs=2)
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
