"""VQAv2: open questions with ten people's answers. Goyal et al., CVPR 2017; scored as the official vqaEval.py does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from relevancy.errors import RelevancyError
from relevancy.evaluate.benchmark import SHORT_ANSWER, Benchmark
from relevancy.evaluate.files import (
    Prediction,
    by_key,
    field,
    located,
    read_predictions,
    read_rows_under,
    row_id,
    unique,
)
from relevancy.evaluate.questions import AnsweredQuestion, BenchmarkQuestion, write_json
from relevancy.evaluate.scores import PERCENT, BenchmarkScore, Protocol, Scoreboard
from relevancy.evaluate.vqa_answers import accuracy, tokenized

PROTOCOL = Protocol(
    name="VQAv2, val2014, LLaVA-1.5's words; publications quote test-dev, whose answers only the server has",
    version="VQA v2, GT-Vision-Lab/VQA vqaEval.py; LLaVA convert_vqav2_for_submission.py",
    prompt=f"<image>\n{{question}}{SHORT_ANSWER}",
    max_new_tokens=128,
    rules="A third for each of the other nine people who say the same, one at most, averaged over the ten, in the "
    "official spelling. What a model said (text) first goes through LLaVA's word splitter; a submission (answer) does "
    "not.",
)


def submitted(said: Prediction) -> str:
    """An answer as it is handed to the official script."""
    return said.text if said.final else tokenized(said.text)


def ask(data: Path) -> Iterator[BenchmarkQuestion]:
    """Every question of val2014. Raises RelevancyError."""
    path = located(data, "v2_mscoco_val2014_annotations.json")
    annotations = read_rows_under(path, "annotations")
    unique((row_id(row, path) for row in annotations), path)
    known = {row_id(row, path): row for row in annotations}
    asked = located(data, "v2_OpenEnded_mscoco_val2014_questions.json")
    rows = read_rows_under(asked, "questions")
    if {row_id(row, asked) for row in rows} != set(known):
        raise RelevancyError(f"{asked}: does not ask what {path.name} answers; take both of val2014.")
    for row in rows:
        own, picture = row_id(row, asked), field(row, "image_id", asked, int)
        yield BenchmarkQuestion(
            own,
            field(row, "question", asked) + SHORT_ANSWER,
            f"val2014/COCO_val2014_{picture:012d}.jpg",
            field(known[own], "answer_type", path),
            row["question_id"],
            _people(known[own], path),
        )


def submit(_: Path, answers: Sequence[AnsweredQuestion], folder: Path) -> None:
    """The rows of question_id and answer that the server takes."""
    rows = [{"question_id": one.question.given, "answer": tokenized(one.text)} for one in answers]
    write_json(folder / "vqav2_submission.json", rows)


def score(data: Path, predictions: Path) -> BenchmarkScore:
    """From v2_mscoco_val2014_annotations.json. Raises RelevancyError."""
    path = located(data, "v2_mscoco_val2014_annotations.json")
    rows = read_rows_under(path, "annotations")
    ids = [row_id(row, path) for row in rows]
    unique(ids, path)
    said = by_key(read_predictions(predictions), lambda one: one.id, ids, predictions, path)
    right = np.array([accuracy(submitted(said[own]), _people(row, path)) for own, row in zip(ids, rows, strict=True)])
    board = Scoreboard([str(row.get("image_id")) for row in rows])
    board.mean("all", "accuracy", right)
    for name in ("answer_type", "question_type"):
        of = np.array([field(row, name, path) for row in rows])
        for value in sorted(set(of)):
            board.mean(f"{name}: {value}", "accuracy", right, of == value)
    rights = dict(zip(ids, right.tolist(), strict=True))
    return board.scored("vqav2", PROTOCOL, PERCENT, ("all", "accuracy"), rights)


def _people(row: dict[str, Any], path: Path) -> list[str]:
    answers = field(row, "answers", path, list)
    if not answers or not all(isinstance(one, dict) and "answer" in one for one in answers):
        raise RelevancyError(f"{path}: question {row.get('question_id')} has no people's answers.")
    return [str(one["answer"]) for one in answers]


BENCHMARK = Benchmark(
    name="vqav2",
    title="VQAv2: open questions about photographs",
    questions="214,354 about 40,504 pictures (val2014)",
    layout=("v2_mscoco_val2014_annotations.json", "v2_OpenEnded_mscoco_val2014_questions.json (to ask)"),
    pictures="val2014/",
    source="visualqa.org/download.html; pictures: COCO val2014",
    licence="annotations CC BY 4.0; COCO's pictures under their Flickr terms",
    size="annotations 340 MB unpacked; val2014 6 GB",
    unchecked="the number of pictures, licences, sizes",
    protocol=PROTOCOL,
    ask=ask,
    submit=submit,
    score=score,
)
