import pytest
import torch

from reflow_lightning.experiments.token_format import TokenFormat, check_format, check_tokens


def tokens(*rows):
    ids = torch.tensor(rows)
    return {"input_ids": ids, "attention_mask": (ids > 0).long()}


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        (TokenFormat(10, 5, 0), TokenFormat(10, 5, 0)),
        (TokenFormat(10, 5, 0), TokenFormat(11, 6, None)),
        (TokenFormat(10, 5, 0), TokenFormat(11, None, 0)),
        (TokenFormat(10, None, 0), TokenFormat(11, 6)),
    ],
)
def test_a_network_may_know_more_than_the_data_need(given, taken):
    check_format(given, taken)


@pytest.mark.parametrize(
    ("taken", "message"),
    [
        (TokenFormat(9), r"the tokenizer has 10 tokens, but the network embeds 9: use .*vocabulary_size=10\)"),
        (TokenFormat(10, 4), "up to max_length=5 tokens, but the network has positions for 4: use max_length=4"),
        (TokenFormat(10, 5, 1), r"the data pad with id 0, but the network takes id 1 for .*model.pad_token_id=0\)"),
    ],
)
def test_what_a_network_does_not_know_is_named_with_the_remedy(taken, message):
    with pytest.raises(ValueError, match=message):
        check_format(TokenFormat(10, 5, 0), taken)


@pytest.mark.parametrize(
    "inputs",
    [torch.zeros(2, 3), {"image": torch.zeros(2)}, {"input_ids": "text"}, {"input_ids": torch.zeros(0, 3)}, None],
)
def test_other_inputs_are_not_looked_at(inputs):
    check_tokens(inputs, TokenFormat(1))


def test_right_tokens_pass():
    check_tokens(tokens([5, 6], [7, 0]), TokenFormat(8))
    check_tokens({"input_ids": torch.tensor([[5]])}, TokenFormat(8))
    check_tokens({"input_ids": torch.ones(2, 3), "attention_mask": torch.ones(2, 1, 3, 3)})  # a mask for each head


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (tokens([5, 8]), "input_ids are 5 to 8, but the network embeds 0 to 7: use the tokenizer of that network"),
        ({"input_ids": torch.tensor([[-100, 5]])}, "input_ids are -100 to 5, but the network embeds 0 to 7"),
        (tokens([5, 6], [0, 0]), "row 1 of attention_mask is padding alone: leave empty sentences out"),
        (
            {"input_ids": torch.ones(2, 3), "attention_mask": torch.ones(2, 4)},
            r"attention_mask has shape \(2, 4\) and input_ids \(2, 3\): give one value a token",
        ),
    ],
)
def test_wrong_tokens_are_named_with_the_remedy(inputs, message):
    with pytest.raises(ValueError, match=message):
        check_tokens(inputs, TokenFormat(8))
