"""What of `torch.distributed` and its `fully_shard` is private, and the package needs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn


def default_store() -> Any:
    """The store through which the processes of the default group found each other."""
    from torch.distributed import distributed_c10d

    return distributed_c10d._get_default_store()


def prepare_sharded(module: Any) -> None:
    """Do what `fully_shard` leaves to the first forward pass; of several modules, for the outermost first."""
    module._get_fsdp_state()._lazy_init()


def without_sharding(module: nn.Module, instead: Mapping[int, nn.Parameter]) -> dict[str, Any]:
    """The attributes of a module without what spreads it over processes: hooks, states, marks.

    Args:
        module: The module.
        instead: What stands for parameters, by their ids.
    """
    marks = ("__composable_api_state_key", "_is_fsdp_managed_module", "_fsdp_use_orig_params")
    kept = {name: value for name, value in vars(module).items() if not name.startswith(marks)}
    for name, hooks in kept.items():
        if name.endswith("hooks") and isinstance(hooks, dict):
            kept[name] = type(hooks)((key, hook) for key, hook in hooks.items() if not _shards(hook))
    own = {n: value if value is None else instead.get(id(value), value) for n, value in module._parameters.items()}
    return kept | {"_parameters": own}


_SPREADING = ("torch.distributed.fsdp", "torch.distributed.tensor")


def _shards(hook: Any) -> bool:
    return _defined_in(hook).startswith(_SPREADING)


def _defined_in(hook: Any) -> str:
    hook = getattr(hook, "hook", hook)  # a hook on loading is wrapped
    return getattr(getattr(hook, "__func__", hook), "__module__", None) or ""


def is_parallelized(module: nn.Module) -> bool:
    """Whether `parallelize_module` has split this module over processes, or what it is called with."""
    hooks = (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
    return any(_defined_in(hook).startswith("torch.distributed.tensor") for hook in hooks)


def keeps_whole(module: Any) -> bool:
    """Whether a unit stays whole after its forward pass (``reshard_after_forward=False``)."""
    return any(group.post_forward_mesh_info is None for group in shard_groups(module))


def casts_values(module: Any) -> bool:
    """Whether a unit computes in another type than its parameters have (`MixedPrecisionPolicy`)."""
    policy = module._get_fsdp_state()._mp_policy
    return policy.param_dtype is not None or policy.output_dtype is not None


def has_forward_methods(module: Any) -> bool:
    """Whether methods other than ``forward`` gather the parameters of a unit (`register_fsdp_forward_method`)."""
    from torch.distributed.fsdp import register_fsdp_forward_method

    registered = register_fsdp_forward_method.__code__.co_consts  # which hold the code of what it puts in place
    codes = (getattr(getattr(value, "__func__", None), "__code__", None) for value in vars(module).values())
    return any(code is not None and code in registered for code in codes)


def shard_groups(module: Any) -> list[Any]:
    """The groups of parameters of a module that `fully_shard` was applied to."""
    state = module._get_fsdp_state()
    groups = getattr(state, "_fsdp_param_groups", None) or [state._fsdp_param_group]
    return [group for group in groups if group is not None]
