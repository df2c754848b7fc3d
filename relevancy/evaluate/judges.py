"""Grades by a judge: its prompts are written out, and what it said is read back."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from relevancy.atomic_io import write_whole, writing
from relevancy.errors import RelevancyError, shortened
from relevancy.evaluate.files import read_any

_GPT_4 = re.compile(r"gpt-4(-32k)?(-0314|-0613)?")


@dataclass(frozen=True)
class JudgeRequest:
    """What the judge is asked about one answer, in the form of a chat."""

    id: str
    messages: list[dict[str, str]]
    model: str
    temperature: float
    max_tokens: int


@dataclass(frozen=True)
class Grades:
    """What a judge said of each answer, once in each run, and the numbers that the file makes of it, if any.

    judge: its name, as the file has it.
    """

    judge: str
    said: Mapping[str, list[str]]
    numbers: Mapping[str, list[float]]
    runs: int

    @property
    def stand_in(self) -> str | None:
        """What to call the numbers where the judge is not the official one."""
        if _GPT_4.fullmatch(self.judge):
            return None
        return f"judged by {self.judge} in GPT-4's place: not comparable with published numbers"


def write_requests(requests: Iterable[JudgeRequest], path: Path) -> None:
    """One a line; a judge's answers come back as lines of id, model and content."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, "".join(json.dumps(asdict(one), ensure_ascii=False) + "\n" for one in requests))


def read_grades(path: Path, wanted: Iterable[str]) -> Grades | None:
    """Grades of exactly the wanted ids; None where the file holds no grades but answers. Raises RelevancyError.

    Either an object {id: {model: [...], content: [...], score: [...]}}, an entry a run, as MM-Vet's evaluator writes
    it (score may be left out), or rows of id, model and content, a run each.
    """
    entries = _entries(read_any(path), path)
    if entries is None:
        return None
    ids = dict.fromkeys(wanted)
    for own in entries:
        if own not in ids:
            raise RelevancyError(f"{path}: {shortened(own)} is graded, but no question has this id; is it another set?")
    missing = [own for own in ids if own not in entries]
    if missing:
        raise RelevancyError(f"{path}: {len(missing):,} of {len(ids):,} grades are missing, the first of {missing[0]}.")
    judges = sorted({model for one in entries.values() for model in one.models})
    if len(judges) != 1:
        raise RelevancyError(f"{path}: grades of {' and '.join(judges) or 'nobody'} in one file; give one judge's.")
    runs = {len(one.content) for one in entries.values()}
    if len(runs) != 1 or 0 in runs:
        raise RelevancyError(f"{path}: every answer must be graded in every run, not {min(runs)} to {max(runs)} times.")
    numbers = {own: entries[own].scores for own in ids if entries[own].scores}
    return Grades(judges[0], {own: entries[own].content for own in ids}, numbers, runs.pop())


@dataclass(frozen=True)
class _Entry:
    models: list[str]
    content: list[str]
    scores: list[float]


def _entries(found: Any, path: Path) -> dict[str, _Entry] | None:
    if isinstance(found, dict) and found and all(isinstance(one, dict) for one in found.values()):
        given = [(own, one.get("model"), one.get("content"), one.get("score", [])) for own, one in found.items()]
    elif isinstance(found, list) and found and all(isinstance(one, dict) and "content" in one for one in found):
        given = [(one.get("id"), [one.get("model")], [one["content"]], []) for one in found]
    else:
        return None
    entries: dict[str, _Entry] = {}
    for own, models, content, scores in given:
        whole = own is not None and _all(models, str) and _all(content, str) and _all(scores, int | float)
        if not whole or (scores and len(scores) != len(content)):
            raise RelevancyError(f"{path}: the grade of {shortened(own)} needs an id, a model's name and a content.")
        entry = entries.setdefault(str(own), _Entry([], [], []))
        entry.models.extend(models)
        entry.content.extend(content)
        entry.scores.extend(scores)
    return entries


def _all(values: Any, kind: Any) -> bool:
    return isinstance(values, list) and all(isinstance(one, kind) for one in values)
