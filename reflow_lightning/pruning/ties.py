"""Copies of networks within a model, such as the average or the target that follows a network: they get its masks."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from torch import Tensor, nn

from reflow_lightning.running.names import nearest
from reflow_lightning.running.snapshot import named_tensors


def nearest_source(model: nn.Module, sources: Sequence[Mapping[str, str]]) -> Mapping[str, str]:
    """Of several mappings of names, the one whose tensors are nearest to those that they are mapped from."""
    tensors = dict(named_tensors(model))

    def distance(names: Mapping[str, str]) -> float:
        return sum(float(_difference(tensors[name], tensors[other])) for name, other in names.items())

    return sources[0] if len(sources) == 1 else min(sources, key=distance)


def single_copies(model: nn.Module, trained: Collection[int]) -> dict[str, list[dict[str, str]]]:
    """Buffers and untrained parameters that have the shape of trained weights: averages that are kept by themselves.

    Returns:
        For each by its name, the names of the weights of its shape, as `Copy.names` gives them.

    Example:
        >>> model = nn.Linear(2, 3)
        >>> model.register_buffer("average", model.weight.detach().clone())
        >>> single_copies(model, trained={id(model.weight)})
        {'average': [{'average': 'weight'}]}
    """
    by_shape: dict[tuple[int, ...], list[str]] = {}
    others: dict[str, Tensor] = {}
    for name, tensor in named_tensors(model):
        if id(tensor) in trained:
            by_shape.setdefault(tuple(tensor.shape), []).append(name)
        elif tensor.ndim > 1 and tensor.is_floating_point():
            others[name] = tensor
    alike = {name: by_shape.get(tuple(tensor.shape), []) for name, tensor in others.items()}
    return {name: [{name: source} for source in sources] for name, sources in alike.items() if sources}


def tied_names(model: nn.Module, tied: Mapping[str, str]) -> dict[str, str]:
    """Which tensor follows which.

    Args:
        model: Any module.
        tied: Names of parameters or buffers that follow, and of those that they follow. A name may have one ``*``,
            which stands for the same text on both sides: ``{"teacher.*": "student.*"}``.

    Returns:
        Names of the tensors that are followed, by the names of those that follow.

    Raises:
        ValueError: If a pattern names nothing, or tensors of different shapes.

    Example:
        >>> model = nn.ModuleDict({"student": nn.Linear(2, 2), "teacher": nn.Linear(2, 2)})
        >>> tied_names(model, {"teacher.*": "student.*"})
        {'teacher.weight': 'student.weight', 'teacher.bias': 'student.bias'}
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in named_tensors(model)} if tied else {}
    found: dict[str, str] = {}
    for follower, source in tied.items():
        if follower.count("*") != source.count("*") or follower.count("*") > 1:
            raise ValueError(f"tied={{{follower!r}: {source!r}}}: both sides need one '*', or none")
        start, star, end = follower.partition("*")
        pairs = {
            name: source.replace("*", name[len(start) : len(name) - len(end)])
            for name in shapes
            if (name.startswith(start) and name.endswith(end) and len(name) >= len(start) + len(end))
            and (star or name == follower)
        }
        pairs = {name: other for name, other in pairs.items() if other in shapes}
        if not pairs:
            raise ValueError(
                f"tied={{{follower!r}: {source!r}}} names no two tensors of {type(model).__name__}"
                f"{nearest(follower, shapes)}"
            )
        for name, other in pairs.items():
            if shapes[name] != shapes[other]:
                raise ValueError(f"tied: '{name}' has shape {shapes[name]}, '{other}' {shapes[other]}")
        found |= pairs
    if chained := [name for name, other in found.items() if other in found]:
        raise ValueError(
            f"tied: '{chained[0]}' follows '{found[chained[0]]}', which follows another tensor, or itself: name what "
            "is trained on the right"
        )
    return found


def _difference(a: Tensor, b: Tensor) -> Tensor:
    return (a.detach().float() - b.detach().to(a.device).float()).square().sum()
