"""Several models, one picture and question: maps on one scale, and how likely each is to say what the others say."""

from __future__ import annotations

__all__ = ["Comparison", "compare", "compared", "growing"]

import json
import os
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from relevancy import formats
from relevancy.atomic_io import whole_files
from relevancy.core.tape import Scope
from relevancy.errors import RelevancyError
from relevancy.explanations.agreement import Agreement, agreement
from relevancy.explanations.explanation import Explanation, as_html, finite
from relevancy.explanations.map_batch import ExplainConfig, MapBatch
from relevancy.images import MAX_PIXELS, Picture, Source
from relevancy.methods.registry import DEFAULT, MapFunction
from relevancy.models import generation, memory
from relevancy.models.conversation import Conversation, pictured
from relevancy.models.generation import MAX_NEW_TOKENS, Likelihood, Prefill
from relevancy.models.model import Model, load
from relevancy.models.prepared import Example
from relevancy.models.session import Session
from relevancy.models.vision_cache import VisionCache
from relevancy.plotting import figures, overlay
from relevancy.videos import Video, open_shown

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Progress = Callable[[str, float], None]
_UNREAD = float("nan")
_DARK = 0.3  # of the scale: on drawn scenes a peak of 0.22 was not to be seen, one of 0.33 was
_JSON = "comparison.json"


@dataclass(frozen=True)
class Comparison:
    """Explanations of one question by several models, and the agreement of each two of them.

    likelihoods: `[i][j]` is how likely model i is to say the answer of model j, its own where i is j; None where that
        was not read. Without models (`compared`), it may be empty; while it grows (`growing`), agreement is empty, too.
    """

    explanations: tuple[Explanation, ...]
    agreement: tuple[Agreement, ...] = ()
    likelihoods: tuple[tuple[Likelihood | None, ...], ...] = ()

    def scale(self, *, smooth: bool = True) -> tuple[float, float]:
        """Ends of the one color scale for all maps that are drawn, raw relevance; (0, 0) if all are empty."""
        return overlay.value_range(self._heatmaps(smooth=smooth))

    def word_scale(self) -> tuple[float, float]:
        """Ends of the one color scale for all words, control tokens left out."""
        return figures.word_range([result.words(whole=True) for result in self.explanations])

    def overlays(
        self,
        *,
        smooth: bool = True,
        shared_scale: bool | None = None,
        floor: float = overlay.FLOOR,
        picture: int = 0,
        **options: Any,
    ) -> list[Image.Image]:
        """Each map over the picture.

        shared_scale: as in `figure`. `floor`, `picture` and `options` as in `Explanation.overlay`.
        """
        if self._on_one(shared_scale):
            low, high = overlay.value_range(self._heatmaps(smooth=smooth, floor=floor))
            options = {"vmin": low, "vmax": high} | options
        return [one.overlay(smooth=smooth, floor=floor, picture=picture, **options) for one in self.explanations]

    def _heatmaps(self, *, smooth: bool = True, floor: float = overlay.FLOOR) -> list[np.ndarray]:
        """All that is drawn: of every model, on every picture."""
        return [one.shown(smooth=smooth, floor=floor)[0] for result in self.explanations for one in result.pictures]

    def reduced(self, max_side: int) -> Comparison:
        """The same numbers on smaller pictures, as in `Explanation.reduced`."""
        return replace(self, explanations=tuple(result.reduced(max_side) for result in self.explanations))

    def figure(
        self, *, smooth: bool = True, floor: float = overlay.FLOOR, shared_scale: bool | None = None, **options: Any
    ) -> Figure:
        """All maps side by side.

        shared_scale: all on one scale, or each on its own; by default on one, unless that leaves a map dark. floor: as
        in `Explanation.shown`. options: as in `figures.figure`.
        """
        panels = [
            replace(
                result.panel(smooth=smooth, floor=floor, picture=picture),
                answers=self._answers_of(number) if picture == 0 else (),
            )
            for picture in range(max(1, len(self.explanations[0].pictures)))
            for number, result in enumerate(self.explanations)
        ]
        drawn = {
            "notes": [*self.findings(shared_scale=shared_scale), *(one.how for one in self.explanations)]
        } | options
        one_scale = self._on_one(shared_scale)
        return figures.figure(panels, question=self.explanations[0].question, shared_scale=one_scale, **drawn)

    def findings(self, *, shared_scale: bool | None = None) -> list[str]:
        """What the evidence says of each map, how far the maps agree, and what that is worth, a line each.

        shared_scale: as in `figure`; maps that are hardly seen on one scale, or would be, are named.
        """
        told = [f"{one.model}: {one.evidence.sentence}" for one in self.explanations if one.evidence is not None]
        told += self._of_scales(shared_scale)
        told += [pair.summary() for pair in self.agreement if self.explanations[0].pictures]
        if self.agreement and any(one.evidence and one.evidence.verdict != "confirmed" for one in self.explanations):
            told.append("Agreement says little about maps that are not confirmed.")
        return told

    def _on_one(self, shared_scale: bool | None) -> bool:
        return not self._dark if shared_scale is None else shared_scale

    def _of_scales(self, shared_scale: bool | None) -> list[str]:
        """What is to be known of brightness: whose map is, or would be, hardly seen on a scale that all share."""
        dark = self._dark
        if shared_scale is None and dark:
            peaks = ", ".join(f"{name}'s {percent}" for name, percent in dark)
            return [f"Each map has a scale of its own; on one, some would be dark ({peaks} of the highest peak)."]
        return [
            f"{name}'s map is dark on the one scale: its peak is {percent} of the highest."
            for name, percent in dark
            if shared_scale
        ]

    @cached_property
    def _dark(self) -> list[tuple[str, str]]:
        """Whose map is drawn, but hardly seen on one scale, and its peak as a part of the highest."""
        peaks = [
            max(map(abs, overlay.value_range([one.shown()[0] for one in result.pictures])))
            for result in self.explanations
        ]
        return [
            (result.model, overlay.percent(peak / max(peaks)))
            for result, peak in zip(self.explanations, peaks, strict=True)
            if 0 < peak < _DARK * max(peaks)
        ]

    def _repr_html_(self) -> str:
        told = "\n".join(result.summary() for result in self.explanations)
        notes = [f"{result.model}: {note}" for result in self.explanations for note in result.notes]
        return as_html(self.figure(), told, notes)

    def _answers_of(self, number: int) -> list[tuple[str, float]]:
        """Each answer, once, with the model's probability per token."""
        if not self.likelihoods:
            return []
        read = zip(self.explanations, self.likelihoods[number], strict=True)
        found = {result.answer: _UNREAD if likelihood is None else likelihood.per_token for result, likelihood in read}
        # An answer of its own is read in its own tokens, whichever other model says the same.
        own = self.likelihoods[number][number]
        if own is not None:
            found[self.explanations[number].answer] = own.per_token
        return [(f"“{answer}”" if answer else "nothing", probability) for answer, probability in found.items()]

    def save(
        self, folder: str | os.PathLike[str], *, floor: float = overlay.FLOOR, shared_scale: bool | None = None
    ) -> Path:
        """Write comparison.json, side-by-side.png and .pdf, and each model's results in a numbered folder.

        All of them or none; those of an earlier comparison that are there go, other files stay. floor, shared_scale: as
        in `figure`.
        """
        path = Path(folder)
        with whole_files(path, self.saved_in(path)) as part:
            for number, result in enumerate(self.explanations):
                result.write_files(part / f"{number}-{Path(result.model).name}", floor=floor)
            stored = json.dumps(self.to_json(), ensure_ascii=False, indent=1, allow_nan=False)
            (part / _JSON).write_text(stored, encoding="utf-8")
            drawn = self.figure(floor=floor, shared_scale=shared_scale)
            drawn.savefig(part / "side-by-side.png")
            drawn.savefig(part / "side-by-side.pdf")
        return path

    @staticmethod
    def saved_in(folder: Path) -> list[Path]:
        """The files that `save` wrote into a folder; none where it holds no comparison."""
        own = [folder / name for name in (_JSON, "side-by-side.png", "side-by-side.pdf")]
        if not own[0].is_file():
            return []
        results = [file for place in folder.glob("[0-9]*-*") for file in Explanation.saved_in(place)]
        return [*filter(Path.is_file, own), *results]

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Comparison:
        """The comparison that `save` wrote. Raises RelevancyError when the folder does not hold one."""
        path = Path(folder)
        try:
            stored = json.loads((path / _JSON).read_text(encoding="utf-8"))
            formats.require_known(stored, formats.COMPARISON, path / _JSON)
            names = [f"{number}-{Path(one['model']).name}" for number, one in enumerate(stored["models"])]
            return cls.from_json(stored, [Explanation.load(path / name) for name in names])
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise RelevancyError(f"{path} holds no comparison that can be read: {error}") from error

    @classmethod
    def from_json(cls, stored: Mapping[str, Any], explanations: Sequence[Explanation]) -> Comparison:
        """What `to_json` gave, and the explanations that it is of."""
        pairs = [Agreement(**{key: _agreed(value) for key, value in one.items()}) for one in stored["agreement"]]
        read, count = [_likelihood(one) for one in stored["probabilities"]], len(explanations)
        rows = tuple(tuple(read[start : start + count]) for start in range(0, len(read), count))
        return cls(tuple(explanations), tuple(pairs), rows)

    def to_json(self) -> dict[str, Any]:
        """The question, each model's answer with its numbers, and the agreements; not-a-number becomes null."""
        stored: dict[str, Any] = {
            formats.KEY: formats.COMPARISON,
            "question": self.explanations[0].question,
            "models": [
                {
                    "model": result.model,
                    "answer": result.answer,
                    "target": asdict(result.target),
                    "shares": dict(result.shares),
                    "evidence": None if result.evidence is None else result.evidence.to_json(),
                    "notes": list(result.notes),
                }
                for result in self.explanations
            ],
            "probabilities": [
                {"model": result.model, "answer_of": other.model, "answer": other.answer}
                | (asdict(likelihood) if likelihood else {})
                for result, row in zip(self.explanations, self.likelihoods, strict=False)
                for other, likelihood in zip(self.explanations, row, strict=True)
            ],
            "agreement": [asdict(pair) for pair in self.agreement],
        }
        return {key: finite(value) for key, value in stored.items()}


def compare(
    models: Iterable[Model | str],
    image: Source | Sequence[Source] | None,
    question: str | Sequence[dict[str, Any]],
    *,
    keep: bool | None = None,
    loader: Callable[[str], Model] = load,
    progress: Progress | None = None,
    target: str | int = "first",
    scope: Scope = "language",
    method: str | MapFunction = DEFAULT,
    layers: Iterable[int] | None = None,
    answer: str | None = None,
    max_new_tokens: int = MAX_NEW_TOKENS,
    evidence: bool = True,
    max_pixels: int = MAX_PIXELS,
) -> Comparison:
    """Explain one question about one picture by each model, and read each model's answer with all the others.

    image, question: as in `explain`, of one question; a list of pictures is several in it, None is words alone.
    models: held by the caller, or names for `loader`. They are taken one after the other; of names, one stays in memory
        beside the next only where memory is ample (`relevancy.models.memory`), or as `keep` says. One that did not stay
        is loaded a second time, for the answers that came after its own. Each of an iterator's models is let go before
        the next is asked for, and reads only the answers known by then.
    target (not "all") and what follows it: as in `explain`; every map equals that of a call of `explain` on its own,
        bit for bit. Towers with the same weights run once for all models, with scope "language" only: "full" takes
        gradients through each of them.
    progress: called as each stage begins, with its name and the share of the whole that is done; at last ("done", 1.0).
        What it raises stops the comparison, models given back.
    An answer is read by another model in that model's own tokens, in the likelier of two spellings: with a space before
    it, or without. Raises RelevancyError.
    """
    steps = growing(
        models, image, question, keep=keep, loader=loader, progress=progress, target=target, scope=scope,
        method=method, layers=layers, answer=answer, max_new_tokens=max_new_tokens, evidence=evidence,
        max_pixels=max_pixels,
    )  # fmt: skip
    (whole,) = deque(steps, maxlen=1)
    return whole


def growing(
    models: Iterable[Model | str],
    image: Source | Sequence[Source] | None,
    question: str | Sequence[dict[str, Any]],
    *,
    keep: bool | None = None,
    loader: Callable[[str], Model] = load,
    progress: Progress | None = None,
    target: str | int = "first",
    scope: Scope = "language",
    method: str | MapFunction = DEFAULT,
    layers: Iterable[int] | None = None,
    answer: str | None = None,
    max_new_tokens: int = MAX_NEW_TOKENS,
    evidence: bool = True,
    max_pixels: int = MAX_PIXELS,
) -> Iterator[Comparison]:
    """The comparison as it grows, arguments as in `compare`: one explanation more each time, at last the whole.

    Nothing waits for the numbers: answers are read and maps compared after all explanations were handed out (but an
    iterator's models read in their only turn). Between two steps no model's lock is held, and stopping there leaves
    the models as they were. Raises RelevancyError, with the first step at the earliest.
    """
    wish = ExplainConfig(target, scope, method, layers, max_new_tokens, evidence)
    if wish.several:
        raise RelevancyError(
            f'A comparison makes one map of each answer, not "{target}": choose another target, such as answer.'
        )
    listed = list(models) if isinstance(models, Collection) and not isinstance(models, str) else None
    if isinstance(models, str) or (listed is not None and len(listed) < 2):
        raise RelevancyError("A comparison needs at least two models.")
    sources, said = pictured(image, question)
    pictures = tuple(open_shown(source, max_pixels=max_pixels) for source in sources)
    turns = _Turns(pictures, said, answer, wish, keep, loader, progress or _silent, listed)
    # map: a loop over the models themselves would hold one while the next is loaded
    for _ in map(turns.explain, listed or models):
        yield Comparison(tuple(turns.explanations))
    if len(turns.explanations) < 2:
        raise RelevancyError("A comparison needs at least two models.")
    turns.read_later_answers()
    turns.report("comparing the maps")
    found = compared(turns.explanations, turns.likelihoods())
    turns.progress("done", 1.0)
    yield found


def compared(
    explanations: Sequence[Explanation], likelihoods: Sequence[Sequence[Likelihood | None]] = ()
) -> Comparison:
    """The comparison of explanations that are already there, of one picture and question; no model is needed."""
    pairs = tuple(agreement(*pair) for pair in combinations(explanations, 2))
    return Comparison(tuple(explanations), pairs, tuple(map(tuple, likelihoods)))


def _agreed(value: Any) -> Any:
    """A number of an agreement from JSON, in which null stands for NaN, and a list for a pair."""
    return tuple(map(_agreed, value)) if isinstance(value, list) else _UNREAD if value is None else value


def _likelihood(stored: Mapping[str, Any]) -> Likelihood | None:
    """How likely an answer is, from JSON; None where that was not read."""
    known: dict[str, Any] = {
        one.name: _UNREAD if stored[one.name] is None else stored[one.name]
        for one in fields(Likelihood)
        if one.name in stored
    }
    return Likelihood(**known) if known else None


def _silent(stage: str, share: float) -> None:
    """Progress that nobody asked for."""


class _Turns:
    """Each model's turn to explain its answer, and then, once all answers are known, to read them."""

    def __init__(
        self,
        pictures: tuple[Picture | Video, ...],
        question: str | Conversation,
        answer: str | None,
        wish: ExplainConfig,
        keep: bool | None,
        loader: Callable[[str], Model],
        progress: Progress,
        listed: list[Model | str] | None,
    ) -> None:
        self.pictures, self.question, self.answer, self.wish = pictures, question, answer, wish
        self.keep, self.loader, self.progress, self.listed = keep, loader, progress, listed
        self.explanations: list[Explanation] = []
        self.read: dict[int, list[Likelihood | None]] = {}
        self.held: dict[int, tuple[Model, Prefill | None]] = {}
        self.towers = VisionCache()
        self.stages = 0

    def explain(self, given: Model | str) -> None:
        """A model's first turn: its explanation, and whether it stays to read the answers."""
        number = len(self.explanations)
        model = self.loaded(given)
        self.report(f"{model.name} explains its answer")
        result, prompt = self.explained(model)
        self.explanations.append(result)
        if self.listed is None:
            self.read_answers(number, model, prompt)
            return
        last = number == len(self.listed) - 1  # and so the first to read
        if last or isinstance(given, Model) or (memory.may_stay(model) if self.keep is None else self.keep):
            self.held[number] = model, prompt

    def explained(self, model: Model) -> tuple[Explanation, Prefill | None]:
        given = None if self.answer is None else generation.encoded(model, self.answer)
        with Session(model, self.towers) as session:
            batch = MapBatch(session, [Example(self.pictures, self.question, given)], self.wish, keep_prompt=True)
            ((result,),) = batch.results()
        return result, batch.prompt

    def loaded(self, given: Model | str) -> Model:
        if isinstance(given, Model):
            return given
        self.progress(f"loading {given}", self.share())
        try:
            return self.loader(given)
        except RelevancyError:
            staying = [number for number in self.held if self.listed and isinstance(self.listed[number], str)]
            if not staying:
                raise
            for number in staying:  # there may be room without them; they are loaded again when it is their turn
                del self.held[number]
            return self.loader(given)

    def read_later_answers(self) -> None:
        """Each model's second turn, now that every answer is known; the last comes first."""
        for number in reversed(range(len(self.explanations))):
            if number not in self.read and self.listed is not None:
                self.read_answers(number, *self.held.pop(number, None) or (self.loaded(self.listed[number]), None))

    def read_answers(self, number: int, model: Model, prompt: Prefill | None) -> None:
        """How likely the model is to say each answer that is known, its own in its own tokens."""
        self.report(f"{model.name} reads all answers")
        tokenizer: Any = model.tokenizer
        own = self.explanations[number].answer_tokens
        said: list[str | Sequence[int]] = [result.answer for result in self.explanations]
        said[number] = tokenizer.convert_tokens_to_ids(list(own))
        with Session(model, self.towers) as session:
            if prompt is None:
                prompt = session.prefill(session.prepare([Example(self.pictures, self.question)], features=True))
            (row,) = session.score(prompt, said)
        self.read[number] = list(row)

    def likelihoods(self) -> list[list[Likelihood | None]]:
        """A row for each model, an entry for each answer; None for answers that came after an iterator's model."""
        count = len(self.explanations)
        return [row + [None] * (count - len(row)) for _, row in sorted(self.read.items())]

    def report(self, stage: str) -> None:
        """A stage begins; one for each turn of each model, and one for the comparison."""
        self.progress(stage, self.share())
        self.stages += 1

    def share(self) -> float:
        models = len(self.listed) if self.listed else len(self.explanations) + 1
        return self.stages / (2 * models + 1)
