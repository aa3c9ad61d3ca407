"""The Hydra application and what only it needs."""

from omegaconf import OmegaConf

# For epochs and finetune_epochs, which every configuration has and whose sum is the training.
OmegaConf.register_new_resolver("reflow.sum", lambda a, b: a + b, replace=True)
OmegaConf.register_new_resolver("reflow.share", lambda part, rest: part / (part + rest) if part else 0.0, replace=True)
