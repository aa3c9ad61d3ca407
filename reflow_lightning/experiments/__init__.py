"""The Hydra application and what only it needs."""
