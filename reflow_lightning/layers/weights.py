"""The weights of the layers of torch: what multiplies the signal."""

from __future__ import annotations

from torch import nn

from reflow_lightning.running.compat.torch import recurrent_weights

_CONVOLUTIONS = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)
_ATTENTION_WEIGHTS = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")


def weight_names(module: nn.Module) -> tuple[str, ...]:
    """Names of the module's own weight matrices: what multiplies the signal, so never a bias, norm or embedding.

    It may lack some of them as parameters: those of attention depend on its arguments, and any may be parametrized.

    Example:
        >>> weight_names(nn.GRU(3, 4)), weight_names(nn.BatchNorm1d(3))
        (('weight_ih_l0', 'weight_hh_l0'), ())
    """
    if isinstance(module, (nn.Linear, *_CONVOLUTIONS)):
        return ("weight",)
    if isinstance(module, nn.RNNBase):
        return tuple(name for name in recurrent_weights(module) if name.startswith("weight_"))
    if isinstance(module, nn.RNNCellBase):
        return ("weight_ih", "weight_hh")
    if isinstance(module, nn.MultiheadAttention):  # its projections are Linear maps kept as bare parameters
        return _ATTENTION_WEIGHTS
    return ()
