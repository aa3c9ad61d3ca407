import pytest
import torch
from helpers import images, zeros
from torch import nn
from zoo.convolutional import small_net

from reflow_lightning import Masks, prune
from reflow_lightning.pruning.keeping import ZeroKeeper


def step(model, optimizer, keeper=None):
    def closure():
        optimizer.zero_grad()
        loss = model(images(8)).square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("SGD", {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}),
        ("AdamW", {"lr": 0.01, "amsgrad": True}),
        ("Adagrad", {"lr": 0.1}),
        ("LBFGS", {"lr": 0.1}),
    ],
)
def test_zeros_survive_every_kind_of_step(kind, options):
    model = small_net()
    optimizer = getattr(torch.optim, kind)(model.parameters(), **options)
    step(model, optimizer)  # momentum from before the pruning
    keeper = ZeroKeeper()
    keeper.bind(model, prune(model, 0.5))
    keeper.watch([optimizer])
    expected = zeros(model)
    for _ in range(5):
        step(model, optimizer)
        assert zeros(model) == expected
    keeper.release()
    step(model, optimizer)
    assert zeros(model) < expected  # so it was the keeper


def test_gradients_and_moments_of_pruned_weights_are_forgotten():
    model = small_net()
    optimizer = torch.optim.Adam(model.parameters())
    step(model, optimizer)
    masks = prune(model, 0.5)
    keeper = ZeroKeeper()
    keeper.bind(model, masks)
    keeper.mask_gradients()
    keeper.forget_moments(optimizer)
    for parameter, mask in zip(masks.parameters(model), masks.values(), strict=True):
        assert not parameter.grad[~mask].any()
        assert parameter.grad[mask].any()
        for moment in ("exp_avg", "exp_avg_sq"):
            assert not optimizer.state[parameter][moment][~mask].any()
        assert optimizer.state[parameter]["step"] == 1


def test_sparse_gradients_are_masked_too():
    model = nn.Embedding(4, 2, sparse=True)
    masks = Masks({"weight": torch.tensor([[True, False]] * 4)})
    masks.apply(model)
    keeper = ZeroKeeper()
    keeper.bind(model, masks)
    model(torch.tensor([1, 3, 3])).sum().backward()
    keeper.mask_gradients()
    assert model.weight.grad.to_dense().tolist() == [[0, 0], [1, 0], [0, 0], [2, 0]]


def test_moments_of_a_byte_each_are_forgotten():
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters())
    optimizer.state[model.weight]["moment"] = moment = torch.ones(1, 2).to(torch.float8_e4m3fn)
    keeper = ZeroKeeper()
    keeper.bind(model, Masks({"weight": torch.tensor([[True, False]])}))
    keeper.forget_moments(optimizer)
    assert moment.float().tolist() == [[1.0, 0.0]]
