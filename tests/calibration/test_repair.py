import copy

import pytest
import torch
from helpers import everything
from scenarios.thinned import bits, make
from torch import nn
from zoo.linear import Repeated, mlp
from zoo.recurrent import Recurrent

from reflow_lightning import calibrate
from reflow_lightning.calibration import (
    Align,
    BatchNormStatistics,
    Calibration,
    InTurn,
    Moments,
    NoRepair,
    needs_reference,
)

ALIGN = Align(steps=30)  # nothing here depends on their number
WRITING = ["moments", "reconstruct", "auto", ALIGN]


pytestmark = pytest.mark.filterwarnings("ignore:.*has no BatchNorm layer", "ignore:calibrate left alone")


def repaired(name, repair, count=2, **options):
    model, dense, batches = make(name, count)
    return (
        model,
        dense,
        batches,
        calibrate(model, batches, repair=repair, reference=dense, max_batches=count, **options),
    )


@pytest.mark.parametrize("repair", WRITING, ids=str)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["mlp", "layernorm", "batchnorm", "attention", "lstm", "fastgrnn"])
def test_networks_of_half_precision(name, dtype, repair):
    model, dense, batches = make(name, 2)
    model, dense, batches = model.to(dtype), dense.to(dtype), [batch.to(dtype) for batch in batches]
    before = bits(model)
    result = calibrate(model, batches, repair=repair, reference=dense, max_batches=2)
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    assert bits(model) != before
    result.undo()
    assert bits(model) == before


@pytest.mark.parametrize("repair", WRITING, ids=str)
def test_batches_of_any_kind_go_through_forward(repair):
    class Named(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, pixels=None):
            return {"logits": self.inner(pixels)}

    plain_model, dense, batches = make("mlp", 2)
    model = Named(copy.deepcopy(plain_model))
    odd = [{"pixels": batch, "label": "a"} for batch in batches]
    calibrate(plain_model, batches, repair=repair, reference=dense, max_batches=2)
    calibrate(
        model,
        odd,
        repair=repair,
        reference=Named(dense),
        max_batches=2,
        forward=lambda network, batch: network(pixels=batch["pixels"]),
    )
    assert bits(model.inner) == bits(plain_model)


@pytest.mark.parametrize("repair", WRITING, ids=str)
def test_a_compiled_network_is_repaired_like_a_plain_one(repair):
    model, dense, batches = make("layernorm", 2)
    compiled, compiled_dense = (torch.compile(copy.deepcopy(m), backend="eager") for m in (model, dense))
    compiled(batches[0])
    calibrate(model, batches, repair=repair, reference=dense, max_batches=2)
    calibrate(compiled, batches, repair=repair, reference=compiled_dense, max_batches=2)
    assert bits(compiled._orig_mod) == bits(model)


@pytest.mark.parametrize("repair", WRITING, ids=str)
@pytest.mark.filterwarnings("ignore:calibration got 1 batches")
def test_a_model_without_any_layer_is_left_alone(repair):
    assert calibrate(nn.ReLU(), [torch.ones(2, 2)], repair=repair, reference=nn.Tanh()).repaired == ()


def test_layers_that_are_called_several_times_are_named_once():
    *_, result = repaired("repeated", ["moments", "reconstruct"])
    assert result.repaired == ("layer", "head")
    assert result.how == dict.fromkeys(["layer", "head"], "moments, then least squares")


class Own:
    """A user's repair: adds one to a bias, and remembers what it was given."""

    def __init__(self, fails=False):
        self.fails, self.given = fails, []

    def __call__(self, model, batches, forward, reference):
        self.given.append((model, [batch.shape for batch in batches], forward, reference))
        if self.fails:
            raise ZeroDivisionError
        bias, old = model[-1].bias, model[-1].bias.detach().clone()
        bias.data += 1

        class Before:
            def restore(self):
                bias.data.copy_(old)

        return Calibration(("own",), {}, 2, 0.0, Before())


class NeedsNoReference(Own):
    def needs_reference(self, model):
        return False


def test_repairs_of_users_compose_with_others_in_a_list():
    model, dense, batches = make("mlp", 2)
    before, own = bits(model), Own()
    result = calibrate(model, batches, repair=["moments", own, NoRepair()], reference=dense, max_batches=2)
    ((given, shapes, _, reference),) = own.given
    assert given is model
    assert reference is dense
    assert shapes == [(32, 8)] * 2
    assert result.repaired == ("0", "2", "4", "own")
    assert result.how["own"] == "repaired"
    after_moments = dict(bits(model))
    calibrated = copy.deepcopy(model)
    calibrated[-1].bias.data -= 1
    assert bits(calibrated)["0.weight"] == after_moments["0.weight"]
    result.undo()
    assert bits(model) == before


@pytest.mark.parametrize("first", WRITING, ids=str)
def test_if_a_later_repair_fails_those_before_it_are_undone(first):
    model, dense, batches = make("batchnorm", 2)
    before, changed = everything(model), []

    def fails(model, *_):
        changed.append(everything(model)["values"] != before["values"])
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        calibrate(model, batches, repair=[first, fails], reference=dense, max_batches=2)
    assert changed == [True]
    assert everything(model) == before


def test_undo_goes_backwards():
    undone = []

    class Before:
        def __init__(self, name):
            self.name = name

        def restore(self):
            undone.append(self.name)

    repairs = [lambda *_, name=name: Calibration((name,), {}, 1, 0.0, Before(name)) for name in "abc"]
    InTurn(repairs)(nn.ReLU(), [], None, None).undo()
    assert undone == ["c", "b", "a"]


def test_whether_the_dense_network_is_needed():
    model = mlp()
    assert needs_reference(Own(), model)
    assert not needs_reference(NeedsNoReference(), model)
    assert needs_reference(lambda *_: None, model)
    assert needs_reference(InTurn([NoRepair(), Moments()]), model)
    assert not needs_reference(InTurn([NoRepair(), BatchNormStatistics(), NeedsNoReference()]), model)


def test_a_record_reads_as_text():
    text = str(Calibration(("bn",), {"head": "no batch reached it"}, 2, 0.25, how={"bn": "BatchNorm statistics"}))
    assert text.splitlines() == [
        "1 layers repaired with 2 batches in 0.2 s",
        "bn    BatchNorm statistics",
        "head  left alone: no batch reached it",
    ]
    assert str(Calibration((), {}, 0, 0.0)).count("\n") == 0


def test_a_settled_record_holds_no_values():
    model, dense, batches = make("mlp", 1)
    result = calibrate(model, batches, repair="moments", reference=dense, max_batches=1)
    after = bits(model)
    result.settled().undo()
    assert bits(model) == after
    assert result.settled().how == result.how


@pytest.mark.parametrize("repair", WRITING, ids=str)
def test_lengths_of_sequences_may_differ_between_batches(repair):
    torch.manual_seed(0)
    dense = Recurrent(nn.LSTM)
    model = copy.deepcopy(dense)
    model.cells.weight_ih_l0.data *= 0.5
    calibrate(model, [torch.randn(4, n, 8) for n in (3, 5)], repair=repair, reference=dense, max_batches=2)


def test_the_same_layer_called_three_times_is_solved_for_with_all_calls():
    torch.manual_seed(0)
    dense, batch = Repeated(), torch.randn(64, 8)
    model = copy.deepcopy(dense)
    model.head.weight.data *= 0.5
    calibrate(model, [batch], repair="reconstruct", reference=dense, max_batches=1)
    torch.testing.assert_close(model(batch), dense(batch), atol=0.01, rtol=0.01)
