"""What is free, and which model may stay."""

import pytest
import tiny
import torch

from relevancy.models import device, memory
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


def test_free_memory_is_within_what_the_machine_has():
    assert 0 < device.free_bytes(torch.device("cpu")) < 1 << 50
    assert device.free_bytes(torch.device("meta")) == 0


@pytest.mark.parametrize(("limit", "used", "free"), [("max", "5", 1000), ("700", "300", 400), ("9000", "1", 1000)])
def test_a_containers_limit_counts(tmp_path, monkeypatch, limit, used, free):
    (tmp_path / "memory.max").write_text(f"{limit}\n")
    (tmp_path / "memory.current").write_text(f"{used}\n")
    monkeypatch.setattr(device, "_CGROUP", tmp_path)
    monkeypatch.setattr("os.sysconf", {"SC_AVPHYS_PAGES": 100, "SC_PAGE_SIZE": 10}.__getitem__)
    assert device.free_bytes(torch.device("cpu")) == free


def test_where_free_memory_cannot_be_told_nothing_stays(monkeypatch):
    def unknown(_):
        raise ValueError("unrecognized configuration name")

    monkeypatch.setattr("os.sysconf", unknown)
    assert device.free_bytes(torch.device("cpu")) == 0
