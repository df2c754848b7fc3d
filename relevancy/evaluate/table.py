"""Models beside each other and beside the paper's Table 1, as Markdown, LaTeX, CSV, JSON and a picture."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

from relevancy.errors import RelevancyError
from relevancy.evaluate.benchmarks import BENCHMARKS
from relevancy.evaluate.files import read_object
from relevancy.evaluate.paper import COLUMNS, GRID, OTHERS
from relevancy.evaluate.scores import Unit
from relevancy.evaluate.store import models_in, read_sums
from relevancy.stats.clustered import Estimate

PAPER = "the LLaVA-Gemma paper's Table 1 (arXiv 2404.01331v2)"
_CELLS = {  # the column's benchmark, group and score, printed as the paper prints it
    "GQA": ("gqa", "all", "accuracy", Unit(1, 3)),
    "MME cog.": ("mme", "cognition", "score", Unit(1, 0)),
    "MME per.": ("mme", "perception", "score", Unit(1, 0)),
    "MM-Vet": ("mm-vet", "all", "score", Unit(100, 1)),
    "POPE acc.": ("pope", "mean", "accuracy", Unit(1, 3)),
    "POPE F1": ("pope", "mean", "f1", Unit(1, 3)),
    "VQAv2": ("vqav2", "all", "accuracy", Unit(100, 1)),
    "MMVP": ("mmvp", "pairs", "accuracy", Unit(1, 3)),
    "SciQA-IMG": ("scienceqa", "IMG", "accuracy", Unit(1, 3)),
}
_VAL = "VQAv2: own numbers are of val2014, published ones of test-dev, whose answers only its server has."
_TEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"} | {
    sign: f"\\{sign}" for sign in "&%$#_{}"
}


@dataclass(frozen=True)
class TableRow:
    """A model and its printed cells, one a column; published: copied from the paper."""

    model: str
    cells: tuple[str, ...]
    published: bool


@dataclass(frozen=True)
class PairedScore:
    """By how much the first model's cell is higher than the second's, over the same questions.

    The interval is over pictures, drawn for both models together. unit: how the column is printed.
    """

    first: str
    second: str
    column: str
    difference: Estimate
    benchmark: str
    unit: Unit = field(repr=False)

    def to_json(self) -> dict[str, Any]:
        """Plain values, in the column's fractions or points."""
        return {"first": self.first, "second": self.second, "column": self.column, **asdict(self.difference)}

    @property
    def printed(self) -> str:
        """With its sign and its interval."""
        one = self.difference
        value = _signed(one.value, self.unit)
        return value if one.low is None else f"{value} [{_signed(one.low, self.unit)}, {_signed(one.high, self.unit)}]"


@dataclass(frozen=True)
class ScoreTable:
    """Rows, paired differences of models that were asked the same, and what must be said of them."""

    rows: tuple[TableRow, ...]
    notes: tuple[str, ...]
    differences: tuple[PairedScore, ...] = ()

    def markdown(self) -> str:
        """A table of Markdown with its notes under it."""
        head, *rows = self.cells()
        lines = [head, ["---", *["---:"] * len(COLUMNS), "---"], *rows]
        table = "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)
        paired = [f"| {one.first} less {one.second} | {one.column} | {one.printed} |\n" for one in self.differences]
        if paired:
            paired = ["\n| paired | score | difference, 95 % interval |\n| --- | --- | ---: |\n", *paired]
        return table + "".join(paired) + "\n" + "".join(f"- {note}\n" for note in self.notes)

    def json(self) -> str:
        """Cells as they are printed, differences as numbers."""
        rows = [asdict(row) | {"cells": dict(zip(COLUMNS, row.cells, strict=True))} for row in self.rows]
        differences = [one.to_json() for one in self.differences]
        return json.dumps({"rows": rows, "differences": differences, "notes": self.notes}, ensure_ascii=False) + "\n"

    def cells(self) -> list[list[str]]:
        """All lines as text, the head first."""
        return [["model", *COLUMNS, "numbers"], *([*own, where] for own, where in self._lines())]

    def remarks(self) -> list[str]:
        """Paired differences and notes, a line each."""
        return [f"{one.first} less {one.second}, {one.column}: {one.printed}" for one in self.differences] + [
            *self.notes
        ]

    def latex(self) -> str:
        """A tabular with booktabs' rules, its notes as comments."""
        head = " & ".join(["model", *COLUMNS, "numbers"])
        rows = [" & ".join(map(_tex, [*own, where])) for own, where in self._lines()]
        own = sum(not row.published for row in self.rows)
        body = [*rows[:own], *(["\\midrule"] if 0 < own < len(rows) else []), *rows[own:]]
        return "".join(
            [f"% {line}\n" for line in self.remarks()]
            + [f"\\begin{{tabular}}{{l{'r' * len(COLUMNS)}l}}\n\\toprule\n{head} \\\\\n\\midrule\n"]
            + [line + ("\n" if line.startswith("\\midrule") else " \\\\\n") for line in body]
            + ["\\bottomrule\n\\end{tabular}\n"]
        )

    def csv(self) -> str:
        """Cells as they are printed, without notes."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerows(self.cells())
        return text.getvalue()

    def _lines(self) -> list[tuple[list[str], str]]:
        return [([row.model, *row.cells], "published" if row.published else "own") for row in self.rows]


def make_table(folders: Sequence[Path], *, paper: bool = True) -> ScoreTable:
    """A row for each folder of scores (named after it), then the paper's. Raises RelevancyError.

    A folder of such folders, as `relevancy evaluate BENCHMARK --out` writes, stands for those in it. A stand-in's
    number is in no cell: it is told in a note.
    """
    named = models_in(folders)
    scores = {name: scores_in(folder) for name, folder in named.items()}
    check_protocols(scores)
    rows = [TableRow(name, tuple(_cell(own, column) for column in COLUMNS), False) for name, own in scores.items()]
    notes = [
        f"{name}'s {title} is {one['headline']['printed']} by a stand-in: {one['stand_in']}."
        for name, own in scores.items()
        for title, one in own.items()
        if one["stand_in"]
    ]
    if paper:
        rows += [TableRow(one.name, tuple(cell or "–" for cell in one.scores), True) for one in (*GRID, *OTHERS)]
        notes.append(f"published: {PAPER}, as printed; its last MMVP is on another scale than the others.")
        notes += [_VAL] if any("vqav2" in own for own in scores.values()) else []
    differences = [one for pair in combinations(named, 2) for one in _paired(*pair, named, scores)]
    return ScoreTable(tuple(rows), tuple(notes), tuple(differences))


def _paired(
    first: str, second: str, folders: Mapping[str, Path], scores: Mapping[str, Mapping[str, dict[str, Any]]]
) -> list[PairedScore]:
    """Of every column that both have from the same questions; a stand-in's has none."""
    found = []
    for name in BENCHMARKS:
        both = [scores[model].get(name) for model in (first, second)]
        if any(one is None or one["stand_in"] for one in both):
            continue
        sums = [read_sums(folders[model], name) for model in (first, second)]
        if sums[0] is None or sums[1] is None:
            continue
        columns = {column: (group, score) for column, (own, group, score, _) in _CELLS.items() if own == name}
        functions = {key: BENCHMARKS[name].function(*key) for key in columns.values()}
        estimates = sums[0].less(sums[1], functions)
        found += [
            PairedScore(first, second, column, estimates[key], name, _CELLS[column][3])
            for column, key in columns.items()
            if key in estimates
        ]
    return found


def _signed(value: float | None, unit: Unit) -> str:
    return unit.printed(value) if value is None or value < 0 else f"+{unit.printed(value)}"


def _cell(scores: Mapping[str, dict[str, Any]], column: str) -> str:
    name, group, score, unit = _CELLS[column]
    one = scores.get(name)
    return "–" if one is None or one["stand_in"] else unit.printed(one["scores"][group][score])


def check_protocols(scores: Mapping[str, Mapping[str, dict[str, Any]]]) -> None:
    """Numbers under two protocols are not set beside each other."""
    first: dict[str, tuple[str, Any]] = {}
    for model, own in scores.items():
        for name, one in own.items():
            other, protocol = first.setdefault(name, (model, one["protocol"]))
            if one["protocol"] != protocol:
                raise RelevancyError(
                    f"{name} of {other} and of {model} was scored under two protocols; score both with one version."
                )


def scores_in(folder: Path) -> dict[str, dict[str, Any]]:
    """Benchmark -> what `relevancy evaluate score --out` wrote of it."""
    found = {name: read_object(folder / f"{name}.json") for name in BENCHMARKS if (folder / f"{name}.json").is_file()}
    if not found:
        raise RelevancyError(f"{folder}: holds no scores; write some with relevancy evaluate score ... --out {folder}.")
    for name, one in found.items():
        if one.get("benchmark") != name or not {"scores", "headline", "protocol", "stand_in"} <= one.keys():
            raise RelevancyError(f"{folder}/{name}.json: is not what relevancy evaluate score --out writes.")
    return found


def _tex(text: str) -> str:
    return "".join(_TEX.get(letter, letter) for letter in text)
