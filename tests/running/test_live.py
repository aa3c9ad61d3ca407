import torch

from reflow_lightning.running.live import LiveTensors


def test_the_peak_is_what_was_alive_at_once():
    x = torch.zeros(1000)
    with LiveTensors() as live:
        y = x + 1
        z = y * 2
        del y
        z = z.view(10, 100).sum(0)
    assert live.peak == 2 * 4000
    assert live.now == z.nbytes == 400


def test_what_was_there_before_does_not_count():
    x = torch.zeros(1000)
    with LiveTensors() as live:
        x.add_(1).view(-1)
    assert live.peak == 0
