"""Private names of torch about hooks: which there are, and how to do without them."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.optim.optimizer import Optimizer, _global_optimizer_pre_hooks
from torch.utils.hooks import RemovableHandle


def pre_hooks(module: nn.Module) -> list[Any]:
    """What is called before each call of a module."""
    return list(module._forward_pre_hooks.values())


def forget_pre_hook(module: nn.Module, hook: Any) -> None:
    """No longer call something before each call of a module."""
    for key in [key for key, known in module._forward_pre_hooks.items() if known is hook]:
        del module._forward_pre_hooks[key]


def hooks_of(module: nn.Module) -> list[Any]:
    """What is called before and after each call of a module."""
    return [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]


def has_hooks(module: nn.Module) -> bool:
    """Whether something is called before or after each call of a module."""
    return bool(hooks_of(module))


def has_backward_hooks(module: nn.Module) -> bool:
    """Whether something is called with the gradients of a module.

    Example:
        >>> layer = nn.Linear(1, 1)
        >>> _ = layer.register_full_backward_hook(lambda *_: None)
        >>> has_backward_hooks(layer)
        True
    """
    return bool(module._backward_hooks or module._backward_pre_hooks)


def computed_by(hook: Any) -> str | None:
    """The parameter that a hook of `torch.nn.utils` computes: by ``prune``, or by norms of the older kind."""
    name: str | None = getattr(hook, "_tensor_name", None) or getattr(hook, "name", None)
    return name


def has_step_hooks(optimizer: Optimizer) -> bool:
    """Whether a hook is called before or after each step: of this optimizer, or of all optimizers.

    Example:
        >>> import torch
        >>> has_step_hooks(torch.optim.SGD(nn.Linear(1, 1).parameters()))
        False
    """
    own = vars(optimizer)
    hooks = (own["_optimizer_step_pre_hooks"], own["_optimizer_step_post_hooks"], _global_optimizer_pre_hooks)
    return any(map(bool, hooks))


def after_steps(optimizer: Optimizer, hook: Any) -> RemovableHandle:
    """Have a hook called after each step of an optimizer, also of a wrapper that never called ``Optimizer.__init__``.

    Raises:
        AttributeError: If it has nowhere to keep hooks.
    """
    handle = optimizer.register_step_post_hook(hook)
    optimizer._patch_step_function()  # ``Optimizer.__init__`` has done so; then it does nothing
    return handle


def step_unheard(optimizer: Optimizer) -> None:
    """Have an optimizer step without calling the hooks that are registered for the steps of all optimizers.

    Example:
        >>> import torch
        >>> optimizer = torch.optim.SGD([weight := torch.ones(1)], lr=0.5)
        >>> weight.grad = torch.ones(1)
        >>> step_unheard(optimizer)
        >>> weight
        tensor([0.5000])
    """
    type(optimizer).step.__wrapped__(optimizer)  # type: ignore[attr-defined]


def forget_backward_hooks(model: nn.Module) -> None:
    """Remove all backward hooks, as from a copy whose hooks were copied with it.

    Example:
        >>> import torch
        >>> model = nn.Linear(1, 1)
        >>> _ = model.register_full_backward_hook(lambda *_: print("heard"))
        >>> forget_backward_hooks(model)
        >>> model(torch.ones(1, 1)).backward()
    """
    for module in model.modules():
        module._backward_hooks.clear()
        module._backward_pre_hooks.clear()
    for parameter in model.parameters():
        if (hooks := parameter._backward_hooks) is not None:
            hooks.clear()
