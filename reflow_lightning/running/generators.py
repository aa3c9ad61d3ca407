"""Generators of random numbers that a model holds, beside the global ones of Python, NumPy and PyTorch."""

from __future__ import annotations

import random
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from reflow_lightning.running.copying import walk


def generators_in(model: nn.Module) -> list[Any]:
    """The generators of Python, NumPy and PyTorch that a model holds beside its parameters and buffers, however deep.

    Example:
        >>> model = nn.Linear(1, 1)
        >>> model.noise = {"draws": torch.Generator()}
        >>> len(generators_in(model))
        1
    """
    return [value for value in walk(model) if isinstance(value, generator_types())]


def generator_types() -> tuple[type, ...]:
    """The types of generators that are known; NumPy's too, once it is loaded."""
    numpy = sys.modules.get("numpy")
    ours: tuple[type, ...] = (torch.Generator, random.Random)
    return (*ours, numpy.random.Generator, numpy.random.RandomState) if numpy else ours


def state_of(generator: Any) -> Any:
    """The state that `set_state` puts back."""
    if isinstance(generator, random.SystemRandom):
        return None
    if isinstance(generator, random.Random):
        return generator.getstate()
    return generator.bit_generator.state if hasattr(generator, "bit_generator") else generator.get_state()


def set_state(generator: Any, state: Any) -> None:
    """Put back a state of before."""
    if isinstance(generator, random.Random):
        if state is not None:
            generator.setstate(state)
    elif hasattr(generator, "bit_generator"):
        generator.bit_generator.state = state
    else:
        generator.set_state(state)


class RandomState:
    """The random states of Python, NumPy and PyTorch, on all devices that are in use, and of other generators.

    Args:
        generators: The others.

    Example:
        >>> before = RandomState()
        >>> first = torch.rand(1)
        >>> before.restore()
        >>> torch.equal(torch.rand(1), first)
        True
    """

    def __init__(self, generators: Sequence[Any] = ()) -> None:
        numpy = sys.modules.get("numpy")
        self._python = random.getstate()
        self._numpy = numpy.random.get_state() if numpy else None
        self._torch = torch.default_generator.get_state()
        in_use = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
        self._cuda = torch.cuda.get_rng_state_all() if in_use else []
        self._others = [(generator, state_of(generator)) for generator in generators]

    def to_dict(self) -> dict[str, Any]:
        """All of them as plain types and tensors, for a checkpoint."""
        version, numbers, gauss = self._python
        name, keys, *rest = self._numpy or ("", [])
        return {
            "python": [version, list(numbers), gauss],
            "numpy": [name, [int(key) for key in keys], *rest],
            "torch": self._torch,
            "cuda": self._cuda,
            "others": [_plain(state) for _, state in self._others],
        }

    @classmethod
    def from_dict(cls, state: Mapping[str, Any], generators: Sequence[Any] = ()) -> RandomState:
        """The states that `to_dict` gave.

        Args:
            state: It.
            generators: The others, in the order of before.

        Example:
            >>> before = RandomState.from_dict(RandomState().to_dict())
            >>> first = random.random()
            >>> before.restore()
            >>> random.random() == first
            True
        """
        found = cls()
        version, numbers, gauss = state["python"]
        name, keys, *rest = state["numpy"]
        found._python = version, tuple(numbers), gauss
        found._numpy = (name, keys, *rest) if name else None
        found._torch, found._cuda = state["torch"], state["cuda"]
        others = state.get("others", ())
        if len(others) == len(generators):
            found._others = [(g, _as_before(g, plain)) for g, plain in zip(generators, others, strict=True)]
        return found

    def restore(self) -> None:
        """Put them back."""
        random.setstate(self._python)
        if self._numpy is not None:
            sys.modules["numpy"].random.set_state(self._numpy)
        torch.default_generator.set_state(self._torch)
        for device, state in enumerate(self._cuda):
            torch.cuda.set_rng_state(state, device)
        for generator, state in self._others:
            set_state(generator, state)


def seed_generator(generator: Any, seed: int) -> None:
    """Begin anew from a seed.

    Example:
        >>> draws = random.Random(3)
        >>> seed_generator(draws, 3)
        >>> draws.random() == random.Random(3).random()
        True
    """
    if isinstance(generator, torch.Generator):
        generator.manual_seed(seed)
    elif hasattr(generator, "bit_generator"):
        generator.bit_generator.state = type(generator.bit_generator)(seed).state
    else:
        generator.seed(seed if isinstance(generator, random.Random) else seed % 2**32)


def _plain(state: Any) -> Any:
    """A state without tuples and arrays, which checkpoints of plain types can't hold."""
    if isinstance(state, dict):
        return {key: _plain(value) for key, value in state.items()}
    if isinstance(state, Tensor) or state is None or isinstance(state, (str, int, float)):
        return state
    return [_plain(value) for value in (state.tolist() if hasattr(state, "tolist") else state)]


def _as_before(generator: Any, state: Any) -> Any:
    """The state of a generator that `_plain` gave."""
    if isinstance(generator, random.Random) and state is not None:
        version, numbers, gauss = state
        return version, tuple(numbers), gauss
    return tuple(state) if isinstance(state, list) else state
