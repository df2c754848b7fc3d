"""`relevancy evaluate demo --evidence`: what the verdict of a map's evidence is worth."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from relevancy.cli.options import load_model
from relevancy.cli.terminal import bars, check_writable, out, say, share_of

if TYPE_CHECKING:
    from relevancy.demo.evidence import CollectedMaps
    from relevancy.metrics.evidence import VerdictScore
    from relevancy.stats.clustered import Estimate

METHODS = "relevancy,relevancy-magnitude"
FOLDER = Path("relevancy-evidence")
ALL = "all"


@dataclass(frozen=True)
class _ScoredMaps:
    """One model's maps of one method or planted explainer, of one form of question; areas of methods only."""

    model: str
    explainer: str
    form: str
    score: VerdictScore
    areas: dict[str, Estimate] | None
    areas_dependent: dict[str, Estimate] | None


def evidence_of_pair(
    names: Sequence[str], scenes: int, seed: int, methods: str | None, out_folder: Path | None, *, as_json: bool
) -> None:
    """Collect maps of each model, score their verdicts, and print both."""
    folder = out_folder or FOLDER
    check_writable(folder)
    from relevancy.demo.evidence import collect

    chosen = tuple(dict.fromkeys(name.strip() for name in (methods or METHODS).split(",") if name.strip()))
    questions: dict[str, dict[str, int]] = {}
    found: list[_ScoredMaps] = []
    with bars() as report:
        for name in dict.fromkeys(names):
            model = load_model(name)
            kept, told = folder / model.name, share_of(report, f"{model.name} maps")
            collected = collect(model, kept, scenes=scenes, seed=seed, methods=chosen, progress=told)
            questions[model.name] = {"asked": collected.asked, "right": collected.right}
            found += _scored(model.name, collected, chosen, share_of(report, f"{model.name} scores"))
    if as_json:
        everything = {"scenes": scenes, "seed": seed, "questions": questions, "maps": [asdict(one) for one in found]}
        sys.stdout.write(json.dumps(everything, allow_nan=False) + "\n")
        return
    for name, counts in questions.items():
        own = [one for one in found if one.model == name]
        say(f"{name}: {counts['asked']:,} questions about one object, {counts['right']:,} answered rightly")
        out.print(_verdicts(own))
        out.print(_numbers(own))
    say(
        "Maps of right answers; of the blind model, of all its answers. Right: the peak lies on the object. Recall: "
        "among right maps of answers that need the picture. AUC: right maps against wrong ones. 95 % intervals over "
        f"scenes. → {folder}"
    )


def _scored(
    model: str, collected: CollectedMaps, methods: Sequence[str], progress: Callable[[float], None]
) -> Iterator[_ScoredMaps]:
    """Every group of maps; all forms of question first."""
    from relevancy.metrics.evidence import areas_of_numbers, verdict_score

    for done, (name, by_form) in enumerate(collected.maps.items(), 1):
        for form, maps in {ALL: [one for own in by_form.values() for one in own], **by_form}.items():
            dependent = [one for one in maps if one.dependent]
            honest = name in methods
            yield _ScoredMaps(
                model,
                name,
                form,
                verdict_score(maps),
                areas_of_numbers(maps) if honest else None,
                areas_of_numbers(dependent) if honest else None,
            )
        progress(done / len(collected.maps))


def _verdicts(found: Sequence[_ScoredMaps]) -> Table:
    titles = "maps", "right", "words alone", "confirmed", "precision", "recall", "confirmed of the wrong ones"
    table = Table("explainer", "form", *titles, box=None, pad_edge=False)
    for one in found:
        if one.form == ALL or one.areas is not None:
            score = one.score
            numbers = (
                score.right, score.words_alone, score.confirmed, score.precision, score.recall, score.false_alarms
            )  # fmt: skip
            table.add_row(one.explainer, one.form, f"{score.right.rows:,}", *map(_percent, numbers))
    return table


def _numbers(found: Sequence[_ScoredMaps]) -> Table:
    scored = [one for one in found if one.areas is not None]
    columns = [f"{one.explainer}, {one.form}" for one in scored]
    table = Table("AUC", *columns, box=None, pad_edge=False)
    for name in scored[0].areas or () if scored else ():
        table.add_row(name, *(_plain((one.areas or {})[name]) for one in scored))
    return table


def _percent(one: Estimate) -> str:
    if one.value is None:
        return "–"
    ends = "" if one.low is None or one.high is None else rf" \[{one.low:.1%}, {one.high:.1%}]"
    return f"{one.value:.1%}{ends}"


def _plain(one: Estimate) -> str:
    if one.value is None:
        return "–"
    ends = "" if one.low is None or one.high is None else rf" \[{one.low:.2f}, {one.high:.2f}]"
    return f"{one.value:.2f}{ends}"
