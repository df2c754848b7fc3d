"""What is free, and which model may stay."""

import pytest
import tiny

from relevancy.models import memory
from relevancy.models.model import wrap


@pytest.fixture(scope="module")
def model(built):
    return wrap(*built["gemma-clip"])


def size(model) -> int:
    return sum(tensor.nbytes for tensor in [*model.model.parameters(), *model.model.buffers()])


def test_a_model_stays_where_one_four_times_its_size_would_fit(model, monkeypatch):
    for free, stays in ((4 * size(model), True), (4 * size(model) - 1, False)):
        monkeypatch.setattr(memory, "free_bytes", lambda _, free=free: free)
        assert memory.may_stay(model) is stays


def test_a_model_on_two_devices_does_not_stay(monkeypatch):
    spread, processor = tiny.gemma_clip()
    spread.lm_head.to("meta")
    monkeypatch.setattr(memory, "free_bytes", lambda _: 1 << 60)
    assert not memory.may_stay(wrap(spread, processor))
