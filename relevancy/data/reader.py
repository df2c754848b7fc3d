"""What every kind of input has in common."""

from __future__ import annotations

__all__ = ["Broken", "Row", "RowReader", "encoding_of", "files_of", "lines", "opened", "text_lines"]

import codecs
import glob
import gzip
import io
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from relevancy.data.arrow import pa
from relevancy.errors import RelevancyError

LONGEST_LINE = 16 << 20
"""Bytes of a line, or of a member that describes a picture; what is longer becomes an error row."""

_HEAD = 4096
_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32", codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}  # fmt: skip


@dataclass(frozen=True)
class Broken:
    """A row that cannot be read, and why."""

    reason: str


Row = Mapping[str, Any] | Broken


class RowReader(ABC):
    """Rows of an input, streamed, the same in the same order every time."""

    kind: str
    name: str
    base: Path
    """The folder from which relative picture paths count."""
    suffixes: Sequence[str] = ()
    """How names of this kind of input end, for readers from outside."""
    only_text = False
    """Whether values are all text, so that numbers must be read out of it."""

    @abstractmethod
    def rows(self, columns: Sequence[str] | None = None) -> Iterator[Row]:
        """Every row; with `columns`, at least these of each."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Changes when the input does."""

    def columns(self) -> list[str]:
        """Names of the columns, as far as the first rows tell."""
        found: dict[str, None] = {}
        for number, values in enumerate(self.rows()):
            if number >= 200:
                break
            if not isinstance(values, Broken):
                found.update(dict.fromkeys(values))
        return list(found)

    def types(self) -> Mapping[str, pa.DataType] | None:
        """The columns' types where the input itself tells them; None where only its values do."""
        return None

    def count(self) -> int | None:
        """How many rows, where that is known without reading them."""
        return None


def files_of(pattern: str, suffixes: Sequence[str]) -> list[Path]:
    """The files that a path, a folder or a pattern such as `shards/*.tar` names. Raises RelevancyError for none."""
    path = Path(pattern)
    if path.is_dir():
        found = sorted(file for file in path.iterdir() if file.name.endswith(tuple(suffixes)) and file.is_file())
    elif path.exists():
        found = [path]
    else:
        found = sorted(Path(file) for file in glob.glob(pattern))  # noqa: PTH207  patterns may be absolute
    if not found:
        raise RelevancyError(f"There is no input {pattern}: give a file, a folder, or a pattern in quotes.")
    return found


def opened(path: Path) -> BinaryIO:
    """A file for reading, unpacked where its name ends with .gz. Raises RelevancyError."""
    try:
        return cast(BinaryIO, gzip.GzipFile(path)) if path.suffix == ".gz" else path.open("rb")
    except OSError as error:
        raise RelevancyError(f"{path}: cannot be read ({error.strerror or error})") from error


def lines(stream: BinaryIO, limit: int = LONGEST_LINE) -> Iterator[bytes | None]:
    """Lines with their ends; None for one longer than `limit`, which is passed over without being held."""
    while line := stream.readline(limit + 1):
        if len(line) <= limit:
            yield line
            continue
        while not line.endswith(b"\n") and line:
            line = stream.readline(limit)
        yield None


def text_lines(stream: BinaryIO, encoding: str, limit: int = LONGEST_LINE) -> Iterator[str | None]:
    """The same of text, whether lines end in LF, CRLF or CR; what is no valid text becomes lone surrogates."""
    errors = "surrogateescape" if encoding == "utf-8" else "surrogatepass"
    text = io.TextIOWrapper(stream, encoding, errors, newline="")
    first = True
    while line := text.readline(limit + 1):
        if len(line) <= limit:
            yield line.removeprefix("\ufeff") if first else line
        else:
            while line and not line.endswith(("\n", "\r")):
                line = text.readline(limit)
            yield None
        first = False


def encoding_of(path: Path) -> str:
    """Of a file of text, by its first bytes: UTF-8, with a mark or without, or what another mark says.

    Raises RelevancyError for text of two bytes a letter without a mark.
    """
    with opened(path) as stream:
        try:
            head = stream.read(_HEAD)
        except (OSError, EOFError) as error:
            raise RelevancyError(f"{path}: cannot be read ({error})") from error
    for mark, encoding in _MARKS.items():
        if head.startswith(mark):
            return encoding
    if len(head) > 1 and (head[0] == 0) != (head[1] == 0):
        raise RelevancyError(f"{path}: is no UTF-8 (UTF-16 without its mark?): save it as UTF-8.")
    return "utf-8"
