"""Two earlier runs beside each other: on one scale and with their agreement where they are about the same picture."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from html import escape
from itertools import product

from relevancy import Explanation
from relevancy.explanations.agreement import agreement
from relevancy.explanations.comparison import Comparison
from relevancy_app import views
from relevancy_app.asking import Ask
from relevancy_app.board import board
from relevancy_app.session import Session

_APART = "They are about different pictures, so their maps cannot be compared: each run has a scale of its own."


@dataclass(frozen=True, eq=False)
class RunPair:
    """Two runs, called A and B."""

    first: Session
    second: Session

    def told(self) -> str:
        """What each is, in what they differ, and why they are not compared, if they are not."""
        lines = "".join(
            f"<li><b>{letter}</b> “{escape(run.ask.question)}” · {escape(run.ask.made)}</li>"
            for letter, run in (("A", self.first), ("B", self.second))
        )
        why = f'<p class="rv-dim">{_APART}</p>'
        if self.same_picture:
            one, other = _asked(self.first.ask), _asked(self.second.ask)
            differ = [name for name in one if one[name] != other[name]]
            why = f'<p class="rv-quiet">They differ in {", ".join(differ) or "nothing that was asked"}.</p>'
        close = '<button type="button" class="rv-do" data-clear>Close the comparison</button>'
        return f'<ul class="rv-lines">{lines}</ul>{why}{close}'

    def boards(self) -> tuple[str, str]:
        """All maps on one board, and nothing; or a board for each."""
        first, second = _titles("A", self.first), _titles("B", self.second)
        if self.same_picture:
            return board([*self.first.screen, *self.second.screen], titles=[*first, *second]), ""
        return board(self.first.screen, titles=first), board(self.second.screen, titles=second)

    def agreement(self) -> str:
        """How far the maps agree, of each model's two, or where no model is in both runs of each with each."""
        if not self.same_picture:
            return ""
        first, second = _named("A", self.first), _named("B", self.second)
        pairs = list(product(first, second))
        same = [pair for pair in pairs if pair[0].model[1:] == pair[1].model[1:]]
        return views.agreement(Comparison((*first, *second), tuple(agreement(*pair) for pair in same or pairs)))

    @cached_property
    def same_picture(self) -> bool:
        """Whether both are about the same pixels, in the same order."""
        one, other = (
            [(picture.size, picture.tobytes()) for picture in run.pictures] for run in (self.first, self.second)
        )
        return one == other


def _asked(ask: Ask) -> dict[str, object]:
    return {
        "question": ask.question, "models": ask.models, "method": ask.method, "scope": ask.scope,
        "layers": (ask.first_layer, ask.last_layer), "target": ask.target,
        "conversation": (ask.system, ask.video, ask.earlier),
    }  # fmt: skip


def _named(letter: str, run: Session) -> list[Explanation]:
    return [replace(result, model=f"{letter}: {result.model}") for result in run.results]


def _titles(letter: str, run: Session) -> list[str]:
    return [f"{letter}: {result.model}" for result in run.results]
