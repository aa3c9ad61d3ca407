"""The answer to ``--help``.

Hydra prints the same, but copies the configuration for each of its own groups too, which takes three times as long.
"""

from __future__ import annotations

from collections.abc import Sequence
from string import Template

from hydra import compose, initialize_config_module
from hydra.errors import HydraException
from omegaconf import OmegaConf, open_dict

from reflow_lightning.experiments.overrides import CONF, config_groups

_ASKS = ("--help", "-h")


def print_help(arguments: Sequence[str], config: str = "config") -> bool:
    """Print groups, keys and examples, if the arguments ask for it.

    Args:
        arguments: Those of the command.
        config: Name of the configuration: ``"config"``, or ``"search"`` of the search.

    Returns:
        Whether that was all; ``False`` leaves the answer to Hydra: with more of its own options, or a wrong override.
    """
    overrides = [argument for argument in arguments if argument not in _ASKS]
    if len(overrides) == len(arguments) or any(override.startswith("-") for override in overrides):
        return False
    try:
        with initialize_config_module(CONF, version_base="1.3"):
            cfg = compose(config, overrides=overrides, return_hydra_config=True)
    except HydraException:
        return False
    template = Template(cfg.hydra.help.template)
    with open_dict(cfg):
        del cfg["hydra"]
    groups = "".join(f"{group}: {', '.join(options)}\n" for group, options in sorted(config_groups().items()))
    print(template.substitute(APP_CONFIG_GROUPS=groups, CONFIG=OmegaConf.to_yaml(cfg)))
    return True
