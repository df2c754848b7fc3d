"""Whether models use the picture on a benchmark: its scores beside what knocking the picture out does to answers."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from relevancy import __version__
from relevancy.atomic_io import whole_files
from relevancy.evaluate.benchmarks import benchmark
from relevancy.evaluate.runner import Evaluation
from relevancy.evaluate.scores import BenchmarkScore
from relevancy.evaluate.table import PairedScore
from relevancy.explanations.evidence import BLIND_TV
from relevancy.explanations.explanation import finite
from relevancy.report.contents import without_pictures
from relevancy.report.gallery import Card, Drawer, Shelf, ShelfRow, first_places
from relevancy.report.groups import Grouping
from relevancy.report.measures import Series, measure
from relevancy.report.page import templates
from relevancy.report.pair_findings import Pair
from relevancy.report.source import open_source
from relevancy.stats.clustered import Estimate, Sample, gaps, means
from relevancy.stats.intervals import Resamples

_TV, _TOKEN, _BLIND = "evidence_blind_tv", "token", "evidence_blind_token"
_READ = ("id", "in_category", _TV, _TOKEN, _BLIND)
_OPENINGS = 6  # commonest first words that are told


@dataclass(frozen=True)
class ModelUse:
    """One model's explained answers.

    needs: share whose first token's distribution moves by `BLIND_TV` or more without the picture. change: by how much
    it moves on average. right_needing, right_otherwise: how right answers of both kinds are; gap: the one less the
    other, gap_within the same within categories. unseen: share of right answers that would begin with the same token
    without the picture. openings: the commonest first tokens without it, with their shares.
    """

    name: str
    rows: int
    pictures: int
    right: Estimate
    needs: Estimate
    change: Estimate
    right_needing: Estimate
    right_otherwise: Estimate
    gap: Estimate
    gap_within: Estimate
    unseen: Estimate
    openings: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class UseDifference:
    """First less second over the questions that both have explained answers to."""

    first: str
    second: str
    rows: int
    right: Estimate
    needs: Estimate
    change: Estimate
    same: Estimate


@dataclass(frozen=True)
class UseGroup:
    """One category of questions: by model how often the picture is needed, and how right the answers are."""

    value: str
    rows: int
    needs: Mapping[str, Estimate]
    right: Mapping[str, Estimate]


@dataclass(frozen=True)
class PictureUse:
    """All that the page of a benchmark says.

    grouped: what the groups are, the benchmark's categories or forms of questions. differences: of scores.
    """

    benchmark: str
    title: str
    scores: Mapping[str, BenchmarkScore | None] = field(repr=False)
    differences: tuple[PairedScore, ...]
    models: tuple[ModelUse, ...]
    pairs: tuple[UseDifference, ...]
    grouped: str
    groups: tuple[UseGroup, ...]
    left_out: int
    questions: int
    gallery: tuple[tuple[Shelf, tuple[Card, ...]], ...]
    version: str = __version__

    def to_json(self) -> dict[str, Any]:
        """Every number on the page; what is unknown is null."""
        known = {"benchmark": self.benchmark, "version": self.version, "blind_tv": BLIND_TV, "grouped": self.grouped}
        listed = {
            "models": [asdict(one) for one in self.models],
            "pairs": [asdict(one) for one in self.pairs],
            "groups": [asdict(one) for one in self.groups],
            "gallery": [
                {"title": shelf.title, "cards": [without_pictures(asdict(card)) for card in cards]}
                for shelf, cards in self.gallery
            ],
        }
        scores = {name: None if one is None else one.to_json() for name, one in self.scores.items()}
        found: dict[str, Any] = finite(
            known | {"scores": scores, "differences": [one.to_json() for one in self.differences]} | listed
        )
        return found

    def html(self) -> str:
        """The page, which needs nothing else."""
        colors = {one.name: f"c{place % 4}" for place, one in enumerate(self.models)}
        return templates().get_template("benchmark.html").render(report=self, colors=colors, blind=BLIND_TV)

    def save(self, folder: Path) -> Path:
        """BENCHMARK.html and BENCHMARK.json, both or none; gives the page's path."""
        with whole_files(folder) as part:
            (part / f"{self.benchmark}.html").write_text(self.html(), encoding="utf-8")
            numbers = json.dumps(self.to_json(), ensure_ascii=False, indent=1, allow_nan=False)
            (part / f"{self.benchmark}.json").write_text(numbers, encoding="utf-8")
        return folder / f"{self.benchmark}.html"


@dataclass(frozen=True, eq=False)
class _Answers:
    """One model's answers that have evidence, each array (rows,).

    change: total variation without the picture. right: from 0 to 1, NaN where no one graded. same: whether the answer
    would begin with the same token without the picture.
    """

    series: Series
    change: np.ndarray
    right: np.ndarray
    same: np.ndarray
    groups: list[str]

    @property
    def needs(self) -> np.ndarray:
        return np.where(np.isfinite(self.change), self.change >= BLIND_TV, np.nan)

    def sample(self, values: np.ndarray, chosen: np.ndarray | None = None) -> Sample:
        """Of all rows, or of those chosen (rows,) bool."""
        known = np.isfinite(self.change) if chosen is None else chosen & np.isfinite(self.change)
        return Sample.of(np.where(known, values, np.nan), self.series.pictures)


def picture_use(done: Evaluation, differences: Sequence[PairedScore] = (), gallery: int = 4) -> PictureUse:
    """What a benchmark's explained answers say. Raises RelevancyError where none is explained."""
    source = open_source(done.export)
    measured = measure([source], _READ)
    drawn = Resamples(measured.pictures)
    categories = {value for one in measured.series for value in one.groups["in_category"]}
    grouped = "category" if len(categories) > 1 else "form of question"
    answers = [_answers(one, done.scores[one.model], grouped) for one in measured.series]
    grouping = Grouping.of([one.groups for one in answers])
    places = [grouping.places(one.groups) for one in answers]
    groups = sorted(
        (_group(value, number, answers, places, drawn) for number, value in enumerate(grouping.names)),
        key=lambda one: min((each.value for each in one.needs.values() if each.value is not None), default=1.0),
    )
    shelves = list(_shelves(answers, gallery))
    drawer = Drawer([source], measured.series, [choice for shelf in shelves for choice in shelf.choices])
    rights = {one.series.name: dict(zip(one.series.keys.tolist(), one.right.tolist(), strict=True)) for one in answers}
    return PictureUse(
        benchmark=done.benchmark,
        title=benchmark(done.benchmark).title,
        scores=done.scores,
        differences=tuple(differences),
        models=tuple(_model(one, own, len(grouping.names), drawn) for one, own in zip(answers, places, strict=True)),
        pairs=tuple(_pair(*two, drawn) for two in combinations(answers, 2)),
        grouped=grouped,
        groups=tuple(groups),
        left_out=grouping.left_out,
        questions=len({key for one in measured.series for key in one.keys.tolist()}),
        gallery=tuple(
            (shelf, tuple(_marked(drawer.card(choice, apart=False), choice, rights) for choice in shelf.choices))
            for shelf in shelves
        ),
    )


def _answers(one: Series, score: BenchmarkScore | None, grouped: str) -> _Answers:
    rights = {} if score is None else score.rights
    columns = one.groups
    same = [token == blind for token, blind in zip(columns[_TOKEN], columns[_BLIND], strict=True)]
    return _Answers(
        one,
        np.array([np.nan if value is None else value for value in columns[_TV]], np.float64),
        np.array([rights.get(own, np.nan) for own in columns["id"]], np.float64),
        np.array(same, np.float64),
        one.forms if grouped == "form of question" else [str(value or "") for value in columns["in_category"]],
    )


def _model(one: _Answers, places: np.ndarray, groups: int, drawn: Resamples) -> ModelUse:
    needs, right = one.needs == 1, one.right >= 0.5
    halves = one.sample(one.right, needs), one.sample(one.right, ~needs)
    within = [
        (one.sample(one.right, needs & (places == number)), one.sample(one.right, ~needs & (places == number)))
        for number in range(groups)
    ]
    right_all, needing, change, right_needing, right_otherwise, unseen = means(
        [one.sample(one.right), one.sample(one.needs), one.sample(one.change), *halves, one.sample(one.same, right)],
        drawn,
    )
    gap, gap_within = gaps([[halves], within], drawn)
    known = [str(token) for token in one.series.groups[_BLIND] if token is not None]
    return ModelUse(
        name=one.series.name,
        rows=needing.rows,
        pictures=needing.pictures,
        right=right_all,
        needs=needing,
        change=change,
        right_needing=right_needing,
        right_otherwise=right_otherwise,
        gap=gap,
        gap_within=gap_within,
        unseen=unseen,
        openings=tuple((token, count / len(known)) for token, count in Counter(known).most_common(_OPENINGS)),
    )


def _pair(one: _Answers, other: _Answers, drawn: Resamples) -> UseDifference:
    both = Pair.of(one.series, other.series)
    columns = [
        first[both.in_first] - second[both.in_second]
        for first, second in (
            (one.right, other.right), (one.needs, other.needs), (one.change, other.change), (one.same, other.same)
        )
    ]  # fmt: skip
    estimates = means([both.sample(values) for values in columns], drawn)
    return UseDifference(one.series.name, other.series.name, len(both.in_first), *estimates)


def _group(
    value: str, number: int, answers: Sequence[_Answers], places: Sequence[np.ndarray], drawn: Resamples
) -> UseGroup:
    samples = [
        one.sample(values, own == number)
        for one, own in zip(answers, places, strict=True)
        for values in (one.needs, one.right)
    ]
    found, names = means(samples, drawn), [one.series.name for one in answers]
    keys = [one.series.keys[own == number] for one, own in zip(answers, places, strict=True)]
    return UseGroup(
        value,
        len(np.unique(np.concatenate(keys))),
        dict(zip(names, found[::2], strict=True)),
        dict(zip(names, found[1::2], strict=True)),
    )


def _shelves(answers: Sequence[_Answers], count: int) -> Iterator[Shelf]:
    """Rows that tell most about looking and being right, of each model or pair of models."""
    for one in answers:
        right, wrong, name = one.right >= 0.5, one.right < 0.5, one.series.name
        yield _shelf(
            f"{name}: right without looking",
            "Right answers that change least without the picture, and would begin the same.",
            one, np.where(right & (one.same == 1), one.change, np.nan), count, sign=1,
        )  # fmt: skip
        yield _shelf(
            f"{name}: right because of the picture",
            "Right answers that change most without it.",
            one, np.where(right, one.change, np.nan), count, sign=-1,
        )  # fmt: skip
        yield _shelf(
            f"{name}: looked, and wrong",
            "Wrong answers that change most without the picture.",
            one, np.where(wrong, one.change, np.nan), count, sign=-1,
        )  # fmt: skip
    for one, other in ((first, second) for pair in combinations(answers, 2) for first, second in (pair, pair[::-1])):
        both = Pair.of(one.series, other.series)
        apart = (one.right[both.in_first] >= 0.5) & (other.right[both.in_second] < 0.5)
        change = np.full(len(one.series), np.nan)
        change[both.in_first] = np.where(apart, one.change[both.in_first] - other.change[both.in_second], np.nan)
        yield _shelf(
            f"{one.series.name} is right, {other.series.name} is not",
            "Those first whose answer depends more on the picture in the model that is right.",
            one, change, count, sign=-1,
        )  # fmt: skip


def _shelf(title: str, reason: str, one: _Answers, values: np.ndarray, count: int, *, sign: int) -> Shelf:
    chosen = first_places(sign * values, one.series.pictures, count)
    choices = tuple(ShelfRow(int(one.series.keys[at]), float(values[at]), one.series.name) for at in chosen)
    return Shelf(title, reason, "change", int(np.isfinite(values).sum()), choices)


def _marked(card: Card, choice: ShelfRow, rights: Mapping[str, Mapping[int, float]]) -> Card:
    """The card with right and wrong as the benchmark counts them."""

    def told(model: str) -> bool | None:
        value = rights[model].get(choice.key, np.nan)
        return None if np.isnan(value) else bool(value >= 0.5)

    return replace(card, seen=tuple(replace(one, correct=told(one.model)) for one in card.seen))
