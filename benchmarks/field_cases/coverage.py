"""Matrices that were left without a word, or could not be pruned: under a norm, stacked, or of another kind."""

from __future__ import annotations

import functools
import tempfile
import warnings
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import ModelPruning
from torch import Tensor, nn, optim
from torch.nn.functional import cross_entropy, softplus
from torch.nn.utils import parametrizations
from torch.utils.data import DataLoader, TensorDataset

from field_cases.trial import Kind
from reflow_lightning import Gradual, Reflow, prune

SPARSITY = 0.8
Of = Callable[[nn.Module], nn.Module]
NORMS: dict[str, Of] = {
    "weight_norm": nn.utils.weight_norm,
    "parametrizations.weight_norm": parametrizations.weight_norm,
    "spectral_norm": nn.utils.spectral_norm,
    "parametrizations.spectral_norm": parametrizations.spectral_norm,
}


class Dilated(nn.Module):
    """A block of a TCN, or with a gate one of a WaveNet."""

    def __init__(self, dilation: int, of: Of, gated: bool) -> None:
        super().__init__()
        self.a, self.b = (of(nn.Conv1d(8, 8, 3, padding=dilation, dilation=dilation)) for _ in range(2))
        self.gated = gated

    def forward(self, x: Tensor) -> Tensor:
        if self.gated:
            return x + torch.tanh(self.a(x)) * torch.sigmoid(self.b(x))
        return torch.relu(x + self.b(torch.relu(self.a(x))))


class Classifier(pl.LightningModule):
    """Trains a network over time."""

    def __init__(self, of: Of, gated: bool) -> None:
        super().__init__()
        blocks = (Dilated(2**k, of, gated) for k in range(2))
        self.net = nn.Sequential(of(nn.Conv1d(4, 8, 1)), *blocks, nn.Flatten(), of(nn.Linear(8 * 16, 2)))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Any, _: int) -> Tensor:
        return cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return optim.AdamW(self.parameters(), 1e-2, weight_decay=0.1)


class Adversaries(Classifier):
    """A generator, and a discriminator under the norm."""

    def __init__(self, of: Of) -> None:
        super().__init__(of, gated=False)
        self.automatic_optimization = False
        self.generator = nn.Sequential(nn.Linear(8, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 64))

    def score(self, signals: Tensor) -> Tensor:
        return self.net(signals.view(-1, 4, 16))[:, 0]

    def forward(self, x: Tensor) -> Tensor:
        return self.score(self.generator(x.flatten(1)[:, :8]))

    def training_step(self, batch: Any, _: int) -> None:
        of_generator, of_discriminator = self.optimizers()
        noise = torch.randn(len(batch[0]), 8)
        for optimizer in (of_generator, of_discriminator):
            loss = softplus(-self.score(self.generator(noise))).mean()
            if optimizer is of_discriminator:
                loss = (softplus(-self.score(batch[0])) + softplus(self.score(self.generator(noise)))).mean()
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()

    def configure_optimizers(self) -> Any:
        return optim.Adam(self.generator.parameters(), 1e-3), optim.Adam(self.net.parameters(), 1e-3)


def data() -> DataLoader[Any]:
    x = torch.randn(64, 4, 16, generator=torch.Generator().manual_seed(0))
    return DataLoader(TensorDataset(x, (x.mean((1, 2)) > 0).long()), 16)


def trainer(folder: str, callback: pl.Callback, epochs: int) -> pl.Trainer:
    quiet = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return pl.Trainer(callbacks=[callback], default_root_dir=folder, max_epochs=epochs, **quiet)


def effective_zeros(module: nn.Module) -> float:
    """The share of zeros in the weights that multiply the signal."""
    weights = [layer.weight for layer in module.modules() if isinstance(layer, (nn.Linear, nn.Conv1d))]
    return sum(int((w == 0).sum()) for w in weights) / sum(w.numel() for w in weights)


def trains(make: Callable[[], Classifier]) -> str:
    """A gradual schedule, a checkpoint, and the training resumed from it."""
    torch.manual_seed(0)
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for epochs, start in ((3, None), (4, f"{folder}/a.ckpt")):
            module = make()
            reflow = Reflow(SPARSITY, schedule=Gradual(end=0.6, every_n_steps=3), monitor=False, forward="batch[0]")
            run = trainer(folder, reflow, epochs)
            run.fit(module, data(), ckpt_path=start)
            run.save_checkpoint(f"{folder}/a.ckpt")
            other = make()
            other.load_state_dict(torch.load(f"{folder}/a.ckpt", weights_only=True)["state_dict"])
            for network, place in ((module, "after training"), (other, "in the checkpoint")):
                output = network.eval()(next(iter(data()))[0])
                if not output.isfinite().all() or abs(effective_zeros(network) - SPARSITY) > 0.01:
                    found.append(f"{effective_zeros(network):.2f} zeros {place}, epoch {epochs}")
            if reflow.events and reflow.events[-1].coverage.left:
                found.append(f"left {reflow.events[-1].coverage.left}")
    return "; ".join(found)


class Conv1D(nn.Module):
    """Linear, by a name that nobody has registered."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 8))


class Stack(nn.Module):
    """Experts."""

    def __init__(self, names: tuple[str, str] = ("w1", "w2")) -> None:
        super().__init__()
        self.register_parameter(names[0], nn.Parameter(torch.randn(3, 4, 8)))
        self.register_parameter(names[1], nn.Parameter(torch.randn(3, 8, 4)))
        self.b1 = nn.Parameter(torch.randn(3, 8))


def named(kind: str, base: type[nn.Module], *given: Any) -> nn.Module:
    """As a library has it that need not be installed."""
    module, _, name = kind.rpartition(".")
    return type(name, (base,), {"__module__": module})(*given)


def covers(model: Callable[[], nn.Module], share: float, **how: Any) -> str:
    """Whether this share of all matrices is pruned, and told."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        coverage = prune(net := model(), SPARSITY, **how).coverage(net)
    right = abs(coverage.share - share) < 0.01 and bool(coverage.left) == (share < SPARSITY)
    return "" if right else f"{coverage.share:.2f} of all matrices, left {coverage.left}"


def beside_a_linear(module: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(module(), nn.Linear(8, 8))


PYG, MIXTRAL = "torch_geometric.nn.dense.linear", "transformers.models.mixtral.modeling_mixtral.MixtralExperts"
TRIALS = {
    f"{norm} in a {name}": functools.partial(trains, functools.partial(make, of))
    for norm, of in NORMS.items()
    for name, make in {
        "TCN": lambda of: Classifier(of, gated=False),
        "WaveNet": lambda of: Classifier(of, gated=True),
        "GAN's discriminator": Adversaries,
    }.items()
} | {
    "an unknown layer": functools.partial(covers, beside_a_linear(Conv1D), SPARSITY / 2),
    "an unknown layer by name": functools.partial(covers, beside_a_linear(Conv1D), SPARSITY, include=["*", "0.*"]),
    "experts by hand": functools.partial(covers, beside_a_linear(Stack), SPARSITY / 4),
    "experts by hand by name": functools.partial(covers, beside_a_linear(Stack), SPARSITY, include=["*", "0.*"]),
    "experts of transformers": functools.partial(
        covers, beside_a_linear(lambda: named(MIXTRAL, Stack, ("gate_up_proj", "down_proj"))), SPARSITY
    ),
    "PyG's Linear": functools.partial(covers, beside_a_linear(lambda: named(f"{PYG}.Linear", Conv1D)), SPARSITY),
    "PyG's HeteroLinear": functools.partial(
        covers, beside_a_linear(lambda: named(f"{PYG}.HeteroLinear", Stack)), SPARSITY
    ),
    "an embedding": functools.partial(covers, beside_a_linear(lambda: nn.Embedding(9, 8)), SPARSITY),
    "what is excluded": functools.partial(
        covers, beside_a_linear(lambda: nn.Linear(8, 8)), SPARSITY / 2, exclude="0.*"
    ),
}


def peer() -> str:
    torch.manual_seed(0)
    module = Classifier(NORMS["weight_norm"], gated=False)
    with tempfile.TemporaryDirectory() as folder:
        try:
            trainer(folder, ModelPruning("l1_unstructured", amount=SPARSITY), 1).fit(module, data())
            module.eval()(next(iter(data()))[0])
        except Exception as error:
            return f"a TCN under weight_norm: {type(error).__name__}"
    return f"a TCN under weight_norm: {effective_zeros(module):.2f} zeros of {SPARSITY}"


KINDS = [
    Kind(
        "coverage",
        "matrices stay dense without a word, or can't be pruned",
        ", ".join(TRIALS),
        TRIALS,
        peer,
    )
]
