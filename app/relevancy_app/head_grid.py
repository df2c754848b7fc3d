"""What each head adds, as a grid of all heads, and which maps of theirs are shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape

import numpy as np

from relevancy import Explanation
from relevancy.explanations.picture_map import PictureMap
from relevancy.plotting.overlay import FLOOR
from relevancy_app.board import board, told
from relevancy_app.settings import SCREEN_SIDE

_FAINT = 0.005  # of the map: less is a dot in the grid


@dataclass(frozen=True, eq=False)
class HeadGrid:
    """Results of every head of one model, in the order of layers and heads, and the layer whose maps are shown.

    layer: None for that of the head that adds most to the picture.
    """

    results: tuple[Explanation, ...]
    layer: int | None = None

    @cached_property
    def shares(self) -> dict[tuple[int, int], float]:
        """Of all that heads add to the picture, each one's part, by layer and head; all 0 where they add nothing."""
        added = {one.head: sum(map(_mass, one.pictures)) for one in self.results if one.head}
        whole = sum(added.values())
        return {head: value / whole if whole > 0 else 0.0 for head, value in added.items()}

    @property
    def shown_layer(self) -> int:
        """The layer whose heads' maps are shown."""
        best, _ = max(self.shares, key=lambda head: self.shares[head])
        return best if self.layer is None else self.layer

    def board(self) -> str:
        """The grid, and the maps of one layer's heads on one scale."""
        own = [one for one in self.results if one.head and one.head[0] == self.shown_layer]
        lines = [f"adds {_added(self.shares[one.head])}" for one in own if one.head]
        titles = [f"head {one.head[1]}" for one in own if one.head]
        return board(
            [one.reduced(SCREEN_SIDE // 2) for one in own], titles=titles, lines=lines, above=self._grid(), brief=True
        )

    def _grid(self) -> str:
        layers = sorted({layer for layer, _ in self.shares})
        heads = range(1 + max(head for _, head in self.shares))
        top = "".join(f'<th scope="col">{head}</th>' for head in heads)
        rows = "".join(self._row(layer, heads) for layer in layers)
        first = self.results[0]
        title = f"What each head adds to the map of {escape(first.model)}"
        return (
            f'<h3 class="rv-heading">{title}</h3><p class="rv-quiet">In percent of the picture’s relevance; together '
            f"they are the map of method {escape(first.method)}. Press a head to see its layer’s maps; below are those "
            f'of layer {self.shown_layer}.</p><div class="rv-scroll" tabindex="0">'
            f'<table class="rv-grid" aria-label="{title}">'
            f'<thead><tr><td></td>{top}<th scope="col">sum</th></tr></thead><tbody>{rows}</tbody></table></div>'
        )

    def _row(self, layer: int, heads: Sequence[int]) -> str:
        most = max(self.shares.values()) or 1.0
        cells = "".join(
            "<td></td>"
            if (share := self.shares.get((layer, head))) is None
            else f'<td><button type="button" style="--rv-part:{share / most:.3f}" data-layer="{layer}" '
            f'data-of="{escape(self.results[0].model)}" aria-label="Layer {layer}, head {head}: {told(share)}">'
            f"{_cell(share)}</button></td>"
            for head in heads
        )
        now = ' aria-current="true"' if layer == self.shown_layer else ""
        total = sum(share for (own, _), share in self.shares.items() if own == layer)
        return f'<tr{now}><th scope="row">layer {layer}</th>{cells}<td>{_cell(total)}</td></tr>'


def _mass(picture: PictureMap) -> float:
    return float(picture.image_map.sum(dtype=np.float64))


def _added(share: float) -> str:
    return told(share) if share >= FLOOR or not share else f"under {told(FLOOR)}"


def _cell(share: float) -> str:
    return f"{100 * share:.0f}" if share >= _FAINT else "·"
