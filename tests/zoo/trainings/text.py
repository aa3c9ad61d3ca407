"""Sequences of tokens: padded, masked, packed, in dictionaries with and without labels."""

from __future__ import annotations

import copy
import math
from collections import OrderedDict
from typing import Any

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from zoo.trainings.batches import SAMPLES, VALIDATION, Data, dicts, loader, tensors, whole
from zoo.trainings.training import Training

WORDS, LENGTH, PAD = 40, 10, 0


class Bert(pl.LightningModule):
    """Masks tokens itself, and takes the labels out of the batch before it calls itself with the rest."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.embeddings, self.positions = nn.Embedding(WORDS, width, padding_idx=PAD), nn.Embedding(LENGTH, width)
        self.norm, self.drop = nn.LayerNorm(width, eps=1e-12), nn.Dropout(0.1)
        layer = nn.TransformerEncoderLayer(width, 4, 32, 0.1, "gelu", batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.pooler, self.classifier = nn.Linear(width, width), nn.Linear(width, 3)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, labels: Tensor | None = None) -> Any:
        x = self.embeddings(input_ids) + self.positions(torch.arange(input_ids.shape[1], device=input_ids.device))
        x = self.encoder(self.drop(self.norm(x)), src_key_padding_mask=~attention_mask.bool())
        logits = self.classifier(self.drop(torch.tanh(self.pooler(x[:, 0]))))
        if labels is None:
            return logits
        return F.cross_entropy(logits, labels), logits

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        labels = batch.pop("labels")
        return F.cross_entropy(self(**batch), labels)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        loss, logits = self(**batch)
        self.log_dict({"val_loss": loss, "val_acc": (logits.argmax(-1) == batch["labels"]).float().mean()})

    def configure_optimizers(self) -> Any:
        no_decay = ("bias", "norm")
        named = list(self.named_parameters())
        groups = [
            {"params": [p for n, p in named if not any(s in n for s in no_decay)], "weight_decay": 0.01},
            {"params": [p for n, p in named if any(s in n for s in no_decay)], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=2e-3, eps=1e-8)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: min((s + 1) / 4, max(0.0, (20 - s) / 16)))
        return [optimizer], [{"scheduler": schedule, "interval": "step", "frequency": 1}]


class Attention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.c_attn, self.c_proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.register_buffer("bias", torch.tril(torch.ones(LENGTH, LENGTH)).view(1, 1, LENGTH, LENGTH))

    def forward(self, x: Tensor) -> Tensor:
        b, t, c = x.shape
        q, k, v = (part.view(b, t, 2, c // 2).transpose(1, 2) for part in self.c_attn(x).split(c, dim=2))
        att = (q @ k.transpose(-2, -1)) / math.sqrt(c // 2)
        att = att.masked_fill(self.bias[:, :, :t, :t] == 0, float("-inf")).softmax(-1)
        return self.c_proj((att @ v).transpose(1, 2).contiguous().view(b, t, c))


class GPT(nn.Module):
    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(WORDS, width), nn.Embedding(LENGTH, width)
        blocks = [
            nn.ModuleDict(
                {
                    "ln_1": nn.LayerNorm(width),
                    "attn": Attention(width),
                    "ln_2": nn.LayerNorm(width),
                    "mlp": nn.Sequential(nn.Linear(width, 48), nn.GELU(), nn.Linear(48, width), nn.Dropout(0.1)),
                }
            )
            for _ in range(2)
        ]
        self.h, self.ln_f = nn.ModuleList(blocks), nn.LayerNorm(width)
        self.lm_head = nn.Linear(width, WORDS, bias=False)
        self.wte.weight = self.lm_head.weight

    def forward(self, idx: Tensor, targets: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        assert idx.ndim == 2
        x = self.wte(idx) + self.wpe(torch.arange(idx.shape[1], device=idx.device))
        for block in self.h:
            x = x + block["attn"](block["ln_1"](x))
            x = x + block["mlp"](block["ln_2"](x))
        logits = self.lm_head(self.ln_f(x))
        return logits, None if targets is None else F.cross_entropy(logits.view(-1, WORDS), targets.view(-1))


class CausalLM(pl.LightningModule):
    """The head's weight is the embedding's; the step calls the network within, and ``forward`` generates."""

    def __init__(self) -> None:
        super().__init__()
        self.model = GPT()

    @torch.no_grad()
    def forward(self, idx: Tensor, max_new_tokens: int = 2) -> Tensor:
        for _ in range(max_new_tokens):
            logits, _ = self.model(idx[:, -LENGTH:])
            idx = torch.cat([idx, torch.multinomial(logits[:, -1].softmax(-1), 1)], 1)
        return idx

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        (tokens,) = batch
        _, loss = self.model(tokens[:, :-1], tokens[:, 1:].contiguous())
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=3e-3, betas=(0.9, 0.95))


class Seq2Seq(pl.LightningModule):
    """Decodes word by word with a cell, and is told the right one now and then by Python's random state."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.source, self.target = nn.Embedding(WORDS, 16), nn.Embedding(WORDS, 16)
        self.encoder, self.decoder = nn.GRU(16, width, batch_first=True), nn.GRUCell(16 + width, width)
        self.attention, self.out, self.drop = nn.Linear(width, width), nn.Linear(2 * width, WORDS), nn.Dropout(0.1)

    def forward(self, src: Tensor, trg: Tensor, teacher_forcing_ratio: float = 0.5) -> Tensor:
        memory, h = self.encoder(self.drop(self.source(src)))
        h, word, outputs = h[0], trg[:, 0], []
        for t in range(1, trg.shape[1]):
            weights = (memory @ self.attention(h)[:, :, None]).softmax(1)
            context = (weights * memory).sum(1)
            h = self.decoder(torch.cat([self.drop(self.target(word)), context], 1), h)
            outputs.append(self.out(torch.cat([h, context], 1)))
            teacher = torch.rand(()).item() < teacher_forcing_ratio
            word = trg[:, t] if teacher else outputs[-1].argmax(1)
        return torch.stack(outputs, 1)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        src, trg = batch
        logits = self(src, trg)
        return F.cross_entropy(logits.flatten(0, 1), trg[:, 1:].flatten(), ignore_index=PAD)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        logits = self(*batch, teacher_forcing_ratio=0)
        self.log("val_loss", F.cross_entropy(logits.flatten(0, 1), batch[1][:, 1:].flatten(), ignore_index=PAD))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), 3e-3)
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": plateau, "monitor": "val_loss", "frequency": 1}}


class Tagger(pl.LightningModule):
    """Packs its padded sequences; a batch is (tokens, tags, lengths)."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.drop = nn.Embedding(WORDS, 16, padding_idx=PAD), nn.Dropout(0.2)
        self.lstm = nn.LSTM(16, 16, 1, batch_first=True, bidirectional=True)
        self.tag = nn.Linear(32, 5)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        packed = pack_padded_sequence(self.drop(self.embed(x)), lengths.cpu(), batch_first=True, enforce_sorted=False)
        out, _ = pad_packed_sequence(self.lstm(packed)[0], batch_first=True, padding_value=0.0)
        return self.tag(self.drop(out))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, tags, lengths = batch
        scores = self.forward(x, lengths)
        tags = tags[:, : scores.shape[1]]
        return F.cross_entropy(scores.reshape(-1, 5), tags.reshape(-1), ignore_index=-100)

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), 5e-3)


class ModelOutput(OrderedDict):
    """Its items are attributes too, and those at places."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError as error:
            raise AttributeError(name) from error

    def __getitem__(self, key: Any) -> Any:
        return super().__getitem__(key) if isinstance(key, str) else tuple(self.values())[key]


class BatchEncoding(dict):
    """A dictionary that moves itself."""

    def to(self, device: Any) -> BatchEncoding:
        return BatchEncoding({k: v.to(device) for k, v in self.items()})


class ForClassification(nn.Module):
    def __init__(self, width: int = 16) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(width, 2, 32, 0.1, batch_first=True, norm_first=True)
        self.embed, self.encoder = nn.Embedding(WORDS, width), nn.TransformerEncoder(layer, 2, nn.LayerNorm(width))
        self.score = nn.Linear(width, 3)

    def forward(self, input_ids: Any = None, attention_mask: Any = None, labels: Any = None, **kwargs: Any) -> Any:
        hidden = self.encoder(self.embed(input_ids), src_key_padding_mask=attention_mask == 0)
        mask = attention_mask[..., None].float()
        logits = self.score((hidden * mask).sum(1) / mask.sum(1))
        loss = None if labels is None else F.cross_entropy(logits, labels)
        return ModelOutput(loss=loss, logits=logits, hidden_states=(hidden,))


class HuggingFace(pl.LightningModule):
    """Passes everything on, and gets its loss from the network."""

    def __init__(self) -> None:
        super().__init__()
        self.model = ForClassification()

    def forward(self, **inputs: Any) -> Any:
        return self.model(**inputs)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        outputs = self(**batch)
        loss = outputs[0]
        self.log("loss", loss.detach(), batch_size=8)
        return loss

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor]:
        outputs = self(**batch)
        val_loss, logits = outputs[:2]
        return {"loss": val_loss, "preds": logits.argmax(1)}

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.model.parameters(), lr=2e-3, eps=1e-8)


class LoRALinear(nn.Module):
    def __init__(self, base: nn.Linear, rank: int = 4) -> None:
        super().__init__()
        self.base, self.drop = base.requires_grad_(False), nn.Dropout(0.1)
        self.lora_a, self.lora_b = nn.Linear(base.in_features, rank, bias=False), nn.Linear(rank, base.out_features)
        nn.init.zeros_(self.lora_b.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.lora_b(self.lora_a(self.drop(x))) * 2.0


class LoRA(pl.LightningModule):
    """Frozen but for low ranks beside some layers; checkpoints hold those alone, in the module's own hook."""

    def __init__(self) -> None:
        super().__init__()
        self.gpt = GPT().requires_grad_(False)
        for block in self.gpt.h:
            block["attn"].c_attn = LoRALinear(block["attn"].c_attn)
            block["mlp"][0] = LoRALinear(block["mlp"][0])

    def forward(self, idx: Tensor) -> Tensor:
        return self.gpt(idx)[0]

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.gpt(batch[0][:, :-1], batch[0][:, 1:].contiguous())[1]

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW((p for p in self.parameters() if p.requires_grad), 5e-3)


class Experts(nn.Module):
    def __init__(self, width: int, count: int = 4) -> None:
        super().__init__()
        self.gate = nn.Linear(width, count, bias=False)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 32), nn.GELU(), nn.Linear(32, width)) for _ in range(count)
        )
        self.aux: Any = 0.0

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(0, 1)
        probs = self.gate(flat).softmax(-1)
        weights, chosen = probs.topk(2, -1)
        out = torch.zeros_like(flat)
        for i, expert in enumerate(self.experts):
            rows, place = torch.where(chosen == i)
            if rows.numel():
                out.index_add_(0, rows, weights[rows, place, None] * expert(flat[rows]))
        self.aux = (probs.mean(0) * F.one_hot(chosen[:, 0], len(self.experts)).float().mean(0)).sum() * 4
        return out.view_as(x)


class MixtureOfExperts(pl.LightningModule):
    """Its layer keeps a part of the loss until the step asks for it."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.embed, self.ln, self.moe = nn.Embedding(WORDS, width), nn.LayerNorm(width), Experts(width)
        self.rnn, self.head = nn.GRU(width, width, batch_first=True), nn.Linear(width, WORDS)

    def forward(self, tokens: Tensor) -> Tensor:
        x, _ = self.rnn(self.embed(tokens))
        return self.head(x + self.moe(self.ln(x)))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        tokens = batch[0]
        logits = self(tokens[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()) + 0.01 * self.moe.aux
        self.log("aux", self.moe.aux.detach())
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), 3e-3)


class DPO(pl.LightningModule):
    """Prefers one answer to another, against a frozen copy of where it began."""

    def __init__(self, beta: float = 0.1) -> None:
        super().__init__()
        self.beta, self.policy = beta, GPT()
        self.reference = copy.deepcopy(self.policy).eval().requires_grad_(False)

    def log_prob(self, net: nn.Module, tokens: Tensor, mask: Tensor) -> Tensor:
        logits, _ = net(tokens[:, :-1])
        found = logits.log_softmax(-1).gather(2, tokens[:, 1:, None])[..., 0]
        return (found * mask[:, 1:]).sum(1)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        pi_c, pi_r = (self.log_prob(self.policy, batch[k], batch["mask"]) for k in ("chosen", "rejected"))
        with torch.no_grad():
            self.reference.eval()
            ref_c, ref_r = (self.log_prob(self.reference, batch[k], batch["mask"]) for k in ("chosen", "rejected"))
        margin = self.beta * ((pi_c - ref_c) - (pi_r - ref_r))
        self.log("margin", margin.mean())
        return -F.logsigmoid(margin).mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.policy.parameters(), 1e-3)


def sentences(count: int = SAMPLES, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Tokens with padding behind them, and which are none."""
    lengths = 4 + whole(LENGTH - 3, count, seed=seed + 1)
    mask = torch.arange(LENGTH)[None] < lengths[:, None]
    return (1 + whole(WORDS - 1, count, LENGTH, seed=seed)) * mask, mask.long()


def tokenized(count: int = SAMPLES + VALIDATION) -> list[dict[str, Tensor]]:
    ids, mask = sentences(count)
    return dicts(input_ids=ids, attention_mask=mask, labels=ids[:, 0] % 3)


def encoded(samples: Any) -> BatchEncoding:
    return BatchEncoding({key: torch.stack([s[key] for s in samples]) for key in samples[0]})


def tagged() -> Any:
    ids, mask = sentences()
    return loader(tensors(ids, torch.where(mask > 0, ids % 5, -100), mask.sum(1)))


def pairs() -> Any:
    ids, mask = sentences()
    return loader(dicts(chosen=ids, rejected=sentences(seed=7)[0], mask=mask))


def tokens() -> Any:
    return loader(tensors(1 + whole(WORDS - 1, SAMPLES, LENGTH)))


def translated() -> Any:
    ids, _ = sentences(SAMPLES + VALIDATION)
    return Data(tensors(ids, ids.flip(1)))


ACCUMULATED: dict[str, Any] = {"accumulate_grad_batches": 2}
TRAININGS = [
    Training("bert", "labels are popped from the batch, padding is masked", Bert, lambda: Data(tokenized())),
    Training("causal_lm", "a tied embedding, forward generates", CausalLM, tokens, {"gradient_clip_val": 1.0}),
    Training("seq2seq", "a loop of a cell that chance and answers steer", Seq2Seq, translated),
    Training("tagger", "packed sequences, lengths last in the batch", Tagger, tagged),
    Training(
        "hugging_face", "outputs and batches of classes of their own", HuggingFace, lambda: Data(tokenized(), encoded)
    ),
    Training("lora", "a frozen network with trained layers within", LoRA, tokens, ACCUMULATED),
    Training("experts", "rows that the data choose, a loss kept in a layer", MixtureOfExperts, tokens),
    Training("preferences", "no forward, a frozen copy that stays behind", DPO, pairs),
]
