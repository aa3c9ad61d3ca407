"""One prune event: what is done, and to whom. Plain PyTorch."""
