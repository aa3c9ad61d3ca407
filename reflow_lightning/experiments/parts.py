"""Do the network and the data of a configuration go together?  A network takes sizes that the data give."""

from __future__ import annotations

import re

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationKeyError


def check_parts(cfg: DictConfig) -> None:
    """Check that every key that the network refers to is given, before anything is read.

    Raises:
        ValueError: If one is not, such as the channels of images where the data are sentences.

    Example:
        >>> check_parts(OmegaConf.create({"data": {}, "model": {"_target_": "mine.Net", "width": "${in_channels}"}}))
        Traceback (most recent call last):
        ValueError: the network Net needs in_channels, which these data do not give: choose a network for such data...
    """
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
