"""CSV and TSV with a header line."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from relevancy.data.reader import LONGEST_LINE, Broken, Reader, Row, digest_of, files_of, lines, opened
from relevancy.errors import RelevancyError

SUFFIXES = (".csv", ".tsv", ".csv.gz", ".tsv.gz")
_TOO_LONG = "\0"  # no csv file holds it, and a cell that is nothing else says what a line was


class Csv(Reader):
    """Every cell is text; a further column whose every cell is a number becomes one of numbers."""

    kind = "csv"
    only_text = True

    def __init__(self, pattern: str) -> None:
        self.files, self.name = files_of(pattern, SUFFIXES), pattern
        self.base = self.files[0].parent
        self.header = self._header(self.files[0])
        for path in self.files[1:]:
            if self._header(path) != self.header:
                raise RelevancyError(f"{path.name} has other columns than {self.files[0].name}.")

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
            records = csv.reader(_decoded(stream), delimiter=_delimiter(path))
            first = True
            while True:
                try:
                    cells = next(records)
                except StopIteration:
                    return
                except csv.Error as error:
                    cells, why = [_TOO_LONG], f"the line is no CSV: {error}"
                except (OSError, EOFError) as error:
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
        with opened(path) as stream:
            header = next((cells for cells in csv.reader(_decoded(stream), delimiter=_delimiter(path)) if cells), [])
        names = [name.strip() for name in header]
        if len(set(names)) != len(names):
            raise RelevancyError(f"{path.name}: two columns have the same name in {', '.join(map(repr, names))}.")
        return names


def _decoded(stream: BinaryIO) -> Iterator[str]:
    first = True
    for line in lines(stream):
        text = f"{_TOO_LONG}\n" if line is None else line.decode("utf-8", "surrogateescape")
        yield text.removeprefix("\ufeff") if first else text
        first = False


def _delimiter(path: Path) -> str:
    return "\t" if path.name.removesuffix(".gz").endswith(".tsv") else ","
