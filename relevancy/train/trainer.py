"""transformers' Trainer, with the repairs LLaVA needs, and `run`: one stage from start or from where it stopped."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import fields
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import Dataset, Sampler
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from relevancy.atomic_io import write_whole, writing
from relevancy.errors import RelevancyError
from relevancy.train.attention_penalty import eager_attention, looking_share, looks
from relevancy.train.checkpoints import check_room, intact, keep_only, newest, seal, step_of
from relevancy.train.flops import Sizes
from relevancy.train.forwards import engine, folded, prepared
from relevancy.train.stages import Stage, states_of
from relevancy.train.telemetry import Meter, unlabeled
from relevancy.train.value_fading import check_values, fading_shortfall

logger = logging.getLogger(__name__)
Progress = Callable[[str, float], None]  # (what is going on, share done)
JOURNAL = "metrics.jsonl"
_FEW = 200  # samples; the share of skipped ones is taken of at least so many, where the run has them
_TWICE = 1.0  # seconds: a terminal and a launcher both hand on one Ctrl-C


class StoppedError(RelevancyError):
    """The run was asked to stop, has saved where it was, and can go on from there. code: of its process."""

    def __init__(self, why: str, by: int = signal.SIGTERM):
        super().__init__(why)
        self.code = 128 + by


class LlavaTrainer(Trainer):
    """Keeps of a checkpoint what trains, seals it when it is whole, and counts what each step did.

    Trainer's own checkpoints of a LLaVA cannot be resumed from: `save_pretrained` writes historic tensor names, and the
    resume loads without renaming, none of them, with only a warning. Here the names are those the model has in memory.

    With a price on looking (see `attention_penalty`) the decoder's attention must be eager.
    """

    def __init__(self, *arguments: Any, stage: Stage, order: Sampler | None, sizes: Sizes | None, **options: Any):
        super().__init__(*arguments, **options)
        self.stage, self.order = stage, order
        self.taught_nothing: list[Tensor] = []  # of this step's micro-batches: samples without a label
        self.unsound: list[Tensor] = []  # of the same: is the loss no number?
        self.meter = Meter(stage, sizes, self.args.device, self.args.world_size)

    def compute_loss(  # type: ignore[override]
        self, model: Any, inputs: dict[str, Tensor], return_outputs: bool = False, **options: Any
    ) -> Any:
        """The loss of the labels, and what was looked at and what did not fall, each times its price."""
        stage = self.stage
        if not (stage.looking_cost or stage.fading_cost):
            return super().compute_loss(model, inputs, return_outputs=return_outputs, **options)
        plain = self.accelerator.unwrap_model(model)
        with looks(plain) if stage.looking_cost else nullcontext() as found:
            loss, outputs = super().compute_loss(model, inputs, return_outputs=True, **options)
        if found is not None:
            loss = loss + stage.looking_cost * looking_share(plain, found, inputs)
        if stage.fading_cost:
            loss = loss + stage.fading_cost * fading_shortfall(model, plain, inputs, outputs.logits)
        return (loss, outputs) if return_outputs else loss

    def get_batch_samples(self, epoch_iterator: Iterator, num_batches: int, device: torch.device) -> tuple[list, Any]:
        """The micro-batches of one step, counted."""
        batches, items = super().get_batch_samples(self.meter.waiting(epoch_iterator), num_batches, device)
        self.meter.saw(batches)
        self.taught_nothing, self.unsound = [unlabeled(batch) for batch in batches], []
        return batches, items

    def training_step(self, *arguments: Any, **options: Any) -> Tensor:
        """One micro-batch; whether its loss is a number is kept for the end of the step."""
        loss = super().training_step(*arguments, **options)
        self.unsound.append(~torch.isfinite(loss.detach()))
        return loss

    def samples(self, first: int, count: int) -> str:
        """The names of samples by their place in the order of reading; empty where they have none."""
        dialogues = getattr(self.train_dataset, "dialogues", None)
        if self.order is None or dialogues is None:
            return ""
        return ", ".join(dialogues[place].id for place in islice(self.order, first, first + count))

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
        self.check_sound(folder)
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

    def check_sound(self, folder: Path) -> None:
        """Refuse weights that are no numbers any more, before they take the place of ones that are."""
        trained = (_here(parameter) for parameter in self.model.parameters() if parameter.requires_grad)  # type: ignore[union-attr]
        peaks = [weight.detach().abs().amax() for weight in trained if weight.numel()]
        unsound = any(not bool(torch.isfinite(peak)) for peak in peaks)
        if any(_summed([float(unsound)], self.args.device)):
            raise _lost(self.stage, f"weights are no numbers after step {self.state.global_step}", folder)

    def _checkpoint_size(self) -> int:
        """Bytes, of what trains; frozen weights are where they came from."""
        trained = sum(parameter.numel() for parameter in self.model.parameters() if parameter.requires_grad)  # type: ignore[union-attr, misc]
        return 4 * trained + states_of(self.model, self.stage.optimizer)  # type: ignore[arg-type]

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


def _here(parameter: Tensor) -> Tensor:
    """What this process holds of a weight that an engine may have spread over all."""
    return parameter.to_local() if hasattr(parameter, "to_local") else parameter


def _lost(stage: Stage, what: str, folder: Path) -> RelevancyError:
    kept = newest(folder)
    whole = f"the checkpoint of step {step_of(kept)} is whole" if kept else "there is no checkpoint yet"
    return RelevancyError(
        f"stage {stage.name}: {what} ({whole}): start again with another --out and a smaller "
        f"{stage.name}.learning_rate, or without what is wrong with the data"
    )


class _StepReport(TrainerCallback):
    """Tells progress, and writes what is logged to a file of lines."""

    def __init__(self, stage: Stage, progress: Progress | None, folder: Path):
        self.stage, self.progress, self.journal = stage, progress, folder / JOURNAL

    def on_train_begin(  # type: ignore[override]
        self, _args: TrainingArguments, state: TrainerState, _control: TrainerControl, **_: Any
    ) -> None:
        """What was logged after the checkpoint is about to be logged again."""
        if state.is_world_process_zero and self.journal.exists():
            lines = self.journal.read_text().splitlines(keepends=True)
            kept = "".join(line for line in lines if _logged_at(line) <= state.global_step)
            with writing(self.journal):
                write_whole(self.journal, kept)

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
        try:
            with self.journal.open("a") as file:
                file.write(json.dumps({"step": state.global_step} | logs) + "\n")
        except OSError as error:  # a full disk must not end a training that goes well
            logger.warning("%s cannot be written: %s", self.journal, error.strerror)


def _logged_at(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except ValueError:  # the last line of a run that was killed while it wrote
        return float("inf")


class _AfterSave(TrainerCallback):
    """Tells of each checkpoint that is whole, but for the one of the last step, and for one that ends a stopped run."""

    def __init__(self, watch: _Watch, saved: Callable[[Path], None]) -> None:
        self.watch, self.saved = watch, saved

    def on_save(  # type: ignore[override]
        self, _args: TrainingArguments, state: TrainerState, _control: TrainerControl, **_: Any
    ) -> None:
        if state.is_world_process_zero and not self.watch.stopped and state.global_step < state.max_steps:
            self.saved(self.watch.folder / f"checkpoint-{state.global_step}")


class _Watch(TrainerCallback):
    """What all processes agree on after each step, whoever saw it first: to save and stop, or that all is lost.

    SIGTERM or Ctrl-C: the step is finished and saved; a second Ctrl-C ends at once. A loss that is no number, and more
    than `max_skipped` samples that teach nothing, end the run with what is on the disk.
    """

    def __init__(self, stage: Stage, folder: Path, max_skipped: float) -> None:
        self.stage, self.folder, self.max_skipped = stage, folder, max_skipped
        self.trainer: LlavaTrainer
        self.asked = {signal.SIGTERM: False, signal.SIGINT: False}
        self.stopped = 0  # by which signal
        self.seen = self.skipped = self.empty = 0
        self._last = float("-inf")

    def listen(self, number: int, *_: Any) -> None:
        now = time.monotonic()
        if number == signal.SIGINT and self.asked[signal.SIGINT] and now - self._last > _TWICE:
            raise KeyboardInterrupt
        self._last = now
        self.asked[signal.Signals(number)] = True

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        micro, accumulate = shares(self.stage, processes_here())
        losses = [0.0] * (accumulate * processes_here())
        losses[int(os.environ.get("RANK", "0")) :: processes_here()] = map(float, self.trainer.unsound)
        nothing = float(sum(self.trainer.taught_nothing))
        told = _summed([*map(float, self.asked.values()), nothing, *losses], args.device)
        asked, nothing, losses = told[:2], told[2], told[3:]
        self._count(int(nothing), state)
        if any(losses):
            first = next(place for place, unsound in enumerate(losses) if unsound)
            named = self.trainer.samples((state.global_step - 1) * self.stage.batch + first * micro, micro)
            where = f", samples {named}" if named else ""
            raise _lost(self.stage, f"the loss of step {state.global_step} is no number{where}", self.folder)
        if any(asked):  # after the last step too: more may come after this stage
            self.stopped = next(number for number, heard in zip(self.asked, asked, strict=True) if heard)
            control.should_save = control.should_training_stop = True
        return control

    def _count(self, nothing: int, state: TrainerState) -> None:
        self.seen += self.stage.batch
        self.skipped += nothing
        if nothing == self.stage.batch:
            self.empty += 1
            logger.warning("%s step %d: none of its samples could be trained on", self.stage.name, state.global_step)
        if self.skipped > self.max_skipped * max(self.seen, min(_FEW, state.max_steps * self.stage.batch)):
            raise RelevancyError(
                f"stage {self.stage.name}: {self.skipped} of the first {self.seen} samples could not be trained on"
                f"{self._why()}: more than max_skipped {self.max_skipped:g} allows. Mend the data, or allow more"
            )

    def _why(self) -> str:
        skipped: Any = getattr(self.trainer.train_dataset, "skipped", None)
        found = skipped.all() if skipped is not None else []
        return f" (sample {found[-1]['id']}: {found[-1]['why']}; {skipped.path} has all)" if found else ""


def _summed(values: list[float], device: torch.device) -> list[float]:
    """The values, added up over all processes."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return values
    total = torch.tensor(values, device=device)
    torch.distributed.all_reduce(total)
    return total.tolist()


def _agreed(ask: Callable[[], Any], device: torch.device) -> Any:
    """What the first process finds, told to all; its refusal is everyone's."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return ask()
    answer: list[Any] = [None]
    if torch.distributed.get_rank() == 0:
        try:
            answer = [ask()]
        except RelevancyError as error:
            answer = [error]
    torch.distributed.broadcast_object_list(answer, device=device)
    if isinstance(answer[0], RelevancyError):
        raise answer[0]
    return answer[0]


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
    max_skipped: float = 1.0,
    saved: Callable[[Path], None] | None = None,
) -> dict[str, Tensor]:
    """Train the parts of `model` that require a gradient (see `stages.freeze`), in place; returns their weights.

    Checkpoints go to `folder`; if it holds a whole one, the stage goes on from there with the same data order,
    optimizer and random state as if it had never stopped. `order` yields indices of `data` for the whole stage; by
    default they are shuffled. `saved` is called, in the first process, with each whole checkpoint but the last, and
    the run goes on when it returns. Raises `StoppedError` after a SIGTERM or a Ctrl-C, RelevancyError for a loss that
    is no number, a damaged checkpoint, and more than a share `max_skipped` of samples without a label.
    """
    folder.mkdir(parents=True, exist_ok=True)
    arguments = _arguments(stage, folder, seed, log_every, list(report_to), workers)
    watch = _Watch(stage, folder, max_skipped)
    config = vars(model.config) if isinstance(model, PreTrainedModel) else {}
    before = dict(config)
    trainer = LlavaTrainer(
        model=model,
        args=arguments,
        train_dataset=data,
        data_collator=collate,
        callbacks=[_StepReport(stage, progress, folder), watch],
        stage=stage,
        order=order,
        sizes=sizes,
    )
    watch.trainer = trainer
    trainer.remove_callback(PrinterCallback)
    if saved is not None:
        trainer.add_callback(_AfterSave(watch, saved))
    if engine() is not None and not (trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled):
        raise RelevancyError(
            f"accelerate does not spread weights by {engine()} on {trainer.args.device}: launch with DDP"
        )
    checkpoint = _agreed(lambda: intact(folder), arguments.device)
    with ExitStack() as changes:
        if isinstance(model, PreTrainedModel):
            changes.callback(_cached, config, before)
            changes.enter_context(prepared(model, stage))
            if stage.looking_cost:
                changes.enter_context(eager_attention(model))
            if stage.fading_cost:
                check_values(model)
        if threading.current_thread() is threading.main_thread():  # no other thread is told of signals
            for number in watch.asked:
                changes.callback(signal.signal, number, signal.signal(number, watch.listen))
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        trainer.check_sound(folder)
        weights = trainer.result()
    if watch.stopped:
        told = f"stopped after step {trainer.state.global_step} of {trainer.state.max_steps}, and saved"
        raise StoppedError(told, watch.stopped)
    return folded(weights, model.config) if stage.outer_scale else weights  # type: ignore[arg-type]


def _cached(config: dict[str, Any], before: dict[str, Any]) -> None:
    """Trainer turns a model's cache off in its config, from where it comes into what is saved: as it was before."""
    config.pop("use_cache", None)
    if "use_cache" in before:
        config["use_cache"] = before["use_cache"]


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
