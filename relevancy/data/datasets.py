"""Hugging Face datasets: a folder that `save_to_disk` wrote, or an id of the hub."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from relevancy.data.arrow import pa
from relevancy.data.reader import Row, RowReader
from relevancy.errors import RelevancyError

PREFIX = "hf:"


class HuggingFace(RowReader):
    """One split; pictures stay encoded as the dataset holds them."""

    kind = "datasets"

    def __init__(self, name: str) -> None:
        self.name = name
        data, self.base = _loaded(name)
        for column, feature in data.features.items():
            inner: Any = getattr(feature, "feature", None)  # of a list
            if type(feature).__name__ == "Image":
                data = data.cast_column(column, type(feature)(decode=False))
            elif type(inner).__name__ == "Image":
                data = data.cast_column(column, type(feature)(type(inner)(decode=False)))
        self.data = data.with_format(None)

    def rows(self, columns: Sequence[str] | None = None) -> Iterator[Row]:
        """Every row, of `columns` alone where they are named."""
        return iter(self.data if columns is None else self.data.select_columns(list(columns)))

    def columns(self) -> list[str]:
        """As the dataset names them."""
        return list(self.data.column_names)

    def types(self) -> Mapping[str, pa.DataType]:
        """As the dataset says."""
        schema = self.data.features.arrow_schema
        return {column.name: column.type for column in schema}

    def count(self) -> int:
        """As the dataset says."""
        return len(self.data)

    def fingerprint(self) -> str:
        """The dataset's own."""
        return f"{self.data._fingerprint} {len(self.data)}"


def _loaded(name: str) -> tuple[Any, Path]:
    try:
        import datasets
    except ImportError as error:
        raise RelevancyError("This input needs Hugging Face datasets: pip install 'relevancy[datasets]'.") from error
    plain, _, split = name.removeprefix(PREFIX).partition("@")
    try:
        found = (
            datasets.load_from_disk(plain)
            if Path(plain).is_dir()
            else datasets.load_dataset(plain, split=split or None)
        )
    except Exception as error:  # a dataset's own code and the hub's client raise what they like
        why = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise RelevancyError(f"{plain}: cannot be loaded as a dataset ({why})") from error
    if isinstance(found, Mapping):
        if split not in found:
            raise RelevancyError(
                f"Name a split of {plain}, as {name.partition('@')[0]}@{next(iter(found))}; there are "
                f"{', '.join(found)}."
            )
        found = found[split]
    return found, Path(plain) if Path(plain).is_dir() else Path()
