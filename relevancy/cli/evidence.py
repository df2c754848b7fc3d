"""`relevancy evaluate demo --evidence`: what the verdict of a map's evidence is worth."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from relevancy.cli.options import folder_of, load_model
from relevancy.cli.terminal import bars, check_writable, out, say, share_of
from relevancy.errors import RelevancyError

if TYPE_CHECKING:
    from relevancy.demo.evidence import CollectedMaps, Truth
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
    truth: Truth
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
    if not chosen:
        raise RelevancyError("--methods: name one at least, as relevancy.")
    questions: dict[str, dict[str, int]] = {}
    found: list[_ScoredMaps] = []
    with bars() as report:
        for name in dict.fromkeys(names):
            model = load_model(name)
            kept, told = folder_of(folder, model.name), share_of(report, f"{model.name} maps")
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
        "Maps of right answers; of the blind model, of all its answers. Right: the highest patch has its middle on the "
        "object, or touches it. Recall: among right maps of answers that need the picture. AUC: how often the number "
        f"is larger for a right map than for a wrong one. 95 % intervals over scenes. → {folder}"
    )


def _scored(
    model: str, collected: CollectedMaps, methods: Sequence[str], progress: Callable[[float], None]
) -> Iterator[_ScoredMaps]:
    """Every group of maps by both truths; all forms of question first, areas of methods only."""
    from relevancy.metrics.evidence import areas_of_numbers, verdict_score

    truths: tuple[Truth, ...] = ("middle", "touch")
    groups = [
        (truth, name, form, maps)
        for truth in truths
        for name, by_form in collected.maps(truth).items()
        for form, maps in {ALL: [one for own in by_form.values() for one in own], **by_form}.items()
    ]
    for done, (truth, name, form, maps) in enumerate(groups, 1):
        dependent = [one for one in maps if one.dependent]
        numbers, of_dependent = (areas_of_numbers(some) if name in methods else None for some in (maps, dependent))
        yield _ScoredMaps(model, name, form, truth, verdict_score(maps), numbers, of_dependent)
        progress(done / len(groups))


def _verdicts(found: Sequence[_ScoredMaps]) -> Table:
    titles = "maps", "scenes", "right", "words alone", "confirmed", "precision", "recall", "confirmed of the wrong ones"
    table = Table("explainer", "questions", "truth", *titles, box=None, pad_edge=False)
    for one in found:
        if one.form == ALL or one.areas is not None:
            score = one.score
            numbers = score.right, score.words_alone, score.confirmed, score.precision, score.recall, score.false_alarms
            table.add_row(
                one.explainer,
                one.form,
                one.truth,
                f"{score.right.rows:,}",
                f"{score.right.pictures:,}",
                *map(_percent, numbers),
            )
    return table


def _numbers(found: Sequence[_ScoredMaps]) -> Table:
    """Areas over all forms of question; those by form are in the JSON."""
    columns = [
        (f"{one.explainer}, {one.truth}, {answers}", areas)
        for one in found
        if one.form == ALL
        for answers, areas in (("all answers", one.areas), ("needing the picture", one.areas_dependent))
        if areas is not None
    ]
    table = Table("AUC", *(title for title, _ in columns), box=None, pad_edge=False)
    for name in columns[0][1] if columns else ():
        table.add_row(name, *(_plain(areas[name]) for _, areas in columns))
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
