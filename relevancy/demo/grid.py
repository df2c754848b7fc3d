"""The paper's ablation in miniature: tower x decoder x connector pretrained or not, each trained from several seeds.

Everything is kept in one folder, and what is there is not made again: the scenes, the towers and what they see, the
decoders that have learned to read, the model of each cell and one file of what it answers.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModel, GemmaForCausalLM, GemmaTokenizer, PreTrainedModel

from relevancy.atomic_io import whole
from relevancy.demo.build import POOL, SEEN, claim, finish, passes_of, silent, teach, teach_tower
from relevancy.demo.cells import TOWERS, Cell, CellResult, asked, cells, read, write
from relevancy.demo.dialogues import SAMPLE, SceneDialogues
from relevancy.demo.effects import Effect
from relevancy.demo.evaluation import answered, held_out
from relevancy.demo.grid_page import save
from relevancy.demo.jobs import each
from relevancy.demo.language import build_processor, build_tokenizer
from relevancy.demo.plan import GRID, QUICK_GRID, BuildPlan, DecoderSize
from relevancy.demo.pool import keep_pool, kept_pool, shrink
from relevancy.demo.questions import Question
from relevancy.demo.tower import PATCH, SIDE, SIZE, dinov2_config, features_of, tower_config
from relevancy.models.model import wrap
from relevancy.train.collate import Collate
from relevancy.train.composition import compose
from relevancy.train.trainer import Progress

CONFIGS = dict(zip(TOWERS, (tower_config, dinov2_config), strict=True))
PLAN = "plan.json"
Told = Callable[[CellResult, int, int, float], None]  # what is new, cells done, of how many, seconds left


@dataclass(frozen=True)
class GridPlace:
    """Where a grid lies and what is planned for it."""

    folder: Path
    plan: BuildPlan

    @property
    def pool(self) -> Path:
        """File of the scenes to train on."""
        return self.folder / POOL

    @property
    def cells(self) -> Path:
        """Folder of the finished cells."""
        return self.folder / "cells"

    @property
    def models(self) -> Path:
        """Folder of their models, named as the cells, each as `load` takes it."""
        return self.folder / "models"

    @property
    def stages(self) -> Path:
        """Folder of what trains."""
        return self.folder / "stages"


def grid(
    out: Path,
    *,
    seeds: int = 3,
    jobs: int = 1,
    quick: bool = False,
    progress: Progress | None = None,
    told: Told | None = None,
) -> list[Effect]:
    """Train and measure every cell; returns what each choice changes, and writes `out`/grid.md, grid.json, grid.png.

    `out`/models holds the models, and `out`/choices.csv how they differ, for `relevancy evaluate effects`. Stopped and
    called again with the same `out`, it goes on where it was.

    jobs: processes that train at once, which share torch's threads among them. `progress(what, share)` is told how far
    a step is, `told` of every cell that is finished. Raises RelevancyError where `out` holds a grid of another plan.
    """
    place = GridPlace(out, QUICK_GRID if quick else GRID)
    wanted = cells(seeds)
    report = progress or silent
    claim(place.folder / PLAN, place.plan.told())
    scenes = range(1, 1 + place.plan.scenes)
    keep_pool(place.pool, scenes, SIZE, SIDE, jobs, partial(report, "scenes"))
    decoders = sorted({(cell.size, cell.seed) for cell in wanted})
    for _ in each(partial(_look, place), TOWERS, jobs, report):
        pass
    for _ in each(partial(_read, place), decoders, jobs, report):
        pass
    found = {cell: known for cell in wanted if (known := read(place.cells, cell))}
    for one in each(partial(_train, place), [cell for cell in wanted if cell not in found], jobs, report):
        found[one.cell] = one
        if told:
            told(one, len(found), len(wanted), _seconds_left(wanted, found, jobs))
    return save(out, place.plan, [found[cell] for cell in wanted], questions(place))


def _seconds_left(wanted: Sequence[Cell], found: dict[Cell, CellResult], jobs: int) -> float:
    """What is left, each cell taken to last as long as those of its size did."""
    whole = float(np.mean([one.seconds for one in found.values()]))

    def lasts(size: str) -> float:
        known = [one.seconds for one in found.values() if one.cell.size == size]
        return float(np.mean(known)) if known else whole

    return sum(lasts(cell.size) for cell in wanted if cell not in found) / jobs


@lru_cache(1)
def _tokenizer() -> GemmaTokenizer:
    return build_tokenizer()


@lru_cache(1)
def _asked(scenes: int) -> list[tuple[int, Question]]:
    return asked(list(held_out(scenes, seed=0)))


def questions(place: GridPlace) -> list[tuple[int, Question]]:
    """What every cell is asked: (number of the scene, question)."""
    return _asked(place.plan.check_scenes)


def _look(place: GridPlace, kind: str, report: Progress) -> None:
    """A tower, and what it sees in the pictures of training and in those held out."""
    folder = place.folder / "towers" / kind
    if (folder / SEEN).exists():
        return
    pool = kept_pool(place.pool)
    stage = replace(place.plan.tower, name=f"{kind} tower")
    tower = teach_tower(CONFIGS[kind](), stage, pool, place.stages / kind, 0, report)
    tower.save_pretrained(folder)
    drawn = held_out(place.plan.check_scenes, seed=0)
    pixels = {"train": pool.pixels, "check": np.stack([shrink(one.pixels, SIZE) for one in drawn])}
    seen = {name: features_of(tower, shown) for name, shown in pixels.items()}
    with whole(folder / SEEN) as part:
        save_file(seen, part)
    shutil.rmtree(place.stages / kind)


@lru_cache(len(TOWERS))
def _tower(folder: Path) -> tuple[PreTrainedModel, dict[str, Tensor]]:
    return AutoModel.from_pretrained(folder).eval().requires_grad_(False), load_file(folder / SEEN)


def _decoder_folder(place: GridPlace, size: str, seed: int) -> Path:
    return place.folder / "decoders" / f"{size}-{seed}"


def _read(place: GridPlace, which: tuple[str, int], report: Progress) -> None:
    """A decoder that has learned to read; all cells of its size and seed begin with it."""
    size, seed = which
    folder = _decoder_folder(place, size, seed)
    if folder.exists():
        return
    tokenizer, pool, lesson = _tokenizer(), kept_pool(place.pool), place.plan.decoders[size].language
    stage = lesson.stage
    torch.manual_seed(seed)
    decoder = GemmaForCausalLM(place.plan.decoders[size].config(tokenizer))
    data = SceneDialogues(pool, lesson.talk, tokenizer, SIDE * SIDE, passes_of(stage, pool), None, seed)
    work = place.stages / folder.name
    named = replace(stage, name=f"{folder.name} language")
    finish(named, decoder, data, Collate(tokenizer.pad_token_id), work, seed, report)
    with whole(folder) as part:
        decoder.save_pretrained(part)
    shutil.rmtree(work)


def _train(place: GridPlace, cell: Cell, report: Progress) -> CellResult:
    """One cell: its connector aligned or not, then decoder and connector together, then asked."""
    started = time.perf_counter()
    tokenizer, pool = _tokenizer(), kept_pool(place.pool)
    tower, seen = _tower(place.folder / "towers" / cell.tower)
    decoder: DecoderSize = place.plan.decoders[cell.size]
    model = compose(
        tower,
        decoder.config(tokenizer),
        tokenizer,
        decoder=GemmaForCausalLM.from_pretrained(_decoder_folder(place, cell.size, cell.seed)),
        sample=seen["train"][:SAMPLE, 1:],
        seed=cell.seed,
    )
    lessons = [*([decoder.align] if cell.aligned else []), decoder.describe, decoder.openly]
    for lesson in lessons:
        teach(model, cell.name, lesson, seen["train"], tokenizer, pool, place.stages, cell.seed, report)
    held = wrap(model.eval(), build_processor(tokenizer, SIZE, PATCH))
    hits = answered(held, questions(place), seen["check"].float(), progress=partial(report, f"{cell.name} answers"))
    with whole(place.models / cell.name) as part:
        held.model.save_pretrained(part)
        held.processor.save_pretrained(part)
    measured = CellResult(cell, np.array(hits), time.perf_counter() - started)
    write(place.cells, measured)
    for lesson in lessons:
        shutil.rmtree(place.stages / f"{cell.name}-{lesson.stage.name}")
    return measured
