"""A preset and data -> a trained model in a folder: both stages in their order, each from where it stopped."""

from __future__ import annotations

__all__ = ["RunOptions", "TrainingSource", "export", "train"]

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.utils.data import Sampler
from transformers import LlavaForConditionalGeneration, LlavaProcessor, PreTrainedConfig

from relevancy.atomic_io import whole, writing
from relevancy.errors import RelevancyError
from relevancy.train import preflight, records
from relevancy.train.card import card
from relevancy.train.checkpoints import TRAINED, finished, store, stored, trained_so_far
from relevancy.train.collate import Collate
from relevancy.train.composition import assembled, joined_config, put
from relevancy.train.data.examples import Encoder, Examples, Skipped
from relevancy.train.data.sources import Dialogues, open_data
from relevancy.train.feature_cache import cached
from relevancy.train.features import stored_features
from relevancy.train.fingerprints import fingerprint
from relevancy.train.flops import sizes_of
from relevancy.train.forwards import folded
from relevancy.train.lora import adapt, merge
from relevancy.train.parts import Parts, parts_of, processor_for
from relevancy.train.plan import steps_of
from relevancy.train.presets import Preset, from_plain
from relevancy.train.samplers import GroupedSampler, LlavaSampler
from relevancy.train.stages import Stage, freeze, parameters_of
from relevancy.train.template import IMAGE
from relevancy.train.trainer import Progress, is_first, processes_here, run, shares

MODEL, _TRAINING = "model", "training.json"
MAX_SKIPPED = 0.05
_FLOAT32_BELOW = 1_000_000_000  # parameters; larger models are saved in bfloat16, as published ones are


@dataclass(frozen=True)
class TrainingSource:
    """Where a stage's data lies, one set or several; see `open_data`."""

    data: str | list[str]
    images: str | list[str] | None = None

    @property
    def name(self) -> str:
        """What a message calls it."""
        return self.data if isinstance(self.data, str) else ", ".join(self.data)


@dataclass(frozen=True)
class RunOptions:
    """How a run is carried out; none of it changes what comes out on the same hardware.

    max_skipped: share of samples that cannot be trained on above which a stage stops. saved: called with each whole
    checkpoint of the last stage but its last; the run waits for it.
    """

    resume: bool = False
    report_to: Sequence[str] = ()
    workers: int = 0
    log_every: int = 10
    cache: bool = False  # of the frozen tower's features, see `feature_cache`; rounds them to bfloat16
    progress: Progress | None = None
    max_skipped: float = MAX_SKIPPED
    saved: Callable[[Path], None] | None = None

    def __post_init__(self) -> None:
        if self.workers < 0 or self.log_every < 1 or not 0 <= self.max_skipped <= 1:
            raise RelevancyError(
                f"workers {self.workers} is 0 or more, log_every {self.log_every} 1 or more, max_skipped "
                f"{self.max_skipped} from 0 to 1"
            )


def train(preset: Preset, sources: Mapping[str, TrainingSource], out: Path, way: RunOptions | None = None) -> Path:
    """Run the stages that have a source, in their order; returns the folder of the model, `out`/model.

    `out`/STAGE holds its checkpoints, figures (metrics.jsonl), what was skipped, and at the end what it trained.
    Finished stages are read, an unfinished one goes on from its last whole checkpoint. Everything that can be known to
    be wrong is refused before the first step. In a run of several processes all of them call this.
    """
    way = way or RunOptions()
    preflight.check_order(preset, sources, out)
    stages = [stage for stage in preset.stages() if stage.name in sources]
    preflight.check_settings(preset, stages, processes_here())
    preflight.check_machine(stages, way.report_to)
    parts = parts_of(preset)
    opened = {stage.name: _opened(stage, sources[stage.name]) for stage in stages}
    if way.cache:
        preflight.check_cache(stages, {name: dialogues for name, (_, dialogues) in opened.items()})
    encoders = {
        stage.name: _encoder(preset, parts, stage, sources[stage.name], opened[stage.name][1])
        for stage in stages
        if not finished(out / stage.name)
    }
    with records.held(out) if is_first() else nullcontext():
        if is_first():
            given = {
                name: asdict(source) | {"fingerprint": fingerprint(opened[name][1])} for name, source in sources.items()
            }
            records.claim(out, records.configuration(preset, given, processes_here()), resume=way.resume)
        else:
            records.await_claim(out)
        for stage in stages:
            if not finished(out / stage.name):
                _run(preset, parts, opened[stage.name], encoders[stage.name], out, way)
            _together()
        if is_first():
            _export(out, out / MODEL)
    return out / MODEL


def _opened(stage: Stage, source: TrainingSource) -> tuple[Stage, Dialogues]:
    """The stage with its number of steps, and its data."""
    data = open_data(source.data, source.images)
    if not isinstance(data, Dialogues):
        raise RelevancyError(f"{source.name}: its length is not known; give steps, and store it first")
    return replace(stage, steps=steps_of(stage, len(data))), data


def _encoder(preset: Preset, parts: Parts, stage: Stage, source: TrainingSource, dialogues: Dialogues) -> Encoder:
    """The stage's encoder, once settings, model and data were seen to fit together."""
    token = parts.tokenizer.convert_tokens_to_ids(IMAGE)
    config = joined_config(parts.language, parts.vision, token, preset.feature_layer)  # type: ignore[arg-type]
    if "decoder" in stage.trains:
        preflight.check_adapters(preset, config)
    processor = processor_for(parts, preset.image_size, stage.framing, config)
    encoder = Encoder.of_stage(processor, stage)
    preflight.check_samples(stage, source.name, dialogues, encoder)
    return encoder


def _run(
    preset: Preset, parts: Parts, opened: tuple[Stage, Dialogues], encoder: Encoder, out: Path, way: RunOptions
) -> None:
    stage, dialogues = opened
    folder = out / stage.name
    model = assembled(preset, parts, stage)
    if stage.name == "finetune" and finished(out / "align"):
        put(model, stored(out / "align" / TRAINED))
    if preset.lora_rank and "decoder" in stage.trains:
        adapt(model, preset.lora_rank, preset.lora_alpha, preset.seed)
    freeze(model, stage)
    in_tower = check_tokens(model, encoder)
    sizes = sizes_of(model, model.config, in_tower, encoder.image_tokens)
    with ExitStack() as changes:
        if way.cache:
            encoder = cached(encoder, dialogues, model, folder / "features", _told(way.progress, stage))
            changes.enter_context(stored_features(model))
            sizes = replace(sizes, matrices=sizes.matrices | {"tower": 0}, tower_layers=0)
        weights = run(
            stage,
            model,
            Examples(dialogues, encoder, Skipped(folder / records.SKIPPED)),
            Collate(parts.tokenizer.pad_token_id, stage.packed),
            folder,
            seed=preset.seed,
            log_every=way.log_every,
            progress=way.progress,
            order=Order(dialogues, stage, preset.seed),
            sizes=sizes,
            report_to=way.report_to,
            workers=way.workers,
            max_skipped=way.max_skipped,
            saved=way.saved if "decoder" in stage.trains else None,
        )
    if is_first():
        store(weights, folder / TRAINED)
        for checkpoint in folder.glob("checkpoint-*"):
            shutil.rmtree(checkpoint)


def _told(progress: Progress | None, stage: Stage) -> Callable[[float], None] | None:
    return None if progress is None else partial(progress, f"{stage.name} features")


@torch.no_grad()
def check_tokens(model: LlavaForConditionalGeneration, encoder: Encoder) -> int:
    """The tower's tokens for one picture. Raises where those it hands over are not as many as the processor writes."""
    tower = model.model.vision_tower
    given = tower(torch.zeros(1, *encoder.picture_shape, dtype=tower.dtype)).last_hidden_state.shape[1]
    handed = given - (model.config.vision_feature_select_strategy == "default")
    if handed != encoder.image_tokens:
        raise RelevancyError(
            f"the tower makes {handed} tokens of a picture, the processor writes {encoder.image_tokens}: set image_size"
        )
    return given


class Order(Sampler):
    """The places of a stage's samples, in the order in which it reads them: passes, each shuffled in its own way.

    It is one long list, so that a run goes on by leaving out what it has read, wherever it was.
    """

    def __init__(self, dialogues: Dialogues, stage: Stage, seed: int):
        self.dialogues, self.stage, self.seed = dialogues, stage, seed

    def __len__(self) -> int:
        return self.stage.steps * self.stage.batch

    def __iter__(self) -> Iterator[int]:
        whole = len(self.dialogues) // self.stage.batch * self.stage.batch
        for read in range(0, len(self), whole):
            yield from self._pass(read // whole)[: min(whole, len(self) - read)].tolist()

    def _pass(self, turn: int) -> np.ndarray:
        if not self.stage.grouped:
            return np.random.default_rng([self.seed, turn]).permutation(len(self.dialogues))
        micro, accumulate = shares(self.stage, processes_here())
        groups = processes_here() * accumulate
        sampler = LlavaSampler if self.stage.grouping == "authors" else GroupedSampler
        return sampler(self.dialogues.lengths, self.dialogues.pictured, micro, groups, self.seed).order(turn)


def export(out: Path, target: Path) -> None:
    """Write the model of a run as `relevancy.load` and plain transformers open it: weights, processor, card.

    Of a stage that is not finished, its last whole checkpoint. An earlier export of the run is replaced once the new is
    whole; raises RelevancyError where the folder holds anything else, or a part of the run.
    """
    if target.is_dir() and any(target.iterdir()) and not _is_export(target, out):
        raise RelevancyError(f"{target} holds something else than an earlier export of {out}: choose another --out")
    _export(out, target)


def _is_export(target: Path, out: Path) -> bool:
    """Whether a folder outside the run is what `export` made of it, and nothing besides."""
    inside = out.resolve() in (target.resolve(), *target.resolve().parents)
    if inside or any(path.is_dir() for path in target.iterdir()):
        return False
    return records.are_of_one_run(target / _TRAINING, out / records.FILE)


def _export(out: Path, target: Path) -> None:
    configuration = records.read(out)
    preset = from_plain(configuration["preset"])
    parts = parts_of(preset)
    model = assembled(preset, parts)
    told = []
    for stage in preset.stages():
        found = _weights(out / stage.name, stage, model.config)
        if found is None:
            continue
        weights, how_far = found
        told.append((stage, how_far))
        if preset.lora_rank and "decoder" in stage.trains:
            adapt(model, preset.lora_rank, preset.lora_alpha, preset.seed)
        put(model, weights)
        if preset.lora_rank and "decoder" in stage.trains:
            merge(model)
    if not told:
        raise RelevancyError(f"{out} has no finished stage and no whole checkpoint yet")
    total = sum(parameter.numel() for parameter in model.parameters())
    model = model.to(torch.float32 if total < _FLOAT32_BELOW else torch.bfloat16).eval()  # type: ignore[arg-type]
    processor = processor_for(parts, preset.image_size, told[-1][0].framing, model.config)
    try:
        with writing(target), whole(target) as part:
            _write(part, model, processor, configuration, told)
    except SafetensorError as error:
        raise RelevancyError(f"{target} could not be written ({error}): make room, and run the same again") from error


def _weights(folder: Path, stage: Stage, config: PreTrainedConfig) -> tuple[dict[str, Tensor], str] | None:
    """What a stage trained, as it belongs into a finished model, and how far it is."""
    found = trained_so_far(folder)
    if found is None:
        return None
    source, weights = found
    if source.name == TRAINED:
        return weights, "finished"
    return (folded(weights, config) if stage.outer_scale else weights), f"stopped at {source.name}"


def _write(
    folder: Path,
    model: LlavaForConditionalGeneration,
    processor: LlavaProcessor,
    configuration: Mapping[str, Any],
    told: Sequence[tuple[Stage, str]],
) -> None:
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    records.write(folder / _TRAINING, configuration)
    finished = [(stage.name, how_far) for stage, how_far in told]
    (folder / "README.md").write_text(card(configuration, parameters_of(model), finished))


def _together() -> None:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()
