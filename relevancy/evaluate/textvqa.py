"""TextVQA: questions about text in pictures. Singh et al., CVPR 2019; scored as LLaVA's eval_textvqa.py does."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from relevancy.errors import RelevancyError, shortened
from relevancy.evaluate.benchmark import SHORT_ANSWER, Benchmark
from relevancy.evaluate.files import (
    Prediction,
    by_key,
    field,
    located,
    read_predictions,
    read_rows,
    read_rows_under,
    row_id,
    unique,
)
from relevancy.evaluate.questions import AnsweredQuestion, BenchmarkQuestion, write_json
from relevancy.evaluate.scores import PERCENT, BenchmarkScore, Protocol, Scoreboard
from relevancy.evaluate.vqa_answers import PEOPLE, agreement, tokenized

PROTOCOL = Protocol(
    name="TextVQA, val, as LLaVA-1.5 is scored (OCR tokens in the prompt)",
    version="TextVQA 0.5.1, LLaVA eval_textvqa.py and m4c_evaluator.py",
    prompt=f"<image>\n{{question}}\nReference OCR token: {{tokens}}{SHORT_ANSWER}",
    max_new_tokens=128,
    rules="As VQAv2, both sides through the word splitter and always in the official spelling.",
)
_OCR = "Reference OCR token: "
_OLD = re.compile(r"Question: (.*?) Short answer:", re.DOTALL)


def question_in(prompt: str) -> str:
    """The question within LLaVA's prompt, in lower case. Raises RelevancyError where it stands in none of its forms."""
    lines = prompt.split("\n")
    old = _OLD.search(prompt) if prompt.startswith("OCR tokens: ") else None
    if old:
        return old[1].lower()
    if _OCR in prompt and len(lines) == 3:
        return lines[1 if prompt.startswith(_OCR.strip()) else 0].lower()
    if len(lines) == 2:
        return lines[0].lower()
    raise RelevancyError(f"The prompt {shortened(prompt)!r} is none of LLaVA's for TextVQA; give rows with prompt.")


def ask(data: Path) -> Iterator[BenchmarkQuestion]:
    """Every question, with the OCR tokens of LLaVA's question file. Raises RelevancyError."""
    path, words = located(data, "TextVQA_0.5.1_val.json"), located(data, "llava_textvqa_val_v051_ocr.jsonl")
    rows = {(_picture(row, path), field(row, "question", path).lower()): row for row in read_rows_under(path, "data")}
    asked = [(row_id(row, words), field(row, "text", words)) for row in read_rows(words)]
    keys = [(own, question_in(text)) for own, text in asked]
    unique(keys, words)
    if set(keys) != set(rows):
        raise RelevancyError(f"{words}: does not ask what {path.name} asks; take both of TextVQA 0.5.1's val.")
    for (own, text), key in zip(asked, keys, strict=True):
        people = list(map(str, field(rows[key], "answers", path, list)))
        yield BenchmarkQuestion(
            str(field(rows[key], "question_id", path, int)), text, f"train_images/{own}.jpg", given=own, truth=people
        )


def submit(_: Path, answers: Sequence[AnsweredQuestion], folder: Path) -> None:
    """Rows of question_id and answer, as the challenge's server takes them."""
    rows = [{"question_id": int(one.question.id), "answer": tokenized(one.text)} for one in answers]
    write_json(folder / "textvqa_submission.json", rows)


def score(data: Path, predictions: Path) -> BenchmarkScore:
    """From TextVQA_0.5.1_val.json.

    LLaVA's answers are told apart by their picture's id and the question in their prompt, a submission's by
    question_id. Raises RelevancyError.
    """
    path = located(data, "TextVQA_0.5.1_val.json")
    rows = read_rows_under(path, "data")
    given = read_predictions(predictions)
    submission = bool(given) and all(one.final for one in given)
    keys: list[Hashable] = [
        row_id(row, path) if submission else (_picture(row, path), field(row, "question", path).lower()) for row in rows
    ]
    unique(keys, path)

    def key(one: Prediction) -> Hashable:
        return one.id if submission else (one.id, question_in(one.prompt))

    said = by_key(given, key, keys, predictions, path)
    right = np.array(
        [agreement(tokenized(said[own].text), _people(row, path)) for own, row in zip(keys, rows, strict=True)]
    )
    board = Scoreboard([_picture(row, path) for row in rows])
    board.mean("all", "accuracy", right)
    rights = dict(zip((row_id(row, path) for row in rows), right.tolist(), strict=True))
    return board.scored("textvqa", PROTOCOL, PERCENT, ("all", "accuracy"), rights)


def _picture(row: dict[str, Any], path: Path) -> str:
    return field(row, "image_id", path)


def _people(row: dict[str, Any], path: Path) -> list[str]:
    answers = field(row, "answers", path, list)
    if len(answers) != PEOPLE:
        raise RelevancyError(f"{path}: question {row.get('question_id')} has {len(answers)} answers, not {PEOPLE}.")
    return [tokenized(str(one)) for one in answers]


BENCHMARK = Benchmark(
    name="textvqa",
    title="TextVQA: questions about text in pictures",
    questions="5,000 about 3,166 pictures (val)",
    layout=("TextVQA_0.5.1_val.json", "llava_textvqa_val_v051_ocr.jsonl (to ask in LLaVA's words)"),
    pictures="train_images/",
    source="textvqa.org/dataset; LLaVA's eval.zip for its questions",
    licence="CC BY 4.0; pictures of Open Images, CC BY 2.0",
    size="annotations 16 MB; pictures 7 GB",
    unchecked="the number of pictures, licences, sizes",
    protocol=PROTOCOL,
    ask=ask,
    submit=submit,
    score=score,
)
