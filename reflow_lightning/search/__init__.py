"""How sparse a network can be: trials of pruning and repair, and what they found. Plain PyTorch."""

from reflow_lightning.search.bisection import sparsest
from reflow_lightning.search.find import COARSE, find_sparsity
from reflow_lightning.search.perplexity import perplexity
from reflow_lightning.search.trials import Search, Trial, is_within

__all__ = ["COARSE", "Search", "Trial", "find_sparsity", "is_within", "perplexity", "sparsest"]
