"""GQA: compositional questions about scenes. Hudson and Manning, CVPR 2019; scored as its eval.py does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from relevancy.errors import RelevancyError
from relevancy.evaluate.benchmark import SHORT_ANSWER, Benchmark
from relevancy.evaluate.files import Prediction, by_key, field, located, read_entries, read_predictions
from relevancy.evaluate.questions import AnsweredQuestion, BenchmarkQuestion, found_picture, write_json
from relevancy.evaluate.scores import PERCENT, BenchmarkScore, Protocol, Scoreboard

PROTOCOL = Protocol(
    name="GQA, testdev balanced, as LLaVA-1.5 is scored",
    version="GQA 1.2, eval.py; LLaVA convert_gqa_for_eval.py",
    prompt=f"<image>\n{{question}}{SHORT_ANSWER}",
    max_new_tokens=128,
    rules="An answer must equal the annotated one letter by letter, over balanced questions. What a model said (text) "
    "first loses full stops at its end and its capitals, as LLaVA's converter does; a submission (prediction) is taken "
    "as it is. Open questions are those whose structural type is query, all others are binary.",
)


def submitted(said: Prediction) -> str:
    """An answer as it is handed to the official script."""
    return said.text if said.final else said.text.rstrip(".").lower()


def ask(data: Path) -> Iterator[BenchmarkQuestion]:
    """Every balanced question. Raises RelevancyError."""
    path, _, balanced = _questions(data)
    for own, row in balanced.items():
        name = field(row, "imageId", path)
        yield BenchmarkQuestion(
            own,
            field(row, "question", path) + SHORT_ANSWER,
            found_picture(data, f"images/{name}.jpg", f"images/{name}.png"),
            str(field(row, "types", path, dict).get("structural")),
            truth=field(row, "answer", path),
        )


def submit(_: Path, answers: Sequence[AnsweredQuestion], folder: Path) -> None:
    """What GQA's eval.py reads, as LLaVA's converter writes it."""
    rows = [
        {"questionId": one.question.id, "prediction": submitted(Prediction(one.question.id, one.text))}
        for one in answers
    ]
    write_json(folder / "testdev_balanced_predictions.json", rows)


def score(data: Path, predictions: Path) -> BenchmarkScore:
    """From testdev_balanced_questions.json. Raises RelevancyError."""
    path, everything, asked = _questions(data)
    given = [one for one in read_predictions(predictions) if one.id in asked or one.id not in everything]
    said = by_key(given, lambda one: one.id, asked, predictions, path)
    right = np.array([submitted(said[own]) == field(row, "answer", path) for own, row in asked.items()], float)
    board = Scoreboard([field(row, "imageId", path) for row in asked.values()])
    board.mean("all", "accuracy", right)
    kinds = [field(row, "types", path, dict) for row in asked.values()]
    structure = np.array([str(own.get("structural")) for own in kinds])
    board.mean("open", "accuracy", right, structure == "query")
    board.mean("binary", "accuracy", right, structure != "query")
    for name, values in (
        ("structural", structure),
        ("semantic", np.array([str(own.get("semantic")) for own in kinds])),
    ):
        for value in sorted(set(values)):
            board.mean(f"{name}: {value}", "accuracy", right, values == value)
    rights = dict(zip(asked, right.tolist(), strict=True))
    return board.scored("gqa", PROTOCOL, PERCENT, ("all", "accuracy"), rights)


def _questions(data: Path) -> tuple[Path, Mapping[str, dict[str, Any]], Mapping[str, dict[str, Any]]]:
    """The file, all that it asks, and of that what is balanced, by ids."""
    path = located(data, "testdev_balanced_questions.json")
    everything = read_entries(path)
    balanced = {own: row for own, row in everything.items() if row.get("isBalanced")}
    if not balanced:
        raise RelevancyError(f"{path}: none of its questions is balanced; take testdev_balanced_questions.json.")
    return path, everything, balanced


BENCHMARK = Benchmark(
    name="gqa",
    title="GQA: compositional questions about real scenes",
    questions="12,578 about 398 pictures",
    layout=("testdev_balanced_questions.json",),
    pictures="images/",
    source="cs.stanford.edu/people/dorarad/gqa: questions1.2.zip and images.zip",
    licence="annotations CC BY 4.0; pictures of Visual Genome (COCO and YFCC), under their own terms",
    size="questions 1.4 GB with the training set's; pictures 20 GB",
    unchecked="sizes, the pictures' terms",
    protocol=PROTOCOL,
    ask=ask,
    submit=submit,
    score=score,
)
