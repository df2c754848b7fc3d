"""What was found of models of several sizes, as a page of Markdown, as numbers in JSON, and as a figure."""

from __future__ import annotations

__all__ = ["as_json", "cell", "figure", "save", "tables"]

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from relevancy.atomic_io import whole_files
from relevancy.demo.size import ALL, FORMS, MEASURES, TARGET, SizeFindings
from relevancy.explanations.explanation import finite
from relevancy.explanations.map_batch import versions
from relevancy.plotting.text_layout import NORMAL, SMALL, TrueTypeFigure, drawable, font
from relevancy.stats.intervals import Interval

PICTURE = "size.png"
_INK, _MUTED, _LINE = "#1c1b22", "#6b6a75", "#d9d8df"
_COLORS = dict(zip(FORMS.values(), ("#5b4b9a", "#d9822b"), strict=True))
_MARKERS = dict(zip(FORMS.values(), ("o", "s"), strict=True))
_PANELS: Mapping[str, str] = {
    "right": "answered right",
    "needed": "need the picture",
    "confirmed_needed": "maps confirmed",
    "pointing": "peak on the object",
}
_NOTE = (
    "Bars: 95 % over scenes. Small dots: each training, where there are several.\nDashed: guessing, or a map of noise. "
    "Numbers: how many answers are counted.\nMaps confirmed: of right answers that need the picture.\nPeak on the "
    "object: of right answers about one object."
)
_NARROWEST, _A_KIND = 3.7, 1.3  # inches of a panel
_LONGEST = 16  # letters of a name


def save(folder: Path, found: SizeFindings) -> None:
    """Write FOLDER/size.json, size.md and size.png, all or none."""
    with whole_files(folder) as part:
        (part / "size.json").write_text(json.dumps(as_json(found), indent=1, allow_nan=False), encoding="utf-8")
        (part / "size.md").write_text(page(found), encoding="utf-8")
        figure(found).savefig(part / PICTURE, dpi=150)


def as_json(found: SizeFindings) -> dict[str, Any]:
    """Everything, as JSON takes it; null where there is no number."""
    told = asdict(found)
    told["chance"] = [
        {"form": form, "measure": measure, "value": value} for (form, measure), value in found.chance.items()
    ]
    measures = {name: {"title": one.title, "meaning": one.meaning} for name, one in MEASURES.items()}
    whole: dict[str, Any] = finite({"target": TARGET, **told, "measures": measures, "versions": versions()})
    return whole


def page(found: SizeFindings) -> str:
    """The tables under a heading, and the figure."""
    return "\n".join(("# Does the smaller model look less?", "", *tables(found), f"![Models by size]({PICTURE})", ""))


def tables(found: SizeFindings) -> list[str]:
    """Lines of Markdown: what was asked, the models, means and differences of each form, means over trainings."""
    made = [_asked(found), "", *(f"- **{one.title}**: {one.meaning}." for one in MEASURES.values()), ""]
    made += _models(found)
    for form in (*FORMS.values(), ALL):
        made += [f"### {_heading(form)}", "", *_means(found, form)]
        if len(found.kinds) > 1:
            made += [_DIFFERENCES, "", *_differences(found, form)]
    made += ["### Over trainings", ""]
    if any(len(one.runs) > 1 for one in found.kinds):
        made += [_RUNS, "", *_runs(found)]
    if alone := [one.name for one in found.kinds if len(one.runs) == 1]:
        made += [f"One training each, so that nothing here says what other seeds would give: {', '.join(alone)}.", ""]
    return made


_DIFFERENCES = (
    "Differences, the larger less the smaller, in percentage points, of the questions for which both have a number. "
    "Bold: the interval is on one side of zero."
)
_RUNS = (
    "Mean of the trainings' means with its 95 % interval over trainings (Student's t; of differences Welch's), in "
    "parentheses how many trainings, and each one's own mean: how sure it is that other seeds would show it."
)


def _asked(found: SizeFindings) -> str:
    return (
        f"{found.scenes:,} held-out scenes of seed {found.seed}; of each one question, asked openly and with options. "
        f"Explained is the first relevant token of each model's own answer, by {found.method}. In percent, with 95 % "
        "intervals over scenes (bootstrap; a scene is drawn with all its answers), and in parentheses how many answers "
        "are counted. Chance: of answers, who knows the question and sees no picture; of maps, noise."
    )


def _heading(form: str) -> str:
    return {"open": "Asked openly", "with options": "Asked with options", ALL: "Both"}[form]


def _models(found: SizeFindings) -> list[str]:
    rows = [
        [one.name, str(len(one.runs)), _millions(one.parameters), _millions(one.embeddings), f"{one.seconds:.3f}"]
        for one in found.kinds
    ]
    heads = ["model", "trainings", "parameters", "of them embeddings", "CPU seconds an answer, its map and evidence"]
    return _table(heads, rows)


def _means(found: SizeFindings, form: str) -> list[str]:
    rows = [
        [
            known.title,
            _percent(found.chance.get((form, measure), math.nan)),
            *(cell(found.number(kind.name, form, measure).over_scenes) for kind in found.kinds),
        ]
        for measure, known in MEASURES.items()
    ]
    return _table(["", "chance", *(kind.name for kind in found.kinds)], rows)


def _differences(found: SizeFindings, form: str) -> list[str]:
    own = [one for one in found.differences if one.form == form]
    pairs = dict.fromkeys(f"{one.larger} − {one.smaller}" for one in own)
    rows = [
        [known.title, *(_change(one.over_scenes) for one in own if one.measure == measure)]
        for measure, known in MEASURES.items()
    ]
    return _table(["", *pairs], rows)


def _runs(found: SizeFindings) -> list[str]:
    names = [kind.name for kind in found.kinds if len(kind.runs) > 1]
    pairs = [one for one in found.differences if {one.larger, one.smaller} <= set(names)]
    heads = ["", "asked", *names, *dict.fromkeys(f"{one.larger} − {one.smaller}" for one in pairs)]
    rows = []
    for form in (*FORMS.values(), ALL):
        for measure, known in MEASURES.items():
            means = [found.number(name, form, measure) for name in names]
            changes = [one.over_runs for one in pairs if (one.form, one.measure) == (form, measure)]
            told = [f"{cell(one.over_runs)}: {', '.join(map(_percent, one.runs))}" for one in means]
            rows.append([known.title, _heading(form).lower(), *told, *map(_change, changes)])
    return _table(heads, rows)


def _millions(count: int) -> str:
    return f"{count / 1e6:,.0f} M" if count >= 100e6 else f"{count / 1e6:.2f} M"


def _percent(value: float) -> str:
    return "–" if math.isnan(value) else f"{100 * value:.1f}"


def cell(found: Interval) -> str:
    """A mean in percent, its interval, and how many are counted."""
    if not found.rows:
        return "–"
    ends = "" if math.isnan(found.low) else f" [{100 * found.low:.1f}, {100 * found.high:.1f}]"
    return f"{_percent(found.mean)}{ends} ({found.rows:,})"


def _change(found: Interval) -> str:
    if math.isnan(found.mean):
        return "–"
    text = f"{100 * found.mean:+.1f}"
    if not math.isnan(found.low):
        text += f" [{100 * found.low:+.1f}, {100 * found.high:+.1f}]"
    text = f"**{text}**" if found.low > 0 or found.high < 0 else text
    return f"{text} ({found.rows:,})"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [heads, ["---"] * len(heads), *rows]
    return [*(f"| {' | '.join(one.replace('|', chr(92) + '|') for one in line)} |" for line in lines), ""]


def figure(found: SizeFindings) -> Figure:
    """Small multiples: models from the smallest to the largest, open questions and those with options apart."""
    wide = max(_NARROWEST, _A_KIND * len(found.kinds))
    made = TrueTypeFigure(figsize=(2 * wide + 0.6, 7.0), dpi=150, facecolor="white", layout="constrained")
    FigureCanvasAgg(made)
    panels = made.subplots(2, 2, sharex=True, sharey=True).ravel()
    for axes, (measure, title) in zip(panels, _PANELS.items(), strict=True):
        _panel(axes, found, measure, title)
    handles, labels = axes.get_legend_handles_labels()
    made.legend(handles, labels, loc="outside upper left", ncols=len(FORMS), frameon=False, prop=font(NORMAL))
    made.supxlabel(_NOTE, x=0.01, ha="left", fontproperties=font(SMALL), color=_MUTED)
    return made


def _panel(axes: Axes, found: SizeFindings, measure: str, title: str) -> None:
    names = [kind.name for kind in found.kinds]
    for turn, (form, color) in enumerate(_COLORS.items()):
        aside = 0.24 * (turn - (len(FORMS) - 1) / 2)
        own = [found.number(name, form, measure) for name in names]
        places = [number + aside for number in range(len(names))]
        middles = [100 * one.over_scenes.mean for one in own]
        axes.plot(places, middles, color=color, linewidth=0.8, alpha=0.35)
        for place, one in zip(places, own, strict=True):
            ends = 100 * one.over_scenes.low, 100 * one.over_scenes.high
            axes.plot((place, place), ends, color=color, linewidth=1.6)
            if len(one.runs) > 1:
                dots = [place + 0.09] * len(one.runs)
                axes.plot(dots, [100 * run for run in one.runs], ".", markersize=4, color=color, alpha=0.6)
            axes.text(
                place, -7 - 6 * turn, f"{one.over_scenes.rows:,}", ha="center", va="center", color=color,
                fontproperties=font(SMALL - 1.5),
            )  # fmt: skip
        axes.plot(places, middles, _MARKERS[form], markersize=6, color=color, label=_heading(form).lower())
        level = found.chance.get((form, measure), math.nan)
        axes.axhline(100 * level, color=color, linewidth=0.8, linestyle=(0, (4, 4)), alpha=0.6)
    sizes = [f"{drawable(_shortened(kind.name))}\n{_millions(kind.parameters)}" for kind in found.kinds]
    axes.set_xticks(range(len(names)), sizes, fontproperties=font(SMALL), color=_INK)
    axes.set_xlim(-0.6, len(names) - 0.4)
    axes.set_ylim(-17, 104)
    axes.set_yticks(range(0, 101, 25), [f"{level} %" for level in range(0, 101, 25)])
    axes.axhline(0, color=_LINE, linewidth=0.8, zorder=0)
    axes.set_title(title, fontproperties=font(NORMAL, "bold"), color=_INK, loc="left")
    axes.tick_params(axis="y", colors=_MUTED, labelsize=SMALL, length=0)
    axes.tick_params(axis="x", length=0)
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.spines["left"].set_color(_LINE)


def _shortened(name: str) -> str:
    """The end of a name, which tells folders apart."""
    return name if len(name) <= _LONGEST else f"…{name[1 - _LONGEST :]}"
