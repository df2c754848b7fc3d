"""Do answers about drawn scenes need the picture, and of it the patches of what was asked about, or any patches?

What a report says of two models' use of the picture is held against the objects themselves, whose outlines are known.
"""

from __future__ import annotations

__all__ = ["AskedObjects", "ObjectUse", "asked_objects", "object_use", "write_items"]

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from relevancy.atomic_io import write_whole, writing
from relevancy.core import targets
from relevancy.demo.evaluation import held_out
from relevancy.demo.liars import outline
from relevancy.demo.questions import Question
from relevancy.demo.world import Scene
from relevancy.geometry import Grid
from relevancy.images import Picture
from relevancy.models import knockout
from relevancy.models.knockout import Variant
from relevancy.models.model import Model
from relevancy.models.prepared import Example
from relevancy.models.session import Session

TARGET = "first-relevant"
QUESTIONS = 2  # of each scene
COVERED = 0.05  # of a patch: with so much of it under the objects it is theirs
DRAWS = 2  # places elsewhere
_BATCH = 16


@dataclass(frozen=True)
class AskedObjects:
    """One question of a scene, and its number among those asked."""

    scene: Scene
    number: int
    question: Question

    @property
    def key(self) -> str:
        """What it is called in files."""
        return f"{self.scene.seed}-{self.number}"

    @property
    def mask(self) -> np.ndarray:
        """The visible pixels of what is asked about, bool (height, width)."""
        return self.scene.mask(*self.question.items)


@dataclass(frozen=True)
class ObjectUse:
    """By how much the next token's distribution moves (total variation, 0 to 1) once patches are knocked out.

    whole: all of the picture. objects: those of what is asked about. elsewhere: as many in the same shape where these
    objects are least, the mean of two draws. patches: how many the objects have.
    """

    whole: float
    objects: float
    elsewhere: float
    patches: int


def asked_objects(scenes: int, seed: int) -> list[AskedObjects]:
    """Two questions of each held-out scene, one about exactly one visible object first, where there is one.

    Questions about what is not in the picture are among them; they have no `items`.
    """
    return [AskedObjects(drawn, *chosen) for drawn in held_out(scenes, seed) for chosen in _chosen(drawn.questions)]


def _chosen(questions: Sequence[Question]) -> list[tuple[int, Question]]:
    """Numbered anew; the first about one object goes ahead, the others stay as they are."""
    first = next((place for place, one in enumerate(questions) if len(one.items) == 1), 0)
    ordered = [questions[first], *questions[:first], *questions[first + 1 :]]
    return list(enumerate(ordered[:QUESTIONS]))


def write_items(asked: Sequence[AskedObjects], folder: Path) -> Path:
    """The questions as `relevancy export` and `check` take them, with pictures, right answers and masks of objects."""
    with writing(folder):
        for name in ("pictures", "masks"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        lines = []
        for one in asked:
            picture, mask = f"pictures/{one.scene.seed}.png", f"masks/{one.key}.png"
            one.scene.image.save(folder / picture)
            line = {"id": one.key, "image": picture, "question": one.question.text, "answer": one.question.answer}
            line |= {"type": one.question.type, "form": one.question.form}
            if one.question.items:
                Image.fromarray(one.mask).save(folder / mask)
                line["mask"] = mask
            lines.append(json.dumps(line))
        items = folder / "items.jsonl"
        write_whole(items, "\n".join(lines) + "\n")
    return items


def object_use(
    model: Model, asked: Sequence[AskedObjects], progress: Callable[[float], None] = lambda _: None
) -> list[ObjectUse]:
    """Of questions about visible objects, for the first relevant token of the model's own answer."""
    found: list[ObjectUse] = []
    for start in range(0, len(asked), _BATCH):
        found += _used(model, asked[start : start + _BATCH])
        progress(min(start + _BATCH, len(asked)) / len(asked))
    return found


def _used(model: Model, asked: Sequence[AskedObjects]) -> Iterator[ObjectUse]:
    examples = [Example((Picture(one.scene.image),), one.question.text) for one in asked]
    with Session(model) as session:
        prepared = session.prepare(examples, features=True)
        prefill = session.prefill(prepared)
        answers = session.generate(prefill.branch())
        ends = [targets.choose(TARGET, answer or [0], model.tokenizer)[0].position for answer in answers]
        if any(ends):
            said = [answer[:end] for answer, end in zip(answers, ends, strict=True)]
            prepared = session.prepare(examples, said, features=True)
            prefill = session.prefill(prepared)
        areas = [_areas(one, layouts[0].grid) for one, layouts in zip(asked, prepared.layouts, strict=True)]
        variants = [
            Variant(row, int(prepared.kept[row].sum()), torch.from_numpy(prepared.layouts[row][0].hidden_with(area)))
            for row, own in enumerate(areas)
            for area in own
        ]
        logits = torch.cat(knockout.logits_of(model, prefill, variants)).unflatten(0, (len(asked), -1))
    shares, plain = logits.double().softmax(-1), prefill.logits.double().softmax(-1)
    distances = (shares - plain[:, None]).abs().sum(-1) / 2
    for (_, objects, *_), (whole, own, *elsewhere) in zip(areas, distances.tolist(), strict=True):
        yield ObjectUse(whole, own, sum(elsewhere) / len(elsewhere), int(objects.sum()))


def _areas(asked: AskedObjects, grid: Grid) -> list[np.ndarray]:
    """The whole picture, the objects' patches, and as many elsewhere, `DRAWS` times; each bool (rows, cols)."""
    scene = asked.scene
    sizes = np.outer(np.diff(grid.y_edges), np.diff(grid.x_edges))
    covered = outline(scene, asked.question.items, grid) / sizes
    objects = (covered >= COVERED) | (covered == covered.max())
    moved = [np.roll(objects, (down, across), (0, 1)) for down, across in np.ndindex(objects.shape) if down or across]
    order = np.random.default_rng([scene.seed, asked.number]).permutation(len(moved))
    apart = sorted(order, key=lambda place: int((moved[place] & objects).sum()))
    return [np.ones_like(objects), objects, *(moved[place] for place in apart[:DRAWS])]
