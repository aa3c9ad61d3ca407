"""A training prunes what it trains; what follows that gets its masks; the rest is left out and named, once."""

import copy
import warnings

import pytest
import torch
import torchmetrics
from helpers import Module, loader, trainer
from torch import nn

from reflow_lightning import Gradual, OneShot, Reflow


class WithOthers(Module):
    """Holds networks that it does not train."""

    def __init__(self):
        super().__init__()
        self.frozen = copy.deepcopy(self.net[4]).requires_grad_(False)
        self.metric = Distance()
        self.target = copy.deepcopy(self.net).requires_grad_(False)

    def configure_optimizers(self):
        return torch.optim.SGD(self.net.parameters(), 0.1)


class Distance(torchmetrics.Metric):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(3, 3)
        self.add_state("seen", torch.tensor(0.0))

    def update(self, x):
        self.seen += self.body(x).mean()

    def compute(self):
        return self.seen


class Teacher(WithOthers):
    """Has a target that was trained before, and does not move."""

    def __init__(self):
        super().__init__()
        for parameter in self.target.parameters():
            nn.init.normal_(parameter)
        for parameter in self.frozen.parameters():
            nn.init.normal_(parameter)


NET = {"net.0.weight", "net.4.weight", "net.9.weight"}


def fitted(module, schedule=None, **arguments):
    reflow = Reflow(0.5, schedule=schedule or OneShot(), repair="none", monitor=False, **arguments)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        trainer(reflow).fit(module, loader())
    return reflow, [str(w.message) for w in told if "not trained" in str(w.message)]


def test_what_is_not_trained_is_left_out_and_named():
    module = Teacher()
    before = {name: p.clone() for name, p in module.named_parameters() if not name.startswith("net")}
    reflow, [text] = fitted(module)
    assert set(reflow.masks) == NET
    assert all(f"'{name}' ({why})" in text for name, why in (("target", "frozen"), ("metric", "a metric")))
    assert all(torch.equal(module.get_parameter(name), value) for name, value in before.items())


def test_it_is_named_once_though_there_are_many_prunings():
    _, told = fitted(Teacher(), Gradual(every_n_steps=2))
    assert len(told) == 1


def test_what_include_names_is_pruned():
    reflow, _ = fitted(Teacher(), include=["*", "metric.*"])
    assert set(reflow.masks) == {*NET, "metric.body.weight"}


class Follows(WithOthers):
    """Has a target that follows from the first batch on."""

    def on_train_batch_end(self, *_):
        for target, online in zip(self.target.parameters(), self.net.parameters(), strict=True):
            target.data.lerp_(online.data, 0.1)


def test_a_target_that_follows_gets_the_masks():
    reflow, _ = fitted(Follows(), OneShot(epoch=1))
    assert {name for name in reflow.masks if name.startswith("target")} == {n.replace("net", "target") for n in NET}
    for name in NET:
        assert torch.equal(reflow.masks[name], reflow.masks[name.replace("net", "target")])


class FollowsInTheOptimizer(Follows):
    """Gives its optimizer all parameters, the frozen ones of its target too, as many do."""

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def test_a_frozen_target_follows_though_it_is_in_the_optimizer():
    reflow, told = fitted(FollowsInTheOptimizer(), OneShot(epoch=1), exclude=["frozen.*", "metric.*"])
    assert torch.equal(reflow.masks["target.9.weight"], reflow.masks["net.9.weight"])
    assert told == []


def test_a_metric_without_weights_is_not_worth_a_word():
    class WithMetric(Module):
        def __init__(self):
            super().__init__()
            self.accuracy = torchmetrics.Accuracy("multiclass", num_classes=10)

    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".*(accuracy|not trained).*")
        reflow, _ = fitted(WithMetric())
    assert set(reflow.masks) == NET


@pytest.mark.parametrize("schedule", [OneShot(), OneShot(epoch=1)])
def test_a_reference_that_is_equal_and_stays_is_no_follower(schedule):
    module = WithOthers()
    before = module.target[9].weight.clone()
    reflow, _ = fitted(module, schedule)
    assert set(reflow.masks) == NET
    assert torch.equal(module.target[9].weight, before)


def test_exclude_prevents_a_tie():
    reflow, _ = fitted(Follows(), OneShot(epoch=1), exclude="target.*")
    assert set(reflow.masks) == NET


class PartFollows(Module):
    """Has a target that follows its last layer alone, which is pruned more than the others."""

    def __init__(self):
        super().__init__()
        nn.init.uniform_(self.net[9].weight, -1e-3, 1e-3)
        self.target = copy.deepcopy(self.net[9]).requires_grad_(False)

    def on_train_batch_end(self, *_):
        self.target.weight.data.lerp_(self.net[9].weight.data, 0.1)

    def configure_optimizers(self):
        return torch.optim.SGD(self.net.parameters(), 1e-5)


def test_a_schedule_goes_no_further_because_of_what_follows():
    module = PartFollows()
    reflow, _ = fitted(module, Gradual(every_n_steps=1), exclude="net.0.*")
    assert set(reflow.masks) == {"net.4.weight", "net.9.weight", "target.weight"}
    own = {name: mask for name, mask in reflow.masks.items() if name != "target.weight"}
    size = sum(mask.numel() for mask in own.values())
    assert sum(int((~mask).sum()) for mask in own.values()) == round(0.5 * size)
    assert reflow.masks.sparsity > 0.5


class Buffered(Module):
    """Keeps an average of a weight in a buffer."""

    def __init__(self):
        super().__init__()
        self.register_buffer("ema", self.net[9].weight.detach().clone())

    def on_train_batch_end(self, *_):
        self.ema.lerp_(self.net[9].weight.detach(), 0.1)


def test_an_average_in_a_buffer_follows_by_itself():
    module = Buffered()
    reflow, _ = fitted(module, OneShot(epoch=1))
    assert torch.equal(module.ema == 0, ~reflow.masks["net.9.weight"])


def test_a_layer_that_is_trained_later_is_no_follower():
    class Unfreezes(Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
            self.body[0].requires_grad_(False)

        def forward(self, x):
            return self.body(self.net(x))

        def configure_optimizers(self):
            return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], 0.1)

        def on_train_epoch_start(self):
            if self.current_epoch == 1:
                self.body[0].requires_grad_(True)
                self.optimizers().add_param_group({"params": list(self.body[0].parameters())})

    torch.manual_seed(0)
    reflow, _ = fitted(Unfreezes(), Gradual(every_n_steps=2, begin=0.0, end=1.0), allocation="uniform")
    assert {"body.0.weight", "body.1.weight"} <= set(reflow.masks)
    assert not torch.equal(reflow.masks["body.0.weight"], reflow.masks["body.1.weight"])


def test_a_network_that_is_only_validated_stays_as_it_is():
    reflow, module, other = Reflow(0.5, repair="none", monitor=False), Module(), Module()
    runner = trainer(reflow)
    runner.fit(module, loader(), loader())
    before = other.net[9].weight.clone()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*were replaced.*")
        runner.validate(other, loader(), verbose=False)
        runner.validate(module, loader(), verbose=False)
        trainer(reflow, num_sanity_val_steps=2).fit(module, loader(), loader())
    assert torch.equal(other.net[9].weight, before)


def test_a_copy_that_begins_to_move_after_the_pruning_follows_from_then_on():
    class Late(Teacher):
        def on_train_batch_end(self, *_):
            if self.global_step > 3:
                for target, online in zip(self.target.parameters(), self.net.parameters(), strict=True):
                    target.data.lerp_(online.data, 0.5)

    module = Late()
    reflow, _ = fitted(module)
    assert {n.replace("net", "target") for n in NET} <= set(reflow.masks)
    for name, mask in reflow.masks.items():
        assert (module.get_parameter(name)[~mask] == 0).all()


def test_a_tie_is_said_by_hand_for_a_buffer():
    module = Buffered()
    reflow, _ = fitted(module, tied={"ema": "net.9.weight"})
    assert torch.equal(module.ema == 0, ~reflow.masks["net.9.weight"])


@pytest.mark.parametrize("schedule", [OneShot(), Gradual(every_n_steps=2)])
def test_a_network_that_is_trained_as_a_whole_is_pruned_as_a_whole(schedule):
    reflow, told = fitted(Module(), schedule)
    assert set(reflow.masks) == NET
    assert told == []


class Judged(Module):
    """A frozen network with norms of both kinds looks at what the trained one makes, and belongs to the loss."""

    def __init__(self):
        super().__init__()
        self.judge = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4), nn.LayerNorm(4))
        self.judge.requires_grad_(False).eval()
        self.seen = torchmetrics.MeanMetric()

    def training_step(self, batch, _):
        self.seen(self.judge(self(batch[0])).mean())
        return self.judge(self(batch[0])).square().mean()

    def on_train_epoch_start(self):
        self.judge.eval()

    def configure_optimizers(self):
        return torch.optim.SGD(self.net.parameters(), 0.1)


@pytest.mark.parametrize("repair", ["auto", "batchnorm", "moments", "reconstruct", "align"])
def test_no_repair_changes_what_is_left_out(repair):
    module = Judged()
    before = {name: value.clone() for name, value in module.judge.state_dict().items()}
    reflow = Reflow(0.5, repair=repair, schedule=OneShot(epoch=1), forward="training_step", calibration_batches=4)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        trainer(reflow).fit(module, loader())
    assert reflow.events[0].calibration.repaired
    assert all(torch.equal(value, before[name]) for name, value in module.judge.state_dict().items())
    texts = [str(w.message) for w in told if "judge" in str(w.message) or "seen" in str(w.message)]
    assert texts == [
        "left dense, since it is not trained: 'judge' (frozen); name it in include to prune it, or in exclude"
    ]


def test_a_repair_of_a_frozen_layer_is_no_following():
    class Within(Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Flatten(), nn.Linear(36, 36), nn.ReLU(), nn.Linear(36, 36), nn.Linear(36, 3))
            self.net[3].requires_grad_(False)

        def configure_optimizers(self):
            return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], 0.1)

    reflow = Reflow(0.5, repair="reconstruct", monitor=False)
    trainer(reflow).fit(Within(), loader())
    assert set(reflow.masks) == {"net.1.weight", "net.4.weight"}


@pytest.mark.parametrize("other", [nn.Embedding(4, 4), nn.LayerNorm((4, 4))])
def test_a_frozen_layer_without_a_weight_to_prune_is_not_worth_a_word(other):
    class Holds(Module):
        def __init__(self):
            super().__init__()
            self.other = other.requires_grad_(False)

        def configure_optimizers(self):
            return torch.optim.SGD(self.net.parameters(), 0.1)

    _, told = fitted(Holds())
    assert told == []


def test_a_follower_that_was_pruned_by_itself_gets_the_masks_of_what_it_follows():
    class Late(WithOthers):
        """Its target is in the optimizer, frozen, and follows from the second epoch on."""

        def configure_optimizers(self):
            return torch.optim.SGD([*self.net.parameters(), *self.target.parameters()], 0.1)

        def on_train_batch_end(self, *_):
            if self.current_epoch == 1:
                for target, online in zip(self.target.parameters(), self.net.parameters(), strict=True):
                    target.data.lerp_(online.data, 0.5)

    reflow, _ = fitted(Late(), OneShot(step=2))
    assert all(torch.equal(reflow.masks[name], reflow.masks[name.replace("net", "target")]) for name in NET)


@pytest.mark.parametrize("patterns", [(), ("body.*",)])
def test_no_repair_changes_what_is_left_out_though_it_is_excluded_too(patterns):
    class OnFrozen(Module):
        """Trains a head on a frozen network that is in no optimizer."""

        def __init__(self):
            super().__init__()
            self.body, self.net = self.net, nn.Linear(3, 3)
            self.body.requires_grad_(False)

        def forward(self, x):
            return self.net(self.body(x))

        def configure_optimizers(self):
            return torch.optim.SGD(self.net.parameters(), 0.1)

    module = OnFrozen()
    before = {name: p.clone() for name, p in module.body.named_parameters()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer(Reflow(0.5, repair="moments", monitor=False, exclude=patterns)).fit(module, loader())
    assert all(torch.equal(module.body.get_parameter(name), value) for name, value in before.items())
