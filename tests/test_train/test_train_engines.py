"""Engines that spread a model over processes, as far as a CPU goes, and the files that start them."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from importlib.resources import files

import pytest
import runs
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from safetensors.torch import load_file
from typer.testing import CliRunner

from relevancy.cli import app
from relevancy.train.checkpoints import newest
from relevancy.train.run import TRAINED

LAUNCH = files("relevancy.train.launch")
FSDP2 = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_STATE_DICT_TYPE": "SHARDED_STATE_DICT",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
}
ZERO2 = {
    "ACCELERATE_USE_DEEPSPEED": "true",
    "ACCELERATE_DEEPSPEED_ZERO_STAGE": "2",
    "DS_ACCELERATOR": "cpu",
}


@pytest.mark.parametrize("name", ["ddp", "fsdp2", "zero2", "zero3"])
def test_accelerate_reads_the_file(name, tmp_path) -> None:
    found = load_config_from_file(str(LAUNCH / f"{name}.yaml"))
    assert found.num_processes == 8
    assert found.distributed_type.value == {"ddp": "MULTI_GPU", "fsdp2": "FSDP"}.get(name, "DEEPSPEED")
    written = yaml.safe_load((LAUNCH / f"{name}.yaml").read_text())
    stage = written.get("deepspeed_config", {}).get("zero_stage")
    assert stage == {"zero2": 2, "zero3": 3}.get(name)


@pytest.mark.parametrize("name", ["slurm", "gaudi"])
def test_the_scripts_are_shell(name) -> None:
    subprocess.run(["bash", "-n", str(LAUNCH / f"{name}.sh")], check=True)


def test_the_files_are_handed_out(tmp_path) -> None:
    done = CliRunner().invoke(app, ["train", "configs", "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert {path.name for path in tmp_path.iterdir()} == {
        "ddp.yaml", "fsdp2.yaml", "zero2.yaml", "zero3.yaml", "slurm.sh", "gaudi.sh"
    }  # fmt: skip


@pytest.mark.engines("deepspeed")
def test_zero_2_learns_what_one_process_learns(small, data, tmp_path) -> None:
    """Stopped after three of six steps, taken up, and held against one process that was not stopped."""
    preset = replace(small, align=None, finetune=replace(small.finetune, steps=6, save_every=100))
    out = tmp_path / "spread"
    stopped = runs.together(preset, data, out, kill=("finetune", 2, runs.TERM), **ZERO2)
    assert stopped == [runs.STOPPED, runs.STOPPED]
    checkpoint = newest(out / "finetune")
    assert checkpoint is not None
    assert (checkpoint / "global_step3").is_dir()  # as DeepSpeed leaves it, and no one else
    assert runs.together(preset, data, out, resume=True, **ZERO2) == [0, 0]
    runs.trained(preset, data, tmp_path / "alone")
    alone, spread = (runs.losses(path, "finetune") for path in (tmp_path / "alone", out))
    assert alone.keys() == spread.keys()
    assert max(abs(alone[step] - spread[step]) for step in alone) < 1e-4
    mine, theirs = (load_file(path / "finetune" / TRAINED) for path in (tmp_path / "alone", out))
    assert mine.keys() == theirs.keys()
    assert max((mine[name] - theirs[name]).abs().max() for name in mine) < 1e-3


def test_fsdp_is_refused_where_accelerate_would_leave_it_out(small, data, tmp_path) -> None:
    """On a CPU accelerate takes FSDP's settings and runs DDP, without a word."""
    assert runs.together(replace(small, align=None), data, tmp_path / "run", **FSDP2) == [runs.REFUSED] * 2


def test_fsdp_2_gives_the_gradients_of_one_process(small) -> None:
    """torch's own sharding as accelerate applies it, layer by layer; one process has text alone."""
    assert runs.sharded(small) == [0, 0]
