"""Nothing wrong in silence: settings, data, folders and checkpoints that end a run in one line, and what is said."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.resources import files
from itertools import islice
from pathlib import Path

import pytest
import runs
import torch
from PIL import Image
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.optim import AdamW
from transformers import AutoTokenizer, TrainerState
from typer.testing import CliRunner

from relevancy.atomic_io import locked
from relevancy.cli import app
from relevancy.errors import RelevancyError
from relevancy.train import checkpoints, records, trainer
from relevancy.train.checkpoints import digest_of, intact, newest, seal, store, stored
from relevancy.train.composition import assembled
from relevancy.train.data.sources import open_data
from relevancy.train.fingerprints import fingerprint
from relevancy.train.launch import __main__ as launcher
from relevancy.train.lora import adapt
from relevancy.train.parts import parts_of, tokenizer_of
from relevancy.train.plan import plan
from relevancy.train.preflight import check_settings
from relevancy.train.presets import Preset, overridden, preset, resolved
from relevancy.train.run import TRAINED, Order, RunOptions, TrainingSource, train
from relevancy.train.stages import SCHEDULES, freeze, states_of
from relevancy.train.telemetry import unlabeled
from relevancy.train.trainer import LlavaTrainer, StoppedError


@pytest.fixture
def one(small) -> Preset:
    """One stage of six steps."""
    return replace(small, align=None, finetune=replace(small.finetune, steps=6, save_every=2))


def stopping(step: int, of: int, by: int = signal.SIGTERM) -> Callable[[str, float], None]:
    """A progress that asks this process to stop after a step."""
    return lambda _, share: os.kill(os.getpid(), by) if round(share * of) == step else None


def stopped(preset: Preset, data: Path, out: Path, step: int = 3) -> None:
    with pytest.raises(StoppedError):
        runs.trained(preset, data, out, progress=stopping(step, preset.finetune.steps))


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    for place in range(len(content) - 64, len(content)):
        content[place] ^= 255
    file.write_bytes(content)


@pytest.mark.parametrize(
    "change",
    [
        "finetune.batch=0", "finetune.learning_rate=-1", "finetune.learning_rate=nan", "finetune.learning_rate=inf",
        "finetune.schedule=nonsense", "finetune.schedule=reduce_lr_on_plateau", "finetune.optimizer=nonsense",
        "finetune.steps=-1", "finetune.epochs=0", "finetune.epochs=nan", "finetune.save_every=0", "finetune.micro=-1",
        "finetune.warmup=1.5", "finetune.warmup=nan", "finetune.weight_decay=-1", "finetune.clip=-1",
        "finetune.beta2=1", "finetune.looking_cost=-1", "finetune.fading_cost=-1", "finetune.max_tokens=0",
        "finetune.loss_chunk=-1",
        "finetune.overlong=keep", "finetune.trains=", "finetune.name=other", "seed=-1", "seed=4294967296",
        "image_size=0", "lora_rank=-1", "lora_alpha=0", "vocabulary_multiple=0", "flavour=new", "feature_layer=two",
    ],
)  # fmt: skip
def test_a_setting_out_of_its_range_is_refused_as_it_is_set(change) -> None:
    with pytest.raises(RelevancyError, match=change.partition("=")[0].replace(".", r"\.")):
        overridden(preset("demo-small"), [change])


@pytest.mark.parametrize(
    "change", [{"batch": "8"}, {"bf16": 1}, {"steps": 1.5}, {"trains": "decoder"}, {"micro": True}]
)
def test_a_setting_of_another_type_is_refused(change, small) -> None:
    with pytest.raises(RelevancyError, match=next(iter(change))):
        replace(small.finetune, **change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"packed": True, "looking_cost": 1.0}, "packed=false"),
        ({"packed": True, "fading_cost": 1.0}, "packed=false"),
        ({"loss_chunk": 256, "fading_cost": 1.0}, "loss_chunk=0"),
        ({"token_mean": False, "loss_chunk": 0}, "loss_chunk"),
        ({"schedule": "polynomial", "learning_rate": 0.0}, "polynomial"),
        ({"trains": ("connector",)}, "lora_rank"),
    ],
)
def test_settings_that_do_not_go_together(change, message, small) -> None:
    chosen = replace(small, align=None, lora_rank=4, finetune=replace(small.finetune, **change))
    with pytest.raises(RelevancyError, match=message):
        check_settings(chosen, chosen.stages())


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_schedule_that_is_taken_works(schedule) -> None:
    from transformers import get_scheduler

    optimizer = AdamW([torch.nn.Parameter(torch.zeros(1))], lr=1e-3)
    scheduler = get_scheduler(schedule, optimizer, num_warmup_steps=1, num_training_steps=4)
    optimizer.step()
    scheduler.step()


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({"feature_layer": -9}, {}, "feature_layer -9"),
        ({}, {"report_to": ["wandb"]}, "report-to wandb"),
        ({}, {"report_to": ["paper"]}, "report-to paper"),
        ({"optimizer": "adamw_bnb_8bit"}, {}, "needs bitsandbytes"),
        ({"max_tokens": 10}, {}, "max_tokens 10 is too small"),
        ({"trains": ("tower",)}, {"cache": True}, "cannot be cached"),
    ],
)
def test_what_cannot_work_leaves_no_folder(change, options, message, one, data, tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    monkeypatch.setitem(sys.modules, "wandb", None)
    of_preset = {name: value for name, value in change.items() if name == "feature_layer"}
    stage = replace(one.finetune, **{name: value for name, value in change.items() if name not in of_preset})
    with pytest.raises(RelevancyError, match=message):
        runs.trained(replace(one, finetune=stage, **of_preset), data, tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_a_later_stage_is_looked_at_before_the_first_one_trains(small, data, tmp_path) -> None:
    with pytest.raises(RelevancyError, match="max_tokens 10 is too small"):
        runs.trained(replace(small, finetune=replace(small.finetune, max_tokens=10)), data, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_folder_without_the_pictures(one, data, tmp_path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(RelevancyError, match=r"no such file|cannot be opened|0\.png"):
        train(one, {"finetune": TrainingSource(str(data), str(tmp_path / "empty"))}, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_too_many_skipped_samples_stop_the_run_and_few_are_counted(one, data, tmp_path) -> None:
    pictures = tmp_path / "pictures"
    shutil.copytree(data.parent, pictures)
    for number in range(0, 64, 2):
        (pictures / f"{number}.png").unlink()
    sources = {"finetune": TrainingSource(str(data), str(pictures))}
    with pytest.raises(RelevancyError, match=r"could not be trained on .*\.png.*max_skipped 0\.05"):
        train(one, sources, tmp_path / "run")
    assert not (tmp_path / "run" / "model").exists()
    train(one, sources, tmp_path / "run", RunOptions(max_skipped=1.0))
    assert 0 < records.skipped_in(tmp_path / "run", "finetune") <= 24


def test_the_command_says_how_many_were_skipped(bases, data, tmp_path) -> None:
    entries = json.loads(data.read_text())
    entries[1]["image"] = "gone.png"
    changed = data.parent / "one_gone.json"
    changed.write_text(json.dumps(entries))
    arguments = [
        "train", "finetune", "--preset", "demo-small", "--language", str(bases / "decoder"), "--vision",
        str(bases / "clip"), "--data", str(changed), "--out", str(tmp_path / "run"), "--workers", "0",
        *(part for one in ("image_size=56", "align=none", "finetune.batch=64") for part in ("--set", one)),
    ]  # fmt: skip
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, (done.output, done.exception)
    assert "finetune: 1 samples were skipped" in done.output


def test_samples_without_a_label_are_counted_padded_and_packed() -> None:
    labels = torch.tensor([[-100, 5, -100], [-100, -100, -100]])
    assert unlabeled({"labels": labels}) == 1
    positions = torch.tensor([[0, 1, 2, 0, 1, 2]])
    assert unlabeled({"labels": labels.reshape(1, 6), "position_ids": positions}) == 1


def test_dialogues_that_are_all_too_long_are_refused(one, data, tmp_path) -> None:
    stage = replace(one.finetune, max_tokens=18, overlong="drop")
    with pytest.raises(RelevancyError, match="can be trained on"):
        runs.trained(replace(one, finetune=stage), data, tmp_path / "run")


def test_one_run_in_a_folder_at_a_time(one, data, tmp_path) -> None:
    out = tmp_path / "run"
    stopped(one, data, out, 1)
    before = (out / records.FILE).read_text()
    with locked(out), pytest.raises(RelevancyError, match="Another process"):
        runs.trained(replace(one, seed=5), data, out)
    assert (out / records.FILE).read_text() == before


def test_other_data_is_known_by_its_fingerprint(data, tmp_path) -> None:
    folder = tmp_path / "data"
    shutil.copytree(data.parent, folder)
    file = folder / "data.json"
    was = fingerprint(open_data(data))
    assert fingerprint(open_data(file)) == was  # it has moved
    entries = json.loads(file.read_text())

    def told() -> str:
        same = {"preset": resolved(preset("demo-small"))}
        before, now = ({"data": {"finetune": {"fingerprint": one}}} | same for one in (was, found()))
        return records._differing(before, now)

    def found() -> dict:
        return fingerprint(open_data(file))

    file.write_text(json.dumps(entries[::-1]))
    assert "order" in told()
    file.write_text(json.dumps(entries + entries[:40]))
    assert "64 samples then, 104 now" in told()
    file.write_text(data.read_text())
    assert not told()
    Image.new("RGB", (70, 60)).save(folder / "4.png")
    assert "pictures" in told()
    (folder / "4.png").unlink()
    assert "pictures" in told()


def test_changed_data_is_refused_on_resume(one, data, tmp_path) -> None:
    mine = data.parent / "mine.json"
    shutil.copy(data, mine)
    stopped(one, mine, tmp_path / "run")
    mine.write_text(json.dumps(json.loads(mine.read_text())[::-1]))
    with pytest.raises(RelevancyError, match="the data of finetune: its entries were changed"):
        runs.trained(one, mine, tmp_path / "run", resume=True)


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_a_checkpoint_with_flipped_bits_is_refused(name, one, data, tmp_path, tmp_path_factory) -> None:
    kept = tmp_path_factory.getbasetemp() / "stopped"
    if not kept.exists():
        stopped(one, data, kept)
    shutil.copytree(kept, tmp_path / "run")
    flip(tmp_path / "run" / "finetune" / "checkpoint-3" / name)
    with pytest.raises(RelevancyError, match=rf"checkpoint-3: {name} is not as it was written"):
        runs.trained(one, data, tmp_path / "run", resume=True)


def checkpoint(folder: Path, step: int) -> Path:
    made = folder / f"checkpoint-{step}"
    made.mkdir()
    (made / "weights").write_bytes(bytes(100))
    seal(made)
    return made


def test_an_older_checkpoint_takes_the_place_of_a_damaged_one(tmp_path, caplog) -> None:
    old, new = checkpoint(tmp_path, 2), checkpoint(tmp_path, 4)
    flip(new / "weights")
    with caplog.at_level(logging.WARNING):
        assert intact(tmp_path) == old
    assert "going on from checkpoint-2" in caplog.text
    assert newest(tmp_path) == old
    (old / "weights").write_bytes(bytes(99))
    with pytest.raises(RelevancyError, match="weights is not as it was written"):
        intact(tmp_path)


def test_seals_of_the_first_version_are_read(tmp_path) -> None:
    made = checkpoint(tmp_path, 2)
    (made / checkpoints.SEAL).write_text(json.dumps({"weights": 100}))
    assert intact(tmp_path) == newest(tmp_path) == made


def test_digests_of_blocks(tmp_path, monkeypatch) -> None:
    file = tmp_path / "file"
    file.write_bytes(os.urandom(5000))
    monkeypatch.setattr(checkpoints, "_BLOCK", 1000)
    before = digest_of(file)
    flip(file)
    assert digest_of(file) != before


def test_what_a_stage_trained_is_known_by_its_digest(tmp_path, monkeypatch) -> None:
    weights = {"a": torch.arange(40.0), "b": torch.tensor(2.0, dtype=torch.bfloat16)}
    store(weights, tmp_path / TRAINED)
    assert all(torch.equal(value, weights[name]) for name, value in stored(tmp_path / TRAINED).items())
    flip(tmp_path / TRAINED)
    with pytest.raises(RelevancyError, match="not as it was written"):
        stored(tmp_path / TRAINED)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoints, "save_file", full)
    with pytest.raises(RelevancyError, match="make room"):
        store(weights, tmp_path / TRAINED)


def test_a_full_disk_costs_no_line_of_what_was_logged(one, tmp_path, monkeypatch) -> None:
    journal = tmp_path / trainer.JOURNAL
    lines = "".join(json.dumps({"step": step, "loss": 1.0}) + "\n" for step in range(1, 5))
    journal.write_text(lines)
    report = trainer._StepReport(one.finetune, None, tmp_path)
    going_on = TrainerState(global_step=3, is_world_process_zero=True)

    def full(self: Path, text: str, **_: object) -> None:
        self.write_bytes(text.encode()[: len(text) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        with pytest.raises(RelevancyError, match="make room"):
            report.on_train_begin(None, going_on, None)
    assert journal.read_text() == lines
    report.on_train_begin(None, going_on, None)
    assert journal.read_text() == "".join(lines.splitlines(keepends=True)[:3])


def test_what_changes_no_result_may_change_on_resume(one, data, tmp_path) -> None:
    runs.trained(one, data, tmp_path / "whole")
    stopped(one, data, tmp_path / "run")
    other = replace(one, finetune=replace(one.finetune, micro=2, save_every=1))
    runs.trained(other, data, tmp_path / "run", resume=True)
    whole, again = (runs.losses(tmp_path / name, "finetune") for name in ("whole", "run"))
    assert whole.keys() == again.keys()
    assert max(abs(whole[step] - again[step]) for step in whole) < 2e-5
    told = json.loads((tmp_path / "run" / records.FILE).read_text())
    assert told["preset"]["finetune"]["micro"] == 2
    mean = {"token_mean": False, "looking_cost": 0.0}
    assert not records._free("finetune.micro", {"finetune": mean})


def test_a_loss_that_is_no_number_names_step_and_samples(one, data, tmp_path, monkeypatch) -> None:
    class Lost(LlavaTrainer):
        def training_step(self, *arguments, **options):
            loss = super().training_step(*arguments, **options)
            self.unsound[-1] |= self.state.global_step == 3 and len(self.unsound) == 2
            return loss

    monkeypatch.setattr(trainer, "LlavaTrainer", Lost)
    stage = replace(one.finetune, micro=2)
    ids = [str(place) for place in islice(Order(open_data(data), stage, one.seed), 14, 16)]  # type: ignore[arg-type]
    with pytest.raises(
        RelevancyError, match=f"loss of step 4 is no number, samples {', '.join(ids)} .*step 2 is whole"
    ):
        runs.trained(replace(one, finetune=stage), data, tmp_path / "run")


def test_weights_that_are_no_numbers_take_no_checkpoint(one, data, tmp_path, monkeypatch) -> None:
    class Lost(LlavaTrainer):
        def training_step(self, model, *arguments, **options):
            loss = super().training_step(model, *arguments, **options)
            if self.state.global_step == 3:
                next(parameter for parameter in model.parameters() if parameter.grad is not None).grad.fill_(torch.nan)
            return loss

    monkeypatch.setattr(trainer, "LlavaTrainer", Lost)
    with pytest.raises(RelevancyError, match=r"weights are no numbers after step 4 .*step 2 is whole"):
        runs.trained(one, data, tmp_path / "run")
    assert newest(tmp_path / "run" / "finetune").name == "checkpoint-2"  # type: ignore[union-attr]


def test_one_ctrl_c_saves_and_a_second_ends_at_once(one, data, tmp_path, monkeypatch) -> None:
    with pytest.raises(StoppedError) as told:
        runs.trained(one, data, tmp_path / "run", progress=stopping(3, 6, signal.SIGINT))
    assert told.value.code == 130
    assert newest(tmp_path / "run" / "finetune") is not None
    watch = trainer._Watch(one.finetune, tmp_path, 1.0)
    watch.listen(signal.SIGINT)
    watch.listen(signal.SIGINT)  # the same Ctrl-C, handed on by a launcher
    later = time.monotonic() + 2
    monkeypatch.setattr(trainer.time, "monotonic", lambda: later)
    with pytest.raises(KeyboardInterrupt):
        watch.listen(signal.SIGINT)


@pytest.mark.parametrize("lora_rank", [0, 4])
@pytest.mark.parametrize("half", [True, False])
def test_a_plan_counts_the_bytes_that_are_there(lora_rank, half, one) -> None:
    if lora_rank:
        pytest.importorskip("peft")
    chosen = replace(one, lora_rank=lora_rank, finetune=replace(one.finetune, half_frozen=half, bf16=half))
    (planned,) = plan(chosen).stages
    model = assembled(chosen, parts_of(chosen), chosen.finetune)
    if lora_rank:
        adapt(model, lora_rank, 8, 0)
    freeze(model, chosen.finetune)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert {parameter.dtype for parameter in trained} == {torch.float32}
    optimizer = AdamW(trained)
    for parameter in trained:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()

    def size(tensors) -> int:
        return sum(tensor.nbytes for tensor in tensors)

    assert planned.trainable == sum(parameter.numel() for parameter in trained)
    assert planned.weights == size(model.parameters())
    assert planned.gradients == size(parameter.grad for parameter in trained)
    moments = size(state[name] for state in optimizer.state.values() for name in ("exp_avg", "exp_avg_sq"))
    assert planned.optimizer == moments
    assert planned.checkpoint == size(trained) + moments


def test_one_card_for_7b() -> None:
    pytest.importorskip("peft")
    chosen = replace(preset("llava-gemma-7b-clip"), align=None)
    adapted = plan(replace(chosen, lora_rank=64)).stages[0]
    eight = plan(replace(chosen, finetune=replace(chosen.finetune, optimizer="adamw_bnb_8bit"))).stages[0]
    assert adapted.memory < 30e9
    assert eight.memory > 80e9
    assert eight.optimizer < 8 * eight.trainable / 3
    assert adapted.operations < 0.75 * eight.operations


def test_moments_of_8_bits() -> None:
    bitsandbytes = pytest.importorskip("bitsandbytes")
    weight = torch.nn.Linear(128, 128, bias=False)
    weight.weight.grad = torch.ones(128, 128)
    optimizer = bitsandbytes.optim.AdamW8bit(weight.parameters())
    optimizer.step()
    (state,) = optimizer.state.values()
    moments = sum(state[name].nbytes for name in ("state1", "state2", "absmax1", "absmax2"))
    assert states_of(weight, "adamw_bnb_8bit") == moments


@pytest.mark.parametrize(
    "change",
    [
        "finetune.batch=65",
        "finetune.epochs=0.01",
        "finetune.micro=3",
        "feature_layer=99",
        "finetune.max_tokens=100",
        "connector=nowhere",
    ],
)
def test_a_dry_run_refuses_what_a_run_would(change, data, tmp_path) -> None:
    arguments = ["train", "finetune", "--preset", "demo-small", "--data", str(data), "--out", str(tmp_path / "run")]
    done = CliRunner().invoke(app, [*arguments, "--dry-run", "--set", "finetune.batch=64", "--set", change])
    assert isinstance(done.exception, RelevancyError)


def test_a_flavour_is_no_name_alone() -> None:
    with pytest.raises(RelevancyError, match="say --flavour paper"):
        overridden(preset("llava-gemma-2b-clip"), ["flavour=paper"])
    with pytest.raises(RelevancyError, match="demo-small has no settings of the paper's"):
        preset("demo-small", "paper")


def test_what_is_wrong_with_every_entry_is_told(tmp_path) -> None:
    unpictured = {"conversations": [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "Red."}]}
    (tmp_path / "data.json").write_text(json.dumps([unpictured] * 2))
    with pytest.raises(RelevancyError, match="1 <image> in the text, but 0 pictures"):
        open_data(str(tmp_path / "data.json"))


@pytest.mark.parametrize(("code", "requeued"), [(0, False), (1, False), (2, False), (137, False), (143, True)])
def test_slurm_requeues_what_was_stopped_and_nothing_else(code, requeued, tmp_path) -> None:
    for name, does in (("srun", f"exit {code}"), ("scontrol", f'[ "$1" = requeue ] && touch {tmp_path}/again; echo a')):
        (tmp_path / name).write_text(f"#!/bin/bash\n{does}\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / records.FILE).write_text("{}")
    known = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "OUT": str(tmp_path / "out")}
    known |= {"SLURM_JOB_NODELIST": "a", "SLURM_NNODES": "1", "SLURM_JOB_ID": "7"}
    script = str(files("relevancy.train.launch") / "slurm.sh")
    assert subprocess.run(["bash", script], env=known, check=False).returncode == code
    assert (tmp_path / "again").exists() == requeued


def test_the_launcher_ends_as_its_runs_do(monkeypatch) -> None:
    def raising(error: BaseException) -> Callable[[object], None]:
        def launch(_: object) -> None:
            raise error

        return launch

    monkeypatch.setattr(sys, "argv", ["launch", "script.py"])
    for error, code in (
        (SignalException("stopped", signal.SIGTERM), 143),
        (subprocess.CalledProcessError(2, "run"), 2),
        (subprocess.CalledProcessError(-9, "run"), 137),
    ):
        monkeypatch.setattr(launcher, "launch_command", raising(error))
        assert launcher.main() == code


def test_a_tokenizer_that_ends_nothing(bases, tmp_path) -> None:
    shutil.copytree(bases / "decoder", tmp_path / "decoder")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "decoder")
    tokenizer.eos_token = tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path / "decoder")
    if AutoTokenizer.from_pretrained(tmp_path / "decoder").eos_token is not None:
        pytest.skip("this class of tokenizers brings its own")
    with pytest.raises(RelevancyError, match="no <eos>"):
        tokenizer_of(str(tmp_path / "decoder"))


def test_two_processes_stop_together_over_skipped_samples(one, data, tmp_path) -> None:
    entries = json.loads(data.read_text())
    for entry in entries[::2]:
        entry["image"] = "gone.png"
    changed = data.parent / "half_gone.json"
    changed.write_text(json.dumps(entries))
    assert runs.together(one, changed, tmp_path / "run") == [runs.REFUSED] * 2
    assert not (tmp_path / "run" / "finetune" / TRAINED).exists()
