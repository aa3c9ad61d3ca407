import pytest
import torch.distributed as dist

from reflow_lightning.running import roll_call
from reflow_lightning.running.roll_call import missing


class Store:
    """Remembers who answered, until it ends with the process that keeps it."""

    def __init__(self, answered, looks):
        self.keys = {f"{roll_call._TROUBLE}/{rank}" for rank in answered}
        self.looks = looks

    def set(self, key, value):
        self.keys.add(key)

    def check(self, keys):
        self.looks -= 1
        if self.looks < 0:
            raise RuntimeError("Connection reset by peer")
        return set(keys) <= self.keys


@pytest.fixture
def third_of_four(monkeypatch):
    monkeypatch.setattr(dist, "get_rank", lambda: 2)
    monkeypatch.setattr(dist, "get_world_size", lambda: 4)
    monkeypatch.setattr(roll_call, "SECONDS", 0.2)
    return lambda store: monkeypatch.setattr(roll_call, "default_store", lambda: store)


FOR_EVER = 10**9


@pytest.mark.parametrize(
    ("answered", "looks", "absent"),
    [
        ([0, 1, 3], FOR_EVER, []),
        ([0, 3], FOR_EVER, [1]),
        ([], FOR_EVER, [0, 1, 3]),
        ([0, 1, 3], 0, [0]),  # the store was gone before the first look
        ([1, 3], 6, [0]),  # rank zero did not answer before it took the store with it
        ([0, 3], 6, [1]),  # it did: it has seen the failure, and waited for the others
    ],
)
def test_who_does_not_answer_is_missing(third_of_four, answered, looks, absent):
    third_of_four(Store(answered, looks))
    assert missing() == absent
