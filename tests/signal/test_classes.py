import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reflow_lightning.signal import ClassShare


def by_numpy(values, labels):
    values, labels = values.numpy(), labels.numpy()
    mean = values.mean(0)
    between = sum((labels == k).sum() * ((values[labels == k].mean(0) - mean) ** 2).sum() for k in np.unique(labels))
    return float(between / ((values - mean) ** 2).sum())


@st.composite
def data(draw):
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    sizes = draw(st.lists(st.integers(1, 8), min_size=2, max_size=5))
    labels = torch.randint(-2, 4, (sum(sizes),), generator=generator)
    values = torch.randn(sum(sizes), 3, generator=generator, dtype=torch.float64) + labels[:, None]
    return values + draw(st.sampled_from([0.0, 100.0, 1e5])), labels, sizes


def share(*batches):
    statistic = ClassShare(batches[0][0].shape[1])
    for values, labels in batches:
        statistic.update(values, labels)
    return statistic


@given(data())
@settings(deadline=None)
def test_it_is_the_share_by_definition_however_samples_and_classes_come(case):
    values, labels, sizes = case
    batches = list(zip(values.split(sizes), labels.split(sizes), strict=True))
    for statistic in (share((values, labels)), share(*batches), share(*reversed(batches))):
        assert float(statistic.compute()) == pytest.approx(by_numpy(values, labels), rel=1e-6, abs=1e-9)


@given(data())
@settings(deadline=None, max_examples=30)
def test_states_of_processes_with_other_classes_merge(case):
    values, labels, sizes = case
    first, second = share((values[: sizes[0]], labels[: sizes[0]])), share((values[sizes[0] :], labels[sizes[0] :]))
    first.merge_state(second)
    assert float(first.compute()) == pytest.approx(by_numpy(values, labels), rel=1e-6, abs=1e-9)


def test_known_values():
    labels = torch.tensor([0, 0, 1, 1])
    assert share((torch.tensor([[0.0], [0.0], [5.0], [5.0]]), labels)).compute() == 1
    assert share((torch.tensor([[0.0], [4.0], [0.0], [4.0]]), labels)).compute() == 0
    assert share((torch.tensor([[0.0], [2.0], [2.0], [4.0]]), labels)).compute() == 0.5
    assert share((torch.ones(4, 1), labels)).compute() == 0
    assert share((torch.full((4, 1), torch.nan), labels)).compute().isnan()


def test_the_state_grows_with_the_classes_alone():
    batch = (torch.randn(6, 2), torch.tensor([0, 1, 2, 0, 1, 2]))
    assert share(*[batch] * 9).sums.shape == (3, 3)
