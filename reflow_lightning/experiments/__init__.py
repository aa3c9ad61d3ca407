"""The Hydra application and what only it needs."""

from typing import Any

from omegaconf import OmegaConf


def _name_of(choice: str, node: Any) -> str:
    """What a title calls a choice of a group; the choice ``own`` goes by the name of its class."""
    return str(node["_target_"]).rpartition(".")[2] if choice == "own" else choice


# For epochs and finetune_epochs, which every configuration has and whose sum is the training.
OmegaConf.register_new_resolver("reflow.sum", lambda a, b: a + b, replace=True)
OmegaConf.register_new_resolver("reflow.share", lambda part, rest: part / (part + rest) if part else 0.0, replace=True)
OmegaConf.register_new_resolver("reflow.name", _name_of, replace=True)
OmegaConf.register_new_resolver("reflow.first", lambda first, other: other if first is None else first, replace=True)
