"""Cells of the grid and what was measured in each, as one file of JSON per cell."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path

import numpy as np

from relevancy.atomic_io import write_whole
from relevancy.demo.questions import FORMS, Question, ask
from relevancy.demo.world import Scene

TOWERS = ("clip", "dinov2")
SIZES = ("small", "large")


@dataclass(frozen=True, order=True)
class Cell:
    """One model to train: which tower, which decoder, whether its connector is pretrained, which seed."""

    size: str
    tower: str
    aligned: bool
    seed: int

    @property
    def name(self) -> str:
        """As its file is called."""
        return f"{self.size}-{self.tower}{'' if self.aligned else '-unaligned'}-{self.seed}"


@dataclass(frozen=True)
class CellResult:
    """A trained cell. right: whether each question of `asked` was answered right, in that order."""

    cell: Cell
    right: np.ndarray  # (questions,) bool
    seconds: float

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        return float(self.right.mean())


def cells(seeds: int) -> list[Cell]:
    """All of them, the seeds one after the other: a grid that is stopped has whole seeds."""
    return [
        Cell(size, tower, aligned, seed)
        for seed, size, tower, aligned in product(range(seeds), SIZES, TOWERS, (True, False))
    ]


def asked(drawn: Sequence[Scene]) -> list[tuple[int, Question]]:
    """Every open question about each scene: (number of the scene, question), the same for all cells."""
    return [
        (number, question)
        for number, one in enumerate(drawn)
        for question in ask(one.layout, one.shares, np.random.default_rng([one.seed, 4]), FORMS[:1])
    ]


def write(folder: Path, measured: CellResult) -> None:
    """FOLDER/NAME.json, whole or not at all."""
    bits = "".join("01"[int(hit)] for hit in measured.right)
    told = asdict(measured.cell) | {"accuracy": measured.accuracy, "seconds": measured.seconds, "right": bits}
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / f"{measured.cell.name}.json", json.dumps(told))


def read(folder: Path, cell: Cell) -> CellResult | None:
    """What `write` wrote of a cell; None if it is not finished."""
    file = folder / f"{cell.name}.json"
    if not file.exists():
        return None
    told = json.loads(file.read_text())
    return CellResult(cell, np.array([bit == "1" for bit in told["right"]]), told["seconds"])
