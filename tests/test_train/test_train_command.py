"""`relevancy train align | finetune | both`: plans, runs and refusals as a user sees them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

import relevancy
from relevancy.cli import app
from relevancy.cli.train import configs
from relevancy.errors import RelevancyError
from relevancy.train.run import RunOptions, TrainingSource, export, train


def asked(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "relevancy.cli", "train", *arguments], capture_output=True, text=True, timeout=300
    )


def test_a_dry_run_tells_what_it_takes_and_writes_nothing(tmp_path) -> None:
    out = tmp_path / "run"
    done = CliRunner().invoke(
        app, ["train", "both", "--preset", "llava-gemma-2b-clip", "--out", str(out), "--dry-run", "--processes", "8"]
    )
    assert done.exit_code == 0, done.output
    for told in ("576 image tokens", "256,064 rows", "2,180", "5,197", "16 x 2", "2 x 8"):
        assert told in done.output
    assert not out.exists()


def test_both_stages_from_the_command_line(data, tmp_path) -> None:
    out = tmp_path / "run"
    few = [part for one in ("align", "finetune") for part in ("--set", f"{one}.steps=1", "--set", f"{one}.batch=2")]
    arguments = [
        "train", "both", "--preset", "demo-small", "--out", str(out), "--workers", "0", "--align-data", str(data),
        "--finetune-data", str(data), *few,
    ]  # fmt: skip
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, (done.output, done.exception)
    assert "relevancy explain" in done.output
    model = relevancy.load(out / "model")
    assert relevancy.explain(model, Image.open(data.parent / "0.png"), "Is it red?").image_map.shape == (10, 10)
    exported = CliRunner().invoke(app, ["train", "export-hub", str(out), "--out", str(tmp_path / "hub")])
    assert exported.exit_code == 0, exported.exception
    assert (tmp_path / "hub" / "model.safetensors").read_bytes() == (out / "model" / "model.safetensors").read_bytes()
    again = CliRunner().invoke(app, ["train", "export-hub", str(out), "--out", str(tmp_path / "hub")])
    assert again.exit_code == 0, again.exception
    (tmp_path / "hub" / "own").mkdir()
    before = sorted(tmp_path.rglob("*"))
    for taken in (out, out / "model", tmp_path, tmp_path / "hub", data.parent):
        with pytest.raises(RelevancyError, match="choose another --out"):
            export(out, taken)
    assert sorted(tmp_path.rglob("*")) == before


def test_cached_features_train_nearly_the_same(small, data, tmp_path) -> None:
    sources = {name: TrainingSource(str(data)) for name in ("align", "finetune")}
    train(small, sources, tmp_path / "plain", RunOptions(log_every=1))
    train(small, sources, tmp_path / "cached", RunOptions(log_every=1, cache=True))
    import runs

    plain, cached = (runs.losses(tmp_path / name, "align") for name in ("plain", "cached"))
    assert max(abs(plain[step] - cached[step]) for step in plain) < 0.02  # features are bfloat16
    assert (tmp_path / "cached" / "align" / "features" / "features.bin").stat().st_size == 48 * 17 * 48 * 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["align", "--out", "x"], "--data"),
        (["both", "--out", "x", "--align-data", "a.json"], "--finetune-data"),
        (["align", "--preset", "llava", "--out", "x"], "unknown preset"),
        (["finetune", "--out", "x", "--set", "finetune.rate=1"], "no setting"),
    ],
)
def test_refusals_are_one_line(arguments, message, tmp_path) -> None:
    done = asked(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not Path("x").exists()


def test_a_run_that_is_not_there(tmp_path) -> None:
    done = asked("export-hub", str(tmp_path), "--out", str(tmp_path / "hub"))
    assert done.returncode == 2
    assert "no training run" in done.stderr


@pytest.mark.parametrize("content", ["[]", "{}", '{"preset": {}}', '{"preset": {}, "data": {}}', "[" * 100_000])
def test_a_configuration_that_is_none_is_refused(content, tmp_path) -> None:
    (tmp_path / "configuration.json").write_text(content)
    with pytest.raises(RelevancyError):
        export(tmp_path, tmp_path / "hub")


def test_a_full_disk_is_one_line_of_the_configs(tmp_path, full_disk) -> None:
    with full_disk(), pytest.raises(RelevancyError, match="is full: make room"):
        configs(tmp_path / "launch")
