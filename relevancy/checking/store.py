"""Results on disk as they come: a line each, appended whole, so that a stopped check goes on where it was."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from relevancy.atomic_io import locked, write_whole, writing
from relevancy.errors import RelevancyError
from relevancy.explanations.explanation import finite

CENTRE, RANDOM = "centre", "random"
BASELINES = (CENTRE, RANDOM)
"""Rows that are always there: a blob in the middle of any picture, and noise, which is at chance in every number."""

ANSWER, BLIND, SCORES, RANDOMISED, ALONE = "said", "blind", "scores", "randomised", "alone"
"""Parts of a check; the others are the controls by name, "answer" among them.

What is said, and what becomes of it without the picture, has no method: "".
"""

METRIC = "metric "
"""With what the numbers of other packages' metrics begin."""

_SETTINGS, _RESULTS = "settings.json", "results.jsonl"
Key = tuple[str, str, str]  # row, method, part


class Store:
    """What a check has found so far: numbers by (row, method, part), in memory and in `folder`.

    settings: all that decides a result; a folder that holds results of others is refused.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.folder = folder
        self.found: dict[Key, dict[str, Any]] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._claim(json.loads(json.dumps(settings)))
            self._load()
        except OSError as error:
            raise RelevancyError(f"--out {folder}: {error.strerror or error}. Choose another --out.") from error

    def add(self, results: Iterable[tuple[Key, Mapping[str, Any]]]) -> None:
        """Keep results; they are on disk, all of them, once this returns. Raises RelevancyError."""
        lines = []
        for (row, method, part), values in results:
            self.found[row, method, part] = dict(values)
            lines.append(json.dumps({"row": row, "method": method, "part": part, "values": finite(dict(values))}))
        if lines:
            with writing(self.folder), (self.folder / _RESULTS).open("ab") as stream:
                stream.write("".join(f"{line}\n" for line in lines).encode())
                stream.flush()
                os.fsync(stream.fileno())

    def _claim(self, settings: Any) -> None:
        file = self.folder / _SETTINGS
        if file.exists():
            with _reading(self.folder, _SETTINGS):
                stored = {**json.loads(file.read_text(encoding="utf-8"))}
            other = [name for name in {**stored, **settings} if stored.get(name) != settings.get(name)]
            if other:
                raise RelevancyError(
                    f"{self.folder} holds a check with other settings ({', '.join(sorted(other))}): choose another "
                    "--out, or delete it."
                )
            return
        write_whole(file, json.dumps(settings, indent=1))

    def _load(self) -> None:
        file = self.folder / _RESULTS
        if not file.exists():
            return
        whole, _, torn = file.read_bytes().rpartition(b"\n")
        for number, line in enumerate(whole.splitlines(), 1):
            with _reading(self.folder, f"{_RESULTS}, line {number}"):
                one = json.loads(line)
                values = {name: float("nan") if value is None else value for name, value in one["values"].items()}
                self.found[one["row"], one["method"], one["part"]] = values
        if torn:  # the process ended within a line
            with file.open("r+b") as stream:
                stream.truncate(len(whole) + 1 if whole else 0)


@contextmanager
def _reading(folder: Path, what: str) -> Iterator[None]:
    """What was damaged, or is of something else, is one line. Raises RelevancyError."""
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise RelevancyError(
            f"{folder} holds no check that can be read ({what}): delete it, or choose another --out."
        ) from error


@contextmanager
def locked_store(folder: Path, settings: Mapping[str, Any]) -> Iterator[Store]:
    """A store that no other process reads or adds to within the block. Raises RelevancyError."""
    with locked(folder):
        yield Store(folder, settings)


def fingerprint(rows: Iterable[tuple[str, ...]]) -> str:
    """A digest of the rows' keys, questions and right answers."""
    digest = hashlib.blake2b(digest_size=16)
    for row in rows:
        digest.update("\0".join(row).encode() + b"\1")
    return digest.hexdigest()
