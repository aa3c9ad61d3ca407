"""Two small language models that lose their weights: what each repair brings back of the perplexity.

    python benchmarks/language_models.py [folder]

A GPT-2 (fused queries, keys and values, GELU by hand, LayerNorm) and a Llama (shared keys and values, rotary positions,
a gated SwiGLU layer, RMSNorm), both with the head tied to the embedding, learn the next word of the sentences of SST-2,
whose words are its vocabulary. Each is pruned once by magnitude and repaired with 512 training sentences. The folder
keeps the dense networks. Fifteen minutes on a core of its own.
"""

from __future__ import annotations

import copy
import math
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from tables import Row, data_folder, in_kept_folder, publish
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from torch import Tensor, nn

from reflow_lightning import Pruner
from reflow_lightning.search import perplexity

SEED, SPARSITIES, SENTENCES, BATCH = 0, (0.5, 0.7, 0.8, 0.9, 0.95), 512, 32
EPOCHS, LEARNING_RATE = 8, 3e-3
SPECIAL = ("<pad>", "<unk>", "<s>", "</s>")
ARMS: dict[str, dict[str, Any]] = {
    "none": {"repair": "none"},
    "moments": {"repair": "moments"},
    "reconstruct": {"repair": "reconstruct"},
    "reselect": {"repair": "reselect"},
    "best": {"repair": "best", "budget": "1min"},
}


def sentences(split: str) -> list[str]:
    """The sentences of a split."""
    lines = (data_folder() / "text" / "SST-2" / f"{split}.tsv").read_text(encoding="utf-8").splitlines()
    return [line.rpartition("\t")[0] for line in lines]


def tokenizer_of(training: list[str]) -> Tokenizer:
    """Words that occur five times or more, between the marks of a sentence."""
    tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.train_from_iterator(training, trainers.WordLevelTrainer(min_frequency=5, special_tokens=list(SPECIAL)))
    marks = [(mark, tokenizer.token_to_id(mark)) for mark in SPECIAL[2:]]
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=marks)
    tokenizer.enable_padding()
    tokenizer.enable_truncation(64)
    return tokenizer


def batches_of(tokenizer: Tokenizer, texts: list[str]) -> list[dict[str, Tensor]]:
    """Batches as a tokenizer gives them, padded to their longest, with the next words as labels."""
    found = []
    for start in range(0, len(texts), BATCH):
        encoded = tokenizer.encode_batch(texts[start : start + BATCH])
        ids, mask = (torch.tensor([getattr(e, name) for e in encoded]) for name in ("ids", "attention_mask"))
        labels = ids.masked_fill(mask == 0, -100)
        found.append({"input_ids": ids, "attention_mask": mask, "labels": labels})
    return found


def gpt2(words: int) -> nn.Module:
    """Four blocks of width 64."""
    from transformers import GPT2Config, GPT2LMHeadModel

    ids = {"bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}
    return GPT2LMHeadModel(GPT2Config(vocab_size=words, n_embd=64, n_layer=4, n_head=4, n_positions=64, **ids))


def llama(words: int) -> nn.Module:
    """The same with two heads of keys and values for four of queries."""
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 64, "intermediate_size": 172, "num_hidden_layers": 4, "max_position_embeddings": 64}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": True}
    ids = {"bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}
    return LlamaForCausalLM(LlamaConfig(vocab_size=words, **sizes, **heads, **ids))


def shuffled(tokenizer: Tokenizer, texts: list[str]) -> Iterator[dict[str, Tensor]]:
    """The batches of an epoch, each of sentences of about one length, so that there is little padding."""
    order = sorted(torch.randperm(len(texts)).tolist(), key=lambda i: len(texts[i].split()))
    batches = batches_of(tokenizer, [texts[i] for i in order])
    yield from (batches[i] for i in torch.randperm(len(batches)))


def trained(model: nn.Module, tokenizer: Tokenizer, texts: list[str], validation: list[dict[str, Tensor]]) -> nn.Module:
    """The network of the epoch with the lowest perplexity of the validation."""
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, weight_decay=0.1)
    steps = EPOCHS * math.ceil(len(texts) / BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps, pct_start=0.1)
    lowest, best = math.inf, copy.deepcopy(model.state_dict())
    for epoch in range(EPOCHS):
        model.train()
        for batch in shuffled(tokenizer, texts):
            optimizer.zero_grad()
            model(**batch).loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
        now = perplexity(model, validation)
        print(f"epoch {epoch}: perplexity {now:.1f}", flush=True)
        if now < lowest:
            lowest, best = now, copy.deepcopy(model.state_dict())
    model.load_state_dict(best)
    return model.eval()


def unigram(training: list[dict[str, Tensor]], test: list[dict[str, Tensor]], words: int) -> float:
    """The perplexity of the frequencies of the words alone."""
    counts = torch.ones(words)  # none is impossible
    for batch in training:
        kept = batch["labels"][:, 1:]
        counts += torch.bincount(kept[kept >= 0], minlength=words)
    logarithms = (counts / counts.sum()).log()
    found = torch.cat([logarithms[kept[kept >= 0]] for kept in (batch["labels"][:, 1:] for batch in test)])
    return math.exp(-float(found.mean()))


def measure(name: str, dense: nn.Module, calibration: list[Any], test: list[Any]) -> list[Row]:
    """Rows of a network: the perplexity after each repair."""
    rows = []
    for sparsity in SPARSITIES:
        row: Row = {"network": name, "sparsity": f"{sparsity:g}", "dense": f"{perplexity(dense, test):.1f}"}
        for arm, how in ARMS.items():
            model, start = copy.deepcopy(dense), time.perf_counter()
            pruner = Pruner(sparsity, monitor=False, calibration_batches=len(calibration), seed=SEED, **how)
            pruner.apply(model, calibration)
            row[arm] = f"{perplexity(model, test):.1f}"
            print(name, sparsity, arm, row[arm], f"{time.perf_counter() - start:.0f} s", flush=True)
        zeros = sum(int((p == 0).sum()) for p in model.parameters())
        rows.append(row | {"zeros of all parameters": zeros / sum(p.numel() for p in model.parameters())})
    return rows


def main(folder: Path) -> None:
    """Train what is not there yet, prune, repair, publish."""
    training, validation, test = (sentences(split) for split in ("train", "dev", "test"))
    tokenizer = tokenizer_of(training)
    words = tokenizer.get_vocab_size()
    judged, tested = batches_of(tokenizer, validation), batches_of(tokenizer, test)
    alone = unigram(batches_of(tokenizer, training), tested, words)
    print(f"{words} words, perplexity of their frequencies alone {alone:.1f}", flush=True)
    rows: list[Row] = []
    makers: dict[str, Callable[[int], nn.Module]] = {"GPT-2": gpt2, "Llama": llama}
    for name, make in makers.items():
        torch.manual_seed(SEED)
        model, path = make(words), folder / f"{name}.pt"
        if path.exists():
            model.load_state_dict(torch.load(path))
        else:
            torch.save(trained(model, tokenizer, training, judged).state_dict(), path)
        chosen = torch.randperm(len(training), generator=torch.Generator().manual_seed(SEED))[:SENTENCES]
        rows += measure(name, model.eval(), batches_of(tokenizer, [training[i] for i in chosen]), tested)
    publish("language_models", rows, SEED, document="docs/language.md")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    in_kept_folder(main)
