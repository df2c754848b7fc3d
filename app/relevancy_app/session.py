"""What is kept of one visitor between two clicks; it ends with the visit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from PIL import Image

from relevancy import Explanation
from relevancy.comparing import Comparison, compared
from relevancy_app.asking import Ask
from relevancy_app.safety import StoppedError
from relevancy_app.settings import SCREEN_SIDE


@dataclass(frozen=True, eq=False)
class Session:
    """The last results, one per model in the order asked for.

    source: the picture's file. first: results as they came from the models. results: as they are shown, where a token
    was picked that token's. screen: the same, reduced to the size of the screen. comparison: of the first results, None
    for a single model. picked: results of other tokens, by number of the model and position in its answer.
    """

    ask: Ask
    source: bytes
    first: tuple[Explanation, ...]
    results: tuple[Explanation, ...]
    screen: tuple[Explanation, ...]
    comparison: Comparison | None = None
    picked: Mapping[tuple[int, int], Explanation] = field(default_factory=dict)

    @property
    def picture(self) -> Image.Image:
        """The picture as the models were given it."""
        return self.first[0].image

    @property
    def shown(self) -> Comparison | None:
        """The comparison of what is shown, None for a single model."""
        if self.comparison is None or self.results == self.first:
            return self.comparison
        return compared(self.results, self.comparison.likelihoods)

    def with_pick(self, number: int, position: int, result: Explanation) -> Session:
        """The same, showing another token's map of one model."""
        results = (*self.results[:number], result, *self.results[number + 1 :])
        screen = (*self.screen[:number], result.reduced(SCREEN_SIDE), *self.screen[number + 1 :])
        picked = {**self.picked, (number, position): result}
        return replace(self, results=results, screen=screen, picked=picked)


def session(ask: Ask, source: bytes, results: tuple[Explanation, ...], comparison: Comparison | None) -> Session:
    """What a first look at new results shows."""
    picked = {(number, result.target.position): result for number, result in enumerate(results)}
    if "|" in ask.target:  # against a contrast the same token has another map
        picked = {}
    reduced = tuple(result.reduced(SCREEN_SIDE) for result in results)
    return Session(ask, source, results, results, reduced, comparison, picked)


@dataclass
class Brake:
    """One visitor's Cancel: runs started before it was pressed stop at their next stage."""

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
