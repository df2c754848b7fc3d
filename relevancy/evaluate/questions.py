"""What a benchmark asks, and answers to it in the form that LLaVA's scripts write them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from relevancy.errors import RelevancyError, shortened
from relevancy.evaluate.files import unique

ANSWERS = "answers.jsonl"


@dataclass(frozen=True)
class BenchmarkQuestion:
    """One question about one picture, or in words alone.

    id: alone in its benchmark. text: as it is asked, `<image>` left out. picture: a path within --data, None in words
    alone. category: the benchmark's own. given: the id that LLaVA's question file has, where it is another. truth: what
    is right, if known.
    """

    id: str
    text: str
    picture: str | None
    category: str = ""
    given: str | int | None = None
    truth: str | Sequence[str] | None = None

    def to_json(self) -> dict[str, Any]:
        """As a row of an export's input."""
        row: dict[str, Any] = {"id": self.id, "image": self.picture, "question": self.text, "category": self.category}
        return row if self.truth is None else row | {"answer": self.truth}


@dataclass(frozen=True)
class AnsweredQuestion:
    """A question with what a model said to it."""

    question: BenchmarkQuestion
    text: str


Submission = Callable[[Path, Sequence[AnsweredQuestion], Path], None]
"""Writes answers as a benchmark's own script or server takes them: --data, the answers, the folder to write into."""


def checked_questions(found: Iterable[BenchmarkQuestion], data: Path, wanted: str) -> list[BenchmarkQuestion]:
    """The questions, once all of them are different and every picture is there. Raises RelevancyError.

    wanted: where pictures belong, as `--list` says it.
    """
    questions = list(found)
    unique((one.id for one in questions), data)
    pictures = dict.fromkeys(one.picture for one in questions if one.picture is not None)
    missing = [name for name in pictures if not _there(data / name)]
    if missing:
        raise RelevancyError(
            f"--data {data}: {len(missing):,} of {len(pictures):,} pictures are not there or empty, the first "
            f"{shortened(missing[0])}; pictures belong into {data / wanted}."
        )
    return questions


def _there(path: Path) -> bool:
    """Whether it is a file with something in it."""
    try:
        return path.is_file() and path.stat().st_size > 0
    except OSError:  # a name that no file can have
        return False


def write_answers(answers: Iterable[AnsweredQuestion], model: str, path: Path) -> None:
    """Rows of question_id, prompt, text, answer_id, model_id and metadata, as LLaVA's scripts write them."""
    with path.open("w", encoding="utf-8") as stream:
        for one in answers:
            asked = one.question
            own = hashlib.blake2b(f"{model}\n{asked.id}".encode(), digest_size=11).hexdigest()
            row: dict[str, Any] = {
                "question_id": asked.id if asked.given is None else asked.given, "prompt": asked.text,
                "text": one.text, "answer_id": own, "model_id": model, "metadata": {},
            }  # fmt: skip
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")


def found_picture(data: Path, *names: str) -> str:
    """The first of these that is a file within --data, or the first of all."""
    return next((name for name in names if _there(data / name)), names[0])


def write_json(path: Path, value: Any) -> None:
    """One value as JSON, in UTF-8."""
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
