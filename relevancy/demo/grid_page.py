"""A finished grid as a page of Markdown, as numbers in JSON, and as a figure like the paper's Fig. 1."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from relevancy.atomic_io import write_whole
from relevancy.demo.cells import CellResult
from relevancy.demo.effects import ALL, FACTORS, Asked, Effect, Mean, effects, means
from relevancy.demo.plan import BuildPlan, DecoderSize
from relevancy.evaluate.choices import PRETRAINED, SEED
from relevancy.stats.intervals import Interval

_COLORS = ("#5b4b9a", "#d9822b", "#3a7d5c")
_PAGE = """# Learnability on drawn scenes: the paper's ablation in miniature

Two decoders ({sizes}), two towers, connector pretrained or not, {seeds} seeds: {cells} models, each asked the same
{questions:,} open questions about {scenes:,} held-out scenes. An answer counts when greedy decoding writes it, and the
end of the turn, token by token. Written by `relevancy train grid`; the cells took {minutes:.0f} minutes, one after the
other.

{stages}

The towers are of equal size and learned the same labels of patches from the same {pool:,} scenes, one tower of each
kind: what is compared is how CLIP's and DINOv2's towers are built, not what the published ones saw. Models of one size
and seed begin with the same decoder and read the same data in the same order. Each connector starts centered and scaled
to what its tower says; one that is not pretrained misses the align stage and nothing else.

## Right answers, in percent, over {seeds} seeds

Mean ± half of Student's 95 % interval. Chance: who knows the question and sees no picture.

{means}

## What each choice changes, in percentage points

Mean of the {pairs} paired differences, all else the same. In brackets Student's 95 % interval over these pairs of runs,
as if each were on its own. Pairs of one seed begin with the same decoder, though, and there is one tower of each kind:
with other seeds and towers differences may lie further apart than this says. Bold: the interval is on one side of
zero.

{over_runs}

The same differences with the interval over scenes (bootstrap, the {cells} models as they are): how sure it is that
other scenes would show it. With one run of each model, as in the paper, there can be no other interval than this.

{over_scenes}

![What each choice changes](grid.png)
"""


def save(folder: Path, plan: BuildPlan, measured: Sequence[CellResult], asked: Asked) -> list[Effect]:
    """Write FOLDER/grid.json, grid.md, grid.png and choices.csv; returns what each choice changes."""
    levels, changes = means(measured, asked), effects(measured, asked)
    write_whole(folder / "grid.json", json.dumps(_numbers(plan, measured, levels, changes), indent=1))
    write_whole(folder / "grid.md", page(plan, measured, levels, changes, asked))
    figure(changes).savefig(folder / "grid.png", dpi=150)
    write_whole(folder / "choices.csv", _choices(plan, measured))
    return changes


def _choices(plan: BuildPlan, measured: Sequence[CellResult]) -> str:
    """How the models of the cells differ, as `relevancy evaluate effects --choices` reads it."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(("model", "decoder", "tower", "connector", SEED))
    for cell in (one.cell for one in measured):
        decoder = _described(plan.decoders[cell.size])
        rows.writerow((cell.name, decoder, cell.tower, PRETRAINED[not cell.aligned], cell.seed))
    return text.getvalue()


def _described(decoder: DecoderSize) -> str:
    return f"{decoder.width} wide, {decoder.layers} layers"


def _numbers(
    plan: BuildPlan, measured: Sequence[CellResult], levels: Sequence[Mean], changes: Sequence[Effect]
) -> dict[str, Any]:
    cells = [asdict(one.cell) | {"accuracy": one.accuracy, "seconds": one.seconds} for one in measured]
    kinds = [
        {key: value for key, value in asdict(one.cell).items() if key != "seed"}
        | {"type": one.type, "chance": one.chance} | _plain(one.over_runs)
        for one in levels
    ]  # fmt: skip
    factors = [
        {"factor": one.factor, "type": one.type, "over_runs": _plain(one.over_runs),
         "over_scenes": _plain(one.over_scenes)}
        for one in changes
    ]  # fmt: skip
    versions = {name: version(name) for name in ("relevancy", "torch", "transformers")}
    return {"plan": plan.told(), "versions": versions, "cells": cells, "means": kinds, "effects": factors}


def _plain(found: Interval) -> dict[str, float | None]:
    return {key: None if math.isnan(value) else value for key, value in asdict(found).items()}


def page(
    plan: BuildPlan, measured: Sequence[CellResult], levels: Sequence[Mean], changes: Sequence[Effect], asked: Asked
) -> str:
    """Markdown: what was done, means of each kind of model, what each choice changes."""
    seeds = len({one.cell.seed for one in measured})
    return _PAGE.format(
        sizes=", ".join(f"{name}: {_described(each)}" for name, each in plan.decoders.items()),
        seeds=seeds,
        cells=len(measured),
        questions=len(asked),
        scenes=plan.check_scenes,
        minutes=sum(one.seconds for one in measured) / 60,
        stages=_stages(plan),
        pool=plan.scenes,
        pairs=len(measured) // 2,
        means=_means(levels),
        over_runs=_effects({(one.factor, one.type): one.over_runs for one in changes}),
        over_scenes=_effects({(one.factor, one.type): one.over_scenes for one in changes}),
    )


def _stages(plan: BuildPlan) -> str:
    rows = []
    for name, each in plan.decoders.items():
        lessons = (each.language, each.align, each.describe, each.openly)
        rows.append([name, *(f"{lesson.stage.steps} x {lesson.stage.batch}" for lesson in lessons)])
    heads = ["steps x batch", "language (text alone)", "align (connector; left out without pretraining)",
             "describe (both)", "open questions (both)"]  # fmt: skip
    return _table(heads, rows)


def _means(levels: Sequence[Mean]) -> str:
    types = list(dict.fromkeys(one.type for one in levels))
    rows = [["chance", "", "", *(f"{one.chance:.1%}".rstrip("%") for one in levels[: len(types)])]]
    for start in range(0, len(levels), len(types)):
        cell = levels[start].cell
        shown = [_share(one.over_runs) for one in levels[start : start + len(types)]]
        rows.append([cell.size, cell.tower, "yes" if cell.aligned else "no", *shown])
    return _table(["decoder", "tower", "connector pretrained", *types], rows)


def _share(found: Interval) -> str:
    text = f"{100 * found.mean:.1f}"
    return text if math.isnan(found.high) else f"{text} ± {100 * (found.high - found.mean):.1f}"


def _effects(found: Mapping[tuple[str, str], Interval]) -> str:
    types = list(dict.fromkeys(name for _, name in found))
    return _table(["questions", *FACTORS], [[name, *(_change(found[one, name]) for one in FACTORS)] for name in types])


def _change(found: Interval) -> str:
    text = f"{100 * found.mean:+.1f}"
    if math.isnan(found.low):
        return text
    text = f"{text} [{100 * found.low:+.1f}, {100 * found.high:+.1f}]"
    return f"**{text}**" if found.low > 0 or found.high < 0 else text


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def figure(changes: Sequence[Effect]) -> Figure:
    """Mean differences with their intervals over runs, a group of three for each type of question."""
    types = list(dict.fromkeys(one.type for one in changes))
    made = Figure(figsize=(6.5, 0.55 * len(types) + 1.5), layout="constrained")
    FigureCanvasAgg(made)
    axes = made.subplots()
    for turn, (factor, color) in enumerate(zip(FACTORS, _COLORS, strict=True)):
        own = {one.type: one.over_runs for one in changes if one.factor == factor}
        places = [number + 0.22 * (turn - 1) for number in range(len(types))]
        middles = [100 * own[name].mean for name in types]
        reach = [100 * (own[name].high - own[name].mean) for name in types]
        bars = None if any(map(math.isnan, reach)) else reach
        axes.errorbar(middles, places, xerr=bars, fmt="o", markersize=4, color=color, capsize=2, label=factor)
    axes.axvline(0, color="#6b6a75", linewidth=0.8)
    axes.axhline(types.index(ALL) + 0.5, color="#d9d8df", linewidth=0.8)
    axes.set_yticks(range(len(types)), types)
    axes.invert_yaxis()
    axes.set_xlabel("average effect on the share of right answers, percentage points (95 % over runs)")
    axes.spines[["top", "right"]].set_visible(False)
    made.legend(loc="outside upper center", ncols=len(FACTORS), frameon=False)
    return made
