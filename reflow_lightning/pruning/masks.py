"""Masks: which weights stay. They live beside the model, never in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, nn


class Masks(Mapping[str, Tensor]):
    """A mapping of parameter name to bool tensor, True where the weight stays.

    Example:
        >>> model = nn.Linear(2, 1)
        >>> masks = Masks({"weight": torch.tensor([[True, False]])})
        >>> masks.apply(model)
        >>> masks.sparsity, int((model.weight == 0).sum())
        (0.5, 1)
    """

    def __init__(self, masks: Mapping[str, Tensor]) -> None:
        self._masks = dict(masks)

    def __getitem__(self, name: str) -> Tensor:
        return self._masks[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._masks)

    def __len__(self) -> int:
        return len(self._masks)

    def __repr__(self) -> str:
        weights = sum(mask.numel() for mask in self.values())
        return f"Masks({len(self)} tensors, {weights} weights, {self.sparsity:.4f} pruned)"

    @property
    def sparsity(self) -> float:
        """Share of the selected weights that are pruned."""
        kept = sum(int(mask.sum()) for mask in self.values())
        total = sum(mask.numel() for mask in self.values())
        return 1 - kept / total if total else 0.0

    @property
    def sparsities(self) -> dict[str, float]:
        """Share of pruned weights by parameter name."""
        return {name: 1 - int(mask.sum()) / max(1, mask.numel()) for name, mask in self.items()}

    def reaches(self, sparsity: float) -> bool:
        """Whether as many weights are pruned as this sparsity asks for, to the nearest whole number."""
        total = sum(mask.numel() for mask in self.values())
        return round(self.sparsity * total) >= round(sparsity * total)

    def parameters(self, model: nn.Module) -> list[nn.Parameter]:
        """The model's parameters that the masks belong to, in the order of the masks.

        Raises:
            ValueError: If a name is missing in the model, or has another shape there.
        """
        named = dict(model.named_parameters(remove_duplicate=False))
        for name, mask in self.items():
            if name not in named:
                raise ValueError(f"mask '{name}' has no parameter in {type(model).__name__}: use the model it is of")
            if named[name].shape != mask.shape:
                raise ValueError(
                    f"mask '{name}' has shape {tuple(mask.shape)}, the model's parameter {tuple(named[name].shape)}: "
                    "use the model it is of"
                )
        return [named[name] for name in self]

    @torch.no_grad()
    def apply(self, model: nn.Module) -> None:
        """Set the pruned weights of a model to zero, in place.

        Raises:
            ValueError: If the masks do not fit the model, which then is unchanged.
        """
        for parameter, mask in zip(self.parameters(model), self.values(), strict=True):
            parameter.masked_fill_(~mask.to(parameter.device), 0)

    def bind(self, model: nn.Module) -> Callable[[], None]:
        """Make a function that sets the pruned weights to zero at little cost, to be called after every optimizer step.

        It multiplies in place, all tensors in one call, with the bool masks themselves, so that nothing of the weights'
        size is held between calls. A pruned weight may become -0.0, and one that diverged stays NaN; `apply` leaves 0.

        Raises:
            ValueError: If the masks do not fit the model.
        """
        parameters: list[Tensor] = list(self.parameters(model))
        masks = [mask.to(parameter.device) for parameter, mask in zip(parameters, self.values(), strict=True)]

        @torch.no_grad()
        def keep_zeros() -> None:
            torch._foreach_mul_(parameters, masks)

        return keep_zeros

    def to(self, device: torch.device | str) -> Masks:
        """The same masks on another device."""
        return Masks({name: mask.to(device) for name, mask in self.items()})

    def state_dict(self) -> dict[str, Tensor]:
        """Plain bool tensors by parameter name, for `torch.save` and loading with ``weights_only=True``."""
        return dict(self._masks)

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Tensor]) -> Masks:
        """Make masks from what `state_dict` gave.

        Raises:
            ValueError: If an entry is no bool tensor.
        """
        for name, mask in state.items():
            if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
                kind = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
                raise ValueError(f"mask '{name}' is {kind}, not a bool tensor: pass what Masks.state_dict() gave")
        return cls(state)
