from pathlib import Path

import pytest
import torch
from torch import nn

import reflow_lightning
from reflow_lightning.running.eager import eager
from reflow_lightning.running.hooks import Call, in_type, watching, watching_inputs

PACKAGE = Path(reflow_lightning.__file__).parent


def switches():
    """What `eager` turns off, as two facts: compiled code runs, attention may take its fast path."""
    compiled = torch.compile(lambda x: x + torch.compiler.is_dynamo_compiling(), backend="eager")
    return bool(compiled(torch.zeros(()))), torch.backends.mha.get_fastpath_enabled()


def hooks(model):
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def raises(name, call):
    raise ZeroDivisionError


def breaks_at_the_second(model):
    """A network whose second layer takes no hooks."""

    def refuse(*args, **kwargs):
        raise ZeroDivisionError

    model[1].register_forward_hook = model[1].register_forward_pre_hook = refuse
    return model


@pytest.fixture(params=[True, False])
def fast(request):
    torch.backends.mha.set_fastpath_enabled(request.param)
    yield request.param
    torch.backends.mha.set_fastpath_enabled(True)


def test_the_switches_are_put_back_as_they_were(fast):
    assert switches() == (True, fast)
    with eager():
        with eager():
            assert switches() == (False, False)
        assert switches() == (False, False)
    assert switches() == (True, fast)


def test_the_switches_are_put_back_after_an_error(fast):
    with pytest.raises(ZeroDivisionError), eager():
        raise ZeroDivisionError
    assert switches() == (True, fast)


def test_a_listener_sees_every_call_and_may_change_the_output():
    model, seen = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), []

    def listener(name, call):
        seen.append((name, call.argument(0, "input").shape))
        return call.output * 0 if name == "1" else None

    with watching(model, ["0", "1"], listener):
        output = model(torch.ones(3, 2))
    assert seen == [("0", (3, 2)), ("1", (3, 2))]
    assert not output.any()
    assert model(torch.ones(3, 2)).any()


def test_a_listener_may_change_what_a_module_is_called_with():
    model, seen = nn.Bilinear(1, 1, 1, bias=False), []
    model.weight.data.fill_(1)

    def listener(name, call):
        seen.append((name, call.argument(0, "input1").item(), call.argument(1, "input2").item(), call.output))
        return (call.args, {"input2": call.kwargs["input2"] + 1}) if len(seen) == 1 else None

    with watching_inputs(model, [""], listener):
        assert model(torch.tensor([2.0]), input2=torch.tensor([3.0])).item() == 8
        assert model(torch.tensor([2.0]), input2=torch.tensor([3.0])).item() == 6
    assert seen == [("", 2, 3, None)] * 2


def test_an_argument_that_was_not_given_is_none():
    assert Call((1,), {"mask": 2}).argument(2, "mask") == 2
    assert Call((1,), {}).argument(2, "mask") is None


def test_the_tensors_of_a_call_in_one_type():
    call = in_type(Call((torch.ones(1).half(), 2), {"index": torch.zeros(1).long()}, [torch.ones(1)]), torch.float64)
    assert (call.args[0].dtype, call.args[1]) == (torch.float64, 2)
    assert (call.kwargs["index"].dtype, call.output[0].dtype) == (torch.int64, torch.float64)


def test_a_module_in_two_places_is_heard_by_the_names_that_are_asked_for():
    shared, seen = nn.Linear(2, 2), []
    model = nn.Sequential(shared, shared)
    with watching(model, ["1"], lambda name, call: seen.append(name)):
        model(torch.ones(1, 2))
    assert seen == ["1", "1"]
    seen.clear()
    with watching_inputs(model, ["0", "1"], lambda name, call: seen.append(name)):
        model(torch.ones(1, 2))
    assert seen == ["0", "1", "0", "1"]


@pytest.mark.parametrize("watch", [watching, watching_inputs])
def test_nothing_is_left_of_a_listener_that_raises(watch):
    model, before = nn.Sequential(nn.Linear(2, 2)), switches()
    with pytest.raises(ZeroDivisionError), watch(model, ["0"], raises):
        model(torch.ones(3, 2))
    assert (hooks(model), switches()) == (0, before)


@pytest.mark.parametrize("watch", [watching, watching_inputs])
def test_nothing_is_left_where_a_module_takes_no_hook(watch):
    model, before = breaks_at_the_second(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))), switches()
    with pytest.raises(ZeroDivisionError), watch(model, ["0", "1"], raises):
        raise AssertionError
    assert (hooks(model), switches()) == (0, before)


@pytest.mark.parametrize("watch", [watching, watching_inputs])
def test_a_name_that_is_no_module_is_an_error_that_leaves_nothing(watch):
    model, before = nn.Sequential(nn.Linear(2, 2)), switches()
    with pytest.raises(AttributeError, match="fc"), watch(model, ["0", "fc"], raises):
        raise AssertionError
    assert (hooks(model), switches()) == (0, before)


def test_hooks_of_others_stay():
    model, seen = nn.Sequential(nn.Linear(2, 2)), []
    model[0].register_forward_hook(lambda *_: seen.append("mine"))
    with watching(model, ["0"], lambda name, call: seen.append(name)):
        model(torch.ones(1, 2))
    model(torch.ones(1, 2))
    assert seen == ["mine", "0", "mine"]


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("watch", [watching, watching_inputs])
def test_every_layer_of_a_transformer_is_called_though_it_has_a_fast_path(watch):
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model, seen = nn.TransformerEncoder(layer, 2).eval(), []
    padding = torch.zeros(3, 5, dtype=torch.bool).index_fill(1, torch.tensor([4]), True)
    names = [f"layers.1.{name}" for name in ("self_attn", "norm1", "linear1", "linear2", "norm2")]

    def listener(name, call):
        seen.append((name, call.argument(0, "query" if "attn" in name else "input").shape[:2]))

    with torch.no_grad(), watch(model, names, listener):
        model(torch.randn(3, 5, 8), src_key_padding_mask=padding)
    assert seen == [(name, (3, 5)) for name in names]  # nested tensors have no such shape


@pytest.mark.parametrize("watch", [watching, watching_inputs])
@pytest.mark.parametrize("whole", [True, False])
def test_compiled_modules_call_their_listeners(watch, whole):
    """Whether `torch.compile` wrapped the network, or `Module.compile` compiled it in place."""
    model, seen = nn.Sequential(nn.Linear(2, 2)), []
    if whole:
        model = torch.compile(model, backend="eager")
    else:
        model.compile(backend="eager")
    name = "_orig_mod.0" if whole else "0"
    model(torch.ones(1, 2))
    with watch(model, [name], lambda name, call: seen.append(name)):
        model(torch.ones(1, 2))
    model(torch.ones(1, 2))
    assert seen == [name]


@pytest.mark.parametrize(
    ("name", "home"),
    [
        ("register_forward", "running/hooks.py"),
        ("register_module_forward", "running/hooks.py"),
        ("set_stance", "running/eager.py"),
        ("set_fastpath_enabled", "running/eager.py"),
    ],
)
def test_no_other_file_puts_on_forward_hooks_or_turns_the_switches(name, home):
    users = {path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py") if name in path.read_text()}
    assert users <= {home}


def test_listeners_get_tensors_of_subclasses_as_ordinary_ones_and_the_network_its_own():
    class Named(torch.Tensor):
        pass

    given, inputs, outputs = [], [], []
    model = nn.Sequential(nn.Linear(2, 2), nn.Identity())
    model[1].register_forward_pre_hook(lambda _, args: given.append(type(args[0])))
    with (
        watching(model, ["0"], lambda _, call: outputs.append(type(call.output))),
        watching_inputs(model, ["1"], lambda _, call: inputs.append(type(call.args[0]))),
    ):
        model(torch.ones(1, 2).as_subclass(Named))
    assert given == [Named]
    assert inputs == outputs == [torch.Tensor]
