import pytest
import torch

from reflow_lightning.experiments.models.gru import GRUClassifier
from reflow_lightning.pruning import select


@pytest.mark.parametrize("layers", [1, 2])
def test_the_classifier_reads_the_state_after_the_last_step(layers):
    model = GRUClassifier(5, 3, hidden_size=6, layers=layers)
    signals = torch.randn(4, 11, 5)
    _, last = model.gru(signals)
    torch.testing.assert_close(model(signals), model.head(last[-1]))


def test_an_image_is_read_row_by_row_from_the_top_all_channels_at_once():
    model = GRUClassifier(2, 3, hidden_size=6, image_size=4)
    images = torch.randn(1, 2, 5, 4)
    rows = [torch.cat([images[0, 0, i], images[0, 1, i]]) for i in range(5)]
    _, last = model.gru(torch.stack(rows)[None])
    torch.testing.assert_close(model(images), model.head(last[0]))


def test_prunable_weights():
    assert list(select(GRUClassifier(9, 2))) == ["gru.weight_ih_l0", "gru.weight_hh_l0", "head.weight"]
