"""Parquet files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow.parquet as pq

from relevancy.data.arrow import pa
from relevancy.data.reader import Row, RowReader, files_of
from relevancy.digests import digest_of
from relevancy.errors import RelevancyError

SUFFIXES = (".parquet",)
_AT_ONCE = 64  # rows, which may hold their pictures


@contextmanager
def _opened(path: Path) -> Iterator[pq.ParquetFile]:
    try:
        with pq.ParquetFile(path) as file:
            yield file
    except (OSError, pa.ArrowException) as error:
        raise RelevancyError(f"{path}: cannot be read as Parquet ({error})") from error


class Parquet(RowReader):
    """Rows of one or several files with the same columns."""

    kind = "parquet"

    def __init__(self, pattern: str) -> None:
        self.files, self.name = files_of(pattern, SUFFIXES), pattern
        self.base = self.files[0].parent
        self._rows = 0
        self.schema: pa.Schema | None = None
        for path in self.files:
            with _opened(path) as file:
                self._rows += file.metadata.num_rows
                self.schema = self.schema or file.schema_arrow
                if file.schema_arrow.names != self.schema.names:
                    raise RelevancyError(f"{path.name} has other columns than {self.files[0].name}.")

    def rows(self, columns: Sequence[str] | None = None) -> Iterator[Row]:
        """Every row, of `columns` alone where they are named."""
        for path in self.files:
            with _opened(path) as file:
                for batch in file.iter_batches(_AT_ONCE, columns=None if columns is None else list(columns)):
                    yield from batch.to_pylist()

    def columns(self) -> list[str]:
        """As the files name them."""
        return list(self.types())

    def types(self) -> Mapping[str, pa.DataType]:
        """As the files say."""
        assert self.schema is not None
        return {column.name: column.type for column in self.schema}

    def count(self) -> int:
        """As the files say."""
        return self._rows

    def fingerprint(self) -> str:
        """Of the files' sizes and ends."""
        return digest_of(self.files)
