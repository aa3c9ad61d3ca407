"""The networks of the tests, each registered once.

A test asks for one by name, ``network("mlp").build()``, or runs over all of a kind,
``@pytest.mark.parametrize("name", networks("repair"))``. A new network goes into the file of its kind, as a function or
a class and one call of `register`; the tests of its tags then run on it too.

| file | networks |
|---|---|
| `linear` | linear layers, one after the other |
| `convolutional` | convolutions without shortcuts |
| `residual` | shortcuts and branches |
| `decoders` | transposed convolutions, and norms that are written in a forward pass |
| `transformers` | attention, and mixing over tokens |
| `recurrent` | recurrent layers and cells |
| `language` | networks of transformers, each with a tokenizer's batch; they are not in the registry |
| `odd` | what is hard to trace: layers called twice, sizes written out, several inputs |
| `blocks`, `layers` | no networks but parts of random ones: `blocks.Chain`, `layers.Network` |
| `trainings` | no networks but whole trainings: a LightningModule, its data and what its Trainer is given |

| tag | the network |
|---|---|
| `repair` | takes one tensor, and can be repaired by writing its weights |
| `feed forward` | is one of those, and calls each of its layers once |
| `classifier` | tells three classes apart, for criteria that ask for gradients |
| `sharded` | has layers that several processes cannot share out evenly |
| `collapse` | is made smaller by `collapse` once something in it is dead |

A network that a single test needs stays beside that test.
"""

from zoo import convolutional, decoders, linear, odd, recurrent, residual, transformers
from zoo.registry import IMAGES, ROWS, SEQUENCES, Entry, network, networks, register

__all__ = [
    "IMAGES",
    "ROWS",
    "SEQUENCES",
    "Entry",
    "convolutional",
    "decoders",
    "linear",
    "network",
    "networks",
    "odd",
    "recurrent",
    "register",
    "residual",
    "transformers",
]
