import pytest
import torch
from torch import nn
from zoo.convolutional import small_net

from reflow_lightning.pruning import select


def test_only_weights_that_multiply_the_signal_are_selected():
    assert list(select(small_net())) == ["0.weight", "4.weight", "9.weight"]


def test_recurrent_and_attention_matrices_are_selected():
    model = nn.ModuleDict(
        {"gru": nn.GRU(3, 4), "attention": nn.MultiheadAttention(8, 2), "embedding": nn.Embedding(5, 8)}
    )
    assert list(select(model)) == [
        "gru.weight_ih_l0",
        "gru.weight_hh_l0",
        "attention.in_proj_weight",
        "attention.out_proj.weight",
    ]


@pytest.mark.parametrize("cell", [nn.RNNCell(3, 4), nn.GRUCell(3, 4), nn.LSTMCell(3, 4)])
def test_the_matrices_of_cells_are_selected(cell):
    assert list(select(cell)) == ["weight_ih", "weight_hh"]


def test_tied_parameters_count_once_and_answer_to_every_name():
    model = nn.ModuleDict({"a": nn.Linear(4, 4), "b": nn.Linear(4, 4)})
    model["b"].weight = model["a"].weight
    assert list(select(model)) == ["a.weight"]
    assert list(select(model, include="b.*")) == ["a.weight"]


def test_a_decoder_tied_to_an_embedding_is_an_embedding():
    model = nn.ModuleDict({"embedding": nn.Embedding(5, 8), "decoder": nn.Linear(8, 5), "body": nn.Linear(8, 8)})
    model["decoder"].weight = model["embedding"].weight
    assert list(select(model)) == ["body.weight"]


def test_exclude_takes_precedence():
    assert list(select(small_net(), include=("0.*", "9.*"), exclude="9.*")) == ["0.weight"]


def test_a_full_name_adds_what_is_no_candidate():
    assert list(select(small_net(), include=("*", "1.weight"))) == ["0.weight", "1.weight", "4.weight", "9.weight"]


def test_an_include_pattern_without_match_is_an_error_that_names_the_nearest():
    with pytest.raises(ValueError, match=r"'9.wieght' matches no prunable parameter; nearest: 9.weight"):
        select(small_net(), include="9.wieght")


def test_a_pattern_that_is_like_no_name_is_answered_with_what_there_is():
    with pytest.raises(ValueError, match=r"matches no prunable parameter; there are 0.weight, 4.weight, 9.weight"):
        select(small_net(), include="*.convolution")


def test_an_exclude_pattern_without_match_is_a_warning():
    with pytest.warns(UserWarning, match="'head.*' matches no prunable"):
        select(small_net(), exclude="head.*")


def test_an_empty_selection_is_an_error():
    with pytest.raises(ValueError, match="nothing to prune in Sequential"):
        select(nn.Sequential(nn.BatchNorm1d(3)))
    with pytest.raises(ValueError, match="nothing to prune"):
        select(nn.Linear(0, 3))


def test_uninitialised_and_meta_parameters_are_errors():
    with pytest.raises(ValueError, match="run one forward pass"):
        select(nn.LazyLinear(3))
    with pytest.raises(ValueError, match="device 'meta'"):
        select(nn.Linear(2, 2, device="meta"))


def test_complex_weights_are_no_candidates():
    with pytest.raises(ValueError, match="nothing to prune"):
        select(nn.Linear(2, 2, dtype=torch.complex64))


def test_exclude_takes_precedence_over_whatever_it_names():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    assert list(select(model, include=["*", "*.bias"], exclude="1.*")) == ["0.weight", "0.bias"]
    assert list(select(model, include=["0.weight", "1.bias"], exclude="1.*")) == ["0.weight"]
