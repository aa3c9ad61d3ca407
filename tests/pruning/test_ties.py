"""Copies within a model are found, and get the masks of what they follow."""

import copy

import pytest
import torch
from torch import nn

from reflow_lightning import prune
from reflow_lightning.pruning.ties import nearest_source, single_copies, tied_names
from reflow_lightning.running.copies import copies_in


def small():
    return nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))


def trained_in(*modules):
    return {id(parameter) for module in modules for parameter in module.parameters()}


def test_a_copy_gets_the_masks_of_its_source_and_is_not_ranked():
    model = nn.ModuleDict({"teacher": small(), "student": small()})
    with torch.no_grad():
        model["teacher"][0].weight.fill_(100.0)
    alone = prune(copy.deepcopy(model["student"]), 0.5)
    masks = prune(model, 0.5, tied={"teacher.*": "student.*"})
    for name, mask in alone.items():
        assert torch.equal(masks[f"student.{name}"], mask)
        assert torch.equal(masks[f"teacher.{name}"], mask)
    assert (model["teacher"][0].weight == 0).sum() == (model["student"][0].weight == 0).sum()


def test_a_buffer_can_follow_a_weight():
    model = nn.Linear(4, 4)
    model.register_buffer("average", torch.ones(4, 4))
    masks = prune(model, 0.5, tied={"average": "weight"})
    assert torch.equal(model.average == 0, ~masks["weight"])


def test_a_copy_that_is_not_ranked_for_lack_of_its_source_stays_dense():
    model = nn.ModuleDict({"teacher": small(), "student": small()})
    masks = prune(model, 0.5, tied={"teacher.0.*": "student.0.*"}, exclude="student.0.*")
    assert set(masks) == {"teacher.2.weight", "student.2.weight"}


@pytest.mark.parametrize(
    ("tied", "text"),
    [
        ({"teacher.*": "student.0.weight"}, "both sides need one"),
        ({"tutor.*": "student.*"}, "names no two tensors of ModuleDict"),
        ({"student.0.weight": "student.2.weight"}, "has shape"),
        ({"student.*": "student.*"}, "which follows another tensor, or itself"),
    ],
)
def test_a_tie_that_names_nothing_is_an_error(tied, text):
    model = nn.ModuleDict({"teacher": small(), "student": small()})
    with pytest.raises(ValueError, match=text):
        tied_names(model, tied)


def test_a_tie_is_made_of_names():
    with pytest.raises(ValueError, match="tied=3 must be names by names"):
        prune(small(), 0.5, tied=3)


def test_of_several_sources_the_nearest_is_taken():
    model = nn.ModuleDict({"critic1": small(), "critic2": small()})
    model["target2"] = copy.deepcopy(model["critic2"])
    [found] = copies_in(model, trained_in(model["critic1"], model["critic2"]))
    assert found.sources == ("critic1", "critic2")
    names = nearest_source(model, found.names(model))
    assert names["target2.0.weight"] == "critic2.0.weight"


def test_what_is_built_otherwise_is_no_copy():
    model = nn.ModuleDict({"net": small(), "vgg": nn.Linear(4, 4, bias=False)})
    assert copies_in(model, trained_in(model["net"])) == []


def test_buffers_and_untrained_parameters_of_the_shape_of_a_weight_are_found():
    model = nn.Linear(3, 2)
    model.register_buffer("average", torch.zeros(2, 3))
    model.register_buffer("other", torch.zeros(3, 2))
    model.shadow = nn.Parameter(torch.zeros(2, 3), requires_grad=False)
    found = single_copies(model, {id(model.weight), id(model.bias)})
    assert found == {"shadow": [{"shadow": "weight"}], "average": [{"average": "weight"}]}
