import math

import pytest
import torch
from torch.utils.data import DataLoader

from reflow_lightning.experiments.data.signals import JitteredSignals, random_rotations

WINDOWS = torch.randn(6, 128, 9, generator=torch.Generator().manual_seed(0))
CLASSES = torch.arange(6)


def signals(**options):
    return JitteredSignals(WINDOWS, CLASSES, torch.zeros(128, 9), torch.ones(128, 9), **options)


def norms(windows):
    """Lengths of the vectors of the three sensors."""
    return windows.unflatten(-1, (3, 3)).norm(dim=-1)


def test_rotations_keep_lengths_and_handedness():
    turns = random_rotations(50, 1.0)
    assert torch.allclose(turns @ turns.mT, torch.eye(3).expand_as(turns), atol=1e-5)
    assert torch.allclose(torch.linalg.det(turns), torch.ones(50), atol=1e-5)


def test_the_angle_has_the_given_deviation_about_each_axis():
    angles = torch.acos(((random_rotations(4000, 0.1).diagonal(dim1=1, dim2=2).sum(1) - 1) / 2).clamp(-1, 1))
    assert angles.square().mean().sqrt().item() == pytest.approx(0.1 * math.sqrt(3), rel=0.05)


def test_a_window_is_turned_as_a_whole():
    turned = torch.stack([window for window, _ in (signals(rotation=0.5)[i] for i in range(6))])
    assert torch.allclose(norms(turned), norms(WINDOWS), atol=1e-4)
    assert not torch.allclose(turned, WINDOWS, atol=0.1)
    first, last = WINDOWS[0, 0].view(3, 3), turned[0, 0].view(3, 3)
    turn = torch.linalg.solve(first, last)  # the rotation that the first step of the first window underwent
    assert torch.allclose(WINDOWS[0].view(-1, 3) @ turn, turned[0].view(-1, 3), atol=1e-3)


def test_noise_is_in_units_of_the_normalised_values():
    plain = JitteredSignals(WINDOWS, CLASSES, torch.ones(128, 9), torch.full((128, 9), 2.0))
    noisy = JitteredSignals(WINDOWS, CLASSES, torch.ones(128, 9), torch.full((128, 9), 2.0), noise=0.3)
    assert torch.equal(plain[2][0], (WINDOWS[2] - 1) / 2)
    assert (noisy[2][0] - plain[2][0]).std().item() == pytest.approx(0.3, rel=0.1)


def test_a_loader_gets_the_same_batch_at_once_as_one_by_one():
    dataset = signals()
    windows, classes = next(iter(DataLoader(dataset, batch_size=6)))
    assert torch.equal(windows, WINDOWS)
    assert torch.equal(classes, CLASSES)
    assert all(torch.equal(dataset[i][0], WINDOWS[i]) for i in range(6))
