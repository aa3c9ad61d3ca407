import pytest
import torch
from helpers import images, zeros
from torch import nn, optim
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
    keeper.watch()
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


def test_moments_are_forgotten_by_the_masks_under_which_they_came_about():
    layer = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9)
    keeper = ZeroKeeper()
    keeper.bind(layer, Masks({"weight": torch.tensor([[True, False]])}))
    keeper.let_moments(optimizer)
    layer(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    keeper.bind(layer, Masks({"weight": torch.tensor([[True, True]])}))  # as when an earlier round is returned to
    assert optimizer.state[layer.weight]["momentum_buffer"].tolist() == [[1, 0]]


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


def test_an_optimizer_that_copies_what_it_stepped_into_the_weights_is_kept_up_with():
    model = nn.Linear(4, 2, bias=False)
    master = nn.Parameter(model.weight.detach().double())
    masks = prune(model, 0.5)

    class Master(optim.SGD):
        def step(self, closure=None):
            super().step(closure)
            model.weight.detach().copy_(master.detach())

    optimizer, keeper = Master([master], lr=0.1), ZeroKeeper()
    keeper.bind(model, masks)
    keeper.watch()
    for _ in range(3):
        master.grad = torch.ones_like(master)
        optimizer.step()
        assert torch.equal(model.weight == 0, ~masks["weight"])
    keeper.release()


def test_a_step_leaves_the_weights_of_other_optimizers_alone():
    critic, generator = nn.Linear(4, 1), nn.Linear(4, 4)
    both = nn.ModuleDict({"critic": critic, "generator": generator})
    keeper = ZeroKeeper()
    keeper.bind(both, prune(both, 0.5))
    keeper.watch()
    optimizer = optim.SGD(generator.parameters(), 0.1)
    with torch.no_grad():
        critic.weight.clamp_(-0.1, 0.1)
    loss = critic(generator(torch.randn(2, 4))).sum()
    generator.zero_grad()
    optimizer.step()  # before the backward pass, which needs the critic's weights as they were
    loss.backward()
    keeper.release()


def test_one_optimizer_for_each_parameter_takes_no_look_at_the_others(monkeypatch):
    layers = nn.ModuleList(nn.Linear(2, 2) for _ in range(20))
    keeper = ZeroKeeper()
    keeper.bind(layers, prune(layers, 0.5))
    keeper.watch()
    each = [optim.SGD([parameter], 0.1) for parameter in layers.parameters()]
    for parameter in layers.parameters():
        parameter.grad = torch.ones_like(parameter)
    for _ in range(5):
        [optimizer.step() for optimizer in each]  # those of the biases are known from now on
    looks = []
    monkeypatch.setattr(keeper._written, "since", lambda: looks.append(1) or [])
    [optimizer.step() for optimizer in each]
    assert looks == []
    keeper.release()


def test_masks_lie_in_memory_as_their_weights_do():
    model = nn.Conv2d(4, 8, 3).to(memory_format=torch.channels_last)
    keeper = ZeroKeeper()
    keeper.bind(model, masks := prune(model, 0.5))
    assert keeper._masks[0].stride() == model.weight.stride() != masks["weight"].stride()
    nn.init.ones_(model.weight)
    keeper.set_zeros()
    assert torch.equal(model.weight != 0, masks["weight"])
