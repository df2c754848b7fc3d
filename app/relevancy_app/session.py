"""What is kept of one visitor between two clicks, and changed by others while a run goes on; it ends with the visit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from PIL import Image

from relevancy import Explanation
from relevancy.explanations.comparison import Comparison, compared
from relevancy_app.asking import Ask
from relevancy_app.safety import StoppedError
from relevancy_app.settings import SCREEN_SIDE

Pick = tuple[int, int, int | None]
"""A single token: number of the model, position in its answer, and the token it is explained against, if any."""


@dataclass(frozen=True, eq=False)
class Session:
    """The last results, one per model in the order asked for; while the models run, of those that had their turn.

    source: the first picture's file, as the models were given it; others: those of further ones, in their order.
    place, other_places: the names by which the browser knows them. notes: what was done to them before.
    first: results as they came from the models. results: as they are shown, where a token was picked that token's.
    screen: the same, reduced to the size of the screen. comparison: of the first results, None for a single model, and
    until all had their turn. picked: results of single tokens. kept: the run's id in the history, "" where it is in
    none.
    """

    ask: Ask
    source: bytes
    place: str = ""
    notes: tuple[str, ...] = ()
    first: tuple[Explanation, ...] = ()
    results: tuple[Explanation, ...] = ()
    screen: tuple[Explanation, ...] = ()
    comparison: Comparison | None = None
    picked: Mapping[Pick, Explanation] = field(default_factory=dict)
    kept: str = ""
    others: tuple[bytes, ...] = ()
    other_places: tuple[str, ...] = ()

    @property
    def sources(self) -> tuple[bytes, ...]:
        """All pictures' files, in their order."""
        return (self.source, *self.others)

    @property
    def pictures(self) -> tuple[Image.Image, ...]:
        """The pictures as the models were given them."""
        return tuple(one.image for one in self.first[0].pictures)

    @property
    def picture(self) -> Image.Image:
        """The first picture as the models were given it."""
        return self.first[0].image

    @property
    def asked(self) -> tuple[list[Any], str | list[dict[str, Any]]]:
        """The pictures, and what is said about them, as `relevancy.explain` takes them."""
        shown = list(self.pictures if self.first else self.sources)
        return [] if self.ask.video else shown, self.ask.said(shown)

    @property
    def waiting(self) -> tuple[str, ...]:
        """Names of the models whose results are still to come."""
        return self.ask.models[len(self.first) :]

    @property
    def whole(self) -> bool:
        """Whether nothing is still to come."""
        return not self.waiting and (self.comparison is not None or len(self.first) == 1)

    @property
    def shown(self) -> Comparison | None:
        """The comparison of what is shown, None for a single result."""
        if len(self.results) < 2:
            return None
        if self.comparison is None:
            return compared(self.results)
        return self.comparison if self.results == self.first else compared(self.results, self.comparison.likelihoods)

    def with_next(self, result: Explanation) -> Session:
        """The same, and the next model's result."""
        result = replace(result, notes=(*self.notes, *result.notes))
        picked = {**self.picked, **of_token(len(self.first), result)}
        first, results, screen = (*self.first, result), (*self.results, result), (*self.screen, reduced(result))
        return replace(self, first=first, results=results, screen=screen, picked=picked)

    def ended(self) -> Session:
        """What there is as a whole of its own, models without a result left out."""
        ask = replace(self.ask, models=self.ask.models[: len(self.first)])
        return replace(self, ask=ask, comparison=self.comparison or self.shown)

    def tokens_of(self, number: int) -> dict[int, Explanation]:
        """The maps of one model's tokens that are there, each for itself, by position, reduced as `screen` is."""
        places = [(one.image, one.grid) for one in self.screen[number].pictures]
        return {
            position: replace(
                result,
                pictures=tuple(
                    replace(picture, image=image, grid=grid)
                    for picture, (image, grid) in zip(result.pictures, places, strict=True)
                ),
            )
            for (model, position, against), result in self.picked.items()
            if model == number and against is None
        }

    def with_tokens(self, number: int, results: Sequence[Explanation]) -> Session:
        """The same, and the maps of one model's tokens, each for itself."""
        found: dict[Pick, Explanation] = {(number, result.target.position, None): result for result in results}
        return replace(self, picked={**found, **self.picked})

    def with_pick(self, pick: Pick, result: Explanation) -> Session:
        """The same, showing another token's map of one model."""
        number = pick[0]
        results = (*self.results[:number], result, *self.results[number + 1 :])
        screen = (*self.screen[:number], reduced(result), *self.screen[number + 1 :])
        picked = {**self.picked, pick: result}
        return replace(self, results=results, screen=screen, picked=picked)


def of_token(number: int, result: Explanation) -> dict[Pick, Explanation]:
    """A model's result by the token that it is of; nothing for one of several tokens."""
    target = result.target
    return {(number, target.position, target.contrast_id): result} if target.length == 1 else {}


def reduced(result: Explanation) -> Explanation:
    """The result as it is shown on a screen."""
    return result.reduced(SCREEN_SIDE)


@dataclass
class Controls:
    """What one visitor may press while a run goes on: Cancel stops what was started before."""

    runs: int = 0
    stopped: int = 0

    def start(self) -> Callable[[], None]:
        """Begin a run; what comes back raises StoppedError once Cancel was pressed."""
        self.runs += 1
        number = self.runs

        def check() -> None:
            if self.stopped >= number:
                raise StoppedError("Stopped as asked; the last results are still here.")

        return check

    def press(self) -> None:
        """Stop whatever runs."""
        self.stopped = self.runs
