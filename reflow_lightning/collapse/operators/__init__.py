"""The operators that a collapse understands, one class for each family."""

from reflow_lightning.collapse.graph.kind import register
from reflow_lightning.collapse.operators.activations import Activation, Identity, Power, PReLU
from reflow_lightning.collapse.operators.batchnorm import BatchNorm
from reflow_lightning.collapse.operators.convolution import Convolution, TransposedConvolution
from reflow_lightning.collapse.operators.ends import Attribute, Opaque, Output
from reflow_lightning.collapse.operators.layernorm import LayerNorm
from reflow_lightning.collapse.operators.linear import Linear, TransposedLinear
from reflow_lightning.collapse.operators.moves import Move, Pad, View
from reflow_lightning.collapse.operators.pairs import Add, Extreme, Pair
from reflow_lightning.collapse.operators.pools import Pool
from reflow_lightning.collapse.operators.reductions import Reduction
from reflow_lightning.collapse.operators.selections import IndexAdd, IndexSelect
from reflow_lightning.collapse.operators.shapes import Shape

for _family in (
    *(Opaque(), Output(), Attribute()),
    *(Linear(), TransposedLinear(), Convolution(), TransposedConvolution(), BatchNorm(), LayerNorm()),
    *(Activation(), PReLU(), Power(), Identity()),
    *(Move(), View(), Pad(), Pool(), Reduction(), Shape()),
    *(Pair(), Add(), Extreme(), IndexAdd(), IndexSelect()),
):
    register(_family)
