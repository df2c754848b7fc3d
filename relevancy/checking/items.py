"""What a check judged, by content: pictures, questions, answers and explained tokens; another can judge the same."""

from __future__ import annotations

__all__ = ["ItemList", "JudgedItem", "picture_digest"]

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from relevancy import formats
from relevancy.atomic_io import write_whole
from relevancy.checking.rows import CheckRow
from relevancy.errors import RelevancyError
from relevancy.images import Source, open_picture
from relevancy.metrics.teacher_forcing import GivenAnswer

FILE = "items.json"
_NAMED = 5  # rows in a message


@dataclass(frozen=True)
class JudgedItem:
    """One row as it was judged.

    row: its key. picture: `picture_digest`. answer: that was explained, teacher-forced; ids: its tokens. position, and
    token: of the explained one in them, and its text.
    """

    row: str
    picture: str
    question: str
    answer: str
    ids: tuple[int, ...]
    position: int
    token: str

    @classmethod
    def of(cls, row: CheckRow, answer: str, said: GivenAnswer, token: str) -> JudgedItem:
        """A row with the answer that is explained. Raises RelevancyError for a picture that cannot be read."""
        return cls(row.key, picture_digest(row.picture()), row.question, answer, said.ids, said.position, token)


@dataclass(frozen=True)
class ItemList:
    """Items in their order, and the target (see `explain`) that chose their tokens."""

    items: Sequence[JudgedItem]
    target: str
    by_row: dict[str, JudgedItem] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "by_row", {item.row: item for item in self.items})

    @property
    def digest(self) -> str:
        """Of all that the items hold; the order counts, the model does not."""
        return _digest(self.items)

    def rows_of(self, rows: Iterable[CheckRow]) -> list[CheckRow]:
        """The list's rows among these, in its order; raises RelevancyError that names those not there as they were."""
        known = {row.key: row for row in rows}
        _refuse("are not in the data", [item.row for item in self.items if item.row not in known])
        changed = [item.row for item in self.items if known[item.row].question != item.question]
        _refuse("ask another question now", changed)
        return [known[item.row] for item in self.items]

    def require_same(self, others: ItemList, where: str) -> None:
        """Raise RelevancyError that names the rows by which others differ from these, `where` being whose these are."""
        mine, theirs = self.by_row, others.by_row
        both = [row for row in mine if row in theirs]
        _refuse("are missing", [row for row in mine if row not in theirs], where)
        _refuse("are new", [row for row in theirs if row not in mine], where)
        _refuse("show another picture now", [row for row in both if mine[row].picture != theirs[row].picture], where)
        answers = [row for row in both if mine[row].answer != theirs[row].answer]
        _refuse("have another answer now", answers, where)
        changed = [row for row in both if mine[row] != theirs[row]]
        _refuse(f"explain another token now (there --target was {self.target})", changed, where)

    def save(self, file: Path) -> None:
        """Write it, whole."""
        stored = {formats.KEY: formats.CHECK, "digest": self.digest, "target": self.target}
        write_whole(file, json.dumps(stored | {"items": [asdict(item) for item in self.items]}, indent=1))

    @classmethod
    def load(cls, file: Path) -> ItemList:
        """What `save` wrote. Raises RelevancyError for another file, and for one that was changed by hand."""
        try:
            stored = json.loads(file.read_text(encoding="utf-8"))
            formats.require_known(stored, formats.CHECK, file)
            items = [JudgedItem(**{**item, "ids": tuple(item["ids"])}) for item in stored["items"]]
            found, digest = cls(items, stored["target"]), stored["digest"]
        except KeyError as error:
            raise RelevancyError(f"{file} cannot be read as the items of a check: it has no {error}.") from error
        except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
            told = error.strerror if isinstance(error, OSError) else error
            raise RelevancyError(f"{file} cannot be read as the items of a check ({told}).") from error
        if found.digest != digest:
            raise RelevancyError(f"{file} was changed after it was written: its digest is another. Take the original.")
        return found


def picture_digest(source: Source) -> str:
    """Of a picture's pixels, upright RGB, and its size: the same for the same picture in another file."""
    image = open_picture(source).image
    digest = hashlib.blake2b(f"{image.width}x{image.height}:".encode(), digest_size=16)
    digest.update(image.tobytes())
    return digest.hexdigest()


def _digest(items: Sequence[JudgedItem]) -> str:
    lines: list[Any] = [asdict(item) for item in items]
    return hashlib.blake2b(json.dumps(lines, sort_keys=True).encode(), digest_size=16).hexdigest()


def _refuse(what: str, rows: Sequence[str], where: str = FILE) -> None:
    if rows:
        told = ", ".join(rows[:_NAMED]) + (", ..." if len(rows) > _NAMED else "")
        raise RelevancyError(f"{len(rows)} rows of {where} {what}: {told}. The same rows must be judged on both sides.")
