"""Builds the embedded pair from a seed: tower, then for each model language, alignment and finetuning."""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import (
    GemmaTokenizer,
    LlavaForConditionalGeneration,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from relevancy.atomic_io import whole, whole_files, write_whole, writing
from relevancy.demo.card import card
from relevancy.demo.dialogues import SAMPLE, SceneDialogues
from relevancy.demo.evaluation import accuracy
from relevancy.demo.jobs import each
from relevancy.demo.language import build_processor, build_tokenizer
from relevancy.demo.plan import FULL, QUICK, BuildPlan, DecoderSize, Lesson
from relevancy.demo.pool import Pool, keep_pool, kept_pool
from relevancy.demo.tower import PATCH, SIDE, SIZE, PatchData, PatchTeacher, collate_patches, features_of, tower_config
from relevancy.errors import RelevancyError
from relevancy.models.model import load
from relevancy.train.collate import Collate
from relevancy.train.composition import compose, put
from relevancy.train.features import stored_features
from relevancy.train.stages import Stage, freeze, parameters_of
from relevancy.train.trainer import Progress, run, trained_weights

logger = logging.getLogger(__name__)
READERS = 2
TOWER, POOL, SEEN = "tower", "pool.pickle", "seen.safetensors"


def build(
    out: Path, *, seed: int = 0, jobs: int = 1, progress: Progress | None = None, quick: bool = False
) -> dict[str, Path]:
    """Train the pair; returns the folder of each model, `out/<name>`.

    Stopped and called again with the same `out`, it goes on where it was: finished stages are read from `out/stages`,
    an unfinished one from its last checkpoint. `quick` runs every step in miniature. jobs: decoders that train at once,
    which share torch's threads. `progress(what, share)` is told how far a step is. Raises RelevancyError where `out`
    holds stages of another plan or seed.
    """
    plan, out = (QUICK if quick else FULL), Path(out)
    claim(out / "stages" / "pair.json", plan.told() | {"seed": seed})
    report = progress or silent
    _look(plan, out / "stages", seed, report)
    for _ in each(partial(_train, plan, out, seed), list(plan.decoders), jobs, report):
        pass
    return {name: out / name for name in plan.decoders}


def decoders_at_once() -> int:
    """How many decoders train fastest at once: each on a core of its own, or one after the other on a GPU."""
    return 1 if torch.cuda.is_available() else torch.get_num_threads()


def _look(plan: BuildPlan, stages: Path, seed: int, report: Progress) -> None:
    """The scenes, and what a tower sees that is taught on them, each into `stages`."""
    first = 1 + seed * plan.scenes  # each seed has scenes of its own
    keep_pool(stages / POOL, range(first, first + plan.scenes), SIZE, SIDE, progress=partial(report, "scenes"))
    if (stages / SEEN).exists():
        return
    pool = kept_pool(stages / POOL)
    tower = teach_tower(tower_config(), _fast(plan.tower), pool, stages / TOWER, seed, report)
    with whole(stages / SEEN) as part:
        save_file({"features": features_of(tower, pool.pixels, partial(report, "features"))}, part)


def _train(plan: BuildPlan, out: Path, seed: int, name: str, report: Progress) -> None:
    """One model of the pair, saved and measured."""
    stages, tokenizer = out / "stages", build_tokenizer()
    pool, features = kept_pool(stages / POOL), load_file(stages / SEEN)["features"]
    tower = teach_tower(tower_config(), plan.tower, pool, stages / TOWER, seed, report)  # it has been: only read
    model = train_one(name, plan.decoders[name], tower, tokenizer, pool, features, stages, seed, report)
    save(model, tokenizer, out / name)
    describe_model(out / name, plan.check_scenes, report)


def claim(file: Path, planned: Mapping[str, Any]) -> None:
    """Say what is planned for a file's folder, or hold it against what was. Raises RelevancyError."""
    told = json.dumps(planned, indent=1)
    if not file.exists():
        with writing(file):
            file.parent.mkdir(parents=True, exist_ok=True)
            write_whole(file, told)
    elif file.read_text() != told:
        raise RelevancyError(f"{file.parent} was begun by another plan ({file.name} differs): choose another --out.")


def silent(_what: str, _share: float) -> None:
    """Nobody asked to be told."""


def _fast(stage: Stage) -> Stage:
    return replace(stage, bf16=autocast_pays())


def fast(lesson: Lesson) -> Lesson:
    """The same in the numbers that are fastest here."""
    return replace(lesson, stage=_fast(lesson.stage))


def autocast_pays() -> bool:
    """Whether matrix products are faster in bfloat16 here: on a GPU, or on a CPU with instructions for it."""
    return torch.cuda.is_available() or torch.cpu._is_avx512_bf16_supported()


def _readers() -> int:
    """Processes that write the next dialogues while a GPU learns from these; a CPU is busy enough."""
    return READERS if torch.cuda.is_available() else 0


def teach_tower(
    config: PreTrainedConfig, stage: Stage, pool: Pool, folder: Path, seed: int, report: Progress
) -> PreTrainedModel:
    """A tower, taught patch labels, or what was taught before; frozen from then on."""
    torch.manual_seed(seed)
    teacher = PatchTeacher(config)
    finish(stage, teacher, PatchData(pool), collate_patches, folder, seed, report)
    return teacher.tower.eval().requires_grad_(False)


def train_one(
    name: str,
    decoder: DecoderSize,
    tower: PreTrainedModel,
    tokenizer: GemmaTokenizer,
    pool: Pool,
    features: Tensor,
    stages: Path,
    seed: int,
    report: Progress,
) -> LlavaForConditionalGeneration:
    """One model of the pair: the decoder learns to read, the connector is aligned, then both are finetuned."""
    model = compose(tower, decoder.config(tokenizer), tokenizer, sample=features[:SAMPLE, 1:], seed=seed)
    teach(model, name, fast(decoder.language), None, tokenizer, pool, stages, seed, report)
    for lesson in (decoder.align, decoder.describe, decoder.openly, *decoder.answering):
        teach(model, name, fast(lesson), features, tokenizer, pool, stages, seed, report)
    return model.eval().requires_grad_(False)


def teach(
    model: LlavaForConditionalGeneration,
    name: str,
    lesson: Lesson,
    features: Tensor | None,
    tokenizer: PreTrainedTokenizerBase,
    pool: Pool,
    stages: Path,
    seed: int,
    report: Progress,
    longest: int | None = None,
) -> None:
    """One lesson of a model, in place; its checkpoints and its result lie in `stages`/NAME-STAGE.

    features: of the pool's pictures, where they are shown. longest: see `SceneDialogues`.
    """
    stage = lesson.stage
    data = SceneDialogues(pool, lesson.talk, tokenizer, SIDE * SIDE, passes_of(stage, pool), features, seed, longest)
    if lesson.gain != 1:
        raise_gain(model, lesson.gain)
    freeze(model, stage)
    with stored_features(model):
        named = replace(stage, name=f"{name} {stage.name}")
        finish(named, model, data, Collate(tokenizer.pad_token_id), stages / f"{name}-{stage.name}", seed, report)


def passes_of(stage: Stage, pool: Pool) -> int:
    """How many passes over the pool a stage takes, the last one begun."""
    return -(-stage.steps * stage.batch // len(pool))


@torch.no_grad()
def raise_gain(model: LlavaForConditionalGeneration, factor: float) -> None:
    """Let logits grow `factor` times as large; Gemma's norms multiply by one plus their weight."""
    weight = model.model.language_model.norm.weight
    weight.copy_((1 + weight) * factor - 1)


def finish(
    stage: Stage, model: nn.Module, data: Dataset, collate: Callable, folder: Path, seed: int, report: Progress
) -> None:
    """Run a stage, or read its result if it has been run before."""
    done = folder / "done.safetensors"
    if not done.exists():
        run(stage, model, data, collate, folder, seed=seed, progress=report, workers=_readers())
        with whole(done) as part:
            save_file(trained_weights(model), part)
    put(model, load_file(done))


def save(model: LlavaForConditionalGeneration, tokenizer: GemmaTokenizer, folder: Path) -> None:
    """Weights, config and processor, as any Hugging Face checkpoint has them. Stored in float16, loaded as float32."""
    stored = copy.deepcopy(model).half()
    with whole_files(folder) as scratch:
        stored.save_pretrained(scratch)
        config = stored.config
        for part in (config, config.text_config, config.vision_config):
            part.dtype = torch.float32
        config.save_pretrained(scratch)
        build_processor(tokenizer, SIZE, PATCH).save_pretrained(scratch)


def describe_model(folder: Path, scenes: int, report: Progress) -> None:
    """Measure a saved model on held-out scenes and write its card."""
    model = load(folder)
    own = accuracy(model, scenes=scenes, progress=partial(report, f"{folder.name} accuracy"))
    blind = accuracy(model, scenes=scenes, picture="other", progress=partial(report, f"{folder.name} blind control"))
    write_whole(folder / "README.md", card(folder.name, parameters_of(model.model), own, blind))
