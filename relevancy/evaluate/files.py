"""Reading benchmarks' files and predictions; what is wrong with them is one line. Raises RelevancyError."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from relevancy.data.reader import opened
from relevancy.errors import RelevancyError, shortened

_IDS = ("question_id", "questionId", "id")
_SAID, _FINAL = ("text", "response"), ("prediction", "answer")
Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Prediction:
    """What was answered to a question. final: in the benchmark's submission form, so no converter is due."""

    id: str
    text: str
    prompt: str = ""
    final: bool = False


def holds(folder: Path, name: str) -> bool:
    """Whether a folder has this file, packed with gzip or not."""
    return (folder / name).is_file() or (folder / f"{name}.gz").is_file()


def located(folder: Path, *names: str) -> Path:
    """The first of these files that the folder holds, packed with gzip or not."""
    for name in names:
        for path in (folder / name, folder / f"{name}.gz"):
            if path.is_file():
                return path
    raise RelevancyError(f"--data {folder}: {' or '.join(names)} is not there; see relevancy evaluate --list.")


def read_text(path: Path) -> str:
    """A file of UTF-8."""
    try:
        with opened(path) as stream:
            return stream.read().decode("utf-8-sig")
    except (OSError, EOFError, UnicodeError) as error:
        raise RelevancyError(f"{path}: cannot be read ({shortened(error)}).") from error


def read_json(path: Path) -> Any:
    """A file that is one JSON value."""
    try:
        return json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise RelevancyError(f"{path}: is no JSON ({shortened(error)}).") from error


def read_object(path: Path) -> dict[str, Any]:
    """A file that is one JSON object."""
    found = read_json(path)
    if not isinstance(found, dict):
        raise RelevancyError(f"{path}: holds no JSON object but {type(found).__name__}.")
    return found


def read_entries(path: Path) -> dict[str, dict[str, Any]]:
    """A file that is one object of ids and what belongs to each."""
    found = read_object(path)
    _check_rows(list(found.values()), path)
    return found


def read_rows_under(path: Path, name: str) -> list[dict[str, Any]]:
    """The rows that a file's one object holds under a name."""
    rows: list[dict[str, Any]] = field(read_object(path), name, path, list)
    _check_rows(rows, path)
    return rows


def read_any(path: Path) -> Any:
    """One JSON value, or a list of those that stand one a line."""
    text = read_text(path)
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return [_row(line, path, number) for number, line in enumerate(text.split("\n"), 1) if line.strip()]


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Objects, one a line or in one list."""
    found = read_any(path)
    rows = found if isinstance(found, list) else [found]
    _check_rows(rows, path)
    return rows


def read_predictions(path: Path) -> list[Prediction]:
    """Answers as LLaVA's scripts write them, in a submission's form, or as an object of id -> answer.

    Rows have `question_id`, `questionId` or `id`, and the answer under `text` or `response` (as the model said it) or
    under `prediction` or `answer` (in submission form). ScienceQA's results hold theirs under `outputs`.
    """
    found = read_any(path)
    if isinstance(found, dict) and not any(name in found for name in _IDS):
        answers = found.get("outputs", found)
        if not isinstance(answers, dict) or not all(isinstance(one, str) for one in answers.values()):
            raise RelevancyError(f"{path}: give rows with question_id and text, or one object of id and answer.")
        return [Prediction(key, text) for key, text in answers.items()]
    return [_prediction(row, f"{path}, row {number}") for number, row in enumerate(read_rows(path), 1)]


def by_key(
    predictions: Iterable[Prediction], key: Callable[[Prediction], Key], wanted: Iterable[Key], path: Path, asked: Path
) -> Mapping[Key, Prediction]:
    """Exactly one prediction for each wanted key. path: where predictions stand. asked: where questions do."""
    found: dict[Key, Prediction] = {}
    for one in predictions:
        own = key(one)
        if own in found:
            raise RelevancyError(f"{path}: question {_shown(own)} is answered twice; keep one answer each.")
        found[own] = one
    keys = dict.fromkeys(wanted)
    strange = [own for own in found if own not in keys]
    if strange:
        raise RelevancyError(
            f"{path}: {len(strange):,} of {len(found):,} answers are to no question of {asked.name}, the first to "
            f"{_shown(strange[0])}; is it another split?"
        )
    missing = [own for own in keys if own not in found]
    if missing:
        raise RelevancyError(
            f"{path}: {len(missing):,} of {len(keys):,} answers are missing, the first to {_shown(missing[0])}; finish "
            "the run, or give the split that was asked."
        )
    return found


def field(row: Mapping[str, Any], name: str, path: Path, kind: type = str) -> Any:
    """A value that every row of an official file has."""
    value = row.get(name)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is int):
        raise RelevancyError(f"{path}: a row has no {name} ({shortened(json.dumps(row, default=str))}).")
    return value


def row_id(row: Mapping[str, Any], path: Path, name: str = "question_id") -> str:
    """A row's id, text or a whole number, as text."""
    own = _as_id(row.get(name))
    if own is None:
        shown = shortened(json.dumps(row, default=str))
        raise RelevancyError(f"{path}: a row has no {name} that is text or a whole number ({shown}).")
    return own


def _as_id(value: Any) -> str | None:
    """Text or a whole number as text, 7.0 as 7; None for all else."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) and value != "" else None


def unique(keys: Iterable[Key], path: Path) -> None:
    """Refuse an official file that asks something twice."""
    seen: set[Key] = set()
    for key in keys:
        if key in seen:
            raise RelevancyError(f"{path}: {_shown(key)} stands there twice.")
        seen.add(key)


def _check_rows(rows: list[Any], path: Path) -> None:
    if not rows:
        raise RelevancyError(f"{path}: holds no rows.")
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise RelevancyError(f"{path}: row {number} is no JSON object but {type(row).__name__}.")


def _prediction(row: Mapping[str, Any], where: str) -> Prediction:
    own = _as_id(next((row[name] for name in _IDS if name in row), None))
    if own is None:
        raise RelevancyError(f"{where}: has no question_id that is text or a whole number.")
    name = next((name for name in _SAID + _FINAL if isinstance(row.get(name), str)), None)
    if name is None:
        raise RelevancyError(f"{where}: has no answer, as text, under text, response, prediction or answer.")
    return Prediction(own, row[name], str(row.get("prompt") or ""), name in _FINAL)


def _row(line: str, path: Path, number: int) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise RelevancyError(f"{path}, line {number}: is no JSON ({shortened(error)}).") from error


def _shown(key: Hashable) -> str:
    return shortened(" / ".join(key) if isinstance(key, tuple) else key)
