"""Optional packages: which extra of this distribution asks for one, and how to install it."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, requires

from packaging.requirements import Requirement

_DISTRIBUTION = "reflow-lightning"


def remedy(extra: str) -> str:
    """The command that installs what an extra needs, by the names under which registries have it.

    Example:
        >>> remedy("wandb")
        'pip install "wandb>=0.17" (the extra "wandb")'
    """
    packages = " ".join(f'"{found.name}{found.specifier}"' for found in _wanted() if _is_of(found, extra))
    return f'pip install {packages} (the extra "{extra}")' if packages else f'install the extra "{extra}"'


def missing(error: ImportError) -> str:
    """What to do about an import that failed, if one of the extras brings the module; else an empty text.

    Example:
        >>> missing(ModuleNotFoundError("No module named 'wandb'", name="wandb"))
        'pip install "wandb>=0.17" (the extra "wandb")'
        >>> missing(ModuleNotFoundError("No module named 'mine'", name="mine"))
        ''
    """
    module = (error.name or "").partition(".")[0].replace("_", "-")
    extras = (extra for found in _wanted() if found.name == module for extra in _EXTRAS if _is_of(found, extra))
    extra = next(extras, None)
    return "" if extra is None else remedy(extra)


_EXTRAS = ("vision", "text", "transformers", "stream", "onnx", "sweep", "wandb", "mlflow")


def _wanted() -> list[Requirement]:
    try:
        return [Requirement(text) for text in requires(_DISTRIBUTION) or ()]
    except PackageNotFoundError:  # run from its folder, without an installation
        return []


def _is_of(requirement: Requirement, extra: str) -> bool:
    marker = requirement.marker
    return marker is not None and not marker.evaluate({"extra": ""}) and marker.evaluate({"extra": extra})
