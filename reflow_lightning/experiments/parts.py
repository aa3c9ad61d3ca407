"""Do the network and the data of a configuration go together?  A network takes sizes that the data give."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationKeyError


def check_parts(cfg: DictConfig) -> None:
    """Check that every key that must be given is, and every one that the network refers to, before anything is read.

    Raises:
        ValueError: If one is not, such as the class of data of one's own, or the channels of images where the data are
            sentences.

    Example:
        >>> check_parts(OmegaConf.create({"data": {}, "model": {"_target_": "mine.Net", "width": "${in_channels}"}}))
        Traceback (most recent call last):
        ValueError: the network Net needs in_channels, which these data do not give: choose a network for such data...
    """
    if missing := list(_missing(OmegaConf.to_container(cfg, resolve=False))):
        raise ValueError(
            f"no value is given for {', '.join(missing)}: pass {' '.join(f'{key}=...' for key in missing)}"
        )
    if not OmegaConf.is_config(cfg.get("model")):
        return
    try:
        OmegaConf.to_container(cfg.model, resolve=True)
    except InterpolationKeyError as error:
        found = re.search(r"'(.+?)'", str(error))
        key = found[1] if found else str(error)
        name = str(cfg.model.get("_target_", "")).rpartition(".")[2]
        raise ValueError(
            f"the network {name} needs {key}, which these data do not give: choose a network for such data (for "
            f"sentences model=text_transformer or model=transformers), or give it as +{key}=..."
        ) from error


def _missing(content: Any, path: str = "") -> Iterator[str]:
    """The keys whose value must be given and is not; `OmegaConf.missing_keys` would resolve what refers to them."""
    if isinstance(content, dict):
        for key, value in content.items():
            yield from _missing(value, f"{path}.{key}" if path else str(key))
    elif isinstance(content, list):
        for place, value in enumerate(content):
            yield from _missing(value, f"{path}.{place}")
    elif content == "???":
        yield path
