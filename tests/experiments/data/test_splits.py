import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import TensorDataset

from reflow_lightning.experiments.data.splits import SplitDataModule, hold_out, hold_out_groups


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.floats(0.01, 0.99), st.integers(0, 99))
def test_held_out_are_the_same_share_of_every_label(labels, share, seed):
    labels = torch.tensor(labels)
    if not any(round(share * int((labels == label).sum())) for label in labels.unique()):
        with pytest.raises(ValueError, match=f"val_share={share} holds out none of {len(labels)} samples"):
            hold_out(labels, share, seed)
        return
    stay, held = hold_out(labels, share, seed)
    assert sorted([*stay.tolist(), *held.tolist()]) == list(range(len(labels)))
    assert stay.tolist() == sorted(stay.tolist())
    for label in labels.unique():
        assert int((labels[held] == label).sum()) == round(share * int((labels == label).sum()))


def test_the_seed_alone_chooses():
    labels = torch.arange(100) % 5
    first = hold_out(labels, 0.2, seed=0)[1]
    torch.rand(7)
    assert torch.equal(first, hold_out(labels, 0.2, seed=0)[1])
    assert not torch.equal(first, hold_out(labels, 0.2, seed=1)[1])


def test_of_two_groups_one_stays_and_one_is_held_out():
    for share in (0.01, 0.99):
        stay, held = hold_out_groups(torch.tensor([7, 8, 8]), share, seed=0)
        assert sorted((len(stay), len(held))) == [1, 2]


@given(st.lists(st.integers(0, 5), min_size=1, max_size=40), st.floats(0.01, 0.99), st.integers(0, 99))
def test_groups_are_held_out_whole_and_some_stay(groups, share, seed):
    groups = torch.tensor([*groups, 7, 8])
    stay, held = hold_out_groups(groups, share, seed)
    assert sorted([*stay.tolist(), *held.tolist()]) == list(range(len(groups)))
    assert not set(groups[stay].tolist()) & set(groups[held].tolist())
    count = len(groups.unique())
    assert len(groups[held].unique()) == min(count - 1, max(1, round(share * count)))


@pytest.mark.parametrize("split", [hold_out, hold_out_groups])
@pytest.mark.parametrize("share", [0, 1, -0.1, 10])
def test_a_share_that_is_none_is_refused(split, share):
    with pytest.raises(ValueError, match=rf"val_share={share} is outside \(0, 1\)"):
        split(torch.zeros(4), share, seed=0)


def test_loaders_shuffle_what_is_trained_or_calibrated_on_and_nothing_else():
    data = SplitDataModule(batch_size=50, calibration_batch_size=20)
    data.splits = dict.fromkeys(("train", "calibration", "val", "test"), TensorDataset(torch.arange(100)))
    loaders = {
        "train": data.train_dataloader(),
        "calibration": data.calibration_dataloader(),
        "val": data.val_dataloader(),
        "test": data.test_dataloader(),
    }
    orders = {name: torch.cat([batch for [batch] in loader]).tolist() for name, loader in loaders.items()}
    assert all(sorted(order) == list(range(100)) for order in orders.values())
    assert [name for name, order in orders.items() if order != sorted(order)] == ["train", "calibration"]
    assert {name: loader.batch_size for name, loader in loaders.items()} == {
        "train": 50,
        "calibration": 20,
        "val": 50,
        "test": 50,
    }
