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
    holds,
    located,
    read_predictions,
    read_rows,
    read_rows_under,
    row_id,
    unique,
)
from relevancy.evaluate.questions import AnsweredQuestion, BenchmarkQuestion, write_json
from relevancy.evaluate.scores import PERCENT, BenchmarkScore, Protocol, Scoreboard
from relevancy.evaluate.vqa_answers import accuracy, tokenized

_ANNOTATIONS = "v2_mscoco_val2014_annotations.json"
_TEST_DEV, _TEST = "llava_vqav2_mscoco_test-dev2015.jsonl", "llava_vqav2_mscoco_test2015.jsonl"
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
    """Every question of val2014, or of test-dev2015 where only its files are there. Raises RelevancyError."""
    if waits(data):
        yield from _ask_test_dev(data)
        return
    path = located(data, _ANNOTATIONS)
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


def _ask_test_dev(data: Path) -> Iterator[BenchmarkQuestion]:
    """LLaVA's rows of test-dev2015, which ask in its words already."""
    path = located(data, _TEST_DEV)
    rows, every = read_rows(path), {row_id(row, path): None for row in _test_rows(data)}
    strange = next((own for row in rows if (own := row_id(row, path)) not in every), None)
    if strange is not None:
        raise RelevancyError(f"{path}: question {strange} is not in {_TEST}; take both of LLaVA's eval.zip.")
    for row in rows:
        picture = f"test2015/{field(row, 'image', path)}"
        yield BenchmarkQuestion(row_id(row, path), field(row, "text", path), picture, given=row["question_id"])


def waits(data: Path) -> str | None:
    """What test-dev's answers wait for; val2014's are scored at once."""
    if holds(data, _ANNOTATIONS) or not holds(data, _TEST_DEV):
        return None
    return "VQA's server, which takes vqav2_submission.json"


def submit(data: Path, answers: Sequence[AnsweredQuestion], folder: Path) -> None:
    """The rows of question_id and answer that the server takes; of test2015 every one, those not asked with none."""
    said = {one.question.id: tokenized(one.text) for one in answers}
    if waits(data):
        rows = [
            {"question_id": row["question_id"], "answer": said.get(row_id(row, data), "")} for row in _test_rows(data)
        ]
    else:
        rows = [{"question_id": one.question.given, "answer": said[one.question.id]} for one in answers]
    write_json(folder / "vqav2_submission.json", rows)


def _test_rows(data: Path) -> list[dict[str, Any]]:
    return read_rows(located(data, _TEST))


def score(data: Path, predictions: Path) -> BenchmarkScore:
    """From v2_mscoco_val2014_annotations.json. Raises RelevancyError."""
    if why := waits(data):
        raise RelevancyError(f"--data {data}: answers to test-dev2015 wait for {why}; val2014's can be scored here.")
    path = located(data, _ANNOTATIONS)
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
    questions="214,354 about 40,504 pictures (val2014); 107,394 of test-dev2015, without answers",
    layout=(
        _ANNOTATIONS,
        "v2_OpenEnded_mscoco_val2014_questions.json (to ask)",
        f"or {_TEST_DEV} and {_TEST} (to ask)",
    ),
    pictures="val2014/ or test2015/",
    source="visualqa.org/download.html; test-dev's questions: LLaVA's eval.zip; pictures: COCO val2014 or test2015",
    licence="annotations CC BY 4.0; COCO's pictures under their Flickr terms",
    size="annotations 340 MB unpacked; val2014 6 GB, test2015 12 GB",
    unchecked="the number of pictures, licences, sizes",
    protocol=PROTOCOL,
    ask=ask,
    submit=submit,
    score=score,
    waits=waits,
)
