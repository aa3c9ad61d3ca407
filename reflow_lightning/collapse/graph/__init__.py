"""A model as a `torch.fx` graph, and what the steps of it are."""
