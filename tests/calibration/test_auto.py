import copy

import pytest
import torch
from scenarios.thinned import bits, make, plain, thinned
from torch import nn
from zoo.linear import mlp

from reflow_lightning import calibrate
from reflow_lightning.calibration import Auto, BatchNormStatistics, Moments, NoRepair, Reconstruct, ThenBatchNorm
from reflow_lightning.calibration.auto import between_prunings, without_batchnorm


def population(model, norm, batch):
    seen = []
    handle = model.get_submodule(norm).register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        model.eval()(batch)
    handle.remove()
    return seen[0].mean(0), seen[0].var(0, unbiased=False)


def test_batchnorm_layers_get_statistics_and_the_rest_moments_and_it_says_so():
    model, dense, batches = make("batchnorm", 2)
    result = calibrate(model, batches, repair="auto", reference=dense, max_batches=2)
    assert result.how == {"1": "BatchNorm statistics", "3": "moments", "7": "moments"}
    assert result.repaired == ("1", "3", "7")
    assert result.skipped == {}
    assert str(result).splitlines()[1:] == ["1  BatchNorm statistics", "3  moments", "7  moments"]
    assert torch.equal(model[0].weight, thinned(copy.deepcopy(dense))[0].weight)


def test_a_network_with_batchnorm_but_for_its_head_gets_reflow_then_moments_of_the_head():
    torch.manual_seed(0)
    dense = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3)).eval()
    model, batch = thinned(copy.deepcopy(dense)), torch.randn(64, 8)
    expected = copy.deepcopy(model)
    calibrate(expected, [batch], repair=["batchnorm"], max_batches=1)
    calibrate(model, [batch], repair="auto", reference=dense, max_batches=1)
    assert {name for name, value in bits(model).items() if value != bits(expected)[name]} == {"3.weight", "3.bias"}
    torch.testing.assert_close(model(batch).mean(0), dense(batch).mean(0), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(model(batch).std(0), dense(batch).std(0), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["mlp", "layernorm", "gru"])
def test_without_batchnorm_it_is_moments(name):
    model, dense, batches = make(name, 2)
    other = copy.deepcopy(model)
    calibrate(model, batches, repair="auto", reference=dense, max_batches=2)
    calibrate(other, batches, repair="moments", reference=dense, max_batches=2)
    assert bits(model) == bits(other)


def test_without_the_dense_network_batchnorm_layers_alone_are_repaired_and_the_rest_is_named():
    model, _, batches = make("batchnorm", 2)
    other = copy.deepcopy(model)
    result = calibrate(model, batches, max_batches=2)
    calibrate(other, batches, repair="batchnorm", max_batches=2)
    assert bits(model) == bits(other)
    assert result.repaired == ("1",)
    why = "no BatchNorm follows it, and no dense network was given (reference=)"
    assert result.skipped == {"3": why, "7": why}


def test_with_nothing_to_do_it_says_what_would_help():
    with pytest.warns(
        UserWarning, match=r"nothing was repaired; use repair='moments' or 'reconstruct', with reference="
    ):
        result = calibrate(mlp(), [torch.randn(4, 8)], max_batches=1)
    assert set(result.skipped) == {"0", "2", "4"}


def test_a_batchnorm_after_a_layer_that_is_corrected_gets_its_statistics_again():
    torch.manual_seed(0)
    layers = [nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3)]
    dense = nn.Sequential(*layers).eval()
    model, batch = thinned(copy.deepcopy(dense)), torch.randn(64, 8)
    result = calibrate(model, [batch], repair="auto", reference=dense, max_batches=1)
    assert result.how == {"3": "BatchNorm statistics", "0": "moments", "5": "moments"}
    mean, variance = population(model, "3", batch)
    torch.testing.assert_close(model[3].running_mean, mean, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(model[3].running_var, variance, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("layers", "times"),
    [
        ([nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 8)], 1),
        ([nn.Linear(8, 8), nn.LayerNorm(8), nn.BatchNorm1d(8)], 2),
    ],
)
def test_only_then_are_the_statistics_taken_twice(layers, times, monkeypatch):
    taken, original = [], BatchNormStatistics.__call__
    monkeypatch.setattr(BatchNormStatistics, "__call__", lambda *args: taken.append(1) or original(*args))
    dense = nn.Sequential(*layers)
    model = thinned(copy.deepcopy(dense))
    calibrate(model, [torch.randn(16, 8)], repair="auto", reference=dense, max_batches=1)
    assert len(taken) == times


def test_which_layers_no_batchnorm_follows():
    model, *_ = make("batchnorm", 1)
    assert list(without_batchnorm(model)) == ["3", "7"]
    assert list(without_batchnorm(make("layernorm", 1)[0])) == ["0", "1", "3", "5"]


def test_a_layer_that_cannot_be_written_is_no_loss_if_a_batchnorm_follows():
    conv = nn.utils.parametrizations.weight_norm(nn.Linear(8, 8))
    head = nn.utils.parametrizations.weight_norm(nn.Linear(8, 3))
    dense = nn.Sequential(conv, nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), head)
    with pytest.warns(UserWarning, match="left alone '5': its weight is no plain parameter$"):
        result = calibrate(copy.deepcopy(dense), [torch.randn(16, 8)], repair="auto", reference=dense, max_batches=1)
    assert set(result.skipped) == {"5"}
    assert set(result.repaired) == {"1", "3"}


def test_the_dense_network_is_needed_only_for_layers_without_batchnorm():
    assert Auto().needs_reference(mlp())
    assert not Auto().needs_reference(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()))


def test_a_repair_then_statistics():
    model, dense, batches = make("preactivation", 2)
    repair = ThenBatchNorm(Reconstruct())
    assert repair.needs_reference(model)
    assert not ThenBatchNorm(BatchNormStatistics()).needs_reference(model)
    result = repair(model, batches, plain, dense)
    assert result.how["conv1"] == "least squares"
    assert result.how["norm1"] == "least squares, then BatchNorm statistics"
    assert result.how["norm2"] == "BatchNorm statistics"
    assert set(result.repaired) == {"stem", "conv1", "conv2", "head", "norm1", "norm2", "norm3"}


def test_a_repair_then_statistics_is_the_repair_where_there_is_no_batchnorm():
    model, dense, batches = make("mlp", 2)
    other = copy.deepcopy(model)
    ThenBatchNorm(Moments())(model, batches, plain, dense)
    Moments()(other, batches, plain, dense)
    assert bits(model) == bits(other)


def test_while_more_is_to_be_pruned_rows_keep_their_size():
    assert isinstance(between_prunings(Auto(), nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))), BatchNormStatistics)
    assert isinstance(between_prunings(Auto(), nn.Linear(2, 2)), NoRepair)
    assert between_prunings(Moments(), nn.Linear(2, 2)) == Moments()
