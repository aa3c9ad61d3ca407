"""Processes that run together compute statistics, and metrics made of them, over all their data."""

import pytest
import torch
import torch.distributed as dist
from scenarios.processes import results, run
from scenarios.statistics import MERGING, SCENARIOS, TAKEN, at_rank

pytestmark = [pytest.mark.distributed, pytest.mark.skipif(not dist.is_gloo_available(), reason="needs gloo")]


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    folder = tmp_path_factory.mktemp("statistics")
    run(SCENARIOS, 2, folder)
    return folder


def of(kind, parts):
    statistic = kind(3)
    for part in parts:
        statistic.update(*part)
    found = statistic.compute()
    return list(found) if isinstance(found, tuple) else [found]


@pytest.mark.parametrize("kind", TAKEN, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("scenario", MERGING)
def test_values_are_those_of_all_data_on_every_process(scenario, kind, together):
    first, second = results(scenario, together)
    torch.testing.assert_close(first[kind.__name__], of(kind, TAKEN[kind]), rtol=1e-6, atol=1e-12)
    for a, b in zip(first[kind.__name__], second[kind.__name__], strict=True):
        assert torch.equal(a, b)  # to the last bit


@pytest.mark.parametrize("kind", TAKEN, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("scenario", MERGING)
def test_a_metric_gathers_what_its_statistic_does(scenario, kind, together):
    for found in results(scenario, together):
        for a, b in zip(found[f"metric of {kind.__name__}"], found[kind.__name__], strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("kind", TAKEN, ids=lambda kind: kind.__name__)
def test_a_process_goes_on_with_its_own_data(kind, together):
    for rank, found in enumerate(results("statistics_of_some_each", together)):
        for a, b in zip(found[f"{kind.__name__} alone"], of(kind, TAKEN[kind][rank::2]), strict=True):
            assert torch.equal(a, b)


def test_other_channels_on_another_process_are_an_error_on_all(together):
    for message in results("channels_that_differ", together):
        assert message.startswith("the tensors of the processes have the shapes [(3, 2), (3, 3)]")


def test_processes_may_pass_other_numbers_of_rows(together):
    assert results("rows_that_differ", together) == [[[], [1.0, 1.0]]] * 2


@pytest.mark.parametrize("how", ["at once", "in parcels"])
def test_tensors_of_many_kinds_arrive_as_they_were(how, together):
    for found in results("tensors_of_many_kinds", together):
        for place, ranks in enumerate(found[how]):
            for rank, tensor in enumerate(ranks):
                expected = at_rank(rank)[place]
                assert tensor.dtype == expected.dtype
                assert torch.equal(tensor, expected)
