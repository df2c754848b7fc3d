"""The result: raw numbers that explain themselves, draw themselves, and come back from a folder as they were."""

from __future__ import annotations

__all__ = ["Explanation"]

import base64
import html
import io
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from relevancy import formats
from relevancy.atomic_io import whole_files
from relevancy.core.targets import Target
from relevancy.errors import RelevancyError
from relevancy.explanations.evidence import Evidence
from relevancy.geometry import Grid
from relevancy.images import open_picture
from relevancy.plotting import figures
from relevancy.plotting import overlay as drawing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_JSON, _OVERLAY, _FIGURE, _HEATMAP, _PICTURE = (
    "explanation.json", "overlay.png", "figure.png", "heatmap.npy", "picture.png",
)  # fmt: skip

_SHARES = {"image": "image", "text": "text", "first_token": "first token"}


@dataclass(frozen=True, eq=False)
class Explanation:
    """Which patches and words made a model say one token of its answer.

    tokens: one per input token, image tokens included, as the tokenizer writes them.
    relevance: (tokens,) float32, raw, as the method gives it; of method relevancy, the explained position's row of R
        (eq. 6) without its own unit e_t.
    image_map: (rows, cols) float32, raw; the row's image tokens, or with scope "full" the tower's patches.
    shares: the row's mass on the "image", the "text" and the "first_token", disjoint, summing to 1; of signed numbers,
        that of their sizes.
    cut: the share of the row's flow, A * dy/dA weighted with the row that comes down to each layer, that the clamp of
        eq. 5 removed because it was negative; None for methods without that clamp.
    evidence: what knocking out parts of the picture does to the explained token; None where it was not asked for.
    answer_tokens: the answer's own, as the tokenizer writes them; `target.position` counts in them.
    notes: what was done to the inputs, and what to be careful about, one sentence each.
    """

    model: str
    method: str
    scope: str
    question: str
    answer: str
    target: Target
    image: Image.Image = field(repr=False)
    grid: Grid = field(repr=False)
    tokens: tuple[str, ...] = field(repr=False)
    is_image: np.ndarray = field(repr=False)
    relevance: np.ndarray = field(repr=False)
    image_map: np.ndarray = field(repr=False)
    shares: Mapping[str, float]
    cut: float | None = None
    evidence: Evidence | None = None
    layers: tuple[int, ...] | None = None
    notes: tuple[str, ...] = ()
    answer_tokens: tuple[str, ...] = field(default=(), repr=False)
    versions: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def empty(self) -> bool:
        """Whether the map shows nothing: all zero, or not a number."""
        return not np.isfinite(self.image_map).all() or not self.image_map.any()

    @property
    def how(self) -> str:
        """Model, method, scope, layers and version in one line: what it takes to make this result again."""
        layers = "all layers" if self.layers is None else f"layers {_ranges(self.layers)}"
        versions = f", relevancy {self.versions['relevancy']}" if "relevancy" in self.versions else ""
        return f"{self.model}: method {self.method}, scope {self.scope}, {layers}{versions}"

    def heatmap(self, *, smooth: bool = True) -> np.ndarray:
        """Raw relevance in the original picture's pixels, (height, width) float32, NaN where the model never looked.

        smooth: interpolate between the centers of patches; otherwise each pixel has its own patch's value.
        """
        return self.grid.heatmap(self.image_map, smooth=smooth)

    def shown(self, *, smooth: bool = True, floor: float = drawing.FLOOR) -> tuple[np.ndarray, str]:
        """The heatmap as it is drawn, and why it is drawn as empty, if it is.

        floor: image share below which a map is drawn as empty (see `plotting.overlay.FLOOR`); 0 draws every map.
        """
        return drawing.shown(self.heatmap(smooth=smooth), self.shares["image"], floor)

    def overlay(self, *, smooth: bool = True, floor: float = drawing.FLOOR, **options: Any) -> Image.Image:
        """The heatmap over the original picture, in its size; a map drawn as empty says why.

        floor: as in `shown`.
        options: as in `relevancy.plotting.overlay.overlay`.
        """
        heatmap, why = self.shown(smooth=smooth, floor=floor)
        return drawing.labelled(drawing.overlay(self.image, heatmap, **options), why)

    def reduced(self, max_side: int) -> Explanation:
        """The same result on a smaller picture, no side longer than `max_side` pixels: drawn faster, for a screen."""
        scale = max_side / max(self.image.size)
        if scale >= 1:
            return self
        width, height = (max(1, round(side * scale)) for side in self.image.size)
        grid = Grid(
            width,
            height,
            self.grid.x_edges * (width / self.grid.width),
            self.grid.y_edges * (height / self.grid.height),
        )
        return replace(self, image=figures.resized(self.image, (width, height)), grid=grid)

    def patch_at(self, x: float, y: float) -> tuple[int, int] | None:
        """Row and column in `image_map` of the patch that holds a pixel of the picture; None where none does."""
        col, row = (
            int(np.searchsorted(edges, place, side="right")) - 1
            for edges, place in ((self.grid.x_edges, x + 0.5), (self.grid.y_edges, y + 0.5))
        )
        inside = 0 <= x < self.grid.width and 0 <= y < self.grid.height
        return (row, col) if inside and 0 <= row < self.grid.rows and 0 <= col < self.grid.cols else None

    def words(self) -> list[tuple[str, float]]:
        """Every token that is no image token, with its raw relevance, in their order."""
        return [
            (token, float(value))
            for token, value, image in zip(self.tokens, self.relevance, self.is_image, strict=True)
            if not image
        ]

    def panel(self, *, smooth: bool = True, floor: float = drawing.FLOOR) -> figures.Panel:
        """What a figure shows of this result; `floor` as in `shown`."""
        target = self.target
        heatmap, why = self.shown(smooth=smooth, floor=floor)
        asked = f"“{target.token.strip()}”" if target.token.strip() else repr(target.token)
        if target.contrast is not None:
            asked += f" rather than “{target.contrast.strip()}”"
        return figures.Panel(
            title=f"{self.model}: {self.answer}",
            subtitle=f"why {asked} (p = {target.probability:.2f})",
            image=self.image,
            heatmap=heatmap,
            words=self.words(),
            shares=self.shares,
            empty=why,
        )

    def figure(self, *, smooth: bool = True, floor: float = drawing.FLOOR, **options: Any) -> Figure:
        """Picture, heat and words side by side; `floor` as in `shown`, `options` as in `plotting.figures.figure`."""
        notes = [*([] if self.evidence is None else [self.evidence.sentence]), self.how]
        panels = [self.panel(smooth=smooth, floor=floor)]
        return figures.figure(panels, question=self.question, **{"notes": notes} | options)

    def to_json(self) -> dict[str, Any]:
        """Everything but the pixels, as JSON takes it; what is not a number becomes null."""
        return {
            formats.KEY: formats.EXPLANATION,
            "model": self.model,
            "method": self.method,
            "scope": self.scope,
            "layers": None if self.layers is None else list(self.layers),
            "question": self.question,
            "answer": self.answer,
            "answer_tokens": list(self.answer_tokens),
            "target": finite(asdict(self.target)),
            "image": {
                "width": self.grid.width,
                "height": self.grid.height,
                "rows": self.grid.rows,
                "cols": self.grid.cols,
                "x_edges": self.grid.x_edges.tolist(),
                "y_edges": self.grid.y_edges.tolist(),
            },
            "shares": dict(self.shares),
            "cut": finite(self.cut),
            "evidence": None if self.evidence is None else finite(self.evidence.to_json()),
            "tokens": list(self.tokens),
            "is_image": self.is_image.astype(int).tolist(),
            "relevance": finite(self.relevance.tolist()),
            "image_map": finite(self.image_map.tolist()),
            "notes": list(self.notes),
            "versions": dict(self.versions),
        }

    def save(self, folder: str | os.PathLike[str], *, floor: float = drawing.FLOOR) -> Path:
        """Write explanation.json, overlay.png, figure.png, heatmap.npy and picture.png, all of them or none.

        floor: as in `shown`; numbers are stored as they are.
        """
        with whole_files(Path(folder)) as part:
            self.write_files(part, floor=floor)
        return Path(folder)

    def write_files(self, folder: Path, *, floor: float = drawing.FLOOR) -> None:
        """What `save` writes, one file after the other, for a result that is part of a larger one."""
        folder.mkdir(exist_ok=True)
        stored = json.dumps(self.to_json(), ensure_ascii=False, indent=1, allow_nan=False)
        (folder / _JSON).write_text(stored, encoding="utf-8")
        self.image.save(folder / _PICTURE)
        self.overlay(floor=floor).save(folder / _OVERLAY)
        self.figure(floor=floor).savefig(folder / _FIGURE)
        np.save(folder / _HEATMAP, self.heatmap())

    @staticmethod
    def saved_in(folder: Path) -> list[Path]:
        """The files that `save` wrote into a folder; none where it holds no result."""
        files = [folder / name for name in (_JSON, _PICTURE, _OVERLAY, _FIGURE, _HEATMAP)]
        return [file for file in files if file.is_file()] if files[0].is_file() else []

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Explanation:
        """The result that `save` wrote. Raises RelevancyError when the folder does not hold one."""
        path = Path(folder)
        try:
            stored = json.loads((path / _JSON).read_text(encoding="utf-8"))
            place = stored["image"]
            formats.require_known(stored, formats.EXPLANATION, path / _JSON)
            image = open_picture(path / _PICTURE, max_pixels=place["width"] * place["height"]).image
            return cls.from_json(stored, image)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RelevancyError(f"{path} holds no explanation that can be read: {error}") from error

    @classmethod
    def from_json(cls, stored: Mapping[str, Any], image: Image.Image) -> Explanation:
        """What `to_json` gave, and the picture that it is about."""
        place = stored["image"]
        return cls(
            **{key: stored[key] for key in ("model", "method", "scope", "question", "answer", "shares")},
            target=_target(stored["target"]),
            image=image,
            grid=Grid(place["width"], place["height"], np.array(place["x_edges"]), np.array(place["y_edges"])),
            tokens=tuple(stored["tokens"]),
            is_image=np.array(stored["is_image"], dtype=bool),
            relevance=np.array(stored["relevance"], dtype=np.float32),
            image_map=np.array(stored["image_map"], dtype=np.float32),
            cut=stored.get("cut"),
            evidence=None if stored.get("evidence") is None else Evidence.from_json(stored["evidence"]),
            layers=None if stored["layers"] is None else tuple(stored["layers"]),
            notes=tuple(stored["notes"]),
            answer_tokens=tuple(stored.get("answer_tokens", ())),
            versions=stored["versions"],
        )

    def summary(self) -> str:
        """Answer, token, shares and, where there is some, the evidence, a line each of plain words."""
        target, shares = self.target, self.shares
        against = "" if target.contrast is None else f" rather than {target.contrast.strip()!r}"
        return (
            f"{self.model} answers {self.answer!r}; explained: token {target.token!r}{against}, "
            f"probability {target.probability:.3f}\nrelevance: "
            + ", ".join(f"{name} {drawing.percent(shares[key])}" for key, name in _SHARES.items())
            + ("" if self.evidence is None else f"\n{self.evidence.sentence}")
        )

    def _repr_html_(self) -> str:
        return as_html(self.figure(), self.summary(), self.notes)


def as_html(figure: Figure, alt: str, notes: Sequence[str]) -> str:
    """A figure as a notebook shows it, in HTML that needs nothing else, the notes below."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    picture = base64.b64encode(buffer.getvalue()).decode()
    listed = "".join(f"<li>{html.escape(note)}</li>" for note in notes)
    shown = f'<img alt="{html.escape(alt)}" style="max-width:100%" src="data:image/png;base64,{picture}">'
    return f"{shown}<ul>{listed}</ul>"


def _ranges(numbers: Sequence[int]) -> str:
    """Whole numbers in words: those that follow each other as "2 to 5"."""
    found: list[list[int]] = []
    for number in sorted(numbers):
        if found and number == found[-1][-1] + 1:
            found[-1].append(number)
        else:
            found.append([number])
    return ", ".join(f"{run[0]} to {run[-1]}" if len(run) > 1 else str(run[0]) for run in found)


def finite(value: Any) -> Any:
    """The value, however deep in lists and mappings, with None for each float that JSON has no way to write."""
    if isinstance(value, Mapping):
        return {key: finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _target(stored: Mapping[str, Any]) -> Target:
    """A target from JSON, in which null stands for what was not a number."""
    numbers = {"probability", "logit"} | ({"contrast_logit"} if stored["contrast_id"] is not None else set())
    values: dict[str, Any] = {
        key: math.nan if key in numbers and value is None else value for key, value in stored.items()
    }
    return Target(**values)
