"""The answer to ``--help``.

Hydra prints the same without a word about the keys, and copies the configuration for each of its own groups too, which
takes three times as long.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.resources import files
from string import Template

from hydra import compose, initialize_config_module
from hydra.errors import HydraException
from omegaconf import OmegaConf, open_dict

from reflow_lightning.experiments.overrides import CONF, config_groups

_ASKS = ("--help", "-h")
_COMMENTED = re.compile(r"^( *)([\w-]+):.*?(?:  *# *(.+))?$")
_COLUMN = 34  # where the words begin, if the value leaves room


def comments(text: str) -> dict[str, str]:
    r"""What a file of YAML says of its keys, in comments behind them, by the key with dots.

    Example:
        >>> comments("a:      # one\n  b: 2 # two\nc: 3")
        {'a': 'one', 'a.b': 'two'}
    """
    return {name: words for name, words in _named(text) if words}


def commented(text: str, words: dict[str, str]) -> str:
    r"""YAML with words behind its keys.

    Example:
        >>> print(commented("a: 1\nb:\n  c: 2", {"a": "one", "b.c": "two"}), end="")
        a: 1                              # one
        b:
          c: 2                            # two
    """
    names = [name for name, _ in _named(text)]
    lines = text.splitlines()
    return "".join(
        f"{line:<{_COLUMN - 1}} # {words[name]}\n" if name in words else f"{line}\n"
        for line, name in zip(lines, names, strict=True)
    )


def _named(text: str) -> list[tuple[str, str | None]]:
    """Of each line its key with dots, or an empty text, and the comment behind it."""
    found: list[tuple[str, str | None]] = []
    above: list[tuple[int, str]] = []
    for line in text.splitlines():
        match = _COMMENTED.match(line)
        if match is None:
            found.append(("", None))
            continue
        indent, key, words = len(match[1]), match[2], match[3]
        above = [(width, name) for width, name in above if width < indent] + [(indent, key)]
        found.append((".".join(name for _, name in above), words))
    return found


def print_help(arguments: Sequence[str], config: str = "config") -> bool:
    """Print groups, keys and examples, if the arguments ask for it.

    Args:
        arguments: Those of the command.
        config: Name of the configuration: ``"config"``, or ``"search"`` of the search.

    Returns:
        Whether that was all; ``False`` leaves the answer to Hydra: with more of its own options, or a wrong override.
    """
    overrides = [argument for argument in arguments if argument not in _ASKS]
    if len(overrides) == len(arguments) or any(override.startswith("-") for override in overrides):
        return False
    try:
        with initialize_config_module(CONF, version_base="1.3"):
            cfg = compose(config, overrides=overrides, return_hydra_config=True)
    except HydraException:
        return False
    template = Template(cfg.hydra.help.template)
    with open_dict(cfg):
        del cfg["hydra"]
    groups = "".join(f"{group}: {', '.join(options)}\n" for group, options in sorted(config_groups().items()))
    texts = [(files(CONF) / f"{name}.yaml").read_text() for name in dict.fromkeys(("config", config))]
    words = {key: told for text in texts for key, told in comments(text).items()}
    print(template.substitute(APP_CONFIG_GROUPS=groups, CONFIG=commented(OmegaConf.to_yaml(cfg), words)))
    return True
