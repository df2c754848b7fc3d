"""transformers' Trainer, with the one repair LLaVA needs, and `run`: one stage from start or from where it stopped."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import PrinterCallback
from transformers.trainer_utils import get_last_checkpoint

from relevancy.train.looking import eager_attention, looking_share, looks
from relevancy.train.stages import Stage

logger = logging.getLogger(__name__)
Progress = Callable[[str, float], None]  # (what is going on, share done)


class LlavaTrainer(Trainer):
    """Saves checkpoints under the names the model has in memory.

    `save_pretrained` writes LLaVA's historic tensor names by default, and Trainer's resume loads without renaming: it
    would go on from none of the saved weights, with only a warning.

    looking_cost: price on attention to the picture, see `looking`; with one, the decoder's attention must be eager.
    """

    def __init__(self, *arguments: Any, looking_cost: float = 0.0, **options: Any):
        super().__init__(*arguments, **options)
        self.looking_cost = looking_cost

    def compute_loss(  # type: ignore[override]
        self, model: Any, inputs: dict[str, Tensor], return_outputs: bool = False, **options: Any
    ) -> Any:
        """The loss of the labels, and what was looked at times its price."""
        if not self.looking_cost:
            return super().compute_loss(model, inputs, return_outputs=return_outputs, **options)
        plain = self.accelerator.unwrap_model(model)
        with looks(plain) as found:
            loss, outputs = super().compute_loss(model, inputs, return_outputs=True, **options)
        loss = loss + self.looking_cost * looking_share(plain, found, inputs)
        return (loss, outputs) if return_outputs else loss

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        if not isinstance(self.model, PreTrainedModel):
            super()._save(output_dir, state_dict)
            return
        folder = str(output_dir or self.args.output_dir)
        self.model.save_pretrained(folder, state_dict=state_dict, save_original_format=False)
        torch.save(self.args, Path(folder) / "training_args.bin")


class _Report(TrainerCallback):
    def __init__(self, stage: Stage, progress: Progress | None):
        self.stage, self.progress = stage, progress

    def on_step_end(  # type: ignore[override]
        self, _args: TrainingArguments, state: TrainerState, _control: TrainerControl, **_: Any
    ) -> None:
        if self.progress:
            self.progress(self.stage.name, state.global_step / max(state.max_steps, 1))

    def on_log(  # type: ignore[override]
        self, _args: TrainingArguments, state: TrainerState, _control: TrainerControl, **known: Any
    ) -> None:
        loss = known.get("logs", {}).get("loss")
        if loss is not None:
            logger.info("%s step %d/%d loss %.4f", self.stage.name, state.global_step, state.max_steps, float(loss))


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
) -> None:
    """Train the parts of `model` that require a gradient (see `stages.freeze`), in place.

    Checkpoints go to `folder`; if it holds one, the stage goes on from there with the same data order, optimizer and
    random state as if it had never stopped.
    """
    on_gpu = torch.cuda.is_available()
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=stage.steps,
        per_device_train_batch_size=stage.batch,
        gradient_accumulation_steps=stage.accumulate,
        learning_rate=stage.learning_rate,
        lr_scheduler_type=stage.schedule,
        warmup_steps=max(1, int(stage.warmup * stage.steps)),
        weight_decay=stage.weight_decay,
        max_grad_norm=stage.clip,
        adam_beta2=stage.beta2,
        bf16=stage.bf16,
        use_cpu=not on_gpu,
        seed=seed,
        save_steps=stage.save_every,
        save_total_limit=1,
        logging_steps=log_every,
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=on_gpu,
    )
    trainer = LlavaTrainer(
        model=model,
        args=arguments,
        train_dataset=data,
        data_collator=collate,
        callbacks=[_Report(stage, progress)],
        looking_cost=stage.looking_cost,
    )
    trainer.remove_callback(PrinterCallback)
    folder.mkdir(parents=True, exist_ok=True)
    with eager_attention(model) if isinstance(model, PreTrainedModel) and stage.looking_cost else nullcontext():
        trainer.train(resume_from_checkpoint=get_last_checkpoint(str(folder)))
