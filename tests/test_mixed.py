"""Pruning under `fully_shard` goes well with what large networks need, on processes without an accelerator."""

import pytest
import torch
from scenarios.mixed import MIXES, SCENARIOS
from scenarios.processes import needs_processes, results, run

from reflow_lightning import Masks

pytestmark = needs_processes


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mixed")
    run(SCENARIOS, 2, folder)
    return folder


@pytest.mark.parametrize("repair", ["reconstruct", "moments"])
@pytest.mark.parametrize("mix", MIXES)
def test_zeros_hold_and_the_signal_comes_back(mix, repair, folder):
    first, second = (found[f"{mix}, {repair}"] for found in results("every_mix", folder))
    masks = Masks.from_state_dict(first["masks"])
    assert masks == Masks.from_state_dict(second["masks"])
    assert masks.sparsity == pytest.approx(0.6, abs=1e-3)
    for place, mask in masks.items():
        name = place.replace("_checkpoint_wrapped_module.", "")  # which torch leaves out of states
        assert not first["end"][name][~mask].any()
        assert torch.equal(first["end"][name], second["end"][name])
        assert first["end"][name].isfinite().all()
    assert first["dtypes"] == (["torch.bfloat16"] if mix == "bf16-true" else ["torch.float32"])
    assert len(first["repaired"]) >= 5
    last = first["variance"][-1] / first["dense"][-1]
    assert 0.3 < last < 1.5


def test_a_copy_for_repairs_computes_in_the_precision_of_the_masters(folder):
    """More precisely than the training, whose casts `fully_shard` makes: the two differ by rounding alone."""
    for found in results("cast_copies", folder):
        assert found["dtype"] == "torch.float32"
        assert found["cast"].dtype == torch.bfloat16
        torch.testing.assert_close(found["cast"].float(), found["copied"], rtol=0.05, atol=0.05)
        assert not torch.equal(found["cast"].float(), found["copied"])
