import itertools

import pytest
import torch
from torch import nn

from reflow_lightning.experiments.models.text_transformer import TextTransformer, masked_mean
from reflow_lightning.pruning import select

KINDS = pytest.mark.parametrize(
    ("norm_first", "activation", "pooling"),
    list(itertools.product([True, False], ["gelu", "relu"], ["mean", "first"])),
)


def network(**options):
    return TextTransformer(vocabulary_size=30, num_classes=3, max_length=12, width=8, heads=2, **options).eval()


def batch(length=5):
    ids = torch.randint(1, 30, (4, length))
    mask = torch.ones_like(ids)
    mask[1, 3:] = mask[2, 1:] = 0
    return ids, mask


@KINDS
def test_padding_changes_nothing(norm_first, activation, pooling):
    net = network(norm_first=norm_first, activation=activation, pooling=pooling)
    ids, mask = batch()
    longer = [nn.functional.pad(part, (0, 7)) for part in (ids, mask)]
    other = torch.where(mask == 1, ids, 17)  # whatever id stands where there is no token
    with torch.no_grad():
        logits = net(ids, mask)
        torch.testing.assert_close(net(*longer), logits)
        torch.testing.assert_close(net(other, mask), logits)
        for row, length in enumerate(mask.sum(1).tolist()):
            torch.testing.assert_close(net(ids[row : row + 1, :length])[0], logits[row])


@KINDS
def test_the_blocks_are_those_of_torchs_encoder(norm_first, activation, pooling):
    net = network(norm_first=norm_first, activation=activation, pooling=pooling)
    ids, mask = batch()
    layer = nn.TransformerEncoderLayer(8, 2, 16, 0.0, activation, batch_first=True, norm_first=norm_first)
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    encoder.layers.load_state_dict(net.layers.state_dict())
    x = encoder(net.embedding(ids) + net.positions.weight[:5], src_key_padding_mask=mask == 0)
    pooled = x[:, 0] if pooling == "first" else torch.stack([x[i, : mask[i].sum()].mean(0) for i in range(4)])
    torch.testing.assert_close(net(ids, mask), net.head(net.norm(pooled)), atol=1e-5, rtol=1e-5)


def test_the_order_of_the_words_matters_but_only_by_the_positions():
    net = network()
    ids = torch.randint(1, 30, (2, 6))
    assert not torch.allclose(net(ids), net(ids.flip(1)), atol=1e-6)
    with torch.no_grad():
        net.positions.weight.zero_()
    torch.testing.assert_close(net(ids), net(ids.flip(1)))


def test_the_mean_is_over_the_tokens_that_count():
    x, mask = torch.randn(3, 4, 2), torch.tensor([[1, 1, 1, 1], [1, 0, 0, 0], [0, 1, 1, 0]])
    expected = torch.stack([x[0].mean(0), x[1, 0], x[2, 1:3].mean(0)])
    torch.testing.assert_close(masked_mean(x, mask), expected)


def test_embeddings_positions_and_norms_are_not_prunable():
    assert list(select(network(depth=1))) == [
        "layers.0.self_attn.in_proj_weight",
        "layers.0.self_attn.out_proj.weight",
        "layers.0.linear1.weight",
        "layers.0.linear2.weight",
        "head.weight",
    ]


def test_it_says_what_tokens_it_takes():
    tokens = network().tokens
    assert (tokens.vocabulary_size, tokens.max_length, tokens.pad_id) == (30, 12, None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pooling": "max"}, "pooling='max' must be 'mean' or 'first'"),
        ({"activation": "silu"}, "activation='silu' must be 'gelu' or 'relu'"),
        ({"width": 10, "heads": 4}, "heads=4 must divide width=10"),
    ],
)
def test_unknown_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        TextTransformer(30, 3, **options)
