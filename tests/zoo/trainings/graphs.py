"""Graphs: batches of classes of their own, and sparse matrices."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

from zoo.trainings.batches import SAMPLES, VALIDATION, Data, loader, normal, whole
from zoo.trainings.training import Training


class Graph:
    """Moves itself and returns nothing."""

    def __init__(self, x: Tensor, edge_index: Tensor, y: Tensor, batch: Tensor | None = None) -> None:
        self.x, self.edge_index, self.y, self.batch = x, edge_index, y, batch

    def to(self, device: Any, non_blocking: bool = False) -> None:
        for key, value in vars(self).items():
            setattr(self, key, None if value is None else value.to(device))

    @property
    def num_graphs(self) -> int:
        return len(self.y)


def collate(graphs: list[Graph]) -> Graph:
    """One graph of several, and to which of them each node belongs."""
    starts = torch.tensor([0] + [len(g.x) for g in graphs[:-1]]).cumsum(0)
    edges = torch.cat([g.edge_index + start for g, start in zip(graphs, starts, strict=True)], 1)
    batch = torch.arange(len(graphs)).repeat_interleave(torch.tensor([len(g.x) for g in graphs]))
    return Graph(torch.cat([g.x for g in graphs]), edges, torch.cat([g.y for g in graphs]), batch)


class GINConv(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.eps = nn.Parameter(torch.zeros(()))
        self.nn = nn.Sequential(
            nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.ReLU(), nn.Linear(outputs, outputs)
        )

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        source, target = edge_index
        return self.nn((1 + self.eps) * x + torch.zeros_like(x).index_add_(0, target, x[source]))


class GraphClassifier(pl.LightningModule):
    """``forward`` takes the parts of the batch, one by one."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.convs = nn.ModuleList([GINConv(6, width), GINConv(width, width)])
        self.classifier = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Dropout(0.3), nn.Linear(width, 3))

    def forward(self, x: Tensor, edge_index: Tensor, batch: Tensor) -> Tensor:
        for conv in self.convs:
            x = conv(x, edge_index).relu()
        pooled = x.new_zeros(int(batch.max()) + 1, x.shape[1]).index_add_(0, batch, x)
        return self.classifier(pooled / batch.bincount()[:, None])

    def training_step(self, data: Graph, batch_idx: int) -> Tensor:
        out = self(data.x, data.edge_index, data.batch)
        loss = F.cross_entropy(out, data.y)
        self.log("loss", loss, batch_size=data.num_graphs)
        return loss

    def validation_step(self, data: Graph, batch_idx: int) -> None:
        out = self(data.x, data.edge_index, data.batch)
        self.log("acc", (out.argmax(-1) == data.y).float().mean(), batch_size=data.num_graphs)

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), 5e-3)


class GCN(pl.LightningModule):
    """One graph again and again, of which a part of the nodes is trained on; its matrix is a sparse buffer."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.lin1, self.lin2 = nn.Linear(12, width, bias=False), nn.Linear(width, 4, bias=False)
        self.bias1, self.norm = nn.Parameter(torch.zeros(width)), nn.LayerNorm(width)

    def forward(self, x: Tensor, adj: Tensor) -> Tensor:
        x = F.dropout(x, 0.5, self.training)
        x = self.norm(torch.sparse.mm(adj, self.lin1(x)) + self.bias1).relu()
        return torch.sparse.mm(adj, self.lin2(F.dropout(x, 0.5, self.training)))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        data = batch
        out = self(data["x"], data["adj_t"])
        return F.cross_entropy(out[data["train_mask"]], data["y"][data["train_mask"]])

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(
            [
                {"params": [self.lin1.weight], "weight_decay": 5e-4},
                {"params": [self.lin2.weight, self.bias1, *self.norm.parameters()], "weight_decay": 0},
            ],
            lr=0.01,
        )


class Hetero(pl.LightningModule):
    """Nodes and edges of several kinds, in dictionaries whose keys are tuples; lazy layers."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.into = nn.ModuleDict({"user": nn.LazyLinear(width), "item": nn.LazyLinear(width)})
        kinds = ("user__buys__item", "item__bought__user")
        self.convs = nn.ModuleDict({k: nn.ModuleList([nn.Linear(width, width) for _ in range(2)]) for k in kinds})
        self.norms = nn.ModuleDict({k: nn.BatchNorm1d(width) for k in ("user", "item")})
        self.out = nn.Linear(2 * width, 1)

    def forward(self, x_dict: dict[str, Tensor], edge_index_dict: dict[Any, Tensor]) -> dict[str, Tensor]:
        x_dict = {kind: self.into[kind](x).relu() for kind, x in x_dict.items()}
        out = {}
        for key, (source, target) in edge_index_dict.items():
            neighbour, own = self.convs["__".join(key)]
            x = x_dict[key[2]]
            out[key[2]] = own(x).index_add(0, target, neighbour(x_dict[key[0]])[source])
        return {kind: self.norms[kind](x).relu() for kind, x in out.items()}

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x = self(batch["x_dict"], batch["edge_index_dict"])
        users, items = batch["edge_label_index"]
        score = self.out(torch.cat([x["user"][users], x["item"][items]], 1))[:, 0]
        return F.binary_cross_entropy_with_logits(score, batch["edge_label"])

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), 3e-3)


def graph(seed: int) -> Graph:
    nodes = 4 + seed % 5
    x = normal(nodes, 6, seed=seed)
    return Graph(x, whole(nodes, 2, 3 * nodes, seed=seed), (x.mean() * 5).round().long().view(1) % 3)


def one_graph() -> Any:
    x, edges = normal(30, 12), whole(30, 2, 90)
    adj = torch.sparse_coo_tensor(edges, torch.full((90,), 0.25), (30, 30)).coalesce()
    data = {"x": x, "adj_t": adj, "y": x[:, :4].argmax(1), "train_mask": torch.arange(30) < 20}
    return DataLoader([data] * 8, batch_size=None, collate_fn=lambda same: same)


def purchases() -> Any:
    def sample(seed: int) -> dict[str, Any]:
        buys = torch.stack([whole(10, 30, seed=seed), whole(14, 30, seed=seed + 1)])
        edges = {("user", "buys", "item"): buys, ("item", "bought", "user"): buys.flip(0)}
        x_dict = {"user": normal(10, 5, seed=seed), "item": normal(14, 9, seed=seed)}
        label = (torch.arange(30) % 2).float()
        return {"x_dict": x_dict, "edge_index_dict": edges, "edge_label_index": buys, "edge_label": label}

    return loader([sample(i) for i in range(8)], lambda samples: samples[0], batch_size=1)


TRAININGS = [
    Training(
        "graphs",
        "a batch that moves itself and returns nothing",
        GraphClassifier,
        lambda: Data([graph(i) for i in range(SAMPLES + VALIDATION)], collate),
    ),
    Training("nodes", "a sparse matrix in the batch, the same batch always", GCN, one_graph),
    Training("hetero", "dictionaries of dictionaries, lazy layers", Hetero, purchases),
]
