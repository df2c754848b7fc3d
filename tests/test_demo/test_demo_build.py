"""The whole build in miniature: every stage runs, the tower is shared, and what is finished is not done again."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

import relevancy
from relevancy.atomic_io import locked
from relevancy.cli import app
from relevancy.demo.build import build, save
from relevancy.demo.language import build_tokenizer
from relevancy.errors import RelevancyError
from relevancy.train.trainer import StoppedError


def test_quick_build(tmp_path: Path) -> None:
    told: list[str] = []
    folders = build(tmp_path, quick=True, progress=lambda what, _: told.append(what))
    large, small = (load_file(folders[name] / "model.safetensors") for name in ("demo-large", "demo-small"))
    tower = [name for name in large if "vision_tower" in name]
    assert tower
    assert all(torch.equal(large[name], small[name]) for name in tower)
    assert all(tensor.isfinite().all() for tensor in large.values())
    assert {"tower", "demo-large align", "demo-large ease", "demo-small choose", "demo-small settle"} <= set(told)

    configs = {name: (folder / "config.json").read_bytes() for name, folder in folders.items()}

    told.clear()
    again = build(tmp_path, quick=True, progress=lambda what, _: told.append(what))
    assert not any("settle" in what or "ease" in what or what == "tower" for what in told)
    for name, tensor in load_file(again["demo-large"] / "model.safetensors").items():
        assert torch.equal(tensor, large[name]), name
    assert {name: (folder / "config.json").read_bytes() for name, folder in again.items()} == configs

    both = build(tmp_path / "both", quick=True, jobs=2)  # at once, each in a process of its own: the same weights
    for name, folder in folders.items():
        assert (both[name] / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes(), name

    with pytest.raises(RelevancyError, match=r"another plan \(pair.json differs\)"):
        build(tmp_path, quick=True, seed=1)
    with pytest.raises(RelevancyError, match="another plan"):
        build(tmp_path)


def test_a_model_is_saved_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "README.md").write_text("of the model before")
    monkeypatch.setattr("relevancy.demo.build.build_processor", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save(relevancy.load("demo-small").model, build_tokenizer(), tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["README.md"]


def test_stopped_it_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise StoppedError("stopped after step 3 of 9, and saved", signal.SIGINT)

    monkeypatch.setattr("relevancy.demo.build.build", stopped)
    ended = CliRunner().invoke(app, ["train", "demo", "--quick", "--out", str(tmp_path)])
    assert ended.exit_code == 130
    assert "stopped after step 3 of 9, and saved; the same command goes on" in ended.stderr


@pytest.mark.parametrize("what", ["demo", "grid"])
def test_one_process_at_a_time(what: str, tmp_path: Path) -> None:
    with locked(tmp_path):
        refused = CliRunner().invoke(app, ["train", what, "--quick", "--out", str(tmp_path)])
    assert isinstance(refused.exception, RelevancyError)
    assert "Another process" in str(refused.exception)
    assert [file.name for file in tmp_path.iterdir()] == ["lock"]
