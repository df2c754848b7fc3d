"""MMVP: pairs of pictures that CLIP confuses. Tong et al., CVPR 2024; scored as its gpt_grader.py does."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from relevancy.errors import RelevancyError, shortened
from relevancy.evaluate.benchmark import Benchmark
from relevancy.evaluate.files import by_key, located, read_predictions, read_text
from relevancy.evaluate.judges import Grades, JudgeRequest, read_grades
from relevancy.evaluate.questions import AnsweredQuestion, BenchmarkQuestion
from relevancy.evaluate.scores import PERCENT, BenchmarkScore, Protocol, Scoreboard

PROTOCOL = Protocol(
    name="MMVP, graded by GPT-4 with yes or no",
    version="MMVP (300 questions, 150 pairs), gpt_grader.py",
    prompt="<image>\n{question} {options}",
    max_new_tokens=128,
    rules="Questions 1 and 2, 3 and 4, ... are a pair, which counts when both are right; the headline is the share of "
    "pairs.",
)
STAND_IN = (
    "the option's letter or words stood in for GPT-4: not comparable with published numbers; write what to ask a judge "
    "with --judge FILE, and give its grades as --predictions"
)
_HEADER = ("Index", "Question", "Options", "Correct Answer")
_OPTION = re.compile(r"\(([a-z])\)\s*(.*?)\s*(?=\([a-z]\)|$)", re.DOTALL)
_LETTER = re.compile(r"\s*(?:\(([a-z])\)|([a-z])(?:[).:]|\s*$))", re.IGNORECASE)


@dataclass(frozen=True)
class PairedQuestion:
    """A row of Questions.csv. right: the option's letter in brackets."""

    id: str
    text: str
    options: str
    right: str


def chosen(answer: str, options: str) -> str | None:
    """The letter of the option that an answer names: by that letter, else by the words of one option alone."""
    found = {letter: words.lower() for letter, words in _OPTION.findall(options)}
    start = _LETTER.match(answer)
    if start:
        letter = (start[1] or start[2]).lower()
        return letter if letter in found else None
    named = {letter for letter in re.findall(r"\(([a-z])\)", answer.lower()) if letter in found} or {
        letter for letter, words in found.items() if re.search(rf"(?<!\w){re.escape(words)}(?!\w)", answer.lower())
    }
    return named.pop() if len(named) == 1 else None


def ask(data: Path) -> Iterator[BenchmarkQuestion]:
    """Every question with its options. Raises RelevancyError."""
    for one in _questions(located(data, "Questions.csv")):
        picture = f"MMVP Images/{one.id}.jpg"
        yield BenchmarkQuestion(one.id, f"{one.text} {one.options}", picture, given=int(one.id), truth=one.right)


def submit(_: Path, answers: Sequence[AnsweredQuestion], folder: Path) -> None:
    """The rows that MMVP's gpt_grader.py reads."""
    rows = [
        {"question_id": one.question.given, "prompt": one.question.text, "answer": one.question.truth,
         "response": one.text}
        for one in answers
    ]  # fmt: skip
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (folder / "mmvp_answers.jsonl").write_text(text, encoding="utf-8")


def score(data: Path, predictions: Path) -> BenchmarkScore:
    """From Questions.csv and a judge's grades, or answers, which a stand-in grades. Raises RelevancyError."""
    path = located(data, "Questions.csv")
    questions = _questions(path)
    ids = [one.id for one in questions]
    grades = read_grades(predictions, ids)
    if grades:
        right, stand_in = _graded(grades), grades.stand_in
    else:
        said = by_key(read_predictions(predictions), lambda one: one.id, ids, predictions, path)
        right = np.array([f"({chosen(said[one.id].text, one.options)})" == one.right for one in questions], float)
        stand_in = STAND_IN
    pairs = np.arange(len(ids)) // 2
    both = np.repeat(right.reshape(-1, 2).prod(1), 2)
    board = Scoreboard(pairs.tolist())
    board.mean("pairs", "accuracy", both, np.arange(len(ids)) % 2 == 0)
    board.mean("questions", "accuracy", right)
    rights = dict(zip(ids, right.tolist(), strict=True))
    return board.scored("mmvp", PROTOCOL, PERCENT, ("pairs", "accuracy"), rights, stand_in)


def requests(data: Path, predictions: Path) -> Iterator[JudgeRequest]:
    """What GPT-4 is asked about each answer. Raises RelevancyError."""
    path = located(data, "Questions.csv")
    questions = _questions(path)
    said = by_key(read_predictions(predictions), lambda one: one.id, [one.id for one in questions], predictions, path)
    for one in questions:
        asked = (
            f"Given the following question {one.text} {one.options}, the correct answer is {one.right}. Does the "
            f"following answer correctly answers the question, answer:{said[one.id].text}?"
        )
        system = (
            "You are a helpful and precise assistant for checking the quality of the answer. Please answer in only "
            "yes or no."
        )
        messages = [{"role": "system", "content": system}, {"role": "user", "content": asked}]
        yield JudgeRequest(one.id, messages, "gpt-4-0314", 0.2, 8)


def _graded(grades: Grades) -> np.ndarray:
    if grades.runs != 1:
        raise RelevancyError(f"MMVP is graded once, not {grades.runs} times; give one run's grades.")
    # The official grader takes all but these two words for no.
    return np.array([said[0].lower() == "yes" for said in grades.said.values()], float)


def _questions(path: Path) -> list[PairedQuestion]:
    rows = list(csv.DictReader(io.StringIO(read_text(path), newline="")))
    for number, row in enumerate(rows, 1):
        missing = [name for name in _HEADER if not row.get(name)]
        if missing:
            raise RelevancyError(f"{path}: row {number} has no {missing[0]}.")
        if row["Index"] != str(number):
            raise RelevancyError(f"{path}: row {number} has the index {shortened(row['Index'])}; pairs need the order.")
    if not rows or len(rows) % 2:
        raise RelevancyError(f"{path}: has {len(rows)} questions; MMVP's stand in pairs.")
    return [PairedQuestion(row["Index"], row["Question"], row["Options"], row["Correct Answer"]) for row in rows]


BENCHMARK = Benchmark(
    name="mmvp",
    title="MMVP: pairs of pictures that CLIP takes for the same",
    questions="300 about 300 pictures, in 150 pairs",
    layout=("Questions.csv",),
    pictures="MMVP Images/",
    source="huggingface.co/datasets/MMVP/MMVP",
    licence="MIT, as its sister set MMVP_VLM says; pictures of ImageNet and LAION-Aesthetics under their own terms",
    size="below 1 GB with pictures",
    unchecked="its own licence, size",
    protocol=PROTOCOL,
    ask=ask,
    submit=submit,
    score=score,
    requests=requests,
)
