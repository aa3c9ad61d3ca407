from collections import namedtuple

import pytest
import torch

from reflow_lightning.running.labels import batch_labels, batch_targets


@pytest.mark.parametrize("key", ["y", "label", "labels", "target", "targets"])
def test_labels_are_found_by_their_name(key):
    assert batch_labels({"x": torch.ones(2, 3), key: torch.tensor([1, 0])}).tolist() == [1, 0]


def test_labels_are_found_by_their_place():
    found = (torch.ones(2, 3), torch.tensor([[1], [0]]))
    assert batch_labels(found).tolist() == batch_labels(list(found)).tolist() == [1, 0]
    assert batch_labels(namedtuple("Batch", "image label")(*found)).tolist() == [1, 0]


@pytest.mark.parametrize(
    "batch",
    [
        torch.ones(2, 3),
        (torch.ones(2, 3),),
        {"x": torch.ones(2, 3)},
        (torch.ones(2, 3), torch.ones(2)),  # values to regress
        (torch.ones(2, 3), torch.ones(2, 5)),  # soft labels
        (torch.ones(2, 3, 4), torch.ones(2, 3, 4).long()),  # a class for each pixel
        (torch.ones(2, 3), ["cat", "dog"]),
        None,
    ],
)
def test_what_is_no_class_a_sample_is_not_taken_for_labels(batch):
    assert batch_labels(batch) is None


def test_targets_are_whatever_stands_there():
    assert batch_targets(("images", ["cat", "dog"])) == ["cat", "dog"]
    assert batch_targets({"image": 1, "target": "soft"}) == "soft"
