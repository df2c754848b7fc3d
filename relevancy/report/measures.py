"""Exports -> a few numbers per line, one series per model; maps are looked at once and let go."""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from relevancy.errors import RelevancyError
from relevancy.explanations.evidence import Verdict
from relevancy.export.schema import EVIDENCE, EXTRA
from relevancy.report import maps
from relevancy.report.maps import NOTHING
from relevancy.report.source import ExportSource, Place
from relevancy.report.truth import Truths

if TYPE_CHECKING:
    import pyarrow as pa

_STORED = {
    "image_share": "share_image", "text_share": "share_text", "first_token_share": "share_first_token",
    "probability": "probability", "correct": "correct",
}  # fmt: skip
VERDICTS: tuple[str, ...] = get_args(Verdict)
_EVIDENCE = ("verdict", *(f"{EVIDENCE}{name}" for name in ("probability", "blind", "blind_tv")))
_FROM_EVIDENCE = ("blind_tv", "blind_drop", *VERDICTS)
_FROM_MAPS = ("entropy", "top_mass")
_TRUTH = ("pointing", "pointing_chance", "energy", "energy_chance")
_OPTION = re.compile(r"(?:^|\s)(?:\([A-Za-z1-9]\)|[A-D][.):])\s")
OPTIONS = " … with options"  # how the name of a form with options ends
_REASONS = 20  # of errors that are kept
_KEY = ("row", "id", "question", "picture", "picture_hash", "cols")
_SEVERAL = "pictures"
_PLACE = ("width", "height", "rows", "cols", "x_edges", "y_edges", "image_map")


@dataclass(frozen=True, eq=False)
class Series:
    """One model's results in one export, a number per result and measure.

    measures: float64 (results,) by name, NaN where unknown; a verdict's own is 1 where it was given and 0 where another
    was. pictures, keys: which picture and which row of the input a
    result is about, int64 (results,), the same numbers in every series. rasters: each map on one coarse raster of its
    picture, float16 (results, parts). places: where its line stands. groups: values of the columns asked for. forms: of
    each result's question (see `form_of`).
    """

    name: str
    model: str
    source: int
    measures: dict[str, np.ndarray] = field(repr=False)
    pictures: np.ndarray = field(repr=False)
    keys: np.ndarray = field(repr=False)
    rasters: np.ndarray = field(repr=False)
    places: list[Place] = field(repr=False)
    groups: dict[str, list[Any]] = field(repr=False)
    forms: list[str] = field(repr=False)
    grids: tuple[str, ...] = ()
    errors: int = 0

    def __len__(self) -> int:
        return len(self.keys)


@dataclass(frozen=True, eq=False)
class Measures:
    """All series, how many pictures they are about, and what was noticed on the way.

    failed: lines that are errors. errors: how often each of the most frequent reasons stands there.
    """

    series: tuple[Series, ...]
    pictures: int
    failed: int
    errors: dict[str, int]
    repeated: int
    unreadable_masks: int


def measure(
    sources: Sequence[ExportSource], by: Sequence[str] = (), progress: Callable[[float], None] | None = None
) -> Measures:
    """Every result's numbers, series in the order in which the manifests name the models.

    by: names of columns to group by, an input's own with or without their prefix. Raises RelevancyError when a column
    is not there, an export has no result, or has one of several pictures.
    """
    for source in sources:
        _require_one_thing(source)
    columns = [[column_named(name, source) for name in by] for source in sources]
    collector = _Collector(sources)
    for number, source in enumerate(sources):
        for part, start, batch in source.batches(_columns_read(source, columns[number])):
            collector.take(number, part, start, batch, dict(zip(by, columns[number], strict=True)))
            if progress:
                progress((number + (part + 1) / len(source.parts)) / len(sources))
        if not any(one.places for (where, _), one in collector.series.items() if where == number):
            failed = sum(collector.failed[number].values())
            if not failed:
                raise RelevancyError(f"{source.folder}: holds answers alone; export with --maps all.")
            raise RelevancyError(
                f"{source.folder}: not a single result, {failed} lines are errors"
                + (f" (the first: {next(iter(collector.errors))})" if collector.errors else "")
                + "; mend what they say and export again."
            )
    return collector.measured()


def _require_one_thing(source: ExportSource) -> None:
    """Raise RelevancyError for results of several pictures, or of a video beside others."""
    if _SEVERAL not in source.columns:  # an export of an earlier version
        return
    videos = "video" in source.columns[_SEVERAL].value_type.names
    column = f"{_SEVERAL}.list.element.{'video' if videos else 'cols'}"
    shown = (one for _, _, batch in source.batches([column]) for one in batch.column(0).to_pylist() if one is not None)
    found = sum(any(each.get("video") != 0 for each in one) for one in shown)
    if found:
        raise RelevancyError(
            f"{source.folder}: {found} results are of several pictures or videos, which a report does not read: export "
            "those rows apart"
        )


def form_of(question: str) -> str:
    """A question's form: its first two words, as VQA's question types, and whether options follow."""
    words = re.findall(r"\w+", question.casefold())
    return " ".join(words[:2]) + (OPTIONS if _OPTION.search(question) else "")


def column_named(name: str, source: ExportSource) -> str:
    """The column meant by a name, with or without the prefix of the input's own; raises RelevancyError."""
    for found in (EXTRA + name, name):
        if found in source.columns:
            if "list" in str(source.columns[found]) or "struct" in str(source.columns[found]):
                raise RelevancyError(f"--by {name}: this column holds lists, which make no groups.")
            return found
    had = ", ".join(source.own_columns) or "no columns of its own"
    raise RelevancyError(f"--by {name}: {source.folder} has no such column; its input had {had}.")


def _columns_read(source: ExportSource, by: Sequence[str]) -> list[str]:
    optional = [name for name in ("mask_png", *_EVIDENCE) if name in source.columns]
    wanted = (*_KEY, "model", "error", *_STORED.values(), *_PLACE, "boxes", "mask", *optional, *by)
    return list(dict.fromkeys(wanted))  # a column to group by may be one of the others


class _Growing:
    """A series while lines still come."""

    def __init__(self) -> None:
        self.measures: dict[str, list[np.ndarray]] = defaultdict(list)
        self.pictures: list[int] = []
        self.keys: list[int] = []
        self.rasters: list[np.ndarray] = []
        self.places: list[Place] = []
        self.groups: dict[str, list[Any]] = defaultdict(list)
        self.forms: list[str] = []
        self.grids: dict[str, None] = {}


class _Collector:
    """Numbers of lines as they come, and the numbers by which pictures and rows are known."""

    def __init__(self, sources: Sequence[ExportSource]) -> None:
        self.sources = sources
        self.series: dict[tuple[int, str], _Growing] = {}
        self.pictures: dict[str, int] = {}
        self.keys: dict[bytes, int] = {}
        self.seen: set[tuple[int, str, int]] = set()
        self.times: Counter[tuple[int, str, bytes]] = Counter()
        self.errors: Counter[str] = Counter()
        self.failed: list[Counter[str]] = [Counter() for _ in sources]
        self.repeated = 0
        self.truths = [Truths(source) for source in sources]

    def take(self, number: int, part: int, start: int, batch: pa.RecordBatch, by: dict[str, str]) -> None:
        """The lines of one batch."""
        names = {name: batch.column(name).to_pylist() for name in (*_KEY, "model", "error")}
        chosen: dict[str, list[int]] = defaultdict(list)
        for line, (model, error) in enumerate(zip(names["model"], names["error"], strict=True)):
            place = (number, model, names["row"][line])
            if place in self.seen:
                self.repeated += 1
            elif error is not None:
                self.errors[error] += 1
                self.failed[number][model] += 1
            elif names["cols"][line]:  # answers without a map, and to words alone, are no results here
                chosen[model].append(line)
            self.seen.add(place)
        for model, lines in chosen.items():
            growing = self.series.setdefault((number, model), _Growing())
            growing.places += [(part, start + line) for line in lines]
            for line in lines:
                row = {name: names[name][line] for name in _KEY}
                growing.keys.append(self.key(number, model, row))
                growing.pictures.append(self.picture(number, row))
                growing.forms.append(form_of(row["question"] or ""))
            self.numbers(growing, batch.take(_indices(lines)), self.truths[number])
            for name, column in by.items():
                growing.groups[name] += batch.column(column).take(_indices(lines)).to_pylist()

    def key(self, number: int, model: str, row: dict[str, Any]) -> int:
        """A row of the input: by its place in one export, by its id, question and picture in two."""
        told = (row["row"],) if len(self.sources) == 1 else (row["id"], row["question"], row["picture_hash"])
        digest = hashlib.blake2b(repr(told).encode(), digest_size=16).digest()
        if len(self.sources) > 1:  # rows that read alike are told apart by their order
            self.times[number, model, digest] += 1
            digest += self.times[number, model, digest].to_bytes(4, "big")
        return self.keys.setdefault(digest, len(self.keys))

    def picture(self, number: int, row: dict[str, Any]) -> int:
        """A picture: by its contents, or where its file is, or, if neither is known, of this row alone."""
        name = row["picture_hash"] or row["picture"] or f"{number} {row['row']}"
        return self.pictures.setdefault(name, len(self.pictures))

    def numbers(self, growing: _Growing, lines: pa.RecordBatch, truths: Truths) -> None:
        """The measures of some lines of one model."""
        for name, column in _STORED.items():
            growing.measures[name].append(_floats(lines, column))
        for name, values in _evidence(lines).items():
            growing.measures[name].append(values)
        found = {name: np.full(len(lines), np.nan) for name in _FROM_MAPS}
        rasters = np.full((len(lines), maps.SIDE**2), np.nan, np.float16)
        meetings = [NOTHING] * len(lines)
        for chosen, grid, stacked in _by_grid(lines):
            growing.grids[f"{grid.rows} × {grid.cols}"] = None
            mass = maps.masses(stacked)
            found["entropy"][chosen] = maps.entropy(mass)
            found["top_mass"][chosen] = maps.top_mass(mass)
            rasters[chosen] = maps.on_raster(mass, grid.x_edges, grid.y_edges, grid.width, grid.height)
            for line, image_map in zip(chosen, stacked, strict=True):
                truth = truths.of(lines, int(line), grid.width, grid.height)
                if truth is not None:
                    meetings[line] = truth.met_by(image_map.reshape(grid.rows, grid.cols), grid.x_edges, grid.y_edges)
        for name, values in found.items():
            growing.measures[name].append(values)
        for name in _TRUTH:
            growing.measures[name].append(np.array([getattr(one, name) for one in meetings], np.float64))
        growing.rasters.append(rasters)

    def measured(self) -> Measures:
        """What was collected."""
        named = Counter(model for _, model in self.series)
        series = []
        for (number, model), growing in sorted(self.series.items(), key=self._order):
            series.append(
                Series(
                    name=model if named[model] == 1 else f"{model} ({_short_name(number, self.sources)})",
                    model=model,
                    source=number,
                    measures={name: np.concatenate(parts) for name, parts in growing.measures.items()},
                    pictures=np.array(growing.pictures, np.int64),
                    keys=np.array(growing.keys, np.int64),
                    rasters=np.concatenate(growing.rasters),
                    places=growing.places,
                    groups=dict(growing.groups),
                    forms=growing.forms,
                    grids=tuple(growing.grids),
                    errors=self.failed[number][model],
                )
            )
        return Measures(
            series=tuple(series),
            pictures=len(self.pictures),
            failed=sum(self.errors.values()),
            errors=dict(self.errors.most_common(_REASONS)),
            repeated=self.repeated,
            unreadable_masks=sum(truths.unreadable for truths in self.truths),
        )

    def _order(self, item: tuple[tuple[int, str], _Growing]) -> tuple[int, int]:
        number, model = item[0]
        named = [str(name) for name in self.sources[number].manifest.get("models") or []]
        return number, named.index(model) if model in named else len(named)


def _short_name(number: int, sources: Sequence[ExportSource]) -> str:
    """What tells two exports apart: their folders' names, or which was named first."""
    names = [source.name for source in sources]
    return names[number] if len(set(names)) == len(names) else f"{('first', 'second')[number]} {names[number]}"


@dataclass(frozen=True, eq=False)
class _Place:
    """Where maps of one grid lie in their pictures."""

    width: int
    height: int
    rows: int
    cols: int
    x_edges: np.ndarray
    y_edges: np.ndarray


def _by_grid(lines: pa.RecordBatch) -> Iterator[tuple[np.ndarray, _Place, np.ndarray]]:
    """Lines that share one grid: their numbers, the grid, and their maps (lines, rows * cols)."""
    sizes = np.stack([_integers(lines, name) for name in ("width", "height", "rows", "cols")], axis=1)
    x, y, values = (_Lists(lines.column(name)) for name in ("x_edges", "y_edges", "image_map"))
    together: dict[bytes, list[int]] = defaultdict(list)
    for line in range(len(lines)):
        width, height, rows, cols = sizes[line]
        fits = len(x[line]) == cols + 1 and len(y[line]) == rows + 1 and len(values[line]) == rows * cols
        if fits and rows * cols and width > 0 and height > 0:
            together[sizes[line].tobytes() + x[line].tobytes() + y[line].tobytes()].append(line)
    for chosen in together.values():
        first = chosen[0]
        width, height, rows, cols = sizes[first].tolist()
        place = _Place(width, height, rows, cols, x[first], y[first])
        yield np.array(chosen), place, np.stack([values[line] for line in chosen])


class _Lists:
    """A column of lists of numbers, one array per line without a copy."""

    def __init__(self, column: pa.ListArray) -> None:
        self.values = column.values.to_numpy(zero_copy_only=False).astype(np.float64, copy=False)
        self.offsets = column.offsets.to_numpy()

    def __getitem__(self, line: int) -> np.ndarray:
        return self.values[self.offsets[line] : self.offsets[line + 1]]


def _evidence(lines: pa.RecordBatch) -> dict[str, np.ndarray]:
    """What knocking out the picture did, and the verdicts; NaN where an export has no evidence."""
    if not set(_EVIDENCE) <= set(lines.schema.names):
        return {name: np.full(len(lines), np.nan) for name in _FROM_EVIDENCE}
    probability, blind, blind_tv = (_floats(lines, name) for name in _EVIDENCE[1:])
    given = lines.column("verdict").to_pylist()
    verdicts = {
        name: np.array([np.nan if verdict is None else verdict == name for verdict in given], np.float64)
        for name in VERDICTS
    }
    return {"blind_tv": blind_tv, "blind_drop": probability - blind, **verdicts}


def _floats(lines: pa.RecordBatch, name: str) -> np.ndarray:
    return np.asarray(lines.column(name).cast("float64").to_numpy(zero_copy_only=False), np.float64)


def _integers(lines: pa.RecordBatch, name: str) -> np.ndarray:
    return lines.column(name).fill_null(0).cast("int64").to_numpy(zero_copy_only=False)


def _indices(lines: Sequence[int]) -> Any:
    import pyarrow

    return pyarrow.array(lines, pyarrow.int64())
