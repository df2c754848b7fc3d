"""What a stage has trained is read beside a run that goes on: it lets go of one checkpoint when it has the next."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from relevancy.errors import RelevancyError
from relevancy.train import checkpoints
from relevancy.train.checkpoints import SEAL, TRAINED, keep_only, seal, store, trained_so_far


def checkpoint(folder: Path, step: int) -> Path:
    made = folder / f"checkpoint-{step}"
    made.mkdir()
    save_file({"step": torch.tensor(step)}, made / "model.safetensors")
    return made


def next_one(folder: Path) -> None:
    made = checkpoint(folder, 4)
    seal(made)
    keep_only(made)


def end(folder: Path) -> None:
    store({"step": torch.tensor(4)}, folder / TRAINED)
    shutil.rmtree(folder / "checkpoint-2")


def steps_read(folder: Path) -> int | None:
    found = trained_so_far(folder)
    return None if found is None else int(found[1]["step"])


@pytest.mark.parametrize("goes_on", [next_one, end])
@pytest.mark.parametrize("reads", ["_changed", "digest_of", "load_file"])
def test_a_checkpoint_that_goes_while_it_is_read_gives_way(
    reads, goes_on: Callable[[Path], None], tmp_path, monkeypatch
) -> None:
    seal(checkpoint(tmp_path, 2))
    read, run = getattr(checkpoints, reads), [goes_on]

    def overtaken(file: Path) -> object:
        while run:
            run.pop()(tmp_path)
        return read(file)

    monkeypatch.setattr(checkpoints, reads, overtaken)
    assert steps_read(tmp_path) == 4


def test_one_that_is_sealed_while_they_are_counted_is_found(tmp_path, monkeypatch) -> None:
    """The new one was looked at before it was whole, the old one after it was gone."""
    seal(checkpoint(tmp_path, 2))
    new = checkpoint(tmp_path, 4)
    is_sealed, unsealed = checkpoints._is_sealed, [new]

    def overtaken(one: Path) -> bool:
        found = is_sealed(new)
        while unsealed:
            seal(unsealed.pop())
            keep_only(new)
        return found if one == new else is_sealed(one)

    monkeypatch.setattr(checkpoints, "_is_sealed", overtaken)
    assert steps_read(tmp_path) == 4


def test_who_reads_changes_nothing(tmp_path) -> None:
    assert trained_so_far(tmp_path) is None
    for step in (2, 4):
        seal(checkpoint(tmp_path, step))
    (tmp_path / "checkpoint-4" / "model.safetensors").write_bytes(b"damaged")
    assert steps_read(tmp_path) == 2
    assert (tmp_path / "checkpoint-4" / SEAL).exists()
    (tmp_path / "checkpoint-2" / "model.safetensors").unlink()
    with pytest.raises(RelevancyError, match=r"model\.safetensors is not as it was written"):
        trained_so_far(tmp_path)


def test_pieces_are_no_weights_yet(tmp_path) -> None:
    made = checkpoint(tmp_path, 2)
    (made / "model.safetensors").rename(made / "rank_0.distcp")
    seal(made)
    with pytest.raises(RelevancyError, match="in pieces"):
        trained_so_far(tmp_path)
