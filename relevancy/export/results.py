"""An export's folder, read back: rows as Explanations, or all of them as a table."""

from __future__ import annotations

__all__ = ["Export", "open_export"]

import json
import os
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from relevancy.core.targets import Target
from relevancy.data.arrow import pa
from relevancy.data.columns import Columns, Itemizer, Survey
from relevancy.data.inputs import open_input
from relevancy.data.items import Item, PictureSource, picture_hash
from relevancy.data.reader import RowReader
from relevancy.errors import RelevancyError
from relevancy.explanations.evidence import NUMBERS, Evidence
from relevancy.explanations.explanation import Explanation
from relevancy.explanations.picture_map import PictureMap
from relevancy.export.folder import manifest_of, parts_of, table_of
from relevancy.export.schema import EVIDENCE, checksum
from relevancy.geometry import Grid
from relevancy.images import open_picture
from relevancy.models.conversation import read_messages

_PARTS_HELD = 4
_ODD = ("this id ", "the true answer ", "the boxes ", "the mask was ")
_INDEX = ["row", "id", "model", "cols"]


class Export:
    """Results in the order of rows and, within a row, of models; errors and answers that were not explained stand in
    `table` alone.

    manifest: what was asked, with which versions.
    Memory holds an index and a few parts, never all maps.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        if not isinstance(folder, str | os.PathLike):
            raise RelevancyError(f"an export is a folder, text or a path, not {type(folder).__name__}")
        self.folder = Path(folder)
        manifest = manifest_of(self.folder)
        if manifest is None:
            raise RelevancyError(f"{self.folder} holds no export: there is no manifest.json.")
        self.manifest: dict[str, Any] = manifest
        self._parts = parts_of(self.folder)
        self._held: OrderedDict[int, pa.Table] = OrderedDict()
        self._input: tuple[Itemizer, RowReader] | None = None
        self._forward: tuple[int, Iterator[Item]] | None = None
        order = {name: number for number, name in enumerate(manifest["models"])}
        places = []
        for number, part in enumerate(self._parts):
            index = table_of(part, _INDEX).to_pydict()
            for place, (row, name, model, cols) in enumerate(zip(*(index[key] for key in _INDEX), strict=True)):
                if cols is not None:
                    places.append((row, order[model], number, place, name))
        places.sort()
        self._order, self._keys = order, [(row, model) for row, model, _, _, _ in places]
        self._places = [(number, place) for _, _, number, place, _ in places]
        self._named: dict[tuple[str, str], int] = {}
        for position, (_, model, _, _, name) in enumerate(places):
            self._named.setdefault((name, manifest["models"][model]), position)

    def __len__(self) -> int:
        """How many maps there are."""
        return len(self._places)

    def __iter__(self) -> Iterator[Explanation]:
        return (self[position] for position in range(len(self)))

    def __getitem__(self, position: int) -> Explanation:
        """A result by its place; its picture is opened again where it lay. Raises RelevancyError where it is gone."""
        number, place = self._places[position]
        return self._explanation(self._part(number).slice(place, 1).to_pylist()[0])

    def of_row(self, row: int, model: str) -> Explanation:
        """The result of an input row, counted from 0. Raises RelevancyError where there is none."""
        key = (row, self._order.get(model, -1))
        position = bisect_left(self._keys, key)
        if self._keys[position : position + 1] != [key]:
            raise RelevancyError(f"There is no result of {model} for row {row} in {self.folder}.")
        return self[position]

    def explanation(self, id: str, model: str) -> Explanation:  # noqa: A002  the column's own name
        """The result of the first row with this id. Raises RelevancyError where there is none."""
        position = self._named.get((id, model))
        if position is None:
            raise RelevancyError(f"There is no result of {model} with the id {id!r} in {self.folder}.")
        return self[position]

    def table(self, columns: Sequence[str] | None = None) -> pa.Table:
        """All rows, errors too, sorted by row and model; of `columns` alone where they are named."""
        if not self._parts:
            return pa.table({})
        needed = None if columns is None else list(dict.fromkeys([*columns, "row", "model"]))
        parts = [table_of(part, needed) for part in self._parts]
        whole = pa.concat_tables(parts, promote_options="default")  # an earlier version may have begun the folder
        whole = whole.sort_by([("row", "ascending"), ("model", "ascending")])
        return whole if columns is None else whole.select(list(columns))

    def errors(self) -> pa.Table:
        """Rows that could not be explained: row, id, model, picture, question, error."""
        found = self.table(["row", "id", "model", "picture", "question", "error"])
        return found.filter(found["error"].is_valid()) if len(found) else found

    def oddities(self) -> dict[str, int]:
        """What is odd about ids, truths, boxes and masks, with the number of rows of which it is said."""
        found: dict[str, set[int]] = {}
        for part in self._parts:
            table = table_of(part, ["row", "notes"])
            for row, notes in zip(table["row"].to_pylist(), table["notes"].to_pylist(), strict=True):
                for note in notes or ():
                    if note.startswith(_ODD):
                        found.setdefault(_kind_of(note), set()).add(row)
        return {why: len(rows) for why, rows in found.items()}

    def checksum(self) -> str:
        """A digest of all rows, the same for every export of the same input however it was interrupted."""
        return checksum(self.table())

    def _part(self, number: int) -> pa.Table:
        if number not in self._held:
            self._held[number] = table_of(self._parts[number])
            if len(self._held) > _PARTS_HELD:
                self._held.popitem(last=False)
        self._held.move_to_end(number)
        return self._held[number]

    def _explanation(self, record: dict[str, Any]) -> Explanation:
        layers = self.manifest["configuration"]["layers"]
        pictures, notes = self._pictures(record) if record["cols"] else ((), ())
        return Explanation(
            **{name: record[name] for name in ("model", "method", "scope", "question", "answer")},
            target=Target(
                token=record["token"],
                id=record["token_id"],
                position=record["position"],
                **{
                    name: record[name] for name in ("probability", "logit", "contrast", "contrast_id", "contrast_logit")
                },
                length=record.get("length") or 1,  # exports made before there were spans do not say
                log_probability=record.get("log_probability"),
            ),
            pictures=pictures,
            conversation=read_messages(json.loads(record["messages"]))[0] if record.get("messages") else (),
            tokens=tuple(record["tokens"]),
            is_image=np.array(record["is_image"], dtype=bool),
            relevance=np.array(record["relevance"], dtype=np.float32),
            shares={name: record[f"share_{name}"] or 0.0 for name in ("image", "text", "first_token")},
            cut=record.get("cut"),
            evidence=_evidence(record),
            layers=None if layers is None else tuple(layers),
            notes=(*record["notes"], *notes),
            answer_tokens=tuple(record["answer_tokens"]),
            versions=self.manifest["versions"],
        )

    def _pictures(self, record: dict[str, Any]) -> tuple[tuple[PictureMap, ...], tuple[str, ...]]:
        """The row's pictures with their maps, and what is to be said of them."""
        several = record.get("pictures") or [record | {"share": record["share_image"]}]
        found, changed = [], False
        for number, one in enumerate(several):
            grid = Grid(one["width"], one["height"], np.array(one["x_edges"]), np.array(one["y_edges"]))
            source = self._source(record["row"], one["picture"], number)
            encoded = source.encoded
            image = open_picture(encoded, max_pixels=self.manifest["configuration"]["max_pixels"]).image
            if image.size != (grid.width, grid.height):
                raise RelevancyError(f"{source.name}: the picture has another size than the one that was explained.")
            image_map = np.array(one["image_map"], dtype=np.float32).reshape(grid.rows, grid.cols)
            changed = changed or picture_hash(encoded) != one["picture_hash"]
            found.append(PictureMap(image, grid, image_map, one["share"], one.get("video")))
        notes = ("the picture is not the one that was explained: its file has changed",) if changed else ()
        return tuple(found), notes

    def _source(self, row: int, name: str | None, number: int) -> PictureSource:
        """Where one of a row's pictures lies: by its name, or, of bytes, in the input's own row."""
        given = self.manifest["configuration"]["input"]
        if name is not None:
            return PictureSource(name, str(self._opened()[0].base / name))
        sources = self._item(row).sources
        if number >= len(sources):
            raise RelevancyError(f"Row {row} of {given['path']} holds no such picture any more.")
        return sources[number]

    def _item(self, row: int) -> Item:
        """A row of the input; rows that are asked for in their order are read once."""
        itemizer, reader = self._opened()
        if self._forward is None or self._forward[0] > row:
            self._forward = 0, iter(itemizer.items(reader))
        at, items = self._forward
        found = next(islice(items, row - at, None), None)
        self._forward = row + 1, items
        if found is None:
            raise RelevancyError(f"{reader.name} has no row {row} any more: its pictures cannot be opened again.")
        return found

    def _opened(self) -> tuple[Itemizer, RowReader]:
        """The input as the export read it, opened when it is first needed."""
        if self._input is None:
            given = self.manifest["configuration"]["input"]
            reader = open_input(given["path"], given["kind"])
            columns = Columns(**self.manifest["configuration"]["columns"])
            nothing = Survey(0, {}, frozenset())
            self._input = Itemizer(columns, nothing, Path(given["pictures"] or reader.base)), reader
        return self._input


def _kind_of(note: str) -> str:
    """A note without the name of a file."""
    return "the mask was left out" if note.startswith("the mask") else note


def open_export(folder: str | os.PathLike[str]) -> Export:
    """The export in a folder, finished or not. Raises RelevancyError when the folder does not hold one."""
    return Export(folder)


def _evidence(record: dict[str, Any]) -> Evidence | None:
    """What a row says of it; exports made without it, or before there was any, say nothing."""
    if record.get("verdict") is None:
        return None
    frames = [(one.get("video"), one) for one in record.get("pictures") or ()]
    each = [one for at, (video, one) in enumerate(frames) if video is None or not at or video != frames[at - 1][0]]
    apart = {name: [one[name] for one in each if one[name] is not None] for name in ("without", "without_tv")}
    return Evidence.from_json({name: record[f"{EVIDENCE}{name}"] for name in (*NUMBERS, "shared")} | apart)
