"""What each workload times: steps that are run in turn, and rows made of them."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from transformers import BatchFeature

from relevancy.benchmark.busy import BusyShare
from relevancy.benchmark.random_models import random_picture, random_question, random_words
from relevancy.benchmark.setting import Setting
from relevancy.benchmark.variants import PASSES, RUNS, bytes_beside, forward_only
from relevancy.core.targets import Choice
from relevancy.explanations.explain import ExplainConfig, explain
from relevancy.explanations.knockouts import MapInQuestion, evidence_for
from relevancy.export.run import Progress, Request, export
from relevancy.images import Picture
from relevancy.models.model import Model
from relevancy.models.prepared import Example
from relevancy.models.session import Session

QUESTIONS = 4  # in a list about one picture
_EXPORTED_ANSWER = 4  # tokens; a random model does not stop by itself


@dataclass(frozen=True)
class TimedStep:
    """Something to be timed. run: may return more to tell of it, by the name of a row's field.

    passes: roughly what it costs, in forward passes. bytes: what it needs beside the weights, at least. warm: a shorter
    run of the same kind to warm up with, and to weigh. elsewhere: in another process, which warms up by itself, leaves
    that out of the seconds it tells, and cannot be weighed from here.
    """

    run: Callable[[], Any]
    passes: float
    bytes: int = 0
    warm: Callable[[], Any] | None = None
    elsewhere: bool = False


@dataclass(frozen=True)
class Trial:
    """A workload at one length. steps: by name, in their order, "forward" first.

    rows: what is told, each as a sum of steps' seconds with these factors; memory is that of the first of them.
    renew: called before each round. kept: what must live as long.
    """

    steps: Mapping[str, TimedStep]
    rows: Mapping[str, Mapping[str, float]]
    renew: Callable[[], None] = field(default=lambda: None)
    kept: Any = None


class _Asked:
    """Questions of one length, and pictures that no earlier call has seen."""

    def __init__(self, model: Model, setting: Setting, tokens: int) -> None:
        self.model, self.shape, self.tokens = model, setting.shape, tokens
        self.questions = [random_question(model, self.shape, tokens, seed) for seed in range(QUESTIONS)]
        self._seeds = count()

    @property
    def picture(self) -> Image.Image:
        """Another one each time."""
        return random_picture(self.shape, next(self._seeds))

    def inputs(self) -> BatchFeature:
        """Of the model."""
        return self.model.prepare([self.picture], self.questions[:1])

    def forward(self) -> TimedStep:
        """The bare forward pass that all else is measured by."""
        return TimedStep(partial(forward_only, self.model.model, self.inputs()), 1)

    def explain(self, picture: Image.Image | None = None, question: int | slice = 0, **options: Any) -> Any:
        """Maps by the public call, of a new picture by default, with the shortest answer and nothing besides."""
        chosen = {"evidence": False, "max_new_tokens": 1} | options
        return explain(self.model, picture or self.picture, self.questions[question], **chosen)


def map_trial(model: Model, setting: Setting, tokens: int) -> Trial:
    """The variants side by side."""
    inputs = _Asked(model, setting, tokens).inputs()
    steps = {
        name: TimedStep(
            partial(RUNS[name], model.model, inputs),
            PASSES[name],
            bytes_beside(name, setting.shape, tokens, model.dtype.itemsize),
        )
        for name in dict.fromkeys(("forward", *setting.variants))
    }
    return Trial(steps, {name: {name: 1} for name in steps})


def question_trial(model: Model, setting: Setting, tokens: int) -> Trial:
    """Questions about a picture after the first one: in calls of a model that remembers pictures, and in one list."""
    asked = _Asked(model, setting, tokens)
    now: list[Image.Image] = []
    remembering = ExitStack()
    remembering.enter_context(model.remembering())

    def alone() -> None:
        with model.remembering(0):
            asked.explain()

    def listed() -> None:
        with model.remembering(0):
            asked.explain(asked.picture, slice(None))

    steps = {
        "forward": asked.forward(),
        "first": TimedStep(alone, 2),
        "first-remembered": TimedStep(lambda: asked.explain(now[0]), 2),
        "next": TimedStep(lambda: asked.explain(now[0], 1), 1),
        "list": TimedStep(listed, 1 + QUESTIONS),
    }
    rows: dict[str, Mapping[str, float]] = {name: {name: 1} for name in steps if name != "list"}
    rows["next-in-list"] = {"list": 1 / (QUESTIONS - 1), "first": -1 / (QUESTIONS - 1)}
    return Trial(steps, rows, lambda: now.__setitem__(slice(None), [asked.picture]), remembering)


def token_trial(model: Model, setting: Setting, tokens: int) -> Trial:
    """All tokens of an answer beside its first one, one by one and together."""
    asked = _Asked(model, setting, tokens)
    answer = random_words(model, setting.answer, seed=QUESTIONS)
    steps = {
        "forward": asked.forward(),
        "first": TimedStep(partial(asked.explain, answer=answer, target=0), 2),
        "all": TimedStep(partial(asked.explain, answer=answer, target="all"), 1 + setting.answer),
        "together": TimedStep(partial(asked.explain, answer=answer, target="answer"), 2),
    }
    further = setting.answer - 1
    rows = {
        "forward": {"forward": 1.0},
        "first": {"first": 1.0},
        "next": {"all": 1 / further, "first": -1 / further},
        "whole-answer": {"all": 1.0},
        "answer-together": {"together": 1.0},
    }
    return Trial(steps, rows)


def evidence_trial(model: Model, setting: Setting, tokens: int) -> Trial:
    """A map, and the evidence for one from what its forward pass left behind.

    The map that is judged is noise: what evidence costs does not depend on it.
    """
    asked = _Asked(model, setting, tokens)
    with Session(model) as session:
        prepared = session.prepare([Example((Picture(asked.picture),), asked.questions[0])], features=True)
        prefill = session.prefill(prepared)
    (layouts,) = prepared.layouts
    logits, length = prefill.logits[0], prepared.ids.shape[1]
    noise = np.random.default_rng(0).random((layouts[0].grid.rows, layouts[0].grid.cols))
    judged = MapInQuestion(0, length, Choice(0, int(logits.argmax())), logits, [noise], layouts)

    def evidence() -> None:
        with Session(model):
            evidence_for(model, prepared, prefill, [judged])

    steps = {"forward": asked.forward(), "map": TimedStep(asked.explain, 2), "evidence": TimedStep(evidence, 0.3)}
    rows = {
        "forward": {"forward": 1.0},
        "map": {"map": 1.0},
        "evidence": {"evidence": 1.0},
        "map-with-evidence": {"map": 1.0, "evidence": 1.0},
    }
    return Trial(steps, rows)


def export_trial(model: Model, setting: Setting, tokens: int) -> Trial:
    """An export as a user would ask for it, evidence included: so many rows, several about each picture."""
    asked = _Asked(model, setting, tokens)
    folder = tempfile.TemporaryDirectory(prefix="relevancy-bench-")
    place = Path(folder.name)
    items = _write_items(place, asked, setting)
    named: Any = model
    if setting.apart:
        named = str(place / "model")
        model.model.save_pretrained(named)
        model.processor.save_pretrained(named)
    numbers = count()

    def run(rows: int) -> dict[str, Any]:
        request = Request(
            [named],
            str(items),
            place / f"export-{next(numbers)}",
            wish=ExplainConfig(max_new_tokens=_EXPORTED_ANSWER),
            options={"device": setting.device, "dtype": str(model.dtype).removeprefix("torch.")},
            limit=rows,
            processes=1,
            batch=4 if setting.device == "cpu" and setting.size != "demo" else None,
        )
        reached: list[tuple[float, int]] = []
        busy = BusyShare.of(setting)
        with ExitStack() as watching:
            if not setting.apart:
                watching.enter_context(busy)

            def report(progress: Progress) -> None:
                reached.append((time.perf_counter(), progress.done))
                if len(reached) == 1 and setting.apart:
                    watching.enter_context(busy)

            done = export(request, report)
        if done.errors:
            raise RuntimeError(f"{done.errors} of {rows} rows could not be explained")
        told: dict[str, Any] = {"busy": busy.share}
        (begun, before), (ended, after) = reached[0], reached[-1]
        if setting.apart and after > before:  # the process has started and loaded before its first rows are there
            told["seconds"] = (ended - begun) / (after - before) * rows
        return told

    exported = TimedStep(
        partial(run, setting.rows),
        (4 + _EXPORTED_ANSWER / 4) * setting.rows,
        warm=partial(run, min(setting.rows, 4)),
        elsewhere=setting.apart,
    )
    steps = {"forward": asked.forward(), "export": exported}
    return Trial(steps, {"forward": {"forward": 1}, "row": {"export": 1 / setting.rows}}, kept=folder)


def _write_items(place: Path, asked: _Asked, setting: Setting) -> Path:
    for number in range(setting.pictures):
        asked.picture.save(place / f"{number}.png")
    lines = [
        json.dumps(
            {
                "image": f"{row % setting.pictures}.png",
                "question": random_question(asked.model, asked.shape, asked.tokens, seed=row),
            }
        )
        for row in range(setting.rows)
    ]
    items = place / "items.jsonl"
    items.write_text("\n".join(lines) + "\n")
    return items


TRIALS: Mapping[str, Callable[[Model, Setting, int], Trial]] = {
    "map": map_trial,
    "question": question_trial,
    "token": token_trial,
    "evidence": evidence_trial,
    "export": export_trial,
}
