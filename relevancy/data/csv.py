"""CSV and TSV with a header line, as programs and spreadsheets write them."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from relevancy.data.fields import NAMES, short
from relevancy.data.reader import (
    LONGEST_LINE,
    Broken,
    Row,
    RowReader,
    encoding_of,
    files_of,
    opened,
    text_lines,
)
from relevancy.digests import digest_of
from relevancy.errors import RelevancyError

SUFFIXES = (".csv", ".tsv", ".csv.gz", ".tsv.gz")
_TOO_LONG = "\0"  # no csv file holds it, and a cell that is nothing else says what a line was


class Csv(RowReader):
    """Every cell is text; a further column whose every cell is a number becomes one of numbers.

    Cells are parted by commas, semicolons, tabs or bars, lines end in LF, CRLF or CR; text is UTF-8, or UTF-16 with its
    mark.
    """

    kind = "csv"
    only_text = True

    def __init__(self, pattern: str) -> None:
        self.files, self.name = files_of(pattern, SUFFIXES), pattern
        self.base = self.files[0].parent
        self._delimiter = ","
        self.header = self._header(self.files[0])
        separator = self._delimiter
        for path in self.files[1:]:
            if self._header(path) != self.header or self._delimiter != separator:
                raise RelevancyError(f"{path.name} has other columns or separators than {self.files[0].name}.")

    def rows(self, columns: Sequence[str] | None = None) -> Iterator[Row]:  # noqa: ARG002  they come with the line
        """Every record but blank ones."""
        for path in self.files:
            for cells in self._records(path):
                if isinstance(cells, Broken):
                    yield cells
                else:
                    yield {name: cell or None for name, cell in zip(self.header, cells, strict=True)}

    def columns(self) -> list[str]:
        """The header."""
        return list(self.header)

    def fingerprint(self) -> str:
        """Of the files' sizes and ends."""
        return digest_of(self.files)

    def _records(self, path: Path) -> Iterator[list[str] | Broken]:
        with opened(path) as stream:
            records = csv.reader(_decoded(stream, encoding_of(path)), delimiter=self._delimiter)
            first = True
            while True:
                try:
                    cells = next(records)
                except StopIteration:
                    return
                except csv.Error as error:
                    cells, why = [_TOO_LONG], f"the line is no CSV: {error}"
                except (OSError, EOFError, UnicodeError) as error:
                    raise RelevancyError(f"{path}: cannot be read to its end ({error})") from error
                else:
                    why = f"the line is longer than {LONGEST_LINE >> 20} MiB"
                if first or not cells:
                    first = first and not cells
                elif cells == [_TOO_LONG]:
                    yield Broken(why)
                elif len(cells) != len(self.header):
                    yield Broken(f"the line has {len(cells)} cells, the header {len(self.header)}")
                else:
                    yield cells

    def _header(self, path: Path) -> list[str]:
        """The names in the first line; of the usual separators the one that gives most known names is the file's."""
        found: list[list[str]] = []
        for delimiter in self._separators(path):
            with opened(path) as stream:
                records = csv.reader(_decoded(stream, encoding_of(path)), delimiter=delimiter)
                found.append(next((cells for cells in records if cells), []))
        header = max(found, key=_likely)
        self._delimiter = self._separators(path)[found.index(header)]
        names = [name.strip() for name in header]
        if len(set(names)) != len(names):
            told = ", ".join(short(repr(name)) for name in names)
            raise RelevancyError(f"{path.name}: two columns have the same name in {told}.")
        return names

    @staticmethod
    def _separators(path: Path) -> str:
        return "\t,;|" if path.name.lower().removesuffix(".gz").endswith(".tsv") else ",;\t|"


def _likely(header: list[str]) -> tuple[int, bool, int]:
    """How likely a line was parted into these names: known ones, none cut within its quotes, many."""
    known = sum(name.strip() in names for names in NAMES.values() for name in header)
    return known, not any('"' in name for name in header), len(header)


def _decoded(stream: BinaryIO, encoding: str) -> Iterator[str]:
    for line in text_lines(stream, encoding):
        yield f"{_TOO_LONG}\n" if line is None else line
