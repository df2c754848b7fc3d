"""What is free."""

from types import SimpleNamespace

import pytest
import torch

from relevancy.core import memory


def test_free_memory_is_within_what_the_machine_has():
    assert 0 < memory.free_bytes(torch.device("cpu")) < 1 << 50
    assert memory.free_bytes(torch.device("meta")) == 0


@pytest.mark.parametrize(
    ("limit", "used", "kept", "free"),
    [("max", "5", "0", 1000), ("700", "300", "0", 400), ("700", "300", "150", 550), ("9000", "1", "0", 1000)],
)
def test_a_containers_limit_counts_without_what_it_keeps_of_files(tmp_path, monkeypatch, limit, used, kept, free):
    (tmp_path / "memory.max").write_text(f"{limit}\n")
    (tmp_path / "memory.current").write_text(f"{used}\n")
    (tmp_path / "memory.stat").write_text(f"anon 5\ninactive_file {kept}\n")
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    monkeypatch.setattr(memory.psutil, "virtual_memory", lambda: SimpleNamespace(available=1000))
    assert memory.free_bytes(torch.device("cpu")) == free


def test_without_a_container_the_system_tells(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    monkeypatch.setattr(memory.psutil, "virtual_memory", lambda: SimpleNamespace(available=1000))
    assert memory.free_bytes(torch.device("cpu")) == 1000
