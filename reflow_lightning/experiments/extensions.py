"""Python files of a user's that are imported before a run, so that what they register is found by name."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterable
from pathlib import Path

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig

from reflow_lightning.running.registry import UnknownNameError


def load_extensions(cfg: DictConfig) -> None:
    """Import the extensions of a configuration and check that they complete it, before anything is loaded or trained.

    Args:
        cfg: Its ``reflow`` is made once on trial.

    Raises:
        ValueError: If there is no such file or module, or a name is still unknown.
        InstantiationException: If another argument is wrong.
    """
    import_extensions(cfg.extensions)
    try:
        instantiate(cfg.reflow)
    except InstantiationException as error:
        cause: BaseException | None = error
        while isinstance(cause, InstantiationException):
            cause = cause.__cause__
        if not isinstance(cause, UnknownNameError):
            raise
        raise ValueError(f"{cause}; one of your own is known if extensions=[mine.py] names its file") from error


def import_extensions(names: Iterable[str]) -> None:
    """Import modules, or files, that register criteria, repairs, allocations and kinds of layer.

    Args:
        names: Names of modules that Python finds, or paths of files that end with ``.py``. A file is imported once.

    Raises:
        ValueError: If there is no such file or module.

    Example:
        >>> import_extensions(["json"])
        >>> import_extensions(["mine.py"])
        Traceback (most recent call last):
        ValueError: extensions=['mine.py']: there is no such file; write its path from the folder that you start from
    """
    for name in names:
        if name.endswith(".py"):
            _import_file(Path(name))
            continue
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name.partition(".")[0] and error.name != name:
                raise  # something that the module itself imports
            raise ValueError(
                f"extensions=['{name}']: there is no such module; install it, set PYTHONPATH, or name a file"
            ) from error


def _import_file(path: Path) -> None:
    if not path.is_file():
        raise ValueError(
            f"extensions=['{path}']: there is no such file; write its path from the folder that you start from"
        )
    name = f"reflow_lightning_extension_{path.stem}_{abs(hash(path.resolve()))}"
    if name in sys.modules:
        return
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # before it runs, as for every import: dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
