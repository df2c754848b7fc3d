"""ScienceQA: school questions with choices. Lu et al., NeurIPS 2022; scored as LLaVA's eval_science_qa.py does."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from relevancy.errors import RelevancyError
from relevancy.evaluate.benchmark import LETTER_ONLY, Benchmark
from relevancy.evaluate.files import (
    by_key,
    field,
    holds,
    located,
    read_json,
    read_object,
    read_predictions,
    row_id,
    unique,
)
from relevancy.evaluate.questions import AnsweredQuestion, BenchmarkQuestion, write_json
from relevancy.evaluate.scores import PERCENT, BenchmarkScore, Protocol, Scoreboard

LETTERS = "ABCDE"
PROTOCOL = Protocol(
    name="ScienceQA, test, as LLaVA-1.5 is scored; the paper quotes its rows with a picture (IMG)",
    version="ScienceQA 1.0, LLaVA eval_science_qa.py, with no guesses",
    prompt=f"<image>\n{{context, question and choices}}{LETTER_ONLY}",
    max_new_tokens=1024,
    rules="Rows without a picture are asked in words alone. An answer that is a letter from A to E, or begins with "
    "one, a full stop and a space, else the only 'The answer is X.' in it. A letter without a choice, and anything "
    "else, is wrong; ScienceQA's own script would guess.",
)
_SAID = re.compile(r"The answer is ([A-Z]).")
_CHOICE = re.compile(r"^([A-E])\. ", re.MULTILINE)


@dataclass(frozen=True)
class SchoolQuestion:
    """A row of the test: its words, how many choices, which letter is right, and its picture if it has one."""

    id: str
    text: str
    choices: int
    right: str
    picture: str | None


def chosen(answer: str, choices: int) -> str | None:
    """The letter of the choice that an answer names, by the official rules; None where it names none."""
    if answer in LETTERS and len(answer) == 1:
        letter = answer
    elif answer[1:3] == ". " and answer[0] in LETTERS:
        letter = answer[0]
    else:
        found = _SAID.findall(answer)
        letter = found[0] if len(found) == 1 else ""
    return letter if letter and letter in LETTERS[:choices] else None


def ask(data: Path) -> Iterator[BenchmarkQuestion]:
    """Every question; those without a picture in words alone, as LLaVA asks them. Raises RelevancyError."""
    questions, subjects = _questions(data), _subjects(data)
    for one in questions:
        text = one.text.replace("<image>", "").strip() + LETTER_ONLY
        picture = None if one.picture is None else f"images/test/{one.picture}"
        yield BenchmarkQuestion(one.id, text, picture, subjects.get(one.id, ""), truth=one.right)


def submit(_: Path, answers: Sequence[AnsweredQuestion], folder: Path) -> None:
    """Results and outputs by ids, as ScienceQA's evaluation reads them; -1 where no letter is named."""
    results = {}
    for one in answers:
        letter = chosen(one.text, len(LETTERS))
        results[one.question.id] = -1 if letter is None else LETTERS.index(letter)
    outputs = {one.question.id: one.text for one in answers}
    write_json(folder / "scienceqa_result.json", {"results": results, "outputs": outputs})


def score(data: Path, predictions: Path) -> BenchmarkScore:
    """From llava_test_CQM-A.json; pid_splits.json and problems.json are used where they are there.

    Answers to the rows with a picture alone give IMG alone. Raises RelevancyError.
    """
    questions = _questions(data)
    path = located(data, "llava_test_CQM-A.json")
    given = read_predictions(predictions)
    pictured = {one.id for one in questions if one.picture}
    only_pictured = bool(given) and all(one.id in pictured for one in given)
    asked = [one for one in questions if one.picture or not only_pictured]
    said = by_key(given, lambda one: one.id, [one.id for one in asked], predictions, path)
    right = np.array([chosen(said[one.id].text, one.choices) == one.right for one in asked], float)
    with_picture = np.array([one.picture is not None for one in asked])
    board = Scoreboard([one.picture or one.id for one in asked])
    board.mean("IMG", "accuracy", right, with_picture)
    if not only_pictured:
        board.mean("all", "accuracy", right)
    subjects = _subjects(data)
    of = np.array([subjects.get(one.id, "") for one in asked])
    for subject in sorted(set(of) - {""}):
        board.mean(f"IMG: {subject}", "accuracy", right, with_picture & (of == subject))
    rights = dict(zip((one.id for one in asked), right.tolist(), strict=True))
    return board.scored("scienceqa", PROTOCOL, PERCENT, ("IMG", "accuracy"), rights, quoted=with_picture)


def _questions(data: Path) -> list[SchoolQuestion]:
    path = located(data, "llava_test_CQM-A.json")
    questions = [school_question(row, path) for row in _list(read_json(path), path)]
    unique((one.id for one in questions), path)
    _check_split(data, questions, path)
    return questions


def _list(found: Any, path: Path) -> list[Any]:
    if not isinstance(found, list):
        raise RelevancyError(f"{path}: is one list of questions in LLaVA's copy, not {type(found).__name__}.")
    return found


def school_question(row: Any, path: Path) -> SchoolQuestion:
    """A row of LLaVA's copy of the test. Raises RelevancyError."""
    try:
        asked, answer = (turn["value"] for turn in row["conversations"])
        own = row_id(row, path, "id")
        letters = _CHOICE.findall(asked)
        # A context may begin a line with a letter too: the choices are the last run from A.
        start = len(letters) - 1 - letters[::-1].index("A")
        picture = None if row.get("image") is None else str(row["image"])
        return SchoolQuestion(own, str(asked), len(letters) - start, str(answer).strip(), picture)
    except (KeyError, TypeError, ValueError) as error:
        raise RelevancyError(f"{path}: a row is no question with choices and an answer ({error}).") from error


def _check_split(data: Path, questions: list[SchoolQuestion], path: Path) -> None:
    """Where the official splits are there, these must be the test's questions."""
    if not holds(data, "pid_splits.json"):
        return
    splits = located(data, "pid_splits.json")
    if set(map(str, field(read_object(splits), "test", splits, list))) != {one.id for one in questions}:
        raise RelevancyError(
            f"{path}: its questions are not the test split of {splits.name}; take llava_test_CQM-A.json."
        )


def _subjects(data: Path) -> Mapping[str, str]:
    if not holds(data, "problems.json"):
        return {}
    problems = read_object(located(data, "problems.json"))
    return {own: str(row.get("subject", "")) for own, row in problems.items() if isinstance(row, dict)}


BENCHMARK = Benchmark(
    name="scienceqa",
    title="ScienceQA: school questions with choices, in words alone or with a picture (IMG)",
    questions="4,241, of them 2,017 with a picture",
    layout=("llava_test_CQM-A.json", "pid_splits.json (to check the split)", "problems.json (for scores by subject)"),
    pictures="images/test/",
    source="questions: LLaVA's eval.zip; the rest: github.com/lupantech/ScienceQA, data/scienceqa",
    licence="CC BY-NC-SA 4.0",
    size="test with pictures 130 MB as Parquet (lmms-lab/ScienceQA, ScienceQA-IMG)",
    unchecked="licence",
    protocol=PROTOCOL,
    ask=ask,
    submit=submit,
    score=score,
)
