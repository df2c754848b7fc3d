"""transformers' Trainer, with the repairs LLaVA needs, and `run`: one stage from start or from where it stopped."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import Dataset, Sampler
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from relevancy.errors import RelevancyError
from relevancy.train.attention_penalty import eager_attention, looking_share, looks
from relevancy.train.checkpoints import check_room, keep_only, newest, seal, step_of
from relevancy.train.flops import Sizes
from relevancy.train.forwards import engine, folded, prepared
from relevancy.train.stages import Stage
from relevancy.train.telemetry import Meter

logger = logging.getLogger(__name__)
Progress = Callable[[str, float], None]  # (what is going on, share done)
JOURNAL = "metrics.jsonl"
_ADAM = 12  # bytes of a checkpoint for each weight that trains: itself and two moments, in float32


class StoppedError(RelevancyError):
    """The run was asked to stop (SIGTERM), has saved where it was, and can go on from there."""


class LlavaTrainer(Trainer):
    """Keeps of a checkpoint what trains, seals it when it is whole, and counts what each step did.

    Trainer's own checkpoints of a LLaVA cannot be resumed from: `save_pretrained` writes historic tensor names, and the
    resume loads without renaming, none of them, with only a warning. Here the names are those the model has in memory.

    looking_cost: price on attention to the picture, see `looking`; with one, the decoder's attention must be eager.
    """

    def __init__(self, *arguments: Any, stage: Stage, order: Sampler | None, sizes: Sizes | None, **options: Any):
        super().__init__(*arguments, **options)
        self.stage, self.order = stage, order
        self.meter = Meter(stage, sizes, self.args.device, self.args.world_size)

    def compute_loss(  # type: ignore[override]
        self, model: Any, inputs: dict[str, Tensor], return_outputs: bool = False, **options: Any
    ) -> Any:
        """The loss of the labels, and what was looked at times its price."""
        price = self.stage.looking_cost
        if not price:
            return super().compute_loss(model, inputs, return_outputs=return_outputs, **options)
        plain = self.accelerator.unwrap_model(model)
        with looks(plain) as found:
            loss, outputs = super().compute_loss(model, inputs, return_outputs=True, **options)
        loss = loss + price * looking_share(plain, found, inputs)
        return (loss, outputs) if return_outputs else loss

    def get_batch_samples(self, epoch_iterator: Iterator, num_batches: int, device: torch.device) -> tuple[list, Any]:
        """The micro-batches of one step, counted."""
        batches, items = super().get_batch_samples(self.meter.waiting(epoch_iterator), num_batches, device)
        self.meter.saw(batches)
        return batches, items

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log what the step cost beside what it reached."""
        super().log(logs | self.meter.report() if "loss" in logs else logs, start_time)

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> Any:
        return super()._get_num_items_in_batch(batch_samples, device) if self.stage.token_mean else None

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler | None:
        return super()._get_train_sampler(train_dataset) if self.order is None else self.order

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Write, seal, and only then let go of the checkpoint before."""
        folder = Path(self._get_output_dir(trial))
        target = folder / f"checkpoint-{self.state.global_step}"
        check_room(folder, self._checkpoint_size())
        try:
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                seal(target)
                keep_only(target)
        except (OSError, SafetensorError, RuntimeError) as error:
            raise self._unsaved(target, error) from error
        self.accelerator.wait_for_everyone()

    def _checkpoint_size(self) -> int:
        """Bytes, of what trains; frozen weights are where they came from."""
        return _ADAM * sum(parameter.numel() for parameter in self.model.parameters() if parameter.requires_grad)  # type: ignore[union-attr, misc]

    def _unsaved(self, target: Path, error: Exception) -> RelevancyError:
        kept = newest(target.parent)
        if kept != target:
            shutil.rmtree(target, ignore_errors=True)
        whole = f"that of step {step_of(kept)} is whole" if kept else "there is none before it"
        why = (str(error).splitlines() or [type(error).__name__])[0]
        return RelevancyError(f"the checkpoint of step {step_of(target)} could not be written ({why}); {whole}")

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        if not isinstance(self.accelerator.unwrap_model(self.model), PreTrainedModel):
            super()._save(output_dir, state_dict)
            return
        if not self.args.should_save:
            return
        folder = Path(output_dir or self.args.output_dir)  # type: ignore[arg-type]
        folder.mkdir(parents=True, exist_ok=True)
        save_file(trained_weights(self.model, state_dict), folder / "model.safetensors", metadata={"format": "pt"})  # type: ignore[arg-type]
        torch.save(self.args, folder / "training_args.bin")

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        if load_result.unexpected_keys:
            raise RelevancyError(
                f"the checkpoint holds weights that this model lacks, such as {load_result.unexpected_keys[0]}: it is "
                "another model's"
            )

    def result(self) -> dict[str, Tensor]:
        """A copy of the weights that were trained, from all devices, on the CPU; whole in the first process."""
        gathered = self.accelerator.get_state_dict(self.model_wrapped)
        trained = trained_weights(self.model, gathered)  # type: ignore[arg-type]
        return {name: tensor.to("cpu", copy=True) for name, tensor in trained.items()}


def trained_weights(model: nn.Module, state: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
    """What of a model's weights trains, by name; tied ones once."""
    source = model.state_dict() if state is None else state
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    return {name: source[name].contiguous() for name in names if name in source}


class _Report(TrainerCallback):
    """Tells progress, and writes what is logged to a file of lines."""

    def __init__(self, stage: Stage, progress: Progress | None, folder: Path):
        self.stage, self.progress, self.journal = stage, progress, folder / JOURNAL

    def on_train_begin(  # type: ignore[override]
        self, _args: TrainingArguments, state: TrainerState, _control: TrainerControl, **_: Any
    ) -> None:
        """What was logged after the checkpoint is about to be logged again."""
        if state.is_world_process_zero and self.journal.exists():
            lines = self.journal.read_text().splitlines(keepends=True)
            self.journal.write_text("".join(line for line in lines if _logged_at(line) <= state.global_step))

    def on_step_end(  # type: ignore[override]
        self, _args: TrainingArguments, state: TrainerState, _control: TrainerControl, **_: Any
    ) -> None:
        if self.progress and state.is_world_process_zero:
            self.progress(self.stage.name, state.global_step / max(state.max_steps, 1))

    def on_log(  # type: ignore[override]
        self, _args: TrainingArguments, state: TrainerState, _control: TrainerControl, **known: Any
    ) -> None:
        logs = known.get("logs", {})
        if "loss" not in logs or not state.is_world_process_zero:
            return
        logger.info("%s step %d/%d loss %.4f", self.stage.name, state.global_step, state.max_steps, float(logs["loss"]))
        with self.journal.open("a") as file:
            file.write(json.dumps({"step": state.global_step} | logs) + "\n")


def _logged_at(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except ValueError:  # the last line of a run that was killed while it wrote
        return float("inf")


class _Stopping(TrainerCallback):
    """SIGTERM: finish the step, save, stop. All processes do so after the same step, whoever heard of it first."""

    def __init__(self) -> None:
        self.asked = self.stopped = False

    def listen(self, *_: Any) -> None:
        self.asked = True

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        if self._heard(args.device) and state.global_step < state.max_steps:
            control.should_save = control.should_training_stop = self.stopped = True
        return control

    def _heard(self, device: torch.device) -> bool:
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return self.asked
        heard = torch.tensor(float(self.asked), device=device)
        torch.distributed.all_reduce(heard)
        return bool(heard)


def run(
    stage: Stage,
    model: nn.Module,
    data: Dataset,
    collate: Callable[[list], dict[str, Tensor]],
    folder: Path,
    *,
    seed: int = 0,
    log_every: int = 50,
    progress: Progress | None = None,
    order: Sampler | None = None,
    sizes: Sizes | None = None,
    report_to: Sequence[str] = (),
    workers: int = 0,
) -> dict[str, Tensor]:
    """Train the parts of `model` that require a gradient (see `stages.freeze`), in place; returns their weights.

    Checkpoints go to `folder`; if it holds a whole one, the stage goes on from there with the same data order,
    optimizer and random state as if it had never stopped. `order` yields indices of `data` for the whole stage; by
    default they are shuffled. Raises `StoppedError` after a SIGTERM.
    """
    folder.mkdir(parents=True, exist_ok=True)
    arguments = _arguments(stage, folder, seed, log_every, list(report_to), workers)
    stopping = _Stopping()
    trainer = LlavaTrainer(
        model=model,
        args=arguments,
        train_dataset=data,
        data_collator=collate,
        callbacks=[_Report(stage, progress, folder), stopping],
        stage=stage,
        order=order,
        sizes=sizes,
    )
    trainer.remove_callback(PrinterCallback)
    if engine() is not None and not (trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled):
        raise RelevancyError(
            f"accelerate does not spread weights by {engine()} on {trainer.args.device}: launch with DDP"
        )
    checkpoint = newest(folder)
    with ExitStack() as changes:
        if isinstance(model, PreTrainedModel):
            changes.enter_context(prepared(model, stage))
            if stage.looking_cost:
                changes.enter_context(eager_attention(model))
        if threading.current_thread() is threading.main_thread():  # no other thread is told of signals
            changes.callback(signal.signal, signal.SIGTERM, signal.signal(signal.SIGTERM, stopping.listen))
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        weights = trainer.result()
    if stopping.stopped:
        raise StoppedError(f"stopped after step {trainer.state.global_step} of {trainer.state.max_steps}, and saved")
    return folded(weights, model.config) if stage.outer_scale else weights  # type: ignore[arg-type]


def shares(stage: Stage, processes: int) -> tuple[int, int]:
    """Sequences a device takes at a time, and how many times before a step. Raises where the batch does not divide."""
    micro = stage.micro or max(stage.batch // processes, 1)
    if stage.batch % (processes * micro):
        raise RelevancyError(
            f"stage {stage.name}: a batch of {stage.batch} does not divide among {processes} processes that take "
            f"{micro} sequences at a time: change batch or micro"
        )
    return micro, stage.batch // (processes * micro)


def processes_here() -> int:
    """How many processes share each step, as their launcher says."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    """Whether this process is the one that writes what all of them share, as their launcher says."""
    return os.environ.get("RANK", "0") == "0"


def _arguments(
    stage: Stage, folder: Path, seed: int, log_every: int, report_to: list[str], workers: int
) -> TrainingArguments:
    on_gpu = torch.cuda.is_available()
    micro, accumulate = shares(stage, processes_here())
    options: dict[str, Any] = {}
    if stage.gradient_checkpointing:
        known = {field.name for field in fields(TrainingArguments)}
        name = next(name for name in ("activation_checkpointing", "gradient_checkpointing") if name in known)
        options = {name: True, f"{name}_kwargs": {"use_reentrant": False}}
    return TrainingArguments(
        output_dir=str(folder),
        max_steps=stage.steps,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=accumulate,
        learning_rate=stage.learning_rate,
        lr_scheduler_type=stage.schedule,
        warmup_steps=max(1, int(stage.warmup * stage.steps)),
        weight_decay=stage.weight_decay,
        max_grad_norm=stage.clip,
        adam_beta2=stage.beta2,
        optim=stage.optimizer,
        bf16=stage.bf16,
        use_cpu=not on_gpu and engine() is None,
        ddp_backend=None if on_gpu or engine() is None else "gloo",  # accelerate finds it by itself for DDP alone
        seed=seed,
        save_steps=stage.save_every,
        logging_steps=log_every,
        report_to=report_to or "none",
        logging_nan_inf_filter=False,
        disable_tqdm=True,
        remove_unused_columns=False,
        ddp_find_unused_parameters="tower" in stage.trains,  # its last layer is not read
        dataloader_drop_last=True,
        dataloader_num_workers=workers,
        dataloader_persistent_workers=workers > 0,
        dataloader_pin_memory=on_gpu,
        **options,
    )
