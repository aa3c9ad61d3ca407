"""Classifiers of sentences of Hugging Face's ``transformers``, by name, from a folder, or of random weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from reflow_lightning.experiments.token_format import TokenFormat
from reflow_lightning.running.describing import first_line


class SequenceClassifier(nn.Module):
    """Gives the logits alone of a model of ``transformers``; else it is that model.

    In a state dict its tensors have the prefix ``model.``. `reflow_lightning.experiments.checkpoints.read_weights`
    reads them from ``pruned.ckpt`` under the names that ``transformers`` knows, for ``model.load_state_dict``; and
    ``net.model.save_pretrained(folder)`` writes a folder that ``from_pretrained`` reads.

    Args:
        model: Of ``AutoModelForSequenceClassification``.

    Raises:
        ValueError: If the model knows no padding.

    Example:
        >>> import torch
        >>> from transformers import BertConfig, BertForSequenceClassification
        >>> config = BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
        >>> net = SequenceClassifier(BertForSequenceClassification(config))
        >>> net(input_ids=torch.tensor([[1, 2]]), attention_mask=torch.tensor([[1, 1]])).shape
        torch.Size([1, 2])
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        config: Any = model.config
        if config.pad_token_id is None:
            raise ValueError(
                f"the configuration of this {type(model).__name__} has no pad_token_id, without which it can't tell "
                "tokens from padding: give the id that its tokenizer pads with, as model.pad_token_id=0"
            )
        self.model = model

    def forward(self, **inputs: Tensor) -> Tensor:
        """Map what a tokenizer gives, such as ``input_ids`` and ``attention_mask`` (N, T), to logits (N, classes)."""
        logits: Tensor = self.model(**inputs).logits
        return logits

    @property
    def tokens(self) -> TokenFormat:
        """What its tokens are like."""
        model: Any = self.model
        return TokenFormat(
            model.get_input_embeddings().num_embeddings, _positions(model), int(model.config.pad_token_id)
        )


def _positions(model: nn.Module) -> int | None:
    """How many tokens a sequence may have; ``None``: any number."""
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            skipped = 0 if module.padding_idx is None else module.padding_idx + 1  # RoBERTa counts from after padding
            return module.num_embeddings - skipped
    config: Any = model.config
    positions = getattr(config, "max_position_embeddings", None)
    return positions if positions is not None and positions > 0 else None  # XLNet, which takes any number, says -1


def transformers_model(
    name: str | Path | None = None,
    weights: str | None = None,
    config: Mapping[str, Any] | None = None,
    num_classes: int = 2,
    vocabulary_size: int | None = None,
    pad_token_id: int | None = None,
) -> SequenceClassifier:
    """A classifier of sentences of ``transformers``. No code of a repository is run.

    Args:
        name: A local folder, or a name that the hub knows.
        weights: ``"DEFAULT"`` for the pretrained ones of ``name``. ``None``: random ones.
        config: In place of ``name``: ``model_type`` and sizes, such as ``{"model_type": "bert", "hidden_size": 64}``.
        num_classes: Number of classes.
        vocabulary_size: Number of token ids, if ``config`` does not say it.
        pad_token_id: The id of padding. ``None``: as the configuration has it.

    Raises:
        ValueError: If there is not one of ``name`` and ``config``, a word is unknown, or weights are for another
            number of classes.
        FileNotFoundError: If neither a folder nor the hub has it.
    """
    if (name is None) == (config is None):
        raise ValueError(f"name={name!r} and config={config!r}: give one of them, the other is null")
    if weights not in (None, "DEFAULT"):
        raise ValueError(f"weights={weights!r} must be DEFAULT or null: name= chooses among weights, or their folder")
    if weights is not None and name is None:
        raise ValueError("weights=DEFAULT needs a name= or a folder that has weights, but there is a config= alone")
    options = {"num_labels": num_classes} | ({} if pad_token_id is None else {"pad_token_id": pad_token_id})
    if config is not None:
        return SequenceClassifier(_random(_made_config(config, vocabulary_size, options)).float())
    assert name is not None
    found = _read_config(name, options)
    model = _random(found) if weights is None else _read_model(name, found)
    # Lightning chooses the precision, not the checkpoint's type, and trains modules in the mode they are in
    return SequenceClassifier(model.float()).train()


def _random(config: Any) -> nn.Module:
    from transformers import AutoModelForSequenceClassification

    model: nn.Module = AutoModelForSequenceClassification.from_config(config)  # type: ignore[no-untyped-call]
    return model


def _made_config(config: Mapping[str, Any], vocabulary_size: int | None, options: Mapping[str, Any]) -> Any:
    from transformers import AutoConfig

    sizes = dict(config)
    if "model_type" not in sizes:
        raise ValueError(f"config={sizes} lacks model_type: such as bert, distilbert or gpt2")
    if vocabulary_size is not None:
        sizes.setdefault("vocab_size", vocabulary_size)
    try:
        return AutoConfig.for_model(sizes.pop("model_type"), **sizes, **options)
    except (ValueError, KeyError) as error:
        raise ValueError(f"config={dict(config)} is of no model that transformers knows: {error}") from error


def _read_config(name: str | Path, options: Mapping[str, Any]) -> Any:
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(name, **options)
    except (OSError, ValueError) as error:
        raise FileNotFoundError(
            f"name={name} is no folder with config.json of a model, and the hub gave none either "
            f"({first_line(error)}): name a folder that save_pretrained wrote, or give model.config="
        ) from error


def _read_model(name: str | Path, config: Any) -> nn.Module:
    from transformers import AutoModelForSequenceClassification

    try:
        model: nn.Module = AutoModelForSequenceClassification.from_pretrained(name, config=config)
    except OSError as error:
        raise FileNotFoundError(
            f"name={name} holds no weights ({first_line(error)}): name a folder that save_pretrained wrote, "
            "or give weights=null for random ones"
        ) from error
    except RuntimeError as error:
        raise ValueError(
            f"weights=DEFAULT of name={name} are not for num_classes={config.num_labels}, or else of another shape "
            f"({first_line(error)}): give the number of classes that they have, or the encoder alone"
        ) from error
    return model
