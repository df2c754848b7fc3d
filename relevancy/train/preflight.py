"""What can be known to be wrong before the first step: settings together, this machine, samples of the data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedConfig
from transformers.integrations import get_reporting_integration_callbacks

from relevancy.errors import RelevancyError
from relevancy.train.checkpoints import finished
from relevancy.train.data.examples import Encoder
from relevancy.train.data.sources import Dialogues
from relevancy.train.fingerprints import spread
from relevancy.train.lora import adapt
from relevancy.train.plan import hollow
from relevancy.train.presets import Preset
from relevancy.train.stages import SettingError, Stage
from relevancy.train.template import BadDialogueError
from relevancy.train.trainer import processes_here, shares

_LOOKED_AT = 64  # samples
_ENOUGH = 4  # pictures that will not open, and none that does


def check_settings(preset: Preset, stages: Sequence[Stage], processes: int = 1) -> None:
    """Refuse settings that are right each for itself, and not together. Raises SettingError."""
    if preset.lora_rank and not any("decoder" in stage.trains for stage in stages):
        raise SettingError("lora_rank: no stage of this run trains the decoder: set lora_rank=0")
    for stage in stages:
        shares(stage, processes)
        for wrong, why in (
            (stage.half_frozen and not stage.bf16, "half_frozen needs bf16=true"),
            (stage.packed and stage.looking_cost > 0, "looking_cost needs packed=false"),
            (stage.packed and stage.fading_cost > 0, "fading_cost needs packed=false"),
            (stage.loss_chunk > 0 and stage.fading_cost > 0, "fading_cost needs loss_chunk=0"),
            (not stage.token_mean and not stage.loss_chunk, "token_mean=false needs loss_chunk, such as 256"),
            (processes > 1 and not stage.loss_chunk, "several processes need loss_chunk, such as 256"),
            (stage.schedule == "polynomial" and stage.learning_rate <= 1e-7, "polynomial ends at a rate of 1e-7"),
        ):
            if wrong:
                raise SettingError(f"stage {stage.name}: {why}")


def check_order(preset: Preset, stages: Iterable[str], out: Path) -> None:
    """Refuse a stage that the preset lacks, and one that comes before what it goes on from."""
    unknown = set(stages) - {stage.name for stage in preset.stages()}
    if unknown:
        raise RelevancyError(f"{preset.name} has no stage {unknown.pop()}: its connector is not pretrained")
    needs_align = preset.align is not None and "align" not in stages and not preset.connector
    if needs_align and not finished(out / "align"):
        raise RelevancyError(
            f"{preset.name} is finetuned after its connector was aligned, and {out / 'align'} holds no aligned one: "
            "run `relevancy train align` with this --out, give --set connector=MODEL, or take the preset's -unaligned"
        )


def check_machine(stages: Sequence[Stage], report_to: Sequence[str]) -> None:
    """Refuse what this machine, or a package that it lacks, cannot do."""
    if torch.cuda.device_count() > 1 and processes_here() == 1:
        raise RelevancyError(
            "there are several GPUs: start with `accelerate launch` (docs/training.md), or set CUDA_VISIBLE_DEVICES=0"
        )
    for stage in stages:
        if stage.bf16 and torch.cuda.is_available() and not torch.cuda.is_bf16_supported():
            raise RelevancyError(f"stage {stage.name}: this GPU has no bfloat16: set {stage.name}.bf16=false")
        if stage.optimizer.endswith("bit"):
            _try_bitsandbytes(stage)
    try:
        for callback in get_reporting_integration_callbacks(list(report_to)):
            callback()
    except (ValueError, RuntimeError, ImportError) as error:
        raise RelevancyError(f"--report-to {', '.join(report_to)}: {_line(error)}") from error


def _try_bitsandbytes(stage: Stage) -> None:
    """One step of a small weight, which some versions cannot do without a GPU."""
    try:
        import bitsandbytes

        device = "cuda" if torch.cuda.is_available() else "cpu"
        weight = nn.Parameter(torch.zeros(128, 128, device=device))
        weight.grad = torch.zeros_like(weight)
        bitsandbytes.optim.AdamW8bit([weight]).step()
    except Exception as error:  # whatever a build for another machine may raise
        raise RelevancyError(
            f"stage {stage.name}: optimizer {stage.optimizer} needs bitsandbytes, which does not work here "
            f"({_line(error)}): pip install bitsandbytes, or set {stage.name}.optimizer=adamw_torch"
        ) from error


def check_adapters(preset: Preset, config: PreTrainedConfig) -> None:
    """Refuse a decoder that adapters do not fit, on a model without weights."""
    if preset.lora_rank:
        adapt(hollow(config), preset.lora_rank, preset.lora_alpha, preset.seed)


def check_cache(stages: Sequence[Stage], opened: Mapping[str, Dialogues]) -> None:
    """Refuse to keep features that nobody could use."""
    if processes_here() > 1:
        raise RelevancyError(
            "features are cached by one process: start without `accelerate launch`, or without a cache"
        )
    if any("tower" in stage.trains for stage in stages):
        raise RelevancyError("features of a tower that trains cannot be cached")
    for name, dialogues in opened.items():
        if not dialogues.pictured.any():
            raise RelevancyError(f"stage {name}: no sample has a picture, so there are no features to keep")


def check_samples(stage: Stage, source: str, dialogues: Dialogues, encoder: Encoder) -> None:
    """Read samples from all over the data; refuse where none, or no picture, can be trained on."""
    broken: list[str] = []  # of samples with pictures, why
    faults: list[str] = []
    fine = 0
    for place in spread(len(dialogues), _LOOKED_AT):
        dialogue = dialogues[place]
        try:
            encoder(dialogue)
        except (BadDialogueError, RelevancyError) as error:
            faults.append(f"sample {dialogue.id}: {_line(error)}")
            broken += faults[-1:] if isinstance(error, RelevancyError) else []
            continue
        fine += 1
        if dialogue.images:
            return
    if faults and not fine:
        raise RelevancyError(
            f"stage {stage.name}: none of {len(faults)} samples from all over {source} can be trained on: {faults[0]}"
        )
    if len(broken) >= _ENOUGH:
        raise RelevancyError(
            f"stage {stage.name}: none of {len(broken)} pictures from all over {source} opens: {broken[0]}; "
            "--images says where they are"
        )
    if "decoder" not in stage.trains and not dialogues.pictured.any():
        raise RelevancyError(
            f"stage {stage.name}: no sample of {source} has a picture, so its parts would learn nothing"
        )


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
