"""The rows worth looking at, each with its maps drawn over its picture on one scale."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

from relevancy.data.items import picture_hash
from relevancy.errors import RelevancyError
from relevancy.export.results import Export, open_export
from relevancy.export.schema import EVIDENCE
from relevancy.geometry import Grid
from relevancy.images import open_picture
from relevancy.plotting import overlay
from relevancy.plotting.figures import resized
from relevancy.report.measures import Series
from relevancy.report.pair_findings import Pair
from relevancy.report.source import ExportSource, Place

_LONGEST = 320  # pixels of a picture's longer side on the page
_FRAMES = 8  # of a video that are shown, evenly in time
_FRAME = 120  # pixels of a frame's longer side
_QUALITY = 82
_BLANK = "#8a8a8a"  # under a map whose picture is gone
_READ = (
    "row", "id", "picture", "picture_hash", "question", "answer", "token", "probability", "expected", "correct",
    "share_image", "width", "height", "rows", "cols", "x_edges", "y_edges", "image_map",
)  # fmt: skip
_USE = f"{EVIDENCE}blind_tv"


@dataclass(frozen=True)
class ShelfRow:
    """One row to show: its key, the number it was chosen for, and the series it was chosen from (None: all)."""

    key: int
    value: float
    series: str | None = None


@dataclass(frozen=True)
class Shelf:
    """Rows chosen for one reason, and how many there were to choose from.

    measure: what the rows were chosen by, a name that `words.chosen_by` knows.
    """

    title: str
    reason: str
    measure: str
    candidates: int
    choices: tuple[ShelfRow, ...]


@dataclass(frozen=True)
class DrawnMap:
    """One model's answer in a card; drawn: its map over the picture, a data address.

    verdict, blind_tv: of its evidence, None where it has none. over_time: of a video, the share of each frame.
    """

    model: str
    answer: str
    token: str
    probability: float | None
    correct: bool | None
    image_share: float | None
    verdict: str | None
    blind_tv: float | None
    drawn: str = field(repr=False)
    over_time: tuple[float, ...] = ()


@dataclass(frozen=True)
class Card:
    """One row: what was asked and answered, the picture (a data address, None if gone), and why it is not there.

    signed: whether its maps have places that speak against the answer, and so other colors.
    """

    id: str
    question: str
    expected: str | None
    value: float
    chosen_from: str | None
    picture: str | None = field(repr=False)
    missing: str | None
    signed: bool
    seen: tuple[DrawnMap, ...]


def shelves(series: Sequence[Series], pairs: Sequence[Pair], count: int) -> Iterator[Shelf]:
    """The most different maps of each two models, maps that do not show what the answer needs, sure and wrong answers,
    the least relevance on a picture.

    Of maps with evidence, only confirmed ones are worth comparing. No picture is shown twice for one reason.
    """
    for pair in pairs:
        apart, confirmed = pair.divergence(), pair.confirmed()
        title = "Most different maps"
        reason = "Where the two models' relevance lies in the most different places."
        if np.isfinite(confirmed).any():
            title, apart = "Confirmed and most different", np.where(confirmed == 1, apart, np.nan)
            reason = "Both maps show what their answer needs of the picture, and they agree the least."
        yield Shelf(
            f"{title}: {pair.first.name} and {pair.second.name}",
            f"{reason} Each map has its own color scale.",
            "divergence",
            int(np.isfinite(apart).sum()),
            tuple(
                ShelfRow(int(pair.first.keys[pair.in_first[row]]), float(apart[row]))
                for row in first_places(-apart, pair.first.pictures[pair.in_first], count)
            ),
        )
    lost = [np.where(one.measures["unconfirmed"] == 1, one.measures["blind_tv"], np.nan) for one in series]
    if any(np.isfinite(one.measures["unconfirmed"]).any() for one in series):
        yield _over_all(
            "The picture may matter, the map does not show where",
            "Answers that need the picture the most, with maps whose best places matter little more than others.",
            "blind_tv", series, lost, count, sign=-1,
        )  # fmt: skip
    wrong = [np.where(one.measures["correct"] == 0, one.measures["probability"], np.nan) for one in series]
    yield _over_all(
        "Most confident and wrong", "Wrong answers whose explained token was the most probable.", "probability",
        series, wrong, count, sign=-1,
    )  # fmt: skip
    yield _over_all(
        "Least on the picture", "Answers for which the least of the relevance lies on the picture.", "image_share",
        series, [one.measures["image_share"] for one in series], count, sign=1,
    )  # fmt: skip


def _over_all(
    title: str, reason: str, measure: str, series: Sequence[Series], values: Sequence[np.ndarray], count: int,
    *, sign: int,
) -> Shelf:  # fmt: skip
    """The rows with the largest (sign -1) or smallest (1) values of any series."""
    every = np.concatenate(values)
    owner = np.repeat(np.arange(len(series)), [len(one) for one in series])
    keys = np.concatenate([one.keys for one in series])
    chosen = first_places(sign * every, np.concatenate([one.pictures for one in series]), count)
    choices = (ShelfRow(int(keys[place]), float(every[place]), series[owner[place]].name) for place in chosen)
    return Shelf(title, reason, measure, int(np.isfinite(every).sum()), tuple(choices))


def first_places(values: np.ndarray, pictures: np.ndarray, count: int) -> list[int]:
    """Places of the smallest values, each of another picture."""
    chosen: dict[int, int] = {}
    for place in np.argsort(values, kind="stable"):  # what is not a number comes last
        if len(chosen) == count or not np.isfinite(values[place]):
            break
        chosen.setdefault(int(pictures[place]), int(place))
    return list(chosen.values())


class Drawer:
    """Draws the cards of chosen rows from the lines of their exports."""

    def __init__(self, sources: Sequence[ExportSource], series: Sequence[Series], choices: Iterable[ShelfRow]) -> None:
        self.sources, self.series = sources, series
        self.opened: dict[int, Export] = {}
        keys = {choice.key for choice in choices}
        wanted: list[set[Place]] = [set() for _ in sources]
        self.where: dict[int, list[tuple[Series, Place]]] = {key: [] for key in keys}
        for one in series:
            for line in np.flatnonzero(np.isin(one.keys, list(keys))):
                self.where[int(one.keys[line])].append((one, one.places[line]))
                wanted[one.source].add(one.places[line])
        self.lines = [
            source.lines(places, [*_READ, *(name for name in ("verdict", _USE, "pictures") if name in source.columns)])
            for source, places in zip(sources, wanted, strict=True)
        ]

    def card(self, choice: ShelfRow, *, apart: bool) -> Card:
        """The row with every model's map, all on one scale, or, where only their places are compared, each apart."""
        there = [(one, self.lines[one.source][place]) for one, place in self.where[choice.key]]
        first_series, first = there[0]
        size = _small(first["width"], first["height"], _FRAME if first.get("pictures") else _LONGEST)
        found = [self._picture(first_series, first, number, one) for number, one in _shown(first)]
        missing = next((why for _, why in found if why is not None), None)
        under = _beside([Image.new("RGB", size, _BLANK) if one is None else resized(one, size) for one, _ in found])
        heats = [_heat(line, size, apart=apart) for _, line in there]
        together = [heat for heat, _ in heats]
        ranges = [overlay.value_range([heat] if apart else together) for heat in together]
        seen = tuple(
            DrawnMap(
                one.name, line["answer"] or "", line["token"] or "", line["probability"], line["correct"],
                line["share_image"], line.get("verdict"), line.get(_USE),
                _address(overlay.labelled(overlay.overlay(under, heat, vmin=low, vmax=high), why)),
                tuple(frame["share"] for frame in line.get("pictures") or ()),
            )
            for (one, line), (heat, why), (low, high) in zip(there, heats, ranges, strict=True)
        )  # fmt: skip
        return Card(
            first["id"] or str(first["row"]), first["question"] or "", first["expected"], choice.value, choice.series,
            None if missing else _address(under), missing, min(ranges)[0] < 0, seen,
        )  # fmt: skip

    def _picture(
        self, one: Series, line: dict[str, Any], number: int, part: dict[str, Any]
    ) -> tuple[Image.Image | None, str | None]:
        """A line's picture, or one of its video's frames, or why it cannot be shown."""
        source = self.sources[one.source]
        try:
            if part["picture"]:
                encoded = source.found(part["picture"]).encoded
                found = open_picture(encoded).image
                changed = part["picture_hash"] not in (None, picture_hash(encoded))
            else:
                found, changed = self._from_input(one, line["row"], number), False
        except (RelevancyError, OSError):
            where = f" at {part['picture']}" if part["picture"] else " in the input"
            return None, f"the picture is no longer{where}"
        if changed or found.size != (line["width"], line["height"]):
            return None, f"another picture is now at {part['picture']}"
        return found, None

    def _from_input(self, one: Series, row: int, number: int) -> Image.Image:
        """A picture that the input holds itself. Raises RelevancyError where it does not any more."""
        source = self.sources[one.source]
        if one.source not in self.opened:
            if not isinstance(source.manifest.get("configuration", {}).get("input"), Mapping):
                raise RelevancyError(f"{source.folder} does not say what its input was.")
            self.opened[one.source] = open_export(source.folder)
        return self.opened[one.source].of_row(row, one.model).picture(number).image


def _shown(line: dict[str, Any]) -> list[tuple[int, dict[str, Any]]]:
    """The line itself, or some frames of its video, evenly in time, with their numbers."""
    frames = line.get("pictures") or [line]
    places = np.unique(np.linspace(0, len(frames) - 1, min(len(frames), _FRAMES)).round().astype(int))
    return [(int(place), frames[place]) for place in places]


def _beside(pictures: Sequence[Image.Image]) -> Image.Image:
    """Pictures of one size from left to right."""
    return Image.fromarray(np.concatenate([np.asarray(one.convert("RGB")) for one in pictures], axis=1))


def _small(width: int, height: int, longest: int) -> tuple[int, int]:
    scale = min(1.0, longest / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def _heat(line: dict[str, Any], size: tuple[int, int], *, apart: bool) -> tuple[np.ndarray, str]:
    """The map in the small picture's pixels, as it is drawn, and why it is drawn as empty, if it is.

    Of a video, its frames beside each other. On a scale of its own, a map that is confirmed is drawn however faint.
    """
    heats = []
    for _, part in _shown(line):
        values = np.array(part["image_map"] or [], np.float32)
        if values.size != part["rows"] * part["cols"] or not values.size:
            return np.zeros(size[::-1], np.float32), "no map: it does not fit its own shape"
        x, y = (
            np.array(part[name]) * (small / part[whole])
            for name, small, whole in (("x_edges", size[0], "width"), ("y_edges", size[1], "height"))
        )
        heats.append(Grid(*size, x, y).heatmap(values.reshape(part["rows"], part["cols"])))
    drawn = apart and line.get("verdict") == "confirmed"
    share = None if drawn else line["share_image"]
    return overlay.shown(np.concatenate(heats, axis=1), 1.0 if share is None else share)


def _address(image: Image.Image) -> str:
    stream = BytesIO()
    image.save(stream, "WEBP", quality=_QUALITY, method=4)
    return f"data:image/webp;base64,{base64.b64encode(stream.getvalue()).decode()}"
