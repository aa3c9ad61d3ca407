import copy

import lightning.pytorch as pl
import pytest
import torch
from helpers import images, trainer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from zoo.convolutional import small_net

from reflow_lightning import Gradual, OneShot, Reflow

pytestmark = pytest.mark.filterwarnings("ignore:.*has no BatchNorm layer.*", "ignore:LSTM with projections.*")

SEQUENCES = torch.randn(32, 5, 8, generator=torch.Generator().manual_seed(0))
SCHEDULES = [OneShot(), OneShot(step=2), OneShot(fraction=1.0), Gradual(every_n_steps=1)]


class Training(pl.LightningModule):
    """Trains any network on a loss without targets."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        return self(batch[0]).sub(1).square().mean()

    def validation_step(self, batch, batch_idx):
        self(batch[0])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1, momentum=0.9)


def batches(x):
    return DataLoader(TensorDataset(x), 8)


class Initial(pl.Callback):
    """The weights with which the training begins, of lazy layers too."""

    weights = None

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.weights = self.weights or {name: p.detach().clone() for name, p in pl_module.named_parameters()}


def fit(net, x, callback=None, ckpt_path=None, **options):
    """Train for two epochs of four steps under a callback, check what it pruned, and return it with the trainer."""
    callback = callback or Reflow(0.5, schedule=OneShot(step=2), calibration_batches=2, monitor=False)
    module, initial = Training(net), Initial()
    runner = trainer(callback, initial, **options)
    runner.fit(module, batches(x), batches(x), ckpt_path=ckpt_path)
    total = sum(mask.numel() for mask in callback.masks.values())
    assert sum(int((~mask).sum()) for mask in callback.masks.values()) == round(callback.sparsity * total)
    for name, mask in callback.masks.items():
        weight = module.get_parameter(name)
        assert not weight[~mask].any()
        assert not torch.equal(weight[mask], initial.weights[name][mask])  # these were trained
    return callback, runner


# -- memory formats


def test_channels_last_is_pruned_in_place_and_like_the_contiguous_network():
    contiguous = small_net()
    last = copy.deepcopy(contiguous).to(memory_format=torch.channels_last)
    masks, places, variances = [], [], []

    def look(stage, module):
        places.append([(p.data_ptr(), p.stride()) for p in module.net.parameters()])
        if stage == "repaired":
            variances.append(module.net[5].running_var.clone())

    for net, x in ((contiguous, images(32)), (last, images(32).to(memory_format=torch.channels_last))):
        callback = Reflow(0.5, calibration_batches=2, monitor=False)
        callback.listeners.append(look)
        fit(net, x, callback)
        masks.append(callback.masks)
    assert masks[0] == masks[1]
    torch.testing.assert_close(*variances)
    assert places[0] == places[1] == places[2] == [(p.data_ptr(), p.stride()) for p in contiguous.parameters()]
    assert places[3] == places[4] == places[5] == [(p.data_ptr(), p.stride()) for p in last.parameters()]
    assert last[4].weight.stride() == (72, 1, 24, 8)


# -- attention


class Attention(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.inner = nn.MultiheadAttention(8, 2, batch_first=True, **options)

    def forward(self, x):
        return self.inner(x, x[..., : self.inner.kdim], x[..., : self.inner.vdim])[0]


@pytest.mark.parametrize("options", [{}, {"bias": False}, {"kdim": 6}, {"kdim": 6, "vdim": 4, "add_bias_kv": True}])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_projection_of_attention_is_pruned_and_trained(options, schedule):
    callback = Reflow(0.5, schedule=schedule, allocation="uniform", calibration_batches=2)
    net = Attention(**options)
    fit(net, SEQUENCES, callback)
    projections = ["in_proj_weight"] if net.inner._qkv_same_embed_dim else [f"{x}_proj_weight" for x in "qkv"]
    assert callback.masks.sparsities == pytest.approx(
        dict.fromkeys([f"net.inner.{name}" for name in (*projections, "out_proj.weight")], 0.5)
    )


def test_the_fast_path_of_a_transformer_sees_the_zeros():
    net = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    callback, _ = fit(net, SEQUENCES)
    assert set(callback.masks) == {
        "net.self_attn.in_proj_weight",
        "net.self_attn.out_proj.weight",
        "net.linear1.weight",
        "net.linear2.weight",
    }
    net.eval()
    outputs = []
    for fast in (True, False):
        torch.backends.mha.set_fastpath_enabled(fast)
        with torch.no_grad():
            outputs.append(net(SEQUENCES))
    torch.backends.mha.set_fastpath_enabled(True)
    torch.testing.assert_close(*outputs)


def test_the_signal_of_a_transformer_is_measured_though_it_has_a_fast_path():
    callback = Reflow(0.5, schedule=OneShot(step=2), calibration_batches=2)
    fit(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), SEQUENCES, callback)
    for report in callback.events[0].signal.values():
        assert {"net.linear1", "net.linear2"} <= {row.name for row in report.rows}


# -- tied weights


class Autoencoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(8, 8)
        self.norm = nn.BatchNorm1d(8)
        self.decoder = nn.Linear(8, 8)
        self.decoder.weight = self.encoder.weight

    def forward(self, x):
        return self.decoder(self.norm(self.encoder(x)))


class LanguageModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(10, 8)
        self.hidden = nn.Linear(8, 8)
        self.decoder = nn.Linear(8, 10, bias=False)
        self.decoder.weight = self.embedding.weight

    def forward(self, x):
        return self.decoder(self.hidden(self.embedding(x)))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_tied_weights_are_pruned_once_and_stay_tied(schedule, tmp_path):
    net = Autoencoder()
    callback, runner = fit(net, torch.randn(32, 8), Reflow(0.5, schedule=schedule, calibration_batches=2))
    assert list(callback.masks) == ["net.encoder.weight"]
    assert net.decoder.weight is net.encoder.weight
    assert int((net.decoder.weight == 0).sum()) == 32
    runner.save_checkpoint(tmp_path / "a.ckpt", weights_only=False)
    other = Autoencoder()
    resumed = Reflow(0.5, schedule=schedule, calibration_batches=2)
    fit(other, torch.randn(32, 8), resumed, ckpt_path=tmp_path / "a.ckpt", max_epochs=3)
    assert resumed.events == []
    assert resumed.masks == callback.masks
    assert int((other.decoder.weight == 0).sum()) == 32


def test_a_decoder_tied_to_an_embedding_stays_dense():
    net = LanguageModel()
    callback, _ = fit(net, torch.randint(10, (32, 4), generator=torch.Generator().manual_seed(0)))
    assert list(callback.masks) == ["net.hidden.weight"]
    assert net.decoder.weight is net.embedding.weight
    assert net.embedding.weight.all()


# -- lazily initialised layers


def lazy_net():
    return nn.Sequential(
        nn.LazyConv2d(8, 3), nn.LazyBatchNorm2d(), nn.ReLU(), nn.Flatten(), nn.LazyLinear(8), nn.LazyBatchNorm1d()
    )


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(
    "options",
    [{"calibration_data": "train"}, {"calibration_data": "val"}, {"repair": "none", "monitor": False}],
)
@pytest.mark.parametrize("sanity_steps", [0, 2])
def test_lazy_layers_are_initialised_by_a_forward_pass_and_pruned(schedule, options, sanity_steps):
    net = lazy_net()
    callback = Reflow(0.5, schedule=schedule, calibration_batches=2, **options)
    fit(net, images(32), callback, num_sanity_val_steps=sanity_steps)
    assert [type(layer) for layer in net][:2] == [nn.Conv2d, nn.BatchNorm2d]
    assert list(callback.masks) == ["net.0.weight", "net.4.weight"]
    assert callback.events[-1].calibration.repaired == (() if "repair" in options else ("net.1", "net.5"))


@pytest.mark.parametrize("sanity_steps", [0, 2])
def test_arguments_that_do_not_fit_lazy_layers_are_errors_before_the_first_step(sanity_steps):
    callback = Reflow(0.5, schedule=OneShot(epoch=1), include="head.*")
    runner = trainer(callback, num_sanity_val_steps=sanity_steps)
    with pytest.raises(ValueError, match=r"include pattern 'head.\*' matches no prunable parameter"):
        runner.fit(Training(lazy_net()), batches(images(32)), batches(images(32)))
    assert runner.global_step == 0


@pytest.mark.parametrize("sanity_steps", [0, 2])
def test_a_training_of_lazy_layers_is_resumed(sanity_steps, tmp_path):
    first, runner = fit(lazy_net(), images(32), max_epochs=1)
    runner.save_checkpoint(tmp_path / "half.ckpt", weights_only=False)
    second = Reflow(0.5, schedule=OneShot(step=2), calibration_batches=2, monitor=False)
    fit(lazy_net(), images(32), second, ckpt_path=tmp_path / "half.ckpt", num_sanity_val_steps=sanity_steps)
    assert second.events == []
    assert second.masks == first.masks


# -- recurrent layers


class Recurrent(nn.Module):
    def __init__(self, kind, **options):
        super().__init__()
        self.cells = kind(8, 6, batch_first=True, **options)
        self.norm = nn.LazyBatchNorm1d()

    def forward(self, x):
        self.cells.flatten_parameters()
        return self.norm(self.cells(x)[0].mean(1))


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (nn.RNN, {}),
        (nn.GRU, {"num_layers": 2}),
        (nn.LSTM, {"bidirectional": True}),
        (nn.LSTM, {"proj_size": 3, "bias": False}),
    ],
)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_recurrent_layers_are_pruned_and_trained(kind, options, schedule):
    net = Recurrent(kind, **options)
    callback = Reflow(0.5, schedule=schedule, allocation="uniform", calibration_batches=2)
    fit(net, SEQUENCES, callback)
    weights = {name for name, _ in net.cells.named_parameters() if name.startswith("weight")}
    assert {name.removeprefix("net.cells.") for name in callback.masks} == weights
    net.cells.flatten_parameters()
    assert [id(p) for p in net.cells._flat_weights] == [id(p) for p in net.cells.parameters()]
    assert net(SEQUENCES).isfinite().all()
