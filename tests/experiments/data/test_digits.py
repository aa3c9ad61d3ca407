import torch

from reflow_lightning.experiments.data.digits import DigitsDataModule, ShiftedImages


def test_split_by_seed_without_overlap():
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
