"""An export beside a plain loop over `explain` and a loop over eager attention, timed in one run.

`python tests/test_export/test_export_speed.py [rows] [pictures]` prints the three and their ratios; the loops are timed
over a part of the rows, half of it before the export and half after, so that a busy machine is as busy for all.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent))

from reference import reference

import relevancy
from relevancy.explanations.explain import explain
from relevancy.export.run import Request, export
from relevancy.images import open_picture
from relevancy.models import generation
from relevancy.models.model import Model

PAIR = ("demo-small", "demo-large")
QUESTIONS = (
    "Is the duck floating? (a) Yes (b) No", "What color is the ball?", "How many boats are in the picture?",
    "Where is the dog?",
)  # fmt: skip


def write_input(place: Path, rows: int, pictures: int) -> list[tuple[Path, str]]:
    """Rows that ask four questions about each picture, shuffled, and the pictures (320 x 240, as JPEG)."""
    generator = np.random.default_rng(0)
    for number in range(pictures):
        coarse = generator.integers(0, 256, (7, 9, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((320, 240), Image.Resampling.BICUBIC).save(place / f"{number}.jpg", quality=90)
    asked = [(place / f"{row % pictures}.jpg", QUESTIONS[row // pictures % 4]) for row in range(rows)]
    asked = [asked[place] for place in generator.permutation(rows)]
    with (place / "items.jsonl").open("w") as stream:
        stream.writelines(json.dumps({"image": path.name, "question": question}) + "\n" for path, question in asked)
    return asked


def eager(model: Model, path: Path, question: str) -> None:
    """The map with every attention matrix kept, and the answer."""
    picture = open_picture(path).image
    inputs = model.prepare([picture], [question])
    reference(model.model, dict(inputs))
    generation.answers(model, tiny.read(model, [picture], [question]))


def seconds_a_row(
    work: Callable[[Model, Path, str], object], models: list[Model], asked: list[tuple[Path, str]]
) -> float:
    start = time.perf_counter()
    for model in models:
        for path, question in asked:
            work(model, path, question)
    return (time.perf_counter() - start) / len(asked)


def measure(place: Path, rows: int, pictures: int, sample: int) -> dict[str, float]:
    """Seconds per row, both models together, of the three ways."""
    asked = write_input(place, rows, pictures)
    models = [relevancy.load(name, device="cpu") for name in PAIR]
    ways = {"plain loop over explain": explain, "loop over eager attention": eager}
    for work in ways.values():
        seconds_a_row(work, models, asked[:3])
    half = sample // 2
    before = {name: seconds_a_row(work, models, asked[:half]) for name, work in ways.items()}
    start = time.perf_counter()
    export(Request(models=PAIR, input=str(place / "items.jsonl"), out=place / "out", options={"device": "cpu"}))
    took = (time.perf_counter() - start) / rows
    after = {name: seconds_a_row(work, models, asked[half:sample]) for name, work in ways.items()}
    return {name: (before[name] + after[name]) / 2 for name in ways} | {"export": took}


@pytest.mark.slow
def test_an_export_is_four_times_a_loop_and_eight_times_eager_attention(tmp_path):
    torch.set_num_threads(2)
    try:
        found = measure(tmp_path, 2000, 500, 200)
    finally:
        torch.set_num_threads(1)
    assert found["plain loop over explain"] / found["export"] >= 4
    assert found["loop over eager attention"] / found["export"] >= 8


if __name__ == "__main__":
    given_rows, given_pictures = (int(text) for text in (sys.argv[1:3] if len(sys.argv) > 2 else ("2000", "500")))
    with tempfile.TemporaryDirectory() as folder:
        measured = measure(Path(folder), given_rows, given_pictures, min(200, given_rows))
    for way, seconds in measured.items():
        ratio = seconds / measured["export"]
        print(f"{way}: {seconds * 1e3:.2f} ms a row (both models), {ratio:.1f} x the export's")  # noqa: T201
