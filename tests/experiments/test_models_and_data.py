import torch

from reflow_lightning.experiments.data.digits import DigitsDataModule, ShiftedImages
from reflow_lightning.experiments.models.resnet import ResNet
from reflow_lightning.pruning import select


def test_resnet_depths_and_sizes():
    for blocks, depth, parameters in [(3, 20, 269_722), (5, 32, 464_154), (9, 56, 853_018)]:
        model = ResNet(blocks)
        assert len(select(model)) == depth
        assert sum(p.numel() for p in model.parameters()) == parameters


def test_resnet_takes_any_image_size():
    assert ResNet(1, in_channels=1, num_classes=4)(torch.zeros(2, 1, 8, 8)).shape == (2, 4)


def test_the_shortcut_has_no_parameters_and_keeps_the_signal():
    block = ResNet(1).layer2[0]
    x = torch.randn(2, 16, 8, 8)
    out = block.shortcut(x)
    assert out.shape == (2, 32, 4, 4)
    assert torch.equal(out[:, 8:24], x[:, :, ::2, ::2])
    assert not out[:, :8].any()
    assert not out[:, 24:].any()


def test_digits_are_split_by_seed_without_overlap():
    data = DigitsDataModule()
    data.setup()
    sizes = {split: len(dataset) for split, dataset in data.splits.items()}
    assert sizes == {"train": 1257, "calibration": 1257, "val": 180, "test": 360}
    again, other = DigitsDataModule(), DigitsDataModule(seed=1)
    again.setup(), other.setup()
    first, second, third = (module.splits["test"].tensors[0] for module in (data, again, other))
    assert torch.equal(first, second)
    assert not torch.equal(first, third)


def test_shifts_move_the_image_by_at_most_a_pixel():
    image = torch.zeros(1, 1, 5, 5)
    image[0, 0, 2, 2] = 1
    dataset = ShiftedImages(image, torch.tensor([7]))
    places = set()
    for _ in range(200):
        shifted, label = dataset[0]
        assert shifted.shape == (1, 5, 5)
        assert label == 7
        places.add(tuple(shifted[0].nonzero()[0].tolist()))
    assert places == {(row, column) for row in (1, 2, 3) for column in (1, 2, 3)}
