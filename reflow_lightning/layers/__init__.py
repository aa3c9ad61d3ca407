"""What is known of each kind of layer: its weights, where its channels are, its affine maps. Plain PyTorch.

`layer_of` finds it, and takes types of your own: see `layer_of.register`.
"""

from reflow_lightning.layers import attention, convolution, experts, linear, norms, recurrent  # noqa: F401  (register)
from reflow_lightning.layers.affine import AffineMap, Stage
from reflow_lightning.layers.attention import AttentionLayer
from reflow_lightning.layers.computed import Computed
from reflow_lightning.layers.convolution import ConvLayer, TransposedConvLayer
from reflow_lightning.layers.experts import StackLayer, TransposedStackLayer
from reflow_lightning.layers.find import Layers, find_layers, known_layers
from reflow_lightning.layers.inventory import Inventory, Owned
from reflow_lightning.layers.layer import Layer, NotSupportedError, OneMap, Weight, writable, writable_of
from reflow_lightning.layers.linear import BilinearLayer, LinearLayer, TransposedLinearLayer
from reflow_lightning.layers.norms import LastNormLayer, NormLayer
from reflow_lightning.layers.order import Order, OrderWatch, forward_order
from reflow_lightning.layers.recurrent import RecurrentLayer
from reflow_lightning.layers.registry import layer_of
from reflow_lightning.layers.statistics import batchnorm_layers
from reflow_lightning.running.hooks import Call

__all__ = [
    "AffineMap",
    "AttentionLayer",
    "BilinearLayer",
    "Call",
    "Computed",
    "ConvLayer",
    "Inventory",
    "LastNormLayer",
    "Layer",
    "Layers",
    "LinearLayer",
    "NormLayer",
    "NotSupportedError",
    "OneMap",
    "Order",
    "OrderWatch",
    "Owned",
    "RecurrentLayer",
    "StackLayer",
    "Stage",
    "TransposedConvLayer",
    "TransposedLinearLayer",
    "TransposedStackLayer",
    "Weight",
    "batchnorm_layers",
    "find_layers",
    "forward_order",
    "known_layers",
    "layer_of",
    "writable",
    "writable_of",
]
