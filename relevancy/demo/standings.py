"""Methods beside each other on held-out scenes: is the map right, faithful, this answer's, confirmed, at what cost?

Beside the methods stand two that look at no answer: noise, and a bump in the picture's middle (the centre prior).
"""

from __future__ import annotations

__all__ = ["MethodStanding"]

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from relevancy.checking.rows import CheckRow
from relevancy.checking.store import ANSWER, SCORES, Store, locked_store
from relevancy.checking.worker import Job, Settings, Worker
from relevancy.core.targets import Choice, shown
from relevancy.demo.held_out import held_out_rows
from relevancy.explanations.explain import explain
from relevancy.explanations.explanation import Explanation
from relevancy.images import open_picture
from relevancy.methods import registry
from relevancy.methods.base import MethodSettings, TargetBatch, opened
from relevancy.methods.functions import MapRequest
from relevancy.methods.registry import MapFunction, Method
from relevancy.metrics.answer_flip import answer_flips
from relevancy.metrics.explainers import BATCH, centre_blob
from relevancy.metrics.localization import against_truth
from relevancy.metrics.patch_order import order
from relevancy.metrics.sanity_checks import similarity
from relevancy.metrics.teacher_forcing import GivenAnswer, TeacherForcing
from relevancy.models.model import Model
from relevancy.models.prepared import Example
from relevancy.models.session import Session
from relevancy.models.vision_cache import digest_of
from relevancy.stats.intervals import Interval, interval

TARGET = "first-relevant"
CONTRAST = "contrast"
NUMBERS: Mapping[str, str] = {
    "pointing": "pointing ↑",
    "energy": "energy ↑",
    "flips": "answer flips ↑",
    "other answer": "other answer ↓",
    "confirmed": "confirmed ↑",
    "confirmed right": "right if confirmed ↑",
}
"""Columns in their order; the arrow says which way is better."""
_AGAINST = ("relevancy", "relevancy-magnitude", "attnlrp")
_TIMED = 15  # passes of each kind; the median counts


@dataclass(frozen=True)
class MethodStanding:
    """One row of the table: the means of `NUMBERS`, and CPU time as a ratio to one forward pass (None of no method).

    pointing, energy: as in a check. flips: the top eighth turns grey, and the answer changes. other answer: rank
    correlation with the map of the next best token in the same place. confirmed: share of maps that the evidence
    confirms. confirmed right: of them, those whose peak lies on the object.
    """

    name: str
    numbers: Mapping[str, Interval]
    cost: float | None


def usual() -> list[str]:
    """The package's methods that cost a few passes, and the contrasts of those whose maps depend on the answer most."""
    found: list[str] = []
    for name, method in registry.METHODS.items():
        if method.quick and method.function is None:
            found += [name, f"{name} {CONTRAST}"] if name in _AGAINST else [name]
    return found


def noise(request: MapRequest) -> np.ndarray:
    """Every patch a random number; the same for the same words."""
    ids = request.inputs["input_ids"]
    rng = np.random.default_rng(int(ids.sum()))
    return rng.random((len(ids), request.rows, request.cols))


def middle(request: MapRequest) -> np.ndarray:
    """The centre prior: a bump in the middle, whatever is asked."""
    down, across = ((2 * np.arange(count) + 1 - count) / (2 * count) for count in (request.rows, request.cols))
    bump = centre_blob(down, across)
    return np.broadcast_to(bump, (len(request.inputs["input_ids"]), *bump.shape)).copy()


_PLANTED: Mapping[str, MapFunction] = {"centre prior": middle, "random": noise}


def standings(
    model: Model,
    folder: Path,
    *,
    scenes: int,
    seed: int,
    methods: Sequence[str],
    progress: Callable[[float], None] = lambda _: None,
) -> list[MethodStanding]:
    """The methods' rows, then the planted ones', on the questions that the model answers rightly, one a scene.

    methods: names, or a name with " contrast" for the explained token against the next best. folder: keeps what is
    found; stopped and started again, the same call goes on, and so does one with more scenes or other methods.
    Raises RelevancyError for a folder of other weights or another seed.
    """
    rows = held_out_rows(scenes, seed)
    weights = digest_of(model.model.state_dict())
    settings = {"model": model.name, "weights": weights, "seed": seed, "target": TARGET}
    worker = Worker(model, rows, {}, Settings(target=TARGET, seed=seed))
    names = (*methods, *_PLANTED)
    starts = range(0, len(rows), BATCH)
    with locked_store(folder, settings) as store:
        for start in starts:
            _judge(model, worker, store, rows, range(start, min(start + BATCH, len(rows))), names)
            progress((start + BATCH) / (len(rows) + BATCH))
    costs = _costs(model, rows[0], [name for name in methods if " " not in name])
    return [_standing(store, rows, name, costs.get(name), seed) for name in names]


def _judge(
    model: Model, worker: Worker, store: Store, rows: Sequence[CheckRow], part: Sequence[int], names: Sequence[str]
) -> None:
    """What is not known yet of some neighbouring rows, kept name by name."""
    if unread := tuple(number for number in part if (rows[number].key, "", ANSWER) not in store.found):
        store.add(worker.do(Job(ANSWER, unread)).results)
    said = {number: store.found[rows[number].key, "", ANSWER] for number in part}
    right = [number for number in part if said[number].get("right") == 1]
    missing = [name for name in names if any((rows[number].key, name, SCORES) not in store.found for number in right)]
    if not missing:
        return
    pictures = [open_picture(rows[number].picture()).image for number in right]
    questions = [rows[number].question for number in right]
    answers = [str(said[number]["said"]) for number in right]
    asked: Any = (model, pictures, questions)
    contrasts = explain(*asked, target=CONTRAST, method="attention", answer=answers, evidence=False)
    rivals = [_rival(model, one) for one in contrasts]
    sights = [
        TeacherForcing(model, picture, question, GivenAnswer.words(model, answer, TARGET))
        for picture, question, answer in zip(pictures, questions, answers, strict=True)
    ]
    for name in missing:
        results = explain(*asked, answer=answers, **_options(name))
        others: Sequence[Explanation | None] = [None] * len(right)
        if CONTRAST not in name and name not in _PLANTED:
            others = explain(*asked, answer=rivals, **_options(name), evidence=False)
        found = []
        for place, number in enumerate(right):
            row, result, sight = rows[number], results[place], sights[place]
            flip = answer_flips(sight, [order(result.image_map, sight.seen, number)])[0]
            likeness = _likeness(result, others[place], contrasts[place].target.contrast_id)
            scores = _scores(result, row.mask() if row.mask else np.zeros(0, bool))
            found.append(((row.key, name, SCORES), scores | likeness | {"flips": float(flip)}))
        store.add(found)


def _options(name: str) -> dict[str, Any]:
    """What `explain` is asked for a row of the table."""
    if name in _PLANTED:
        return {"method": _PLANTED[name], "target": TARGET}
    method, _, target = name.partition(" ")
    return {"method": method, "target": target or TARGET}


def _rival(model: Model, result: Explanation) -> str:
    """The answer as it would begin with the next best token in the explained one's place."""
    before: Any = model.tokenizer.convert_tokens_to_ids(list(result.answer_tokens[: result.target.position]))
    return shown(model.tokenizer, *before, result.target.contrast_id or 0)


def _scores(result: Explanation, mask: np.ndarray) -> dict[str, float]:
    """Numbers of one map; an empty one points nowhere."""
    truth = {name: float(np.nan_to_num(value)) for name, value in against_truth(result, mask).items()}
    confirmed = result.evidence is not None and result.evidence.verdict == "confirmed"
    return {
        "pointing": truth["pointing"],
        "energy": truth["energy"],
        "confirmed": float(confirmed),
        "confirmed right": truth["pointing"] if confirmed else float("nan"),
    }


def _likeness(result: Explanation, other: Explanation | None, rival: int | None) -> dict[str, float]:
    """How alike the map of the next best token is, where words can name that token in the same place."""
    if other is None or (other.target.position, other.target.id) != (result.target.position, rival):
        return {}
    return {"other answer": similarity(result.image_map, other.image_map)}


def _standing(store: Store, rows: Sequence[CheckRow], name: str, cost: float | None, seed: int) -> MethodStanding:
    keys = [(row.key, name, SCORES) for row in rows]
    found = [(key[0], store.found[key]) for key in keys if key in store.found]

    def mean(number: str) -> Interval:
        known = [(values[number], row) for row, values in found if not np.isnan(values.get(number, float("nan")))]
        return interval([value for value, _ in known], [row for _, row in known], seed)

    return MethodStanding(name, {number: mean(number) for number in NUMBERS}, cost)


def _costs(model: Model, row: CheckRow, methods: Sequence[str]) -> dict[str, float]:
    """CPU time of one map of one token, as a ratio to a forward pass, on one row."""

    def forward() -> int:
        return int(session.prefill(prepared).logits[0].argmax())

    def explained(method: Method) -> None:
        with opened(method, model, MethodSettings("language", None, grid.rows, grid.cols)) as reader:
            reader.forward(prepared, 1, use_cache=True)
            reader.read(TargetBatch([Choice(0, token)], [-1], [True]))

    with Session(model) as session:
        prepared = session.prepare([Example((open_picture(row.picture()),), row.question)])
        grid, token = prepared.layouts[0][0].grid, forward()
        known = [registry.found(name) for name in methods]
        taken: dict[str, list[float]] = {name: [] for name in ("", *methods)}
        for _ in range(_TIMED):
            taken[""].append(_seconds(forward))
            for method in known:
                taken[method.name].append(_seconds(partial(explained, method)))
    return {name: median(taken[name]) / median(taken[""]) for name in methods}


def _seconds(run: Callable[[], Any]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def markdown(model: str, seed: int, found: Sequence[MethodStanding]) -> str:
    """One model's table."""
    rows = max(one.numbers["pointing"].rows for one in found)
    return "\n".join((f"### {model}: {rows} right answers, one a scene, seed {seed}", "", *_lines(found), ""))


def _lines(found: Sequence[MethodStanding]) -> Iterator[str]:
    yield f"| method | {' | '.join(NUMBERS.values())} | forward passes ↓ |"
    yield "| --- " * (len(NUMBERS) + 2) + "|"
    for one in found:
        cells = [str(one.numbers[number]) for number in NUMBERS]
        yield f"| {one.name} | {' | '.join(cells)} | {'–' if one.cost is None else f'{one.cost:.1f}'} |"
