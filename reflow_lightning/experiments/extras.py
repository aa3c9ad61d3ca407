"""What a run tells about itself beside its results: its configuration as a tree, and the state of the code."""

from __future__ import annotations

import subprocess
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.syntax import Syntax
from rich.tree import Tree


def print_config(cfg: DictConfig) -> None:
    """Print a configuration as a tree, with a branch for each of its parts."""
    tree = Tree("configuration")
    for key in map(str, cfg):
        value = OmegaConf.select(cfg, key)
        if isinstance(value, DictConfig) and value:
            text = OmegaConf.to_yaml(value, resolve=True)
            tree.add(key).add(Syntax(text.rstrip(), "yaml", background_color="default"))
        else:
            tree.add(f"{key}: {value}")
    Console().print(tree)


def git_state(folder: Path | None = None) -> str:
    """The commit of the code in a folder, and whether something was changed since; ``""`` outside a repository.

    Args:
        folder: ``None`` for the one that the command was started in.

    Example:
        >>> git_state(Path("/"))
        ''
    """
    commit = _git(folder, "rev-parse", "HEAD")
    changed = commit and _git(folder, "status", "--porcelain", "--untracked-files=no")
    return f"{commit}, changed since" if changed else commit


def _git(folder: Path | None, *arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=10)  # noqa: S603, S607
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
