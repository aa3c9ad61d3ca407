import os
import pickle

import pytest
import torch
from torch import nn

from reflow_lightning.experiments.checkpoints import load_weights, read_weights


def net(width=4):
    return nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width))


def copy_of(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(model, state):
    return all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


@pytest.fixture
def path(tmp_path):
    return tmp_path / "weights.pt"


@pytest.mark.parametrize("entry", [None, "state_dict", "model_state_dict", "model", "net"])
@pytest.mark.parametrize("prefix", ["", "module.", "model.", "net.", "_orig_mod.", "net._orig_mod.", "module.model."])
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_entries_prefixes_and_formats(entry, prefix, legacy, path):
    source, target = net(), net()
    state = {prefix + name: value for name, value in source.state_dict().items()}
    content = state if entry is None else {entry: state, "epoch": 3}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    load_weights(target, path)
    assert same(target, copy_of(source))


@pytest.mark.parametrize("prefix", ["", "model.", "module.model."])
def test_a_network_may_itself_have_such_a_name_inside(prefix, path):
    source, target = (nn.Sequential() for _ in range(2))
    source.add_module("model", net())
    target.add_module("model", net())
    torch.save({prefix + name: value for name, value in source.model.state_dict().items()}, path)
    load_weights(target, path)
    assert same(target, copy_of(source))


def test_a_name_that_only_some_have_is_no_prefix(path):
    state = {"model.weight": torch.zeros(1), "bias": torch.zeros(1)}
    torch.save(state, path)
    assert set(read_weights(path)) == set(state)


def test_old_checkpoints_do_not_count_batches(path):
    source, target = net(), net()
    torch.save({k: v for k, v in source.state_dict().items() if "num_batches" not in k}, path)
    load_weights(target, path)
    assert torch.equal(target[0].weight, source[0].weight)


@pytest.mark.parametrize(
    ("change", "answer"),
    [
        (lambda state: state.pop("0.weight"), "it lacks 0.weight"),
        (lambda state: state.update(fc=torch.zeros(1)), "it also has fc"),
        (lambda state: state.update({"0.bias": torch.zeros(9)}), "of another shape are 0.bias"),
        (lambda state: state.update({f"x{i}": torch.zeros(1) for i in range(5)}), "it also has x0, x1, x2 and 2 more"),
    ],
)
def test_another_network_is_named_and_nothing_is_loaded(change, answer, path):
    state, target = copy_of(net()), net()
    change(state)
    torch.save(state, path)
    before = copy_of(target)
    with pytest.raises(ValueError, match=f"is not of this Sequential: {answer}"):
        load_weights(target, path)
    assert same(target, before)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_a_truncated_file_is_a_clear_error_wherever_it_ends(legacy, path):
    torch.save(net().state_dict(), path, _use_new_zipfile_serialization=not legacy)
    whole = path.read_bytes()
    target = net()
    before = copy_of(target)
    for end in range(0, len(whole) - 100, 37):
        path.write_bytes(whole[:end])
        with pytest.raises(ValueError, match=r"ckpt=.* can't be read as tensors, or is damaged: .+"):
            load_weights(target, path)
    assert same(target, before)


class RunsCode:
    def __reduce__(self):
        return os.mkdir, (self.folder,)


@pytest.mark.parametrize("save", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content, 2))])
def test_no_code_is_run(save, path, tmp_path):
    content = RunsCode()
    content.folder = str(tmp_path / "made by the checkpoint")
    save({"state_dict": content}, path)
    with pytest.raises(ValueError, match="can't be read as tensors"):
        read_weights(path)
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_without_weights(path):
    torch.save({"epoch": 3}, path)
    with pytest.raises(ValueError, match="holds no weights: it must be a state dict, or have one under"):
        read_weights(path)


def test_the_message_does_not_advise_to_run_what_is_in_there(path):
    torch.save({"state_dict": Opaque()}, path)
    with pytest.raises(ValueError, match="it holds more than tensors and plain types") as raised:
        read_weights(path)
    assert "weights_only" not in str(raised.value)


class Opaque:
    pass


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"ckpt=.* is no file"):
        read_weights(tmp_path)


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"ckpt=.*none\.pt does not exist"):
        read_weights(tmp_path / "none.pt")
