import copy

import pytest
import torch
from scenarios.thinned import bits, make, plain, thinned
from torch import nn
from zoo.linear import mlp

from reflow_lightning import calibrate, prune
from reflow_lightning.calibration import Auto, BatchNormStatistics, Moments, NoRepair, Reconstruct, ThenBatchNorm, auto
from reflow_lightning.calibration.auto import without_batchnorm
from reflow_lightning.calibration.in_turn import InTurn
from reflow_lightning.calibration.repair import between_prunings
from reflow_lightning.experiments.data.digits import DigitsDataModule
from reflow_lightning.experiments.models.resnet import ResNet
from reflow_lightning.layers import Order, find_layers, forward_order


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
    expected, before = copy.deepcopy(model), bits(dense)
    calibrate(expected, [batch], repair=["batchnorm"], max_batches=1)
    calibrate(model, [batch], repair="auto", reference=dense, max_batches=1)
    assert {name for name, value in bits(model).items() if value != bits(expected)[name]} == {"3.weight", "3.bias"}
    assert bits(dense) == before
    calibrate(dense, [batch], repair="batchnorm", max_batches=1)  # as which it is compared with
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
    taken, original = [], auto.restore_statistics
    monkeypatch.setattr(auto, "restore_statistics", lambda *args: taken.append(1) or original(*args))
    dense = nn.Sequential(*layers)
    model = thinned(copy.deepcopy(dense))
    calibrate(model, [torch.randn(16, 8)], repair="auto", reference=dense, max_batches=1)
    assert len(taken) == times


def test_which_layers_no_batchnorm_follows():
    model, _, batches = make("batchnorm", 1)
    assert list(without_batchnorm(find_layers(model).known, forward_order(model.eval(), batches, plain))) == ["3", "7"]
    assert list(without_batchnorm(find_layers(make("layernorm", 1)[0]).known, Order())) == ["0", "1", "3", "5"]


def test_a_layer_that_cannot_be_written_is_no_loss_if_a_batchnorm_follows():
    conv = nn.utils.parametrizations.spectral_norm(nn.Linear(8, 8))
    head = nn.utils.parametrizations.spectral_norm(nn.Linear(8, 3))
    dense = nn.Sequential(conv, nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), head)
    with pytest.warns(UserWarning, match="left alone '5': its weight is no plain parameter, but computed"):
        result = calibrate(copy.deepcopy(dense), [torch.randn(16, 8)], repair="auto", reference=dense, max_batches=1)
    assert set(result.skipped) == {"5"}
    assert set(result.repaired) == {"1", "3"}


def test_the_reference_is_as_before_also_if_the_repair_fails(monkeypatch):
    model, dense, batches = make("batchnorm", 2)
    before = bits(dense)

    def fails(*_):
        assert bits(dense) != before
        raise ZeroDivisionError

    monkeypatch.setattr(auto, "repair_layers", fails)
    with pytest.raises(ZeroDivisionError):
        calibrate(model, batches, repair="auto", reference=dense, max_batches=2)
    assert bits(dense) == before


@pytest.mark.slow
def test_early_in_a_training_it_is_no_worse_than_batchnorm_beyond_chance():
    data = DigitsDataModule()
    data.setup()
    batches, tested = list(data.calibration_dataloader()), list(data.test_dataloader())

    def correct(model):
        with torch.no_grad():
            return sum(int((model.eval()(x).argmax(1) == y).sum()) for x, y in tested) / 360

    differences = []
    for seed in range(3):
        torch.manual_seed(seed)
        model = ResNet(blocks=3, in_channels=1)
        optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, nesterov=True, weight_decay=0.005)
        for _ in range(3):
            model.train()
            for x, y in data.train_dataloader():
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(x), y).backward()
                optimizer.step()
            for sparsity in (0.3, 0.5, 0.9):
                pruned = copy.deepcopy(model)
                prune(pruned, sparsity)
                found = {}
                for repair in ("auto", "batchnorm"):
                    other = copy.deepcopy(pruned)
                    calibrate(other, batches, repair=repair, reference=model, max_batches=20)
                    found[repair] = correct(other)
                differences.append(found["auto"] - found["batchnorm"])
    assert min(differences) > -0.03  # two standard errors of 360 samples, at 90 % correct
    assert sum(differences) > 0


def test_the_dense_network_is_asked_for_since_only_the_calls_tell_what_no_batchnorm_follows():
    assert Auto().needs_reference(mlp())
    assert Auto().needs_reference(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()))


class ByKind(nn.Module):
    """Layers registered as they run, or kind by kind, as many people write them."""

    def __init__(self, by_kind):
        super().__init__()
        made = {"conv1": nn.Conv2d(3, 8, 3), "norm1": nn.BatchNorm2d(8), "conv2": nn.Conv2d(8, 8, 3)}
        made |= {"norm2": nn.BatchNorm2d(8), "embed": nn.Linear(8, 8)}
        kinds = ["conv1", "conv2", "embed", "norm1", "norm2"]
        for name in kinds if by_kind else made:
            self.add_module(name, made[name])

    def forward(self, x):
        return self.embed(self.norm2(self.conv2(self.norm1(self.conv1(x)).relu())).relu().mean((2, 3)))


def test_the_repair_does_not_depend_on_the_order_of_registration():
    torch.manual_seed(0)
    batches, state, results = [torch.randn(16, 3, 10, 10) for _ in range(2)], ByKind(False).state_dict(), []
    for by_kind in (False, True):
        dense = ByKind(by_kind)
        dense.load_state_dict(state)
        calibrate(dense, batches, repair="batchnorm", max_batches=2)
        model = thinned(copy.deepcopy(dense))
        before = bits(model)
        result = calibrate(model, batches, repair="auto", reference=dense, max_batches=2)
        written = {n for n, _ in model.named_parameters() if bits(model)[n] != before[n]}
        assert written == {"embed.weight", "embed.bias"}
        assert result.how == {**dict.fromkeys(("norm1", "norm2"), "BatchNorm statistics"), "embed": "moments"}
        results.append(bits(model))
    assert results[0] == results[1]


def test_without_a_dense_network_batches_may_be_read_only_once():
    model = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    result = calibrate(model, iter([torch.randn(16, 8)]), max_batches=1)
    assert result.repaired == ("1",)
    assert set(result.skipped) == {"3"}


def test_if_the_second_step_fails_the_statistics_are_put_back():
    dense = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    model, other = thinned(copy.deepcopy(dense)), nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU())
    before = bits(model)
    with pytest.raises(ValueError, match="lacks layer '3'"):
        calibrate(model, [torch.randn(16, 8)], repair="auto", reference=other, max_batches=1)
    assert bits(model) == before


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
    in_turn = between_prunings(InTurn([Moments(), Auto()]), nn.Linear(2, 2))
    assert in_turn.repairs == [Moments(), NoRepair()]


def test_a_layer_behind_a_batchnorm_layer_is_matched_as_if_that_had_its_last_statistics():
    torch.manual_seed(0)
    mix = torch.randn(8, 8)
    head = [[nn.Linear(8, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 8)] for _ in range(2)]
    dense, batch = nn.Sequential(*head[0], *head[1]), torch.randn(256, 8) @ mix + 1
    for _ in range(50):
        dense(batch)  # so that running statistics are those of the batch
    model = thinned(copy.deepcopy(dense.eval()))
    result = calibrate(model, [batch], repair="auto", reference=dense, max_batches=1)
    assert result.how["3"] == result.how["7"] == "moments"
    calibrate(dense, [batch], repair="batchnorm", max_batches=1)  # as which it is compared with
    torch.testing.assert_close(model(batch).mean(0), dense(batch).mean(0), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(model(batch).std(0), dense(batch).std(0), rtol=1e-3, atol=1e-3)
