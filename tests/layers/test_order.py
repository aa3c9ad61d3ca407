import weakref

import pytest
import torch
from scenarios.thinned import plain
from torch import nn
from zoo.residual import Preactivation

from reflow_lightning.layers.order import Order, OrderWatch, forward_order, merged


def order_of(model, batch=None):
    x = torch.randn(2, 3) if batch is None else batch
    return forward_order(model.eval(), [x, None], plain)


class Backwards(nn.Module):
    def __init__(self):
        super().__init__()
        self.last, self.first, self.unused = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x):
        return self.last(self.first(self.first(x)))


def test_layers_come_in_the_order_in_which_they_are_reached_with_their_calls():
    found = order_of(Backwards())
    assert list(found.calls.items()) == [("first", 2), ("last", 1)]


def test_only_the_first_batch_is_read():
    order_of(Backwards())  # the second is None


def test_no_batch_gives_nothing():
    assert forward_order(Backwards(), [], plain).calls == {}


def test_a_batchnorm_that_gets_the_output_of_a_layer_follows_it_wherever_it_is_defined():
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.fc = nn.BatchNorm1d(3), nn.Linear(3, 3)

        def forward(self, x):
            return self.norm(input=self.fc(x))

    assert order_of(Network()).followers == {"fc": "norm"}


def test_a_batchnorm_after_an_addition_follows_no_layer_but_the_stem():
    model = Preactivation()
    found = order_of(model, torch.randn(2, 3, 6, 6))
    assert found.followers == {"stem": "norm1"}


@pytest.mark.parametrize("inplace", [True, False])
def test_a_batchnorm_after_an_activation_follows_no_layer_even_if_that_writes_in_place(inplace):
    assert order_of(nn.Sequential(nn.Linear(3, 3), nn.ReLU(inplace), nn.BatchNorm1d(3))).followers == {}


class Called(nn.Module):
    """Two layers and two BatchNorm layers, in any order of calls."""

    def __init__(self, calls):
        super().__init__()
        self.calls = calls
        self.a, self.b, self.norm, self.other = (nn.Linear(3, 3), nn.Linear(3, 3), nn.BatchNorm1d(3), nn.BatchNorm1d(3))

    def forward(self, x):
        for name in self.calls.split():
            x = getattr(self, name)(x)
        return x


@pytest.mark.parametrize(
    ("calls", "followers"),
    [
        ("a norm b other", {"a": "norm", "b": "other"}),
        ("a norm a norm", {"a": "norm"}),
        ("a norm b norm", {}),  # one set of statistics for the outputs of both
        ("a norm a other", {}),
        ("a norm a", {}),
        ("a norm other", {"a": "norm"}),
        ("a a norm", {}),
    ],
)
def test_the_statistics_of_a_follower_are_those_of_all_outputs_of_one_layer_alone(calls, followers):
    assert order_of(Called(calls)).followers == followers


@pytest.mark.parametrize(
    ("calls", "normalised"),
    [
        ("a norm b norm", {"a": ("norm",), "b": ("norm",)}),
        ("a norm a other", {"a": ("norm", "other")}),  # as a shared head with statistics of its own for each level
        ("a norm a", {}),  # what the second call gives goes out as it is
    ],
)
def test_a_layer_is_normalised_if_every_output_goes_to_some_batchnorm(calls, normalised):
    assert order_of(Called(calls)).handed_on == normalised


class Turned(nn.Module):
    """A BatchNorm layer that gets the output of a layer in another layout."""

    def __init__(self, turn):
        super().__init__()
        self.fc, self.norm, self.turn = nn.Linear(3, 4), nn.BatchNorm1d(4), turn

    def forward(self, x):
        return self.norm(self.turn(self.fc(x)))


@pytest.mark.parametrize(
    ("turn", "follows"),
    [
        (lambda y: y.transpose(1, 2), True),
        (lambda y: y.flatten(0, 1), True),
        (lambda y: y.transpose(1, 2).contiguous(), True),
        (lambda y: y.transpose(1, 2).contiguous() + 1, False),
        (lambda y: y, False),  # (2, 4, 4): the norm takes the steps for channels
        (lambda y: y.transpose(1, 2).relu_(), False),
    ],
)
def test_a_batchnorm_may_get_a_view_of_the_output_channel_for_channel(turn, follows):
    found = order_of(Turned(turn), torch.randn(2, 4, 3))
    assert found.followers == ({"fc": "norm"} if follows else {})


def test_within_inference_mode_the_order_is_found_too():
    with torch.inference_mode():
        assert order_of(nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))).followers == {"0": "1"}


def test_the_order_is_learned_from_a_pass_that_is_run_anyway_and_only_once():
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)).eval()
    watch, runs = OrderWatch(model), []
    forward = watch.around(lambda network, batch: runs.append(1) or network(batch))
    with torch.no_grad():
        for _ in range(3):
            forward(model, torch.randn(2, 3))
    assert len(runs) == 3
    assert watch.order().followers == {"0": "1"}
    assert not model[0]._forward_hooks


def test_a_pass_that_is_broken_off_tells_nothing_and_the_next_one_does():
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)).eval()
    watch = OrderWatch(model)

    def broken(network, batch):
        network(batch)
        raise RuntimeError("half a batch")

    with torch.no_grad():
        with pytest.raises(RuntimeError, match="half a batch"):
            watch.around(broken)(model, torch.randn(2, 3))
        assert watch.order() == Order()
        watch.around(plain)(model, torch.randn(2, 3))
    assert watch.order().followers == {"0": "1"}


class Both(nn.Module):
    """A layer whose outputs reach two BatchNorm layers, and one more of them none, if it is called again."""

    def __init__(self, again):
        super().__init__()
        self.fc, self.a, self.b, self.again = nn.Linear(3, 3), nn.BatchNorm1d(3), nn.BatchNorm1d(3), again

    def forward(self, x):
        y = self.fc(x)
        y = (self.a(y) + self.b(y)).relu()
        return self.fc(y) if self.again else y


@pytest.mark.parametrize(("again", "handed_on"), [(False, {"fc": ("a", "b")}), (True, {})])
def test_each_output_of_a_layer_is_asked_about_and_not_how_many_norms_there_are(again, handed_on):
    found = order_of(Both(again))
    assert found.handed_on == handed_on
    assert found.followers == {}


def test_a_forward_that_enters_inference_mode_itself_tells_the_order_too():
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)).eval()

    def forward(network, batch):
        with torch.inference_mode():
            return network(batch)

    assert forward_order(model, [torch.randn(2, 3)], forward).followers == {"0": "1"}


def test_few_activations_are_held_at_once():
    held, model = [], nn.Sequential(*[nn.Linear(3, 3) for _ in range(40)])
    alive = weakref.WeakSet()

    def note(module, args, output):
        alive.add(output)
        held.append(len(alive))

    for layer in model:
        layer.register_forward_hook(note)
    order_of(model)
    assert max(held) <= 10


class Ways(nn.Module):
    """The batch says through which of two layers it goes, before the head; one of them shares a norm."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.norm, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)

    def forward(self, x, way):
        return self.head(self.norm(getattr(self, way)(x)))


def test_a_layer_that_a_later_batch_reaches_stands_before_what_follows_it():
    model, batches = Ways().eval(), [{"x": torch.randn(3, 4), "way": way} for way in ("one", "one", "two", "gone")]

    def forward(network, batch):
        return network(**batch)

    assert list(forward_order(model, batches, forward).calls) == ["one", "norm", "head"]
    assert forward_order(model, batches, forward).followers == {"one": "norm"}
    order = forward_order(model, batches, forward, ["one", "two", "head"])  # the last batch is not run
    assert list(order.calls) == ["one", "two", "norm", "head"]
    assert order.followers == {}  # the norm follows both


def test_a_layer_is_handed_on_only_if_it_is_so_in_each_way():
    first, then = Order({"a": 1, "norm": 1}, {"a": ("norm",)}), Order({"a": 1, "b": 1, "norm": 1}, {"b": ("norm",)})
    assert merged(first, then).handed_on == {"b": ("norm",)}
    assert merged(first, first) == first
    assert merged(Order(), first) == first == merged(first, Order())
