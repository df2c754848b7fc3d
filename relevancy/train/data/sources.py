"""`open_data`: a file, a saved folder or a hub's data set as a torch Dataset of dialogues."""

from __future__ import annotations

import logging
import os
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from functools import cached_property
from glob import has_magic
from io import BytesIO
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from torch.utils.data import Dataset, IterableDataset

from relevancy.data.fields import DIALOGUES, NAMES, listed
from relevancy.data.inputs import kind_of_file, open_input
from relevancy.data.json_entries import entries, parsed
from relevancy.data.reader import Broken
from relevancy.errors import RelevancyError
from relevancy.train.data.dialogues import Dialogue, Picture, dialogue_of
from relevancy.train.template import Turn

HUB = "hf:"
logger = logging.getLogger(__name__)


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
        broken = None
        unread: Counter[str] = Counter()
        for number, entry in enumerate(entries(path)):
            found = dialogue_of(entry.value, number)
            broken = broken or entry.broken or found.fault
            starts.append(entry.start)
            ends.append(entry.end)
            lengths.append(found.words)
            pictured.append(bool(found.images))
            unread.update(found.unread)
        if not any(lengths):
            why = broken or "it takes a JSON list, or a JSON object a line"
            raise RelevancyError(f"{path}: holds no dialogue: {why}")
        if unread and not any(pictured):
            raise RelevancyError(
                f"{path}: no entry has a picture under a known name ({', '.join(NAMES['picture'])}), but they seem to "
                f"have one under {next(iter(unread))!r}: rename it to 'image'"
            )
        self._starts, self._ends = np.array(starts), np.array(ends)
        self.lengths, self.pictured = np.array(lengths), np.array(pictured, dtype=bool)
        _warn(str(path), unread)
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
        words, seen, unread = array("i"), array("b"), Counter[str]()
        for place in range(len(self)):
            found = self[place]
            words.append(found.words)
            seen.append(bool(found.images))
            unread.update(found.unread)
        _warn("the data set", unread)
        return np.array(words), np.array(seen, dtype=bool)

    @property
    def lengths(self) -> np.ndarray:  # type: ignore[override]
        """Words of each dialogue, found when they are first asked for, in one pass that reads every row."""
        return self._measures[0]

    @property
    def pictured(self) -> np.ndarray:  # type: ignore[override]
        """Which dialogues have a picture."""
        return self._measures[1]


class CachedDialogues(TableDialogues):
    """The dialogues of any kind of input, written into the cache of `datasets` once, under the input's fingerprint."""

    def __getitem__(self, place: int) -> Dialogue:
        """The dialogue at a place."""
        row = self.table[place]
        images = (one["bytes"] or (self.images or Path()) / one["path"] for one in row["images"])
        turns = tuple(Turn(**turn) for turn in row["turns"])
        return Dialogue(row["id"], turns, tuple(images), row["fault"], row["placed"], tuple(row["unread"]))


class JoinedDialogues(Dialogues):
    """Several data sets one after the other, as if they were one."""

    def __init__(self, parts: Sequence[Dialogues]) -> None:
        self.parts = parts
        self._ends = np.cumsum([len(part) for part in parts])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, place: int) -> Dialogue:
        """The dialogue at a place."""
        place = range(len(self))[place]
        part = int(np.searchsorted(self._ends, place, side="right"))
        return self.parts[part][place - int(self._ends[part])]  # from that part's end

    @cached_property
    def lengths(self) -> np.ndarray:  # type: ignore[override]
        """Words of each dialogue."""
        return np.concatenate([part.lengths for part in self.parts])

    @cached_property
    def pictured(self) -> np.ndarray:  # type: ignore[override]
        """Which dialogues have a picture."""
        return np.concatenate([part.pictured for part in self.parts])


class StreamedDialogues(IterableDataset):
    """A data set too large to keep: dialogues as they arrive. It cannot be grouped by length."""

    def __init__(self, stream: Any, images: Path | None = None) -> None:
        self.stream, self.images = stream, images

    def __iter__(self) -> Iterator[Dialogue]:
        return (dialogue_of(row, number, self.images) for number, row in enumerate(self.stream))


Name: TypeAlias = str | os.PathLike[str]


def open_data(
    source: Name | Sequence[Name], images: Name | Sequence[Name] | None = None, *, streaming: bool = False
) -> Dialogues | StreamedDialogues:
    """The dialogues of a data set; see `data.dialogues.dialogue_of` for the shapes of its entries.

    source     a file with a JSON list or JSON Lines; a folder that `datasets` saved; "hf:owner/name@split" of the hub;
               whatever else `data.inputs.open_input` reads, which is first written once into the cache of `datasets`;
               or several of them, which are read one after the other
    images     folder where relative picture paths begin, or one for each source; by default that of the file
    streaming  a hub's data set is read while it arrives, not stored first

    Raises RelevancyError for a source that is not there, or cannot be read to its end.
    """
    pairs = paired(source, images)
    opened = [_opened(name, root, streaming=streaming) for name, root in pairs]
    if len(opened) == 1:
        return opened[0]
    parts = [one for one in opened if isinstance(one, Dialogues)]
    if len(parts) < len(opened):
        raise RelevancyError("only one data set is streamed at a time: give one, or store them first")
    return JoinedDialogues(parts)


def paired(source: Name | Sequence[Name], images: Name | Sequence[Name] | None) -> list[tuple[str, Path | None]]:
    """Each source with its folder of pictures, None for that of the file. Raises RelevancyError for other numbers."""
    sources, folders = [os.fspath(one) for one in _several(source)], [Path(one) for one in _several(images)]
    if not sources:
        raise RelevancyError("no data set is given")
    if len(folders) > 1 and len(folders) != len(sources):
        raise RelevancyError(
            f"{len(folders)} folders of pictures for {len(sources)} data sets: give one for all, or one for each"
        )
    if not folders:
        return [(name, None) for name in sources]
    return list(zip(sources, folders * len(sources) if len(folders) == 1 else folders, strict=True))


def _several(given: Name | Sequence[Name] | None) -> Iterable[Name]:
    return [] if given is None else [given] if isinstance(given, str | os.PathLike) else given


def _opened(name: str, root: Path | None, *, streaming: bool) -> Dialogues | StreamedDialogues:
    if root is not None and not root.is_dir():
        raise RelevancyError(f"{root}: no such folder of pictures")
    path = Path(name)
    if name.startswith(HUB) or path.is_dir():
        table = _hugging_face(name, streaming=streaming)
        return StreamedDialogues(table, root) if streaming else TableDialogues(table, root)
    if streaming:
        raise RelevancyError(f"{name}: only a data set of Hugging Face is streamed; a file is read from where it lies")
    if not path.is_file() and not has_magic(name):
        raise RelevancyError(f"{name}: no such file; a data set of the hub is written {HUB}owner/name@split")
    if is_read_in_place(path):
        return FileDialogues(path, path.parent if root is None else root)
    return _cached(name, root)


def is_read_in_place(path: Path) -> bool:
    """Whether a file's entries are read from where they lie, as those of JSON and of names that tell nothing."""
    return path.is_file() and path.suffix != ".gz" and kind_of_file(path.name) in (None, "jsonl")


def _cached(name: str, root: Path | None) -> CachedDialogues:
    datasets = _datasets()
    reader, text = open_input(name), datasets.Value("string")
    features = {
        "id": text, "fault": text, "placed": text, "unread": [text], "turns": [{"role": text, "text": text}],
        "images": [{"path": text, "bytes": datasets.Value("binary")}],
    }  # fmt: skip
    given = {"name": name, "state": reader.fingerprint()}
    try:
        table = datasets.Dataset.from_generator(_stored, features=datasets.Features(features), gen_kwargs=given)
    except datasets.exceptions.DatasetGenerationError as error:
        raise (error.__cause__ if isinstance(error.__cause__, RelevancyError) else error) from error
    return CachedDialogues(table, reader.base if root is None else root)


def _stored(name: str, state: str) -> Iterator[dict[str, Any]]:  # noqa: ARG001  another state is another cache
    for number, row in enumerate(open_input(name).rows()):
        if isinstance(row, Broken):
            found = Dialogue(str(number), fault=row.reason)
        else:
            found = dialogue_of({key: _spelled(key, value) for key, value in row.items()}, number)
        yield {
            "id": found.id, "fault": found.fault, "placed": found.placed, "unread": list(found.unread),
            "turns": [asdict(turn) for turn in found.turns], "images": [_kept(picture) for picture in found.images],
        }  # fmt: skip


def _kept(picture: Picture) -> dict[str, Any]:
    if isinstance(picture, Path):
        return {"path": str(picture)}
    if isinstance(picture, bytes):
        return {"bytes": picture}
    stream = BytesIO()
    picture.save(stream, "PNG")
    return {"bytes": stream.getvalue()}


def _spelled(key: str, value: Any) -> Any:
    """A cell's value; where turns or pictures stand as text, what the text spells; None for an empty one."""
    if not isinstance(value, str) or key not in (*DIALOGUES, *NAMES["picture"]):
        return value
    return listed(value) or value or None


def _warn(name: str, unread: Counter[str]) -> None:
    """Say what would otherwise be trained on without its picture, unseen."""
    for column, count in unread.items():
        logger.warning(
            "%s: %s entries have what looks like a picture under %r, which is not read: call it image",
            name, f"{count:,}", column,
        )  # fmt: skip


def _datasets() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise RelevancyError("this data set needs Hugging Face datasets: pip install 'relevancy[train]'") from error
    return datasets


def _hugging_face(name: str, *, streaming: bool) -> Any:
    datasets = _datasets()
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
