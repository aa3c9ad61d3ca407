"""Small networks of transformers, each with a batch as its tokenizer gives it; the registry has batches of tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

WORDS, WIDTH = 60, 16
_IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_SIZES = {
    "vocab_size": WORDS,
    "hidden_size": WIDTH,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 32,
    **_IDS,
}
_SHARED = {**_SIZES, "num_key_value_heads": 2}
_T5 = {"vocab_size": WORDS, "d_model": WIDTH, "d_kv": 4, "d_ff": 24, "num_layers": 2, "num_heads": 4}

NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "Bert": ("ForSequenceClassification", _SIZES),
    "Roberta": ("ForSequenceClassification", {**_SIZES, "max_position_embeddings": 40}),
    "DistilBert": (
        "ForSequenceClassification",
        {"vocab_size": WORDS, "dim": WIDTH, "hidden_dim": 24, "n_layers": 2, "n_heads": 4, **_IDS},
    ),
    "ModernBert": (
        "ForSequenceClassification",
        {**_SIZES, "cls_token_id": 1, "sep_token_id": 2, "local_attention": 8},
    ),
    "GPT2": (
        "LMHeadModel",
        {"vocab_size": WORDS, "n_embd": WIDTH, "n_layer": 2, "n_head": 4, "n_positions": 32, **_IDS},
    ),
    "Llama": ("ForCausalLM", {**_SHARED, "tie_word_embeddings": True}),
    "Qwen2": ("ForCausalLM", _SHARED),
    "Mistral": ("ForCausalLM", _SHARED),
    "Gemma": ("ForCausalLM", {**_SHARED, "head_dim": 4}),
    "Phi3": ("ForCausalLM", _SHARED),
    "Mixtral": ("ForCausalLM", {**_SHARED, "num_local_experts": 4}),
    "GPTNeoX": ("ForCausalLM", _SIZES),
    "Bloom": ("ForCausalLM", {"vocab_size": WORDS, "hidden_size": WIDTH, "n_layer": 2, "n_head": 4, **_IDS}),
    "T5": ("ForConditionalGeneration", {**_T5, **_IDS, "decoder_start_token_id": 0, "feed_forward_proj": "gated-gelu"}),
}


def make(name: str) -> nn.Module:
    """A network in eval mode, the same each time."""
    import transformers

    kind, sizes = NETWORKS[name]
    torch.manual_seed(0)
    network: nn.Module = getattr(transformers, f"{name}{kind}")(getattr(transformers, f"{name}Config")(**sizes))
    return network.eval()


def batch_for(name: str, seed: int = 0) -> dict[str, torch.Tensor]:
    """Six sentences of ten words, of which some are padded, with labels as the network takes them."""
    ids = torch.randint(3, WORDS, (6, 10), generator=torch.Generator().manual_seed(seed))
    mask = torch.ones_like(ids)
    mask[:2, 7:] = 0
    classifies = NETWORKS[name][0] == "ForSequenceClassification"
    labels = torch.arange(6) % 2 if classifies else ids.masked_fill(mask == 0, -100)
    return {"input_ids": ids.masked_fill(mask == 0, 0), "attention_mask": mask, "labels": labels}
