"""`open_data`: a file, a saved folder or a hub's data set as a torch Dataset of dialogues."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Dataset, IterableDataset

from relevancy.errors import RelevancyError
from relevancy.fields import NAMES
from relevancy.train.data.dialogues import Dialogue, dialogue_of
from relevancy.train.data.entries import entries, parsed

HUB = "hf:"


class Dialogues(Dataset):
    """Dialogues by their place; `lengths` and `pictured` tell a sampler what to group.

    lengths: (n,) int32, words. pictured: (n,) bool. An entry that is no dialogue has its place too, with its `fault`.
    """

    lengths: np.ndarray
    pictured: np.ndarray

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, place: int) -> Dialogue:
        raise NotImplementedError


class FileDialogues(Dialogues):
    """A JSON list or JSON Lines, of which memory holds where each entry lies (21 bytes an entry), never the text.

    Worker processes share these numbers and the file; each reads the entries it is asked for.
    """

    def __init__(self, path: Path, images: Path | None = None) -> None:
        self.path, self.images = path, images
        starts, ends, lengths, pictured = array("q"), array("q"), array("i"), array("b")
        broken = unread = None
        for number, entry in enumerate(entries(path)):
            found = dialogue_of(entry.value, number)
            broken, unread = broken or entry.broken, unread or found.unread
            starts.append(entry.start)
            ends.append(entry.end)
            lengths.append(found.words)
            pictured.append(bool(found.images))
        if not any(lengths):
            why = broken or "it takes a JSON list, or a JSON object a line"
            raise RelevancyError(f"{path}: holds no dialogue: {why}")
        if unread and not any(pictured):
            raise RelevancyError(
                f"{path}: no entry has a picture under a known name ({', '.join(NAMES['picture'])}), but they seem to "
                f"have one under {unread!r}: rename it to 'image'"
            )
        self._starts, self._ends = np.array(starts), np.array(ends)
        self.lengths, self.pictured = np.array(lengths), np.array(pictured, dtype=bool)
        self._state = _state(path)
        self._file: tuple[int, int] | None = None

    def __getitem__(self, place: int) -> Dialogue:
        """The dialogue at a place. Raises RelevancyError if the file was changed since it was opened."""
        place = range(len(self))[place]
        start, end = int(self._starts[place]), int(self._ends[place])
        try:
            return dialogue_of(parsed(os.pread(self._descriptor(), end - start, start)), place, self.images)
        except ValueError as error:
            return Dialogue(str(place), fault=f"the entry {error}")

    def _descriptor(self) -> int:
        """The open file, opened once in each process."""
        if self._file is None or self._file[0] != os.getpid():
            if _state(self.path) != self._state:
                raise RelevancyError(f"{self.path} was changed while it was in use: start again")
            self._file = os.getpid(), os.open(self.path, os.O_RDONLY)
        return self._file[1]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_file": None}

    def __del__(self) -> None:
        opened = getattr(self, "_file", None)
        if opened is not None and opened[0] == os.getpid():
            os.close(opened[1])


class TableDialogues(Dialogues):
    """A map-style data set of Hugging Face: its Arrow files are shared by all processes, pictures stay encoded."""

    def __init__(self, table: Any, images: Path | None = None) -> None:
        self.table, self.images = table, images

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, place: int) -> Dialogue:
        """The dialogue at a place."""
        return dialogue_of(self.table[place], place, self.images)

    @cached_property
    def _measures(self) -> tuple[np.ndarray, np.ndarray]:
        found = [(one.words, bool(one.images)) for one in (self[place] for place in range(len(self)))]
        return np.array([words for words, _ in found], dtype=np.int32), np.array(
            [seen for _, seen in found], dtype=bool
        )

    @property
    def lengths(self) -> np.ndarray:  # type: ignore[override]
        """Words of each dialogue, found when they are first asked for, in one pass that reads every row."""
        return self._measures[0]

    @property
    def pictured(self) -> np.ndarray:  # type: ignore[override]
        """Which dialogues have a picture."""
        return self._measures[1]


class StreamedDialogues(IterableDataset):
    """A data set too large to keep: dialogues as they arrive. It cannot be grouped by length.

    Its state is that of the stream beneath.
    """

    def __init__(self, stream: Any, images: Path | None = None) -> None:
        self.stream, self.images = stream, images

    def __iter__(self) -> Iterator[Dialogue]:
        return (dialogue_of(row, number, self.images) for number, row in enumerate(self.stream))

    def part(self, rank: int, world: int) -> StreamedDialogues:
        """What one of `world` processes reads."""
        from datasets.distributed import split_dataset_by_node

        return StreamedDialogues(split_dataset_by_node(self.stream, rank, world), self.images)

    def set_epoch(self, epoch: int) -> None:
        """A shuffled stream's order in this epoch."""
        self.stream.set_epoch(epoch)

    def state_dict(self) -> dict[str, Any]:
        """Where the stream is."""
        return self.stream.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.stream.load_state_dict(state)


def open_data(
    source: str | os.PathLike[str], images: str | os.PathLike[str] | None = None, *, streaming: bool = False
) -> Dialogues | StreamedDialogues:
    """The dialogues of a data set; see `data.dialogues.dialogue_of` for the shapes of its entries.

    source     a file with a JSON list or JSON Lines; a folder that `datasets` saved; "hf:owner/name@split" of the hub
    images     folder where relative picture paths begin; by default that of the file
    streaming  a hub's data set is read while it arrives, not stored first

    Raises RelevancyError for a source that is not there, or cannot be read to its end.
    """
    name = os.fspath(source)
    root = None if images is None else Path(images)
    if root is not None and not root.is_dir():
        raise RelevancyError(f"{root}: no such folder of pictures")
    path = Path(name)
    if name.startswith(HUB) or path.is_dir():
        table = _hugging_face(name, streaming=streaming)
        return StreamedDialogues(table, root) if streaming else TableDialogues(table, root)
    if not path.is_file():
        raise RelevancyError(f"{name}: no such file; a data set of the hub is written {HUB}owner/name@split")
    if streaming:
        raise RelevancyError(f"{name}: only a data set of Hugging Face is streamed; a file is read from where it lies")
    return FileDialogues(path, path.parent if root is None else root)


def _hugging_face(name: str, *, streaming: bool) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise RelevancyError("this data set needs Hugging Face datasets: pip install 'relevancy[train]'") from error
    plain, _, split = name.removeprefix(HUB).partition("@")
    try:
        if Path(plain).is_dir():
            table = datasets.load_from_disk(plain)
            table = table if isinstance(table, datasets.Dataset) else table[split or "train"]
            table = table.to_iterable_dataset() if streaming else table
        else:
            table = datasets.load_dataset(plain, split=split or "train", streaming=streaming)
    except Exception as error:  # whatever the library, the hub or the files may raise
        raise RelevancyError(
            f"{name}: cannot be opened ({str(error).splitlines()[0] if str(error) else error!r})"
        ) from error
    for column, feature in (table.features or {}).items():
        table = _encoded(table, column, feature)
    return table


def _encoded(table: Any, column: str, feature: Any) -> Any:
    """The table with a column of pictures, or of lists of pictures, left as bytes."""
    import datasets

    inner = getattr(feature, "feature", None)
    if isinstance(feature, datasets.Image):
        return table.cast_column(column, datasets.Image(decode=False))
    if isinstance(inner, datasets.Image):
        return table.cast_column(column, type(feature)(datasets.Image(decode=False)))
    return table


def _state(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns
