"""The embedded pair side by side on held-out scenes: the paper's duck first, then others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from relevancy.atomic_io import whole_files
from relevancy.demo.questions import Question
from relevancy.demo.world import HELD_OUT, Scene, duck_scene, scene
from relevancy.explanations.comparison import Comparison, compare
from relevancy.explanations.explanation import Explanation
from relevancy.methods.registry import DEFAULT
from relevancy.models.model import Model

KINDS_SHOWN = ("color", "side", "presence", "is-color", "count")


@dataclass(frozen=True)
class Shown:
    """One question about one held-out scene, each model's explanation, and the figure with them side by side."""

    question: str
    truth: str
    explanations: tuple[Explanation, ...]
    figure: Path


def showcase(
    models: Sequence[Model],
    out: Path,
    *,
    scenes: int = 3,
    seed: int = 0,
    method: str = DEFAULT,
) -> Iterator[Shown]:
    """Explain held-out scenes with every model and save the figures, one by one as they are ready; older ones go.

    A floating and a standing duck come first, in the form of the paper, with options. Of each other scene the question
    is one about a single object, so that the map can be judged at a glance.
    """
    first = HELD_OUT + 1_000_000 * seed
    chosen = [(drawn, drawn.questions[1]) for drawn in (duck_scene(first + 1, True), duck_scene(first, False))]
    for turn in range(scenes):
        drawn = scene(first + 2 + turn)
        chosen.append((drawn, _about_one(drawn, KINDS_SHOWN[turn % len(KINDS_SHOWN)])))
    folders = [out / f"{number:02d}-{question.type}" for number, (_, question) in enumerate(chosen)]
    for folder, (drawn, question) in zip(folders, chosen, strict=True):
        found = compare(models, drawn.image, question.text, target="first-relevant", method=method)
        found.save(folder)
        yield Shown(question.text, question.answer, found.explanations, folder / "side-by-side.png")
    others = [place for place in out.glob("[0-9][0-9]-*") if place not in folders]
    with whole_files(out, [file for place in others for file in Comparison.saved_in(place)]):
        pass


def _about_one(drawn: Scene, kind: str) -> Question:
    """A question about one object, of this type and open where the scene has one; any question if there is none."""
    single = [question for question in drawn.questions if len(question.items) == 1] or list(drawn.questions)
    return min(single, key=lambda question: (question.type != kind, question.form != "open"))
