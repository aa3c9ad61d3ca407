"""Where the files of a configuration are, when Hydra has moved to the folder of a run (``hydra.job.chdir=true``)."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

_PATHS = ("ckpt", "data_dir", "data.folder")


def find_from(start: Path, cfg: DictConfig) -> None:
    """Make the paths of a configuration absolute, in place, so that they are those from where the command was started.

    Args:
        start: The folder that the command was started in.
        cfg: The configuration. URLs, modules and absolute paths stay as they are.

    Example:
        >>> cfg = OmegaConf.create({"ckpt": "dense.ckpt", "data_dir": "/data", "extensions": ["mine.py", "package"]})
        >>> find_from(Path("/home"), cfg)
        >>> cfg.ckpt, cfg.data_dir, cfg.extensions
        ('/home/dense.ckpt', '/data', ['/home/mine.py', 'package'])
    """
    for key in _PATHS:
        if isinstance(path := OmegaConf.select(cfg, key), str) and "://" not in path:
            OmegaConf.update(cfg, key, str(start / path))
    cfg.extensions = [str(start / name) if name.endswith(".py") else name for name in cfg.extensions]
