"""A batch of named arguments, such as a tokenizer gives, wherever an example is asked for."""

import copy

import pytest
import torch
from torch import nn

from reflow_lightning import prune
from reflow_lightning.cost import compare, measure_cost, measure_latency, measure_memory, save_program

transformers = pytest.importorskip("transformers")

WORDS, WIDTH, POSITIONS = 50, 16, 6
IDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


def llama(**options):
    sizes = {"hidden_size": WIDTH, "intermediate_size": 40, "num_hidden_layers": 2, "vocab_size": WORDS}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 16}
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, **heads, **IDS, **options)).eval()


def gpt2(**options):
    config = transformers.GPT2Config(
        vocab_size=WORDS, n_embd=WIDTH, n_layer=2, n_head=4, n_positions=16, **IDS, **options
    )
    return transformers.GPT2LMHeadModel(config).eval()


def batch(samples=1):
    ids = torch.randint(1, WORDS, (samples, POSITIONS), generator=torch.Generator().manual_seed(0))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_llama_costs_what_is_counted_by_hand_its_shared_keys_and_values_too(attention):
    projections = WIDTH * WIDTH * 2 + WIDTH * WIDTH // 2 * 2
    between = 2 * POSITIONS * WIDTH  # queries by keys, and their scores by values, of all heads
    block = projections + between + 3 * WIDTH * 40
    by_hand = POSITIONS * (2 * block + WIDTH * WORDS)
    angles = POSITIONS * WIDTH // 4 // 2  # positions by frequencies: some versions write it as a matrix product
    cost = measure_cost(llama(attn_implementation=attention), batch())
    assert cost.multiply_adds in (by_hand, by_hand + angles)
    assert sum(layer.multiply_adds for layer in cost.layers) == by_hand - POSITIONS * 2 * between
    assert cost.uncounted == ()


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_gpt2_costs_what_is_counted_by_hand_and_its_tied_head_is_one_parameter_and_multiplies(attention):
    block = 12 * WIDTH * WIDTH + 2 * POSITIONS * WIDTH
    model = gpt2(attn_implementation=attention)
    cost = measure_cost(model, batch())
    assert cost.multiply_adds == POSITIONS * (2 * block + WIDTH * WORDS)
    kinds = {kind.kind: kind for kind in cost.kinds}
    assert list(kinds) == ["Conv1D", "Embedding", "LayerNorm", "Linear"]
    assert kinds["Embedding"].parameters == (WORDS + 16) * WIDTH  # of words and of positions
    assert kinds["Embedding"].multiply_adds == 0
    assert (kinds["Linear"].parameters, kinds["Linear"].multiply_adds) == (0, POSITIONS * WIDTH * WORDS)
    assert sum(kind.parameters for kind in cost.kinds) == cost.parameters == sum(p.numel() for p in model.parameters())
    assert sum(kind.nonzero for kind in cost.kinds) == cost.nonzero
    assert sum(kind.share for kind in cost.kinds) == pytest.approx(1)


def test_the_network_s_own_share_of_zeros_is_less_than_the_sparsity_where_embeddings_are_dense():
    model = gpt2()
    masks = prune(model, 0.9)
    cost, coverage = measure_cost(model, batch()), masks.coverage(model)
    conv = next(kind for kind in cost.kinds if kind.kind == "Conv1D")
    pruned = 0.9 * sum(mask.numel() for mask in masks.values())
    assert coverage.pruned == pytest.approx(pruned, abs=1)
    assert coverage.share_with_tables < 0.9 * 0.9
    assert coverage.words.endswith("of all")
    assert conv.effective == pytest.approx(0.1 * conv.multiply_adds, rel=0.01)


@pytest.mark.parametrize("make", [gpt2, llama])
def test_all_is_measured_on_the_same_mapping(make):
    model = make()
    smaller = copy.deepcopy(model)
    given = batch(samples=4)
    found = compare(model, smaller, given, rounds=1)
    assert found.before == found.after
    assert found.largest_difference == 0
    assert found.latency.batch_size == 4
    assert found.before.multiply_adds == measure_cost(model, batch()).multiply_adds
    assert measure_memory(model, given).peak_bytes > measure_memory(model, batch()).peak_bytes
    assert measure_latency(model, smaller, given, rounds=1, warmup=1).before > 0


def test_each_expert_costs_as_much_as_the_tokens_that_are_sent_to_it():
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 16}
    sizes = {"hidden_size": WIDTH, "intermediate_size": 40, "num_hidden_layers": 1, "vocab_size": WORDS}
    experts = {"num_local_experts": 4, "num_experts_per_tok": 2}
    model = transformers.MixtralForCausalLM(transformers.MixtralConfig(**sizes, **heads, **experts, **IDS)).eval()
    cost = measure_cost(model, batch())
    [found] = [layer for layer in cost.layers if layer.name.endswith("experts")]
    assert found.multiply_adds == POSITIONS * 2 * 3 * WIDTH * 40
    assert cost.uncounted == ()


def test_what_the_default_forward_does_not_know_is_left_out_here_too():
    given = batch() | {"idx": torch.tensor([7]), "text": ["a film"]}
    assert measure_cost(gpt2(), given) == measure_cost(gpt2(), batch())


def test_a_mapping_with_one_known_input_is_that_input():
    model, image = nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), torch.randn(3, 12)
    assert measure_cost(model, {"image": image, "name": "x"}) == measure_cost(model, image)


def test_a_mapping_that_no_default_takes_says_so():
    with pytest.raises(TypeError, match=r"Linear got the mapping as one argument.*takes none of the keys \['signal'\]"):
        measure_cost(nn.Linear(2, 2), {"signal": torch.ones(1, 2)})


def test_a_program_of_a_mapping_takes_the_same_names(tmp_path):
    model, given = llama(), batch(samples=2)
    with pytest.raises(RuntimeError, match="DynamicCache") as raised:
        save_program(model, given, tmp_path / "cached.pt2")
    assert "use_cache" in str(getattr(raised.value, "__notes__", raised.value))
    save_program(model, given | {"use_cache": False}, tmp_path / "llama.pt2")
    program, more = torch.export.load(tmp_path / "llama.pt2").module(), batch(samples=5)
    with torch.no_grad():
        expected = model(**more, use_cache=False).logits
        assert torch.allclose(program(**more, use_cache=False)["logits"], expected, atol=1e-5)
