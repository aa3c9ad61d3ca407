"""Answer a mistyped override with the nearest valid key."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_module
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override, QuotedString
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf

from reflow_lightning.experiments.registered import KINDS, registered
from reflow_lightning.running.extras import remedy
from reflow_lightning.running.names import nearest

CONF = "reflow_lightning.conf"
"""The package with the configurations."""
_NOT_IN = {"search": ("sparsity", "reflow.sparsity", "schedule", "finetune_epochs")}  # keys without a meaning there
_ELSEWHERE = {  # arguments after which keys and groups may come from elsewhere, or are none
    *("--config-path", "-cp", "--config-name", "-cn", "--shell-completion", "-sc", "--experimental-rerun"),
}
_FOLDERS = ("--config-dir", "-cd")


def config_groups(own: Path | None = None) -> dict[str, list[str]]:
    """The config groups of the package and their choices, together with the choices in a folder of the user.

    Args:
        own: The folder of the user, as in ``--config-dir``.

    Example:
        >>> "gradual" in config_groups()["schedule"]
        True
    """
    found: dict[str, list[str]] = {}
    for root in (files(CONF), *([own] if own else [])):
        for folder in root.iterdir():
            if folder.is_dir() and not folder.name.startswith(("_", ".")):
                names = [file.name.removesuffix(".yaml") for file in folder.iterdir() if file.name.endswith(".yaml")]
                found[folder.name] = sorted({*found.get(folder.name, ()), *names})
    return found


def _keys(cfg: DictConfig, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every key with its value; ``None`` stands for one that refers to others, or is missing."""
    for key in map(str, cfg):
        name = f"{prefix}{key}"
        known = not OmegaConf.is_missing(cfg, key) and not OmegaConf.is_interpolation(cfg, key)
        value = cfg[key] if known else None
        yield name, value
        if isinstance(value, DictConfig):
            yield from _keys(value, f"{name}.")


def _looks_elsewhere(argument: str) -> bool:
    """Also ``--config-name=mine``, and ``--config-n``, since an option may be cut short."""
    name = argument.partition("=")[0]
    if name == "hydra.searchpath":
        return True
    if name in _FOLDERS:
        return False
    options = (*_ELSEWHERE, *_FOLDERS)
    return name in _ELSEWHERE or (name.startswith("--") and any(option.startswith(name) for option in options))


def _own_folder(arguments: Sequence[str]) -> Path | None:
    """The folder of ``--config-dir``."""
    for place, argument in enumerate(arguments):
        name, found, value = argument.partition("=")
        if name in _FOLDERS:
            return Path(value if found else next(iter(arguments[place + 1 :]), ""))
    return None


def _choices(override: Override) -> list[str]:
    value = override.value()
    if isinstance(value, ChoiceSweep):
        return [str(choice) for choice in value.list]
    return [] if override.is_sweep_override() else [str(value)]  # Hydra knows what a glob or a range stands for


def complaints(arguments: Sequence[str], config: str = "config") -> list[str]:
    """What is wrong with overrides among the arguments: unknown keys, choices or names, words for numbers, no plugin.

    Additions (``+key=value``) are wrong where they look like a mistyped key; ``++key=value`` adds those, too. Deletions
    and Hydra's own keys are left to Hydra.

    Args:
        arguments: Those of the command.
        config: Name of the configuration that they are for: ``"config"``, or ``"search"`` of the search.

    Example:
        >>> complaints(["sparcity=0.9"])
        ["'sparcity' is no key; nearest: sparsity, reflow.sparsity"]
        >>> complaints(["+sparcity=0.9"])
        ["'sparcity' is no key; nearest: sparsity, reflow.sparsity; ++sparcity=... adds it all the same"]
    """
    if any(map(_looks_elsewhere, arguments)):
        return []
    own = _own_folder(arguments)
    if own and not own.is_dir():
        return []  # Hydra says so
    texts = [text for text in arguments if "=" in text and not text.startswith("-")]
    try:
        given = OverridesParser.create().parse_overrides(texts)
    except HydraException:
        return []  # Hydra says itself what it can't parse
    overrides = [o for o in given if not (o.is_add() or o.is_force_add() or o.is_delete())]
    added = [o.key_or_group for o in given if o.is_add() and not set(o.key_or_group) & set("./@")]
    if not overrides and not added:
        return []
    groups = config_groups(own)
    chosen = {o.key_or_group: _choices(o) for o in overrides if o.key_or_group in groups}
    found = [
        f"{group}={choice} is no choice{nearest(choice, groups[group])}; there are {', '.join(groups[group])}"
        for group, choices in chosen.items()
        for choice in choices
        if choice not in groups[group]
    ]
    if found:
        return found
    selected = [f"{group}={choices[0]}" for group, choices in chosen.items() if choices]
    try:
        with initialize_config_module(CONF, version_base="1.3"):
            path = [f"hydra.searchpath=[file://{own.resolve()}]"] if own else []
            cfg = compose(config, overrides=[*selected, *path])
    except MissingConfigException as error:  # of the package's own choices only plugins can be missing
        return [f"{error.missing_cfg_file} is not installed; remedy: {remedy('sweep')}"]
    keys = dict.fromkeys(groups) | dict(_keys(cfg))
    names = [o.key_or_group for o in overrides]
    unknown = [
        f"'{name}' is no key{nearest(name, keys) or f'; a new one needs a plus: +{name}=...'}"
        for name in names
        if name not in keys and name.split(".")[0].split("/")[0] != "hydra"
    ]
    unknown += [
        f"'{name}' is no key{near}; ++{name}=... adds it all the same"
        for name in added
        if name not in keys and (near := nearest(name, keys))
    ]
    idle = [f"{name}= has no meaning in a {config}: leave it out" for name in names if name in _NOT_IN.get(config, ())]
    if unknown or idle:
        return unknown or idle
    extended = cfg.extensions or any("extensions" in text or "_target_" in text for text in texts)
    return _no_numbers(keys, overrides) + ([] if extended else _unregistered(overrides))


_WORDS = {"reflow.calibration_batches": ("auto",)}  # that stand for a number


def _no_numbers(defaults: Mapping[str, Any], overrides: Sequence[Override]) -> list[str]:
    """Words in place of numbers; of the trainer's some are words as well, such as ``devices=auto``."""
    numbers = {
        name: default
        for name, default in defaults.items()
        if isinstance(default, (int, float)) and not isinstance(default, bool) and not name.startswith("trainer.")
    }
    return [
        f"{o.key_or_group}={choice} is no number; the default is {numbers[o.key_or_group]}"
        for o in overrides
        if o.key_or_group in numbers
        for choice in _choices(o)
        if choice not in ("None", *_WORDS.get(o.key_or_group, ())) and "${" not in choice and not _is_number(choice)
    ]


def _unregistered(overrides: Sequence[Override]) -> list[str]:
    """Names of criteria, allocations and repairs that the package has not; nothing of a user's may register them."""
    return [
        f"{o.key_or_group}={name} is unknown{nearest(name, names)}; there are {', '.join(names)}; "
        "one of your own is known if extensions=[mine.py] names its file"
        for o in overrides
        if (kind := o.key_or_group.removeprefix("reflow.")) in KINDS
        for names in [registered(kind)]
        for name in _texts(o.value())
        if name not in names and "${" not in name
    ]


def _texts(value: object) -> Iterator[str]:
    """The texts in a value: itself, or the items of a list, or of a choice."""
    if isinstance(value, QuotedString):
        value = value.text
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, ChoiceSweep)):
        for one in value if isinstance(value, list) else value.list:
            yield from _texts(one)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def check_overrides(arguments: Sequence[str], config: str = "config") -> None:
    """Exit with a message if an override names no key of the configuration, or a plugin that is not installed."""
    if found := complaints(arguments, config):
        command = "reflow-lightning" if config == "config" else f"reflow-lightning {config}"
        for complaint in found:
            sys.stderr.write(f"reflow-lightning: {complaint}\n")
        sys.stderr.write(f"{command} --help lists all keys\n")
        raise SystemExit(2)
