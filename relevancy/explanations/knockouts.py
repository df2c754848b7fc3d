"""What a map's evidence rests on: which parts of it are knocked out, and what becomes of the explained token then."""

from __future__ import annotations

__all__ = ["Areas", "MapInQuestion", "evidence_for"]

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby, pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from relevancy.core.targets import Choice, shown
from relevancy.explanations.evidence import Evidence
from relevancy.families.views import Layout
from relevancy.models import generation, knockout
from relevancy.models.generation import Prefill
from relevancy.models.knockout import Variant
from relevancy.models.model import Model
from relevancy.models.prepared import Prepared

BEST = 1 / 8  # of the patches: the map's best
PEAK = 0.3  # of the grid's side: the square around the peak, 3 x 3 patches of 10 x 10
DRAWS = 2  # squares elsewhere
EQUAL = 1e-6  # of a map's largest value: differences by less are rounding
_PARTS = ("blind", "best", "peak", "elsewhere")
_LOGITS_BYTES = 256 << 20  # held at once; a long answer's, of all variants, would take gigabytes


@dataclass(frozen=True, eq=False)
class MapInQuestion:
    """The maps of one example of a batch, one for each of its pictures and of its videos' steps.

    row: which example. length: its own tokens up to the last position that emits the target. logits: as
    `Choice.scalar` takes them. image_maps: each (rows, cols), of the layout at the same place.
    """

    row: int
    length: int
    choice: Choice
    logits: Tensor
    image_maps: Sequence[np.ndarray]
    layouts: Sequence[Layout]

    def parts(self) -> list[tuple[str, Tensor]]:
        """What is knocked out, by name: image tokens, bool, of all pictures in their order."""
        every = [areas.named() for areas in Areas.across(self.image_maps)]
        blind, *rest = [(name, [own[at][1] for own in every]) for at, (name, _) in enumerate(every[0])]
        videos = [layout.video for layout in self.layouts]  # of which each is one, however many its steps
        shown = np.cumsum([0, *(now is None or now != before for before, now in pairwise(videos))])
        each = [
            (f"picture {at}", [area & (at == own) for area, own in zip(blind[1], shown, strict=True)])
            for at in range(shown[-1] + 1)
        ]
        found = [blind, *(each if len(each) > 1 else ()), *rest]
        return [(name, self._on_tokens(areas)) for name, areas in found]

    def _on_tokens(self, areas: Sequence[np.ndarray]) -> Tensor:
        parts = [layout.hidden_with(area) for layout, area in zip(self.layouts, areas, strict=True)]
        return torch.from_numpy(np.concatenate(parts))


def evidence_for(
    model: Model, prepared: Prepared, prefill: Prefill, maps: Sequence[MapInQuestion]
) -> list[Evidence | None]:
    """The evidence for maps of one batch, read together; None for one without pictures, or without logits that are
    numbers.

    prefill: what a forward pass over the batch left behind, at least as far as the maps' lengths. Costs 5 short passes
    over the tokens after the picture, as one batch; 5 whole forward passes where the model cannot share what comes
    before (see `generation.shares_prefix`), or has read a picture after another one. Tokens of one answer share the
    pass without the picture, as many as have room for their logits.
    """
    asked = [one for one in maps if one.layouts]
    if not asked:
        return [None] * len(maps)
    if len(asked) < len(maps):
        known = iter(evidence_for(model, prepared, prefill, asked))
        return [next(known) if one.layouts else None for one in maps]
    parts = [one.parts() for one in maps]
    alone = all(len(one.layouts) == 1 and one.layouts[0].video is None for one in maps)
    shared = alone and generation.shares_prefix(model, max(one.length for one in maps), prefill.cache)
    asked_for = [
        (number, Variant(one.row, one.length, hidden, one.choice.length))
        for number, (one, own) in enumerate(zip(maps, parts, strict=True))
        for _, hidden in own
    ]
    outcomes: list[list[KnockoutReading]] = [[] for _ in maps]
    for some in _fitting(asked_for, maps[0].logits.shape[-1] * torch.float32.itemsize):
        variants = [variant for _, variant in some]
        logits = iter(
            knockout.logits_of(model, prefill, variants)
            if shared
            else knockout.logits_in_full(model, prepared, variants)
        )
        for number, own in groupby(number for number, _ in some):
            one = maps[number]
            untouched = one.logits.float().view(one.choice.length, -1)
            read = KnockoutReading.each(one.choice, torch.stack([untouched, *(next(logits) for _ in own)]).cpu())
            outcomes[number] += read if not outcomes[number] else read[1:]
    return [
        None
        if math.isnan(told[0].probability)
        else _told(model, ["untouched", *(name for name, _ in own)], told, shared=shared)
        for own, told in zip(parts, outcomes, strict=True)
    ]


def _fitting(asked: Sequence[tuple[int, Variant]], token_bytes: int) -> Iterator[list[tuple[int, Variant]]]:
    """Consecutive variants whose logits are few enough to be held together; one at least."""
    some: list[tuple[int, Variant]] = []
    held = 0
    for one in asked:
        size = one[1].count * token_bytes
        if some and held + size > _LOGITS_BYTES:
            yield some
            some, held = [], 0
        some.append(one)
        held += size
    yield some


@dataclass(frozen=True)
class KnockoutReading:
    """What a model says in the target's place in one variant, see `Evidence`.

    says: the likeliest token of each position.
    """

    probability: float
    tv: float
    says: tuple[int, ...]
    runner_up: float | None
    lead: float | None

    @classmethod
    def each(cls, choice: Choice, logits: Tensor) -> list[KnockoutReading]:
        """From logits (variants, length, vocabulary), the untouched first.

        The distance is that of where the target is left, and with which token; of a single token, of the token.
        """
        reached = logits.new_ones(len(logits), dtype=torch.float64)  # the probability of the target so far
        distance, said = torch.zeros_like(reached), []
        for here, token in zip(logits.unbind(1), choice.ids, strict=True):
            shares = here.double().softmax(-1)
            said.append(shares.argmax(-1).tolist())
            joint = shares * reached[:, None]
            apart = (joint - joint[0]).abs()
            distance += apart.sum(-1) - apart[:, token]
            reached = joint[:, token]
        distance = (distance + (reached - reached[0]).abs()) / 2
        others: Sequence[float | None] = [None] * len(logits)
        leads = others
        if not choice.span:
            first, second = shares[0].topk(2).indices.tolist()
            others = shares[:, second if first == choice.id else first].tolist()
            if choice.contrast_id is not None:
                leads = (here[:, choice.id] - here[:, choice.contrast_id]).tolist()
        told = zip(reached.tolist(), distance.tolist(), zip(*said, strict=True), others, leads, strict=True)
        return [cls(*one) for one in told]


def _told(model: Model, names: Sequence[str], told: Sequence[KnockoutReading], *, shared: bool) -> Evidence:
    """Numbers of one map from its variants' outcomes, the untouched first; variants of one name are averaged."""

    def by_name(values: Iterable[float | None]) -> dict[str, float]:
        own: dict[str, list[float]] = {}
        for name, value in zip(names, values, strict=True):
            if value is not None:
                own.setdefault(name, []).append(value)
        return {name: sum(some) / len(some) for name, some in own.items()}

    probability, distance = by_name(one.probability for one in told), by_name(one.tv for one in told)
    each = [name for name in names if name.startswith("picture ")]
    numbers: dict[str, Any] = {name: probability.get(name, math.nan) for name in _PARTS}
    numbers |= {f"{name}_tv": distance.get(name, math.nan) for name in _PARTS}
    said = {tokens: shown(model.tokenizer, *tokens) for tokens in {one.says for one in told}}
    return Evidence(
        probability=probability["untouched"],
        **numbers,
        runner_up=by_name(one.runner_up for one in told),
        lead=by_name(one.lead for one in told) or None,
        says={name: said[one.says] for name, one in zip(names, told, strict=True)},
        shared=shared,
        without=tuple(probability[name] for name in each),
        without_tv=tuple(distance[name] for name in each),
    )


@dataclass(frozen=True)
class Areas:
    """Parts of a map that are knocked out, each (rows, cols) bool; the last three are None for an empty map."""

    blind: np.ndarray
    best: np.ndarray | None = None
    peak: np.ndarray | None = None
    elsewhere: tuple[np.ndarray, ...] = ()

    @classmethod
    def of(cls, image_map: np.ndarray, *, seed: int = 0) -> Areas:
        """Of a map (rows, cols); squares elsewhere do not meet the peak's and are as far from the border.

        Of patches worth the same (to `EQUAL` of the map's largest value) every one has the same chance to be among the
        best, or the peak; the seed and which patches are equal decide. A map of nothing but equals is an empty map.
        """
        return cls.across([image_map], seed=seed)[0]

    @classmethod
    def across(cls, image_maps: Sequence[np.ndarray], *, seed: int = 0) -> list[Areas]:
        """The same of several maps as if they were one: their best together, squares on the one with the peak."""
        shapes = [one.shape for one in image_maps]
        blind = [np.ones(shape, bool) for shape in shapes]
        values = np.concatenate([np.ravel(one) for one in image_maps]).astype(np.float64)
        if not np.isfinite(values).all() or np.ptp(values) <= EQUAL * np.abs(values).max():
            return [cls(everything) for everything in blind]
        levels = values / np.abs(values).max()
        best = _highest(levels, math.ceil(values.size * BEST), seed)
        peak = _highest(np.where(best, levels, -np.inf), 1, seed)
        ends = np.cumsum([one.size for one in image_maps])[:-1]
        bests, peaks = (
            [part.reshape(shape) for part, shape in zip(np.split(mask, ends), shapes, strict=True)]
            for mask in (best, peak)
        )
        (highest,) = (number for number, mask in enumerate(peaks) if mask.any())
        corner = _around(np.argwhere(peaks[highest])[0], shapes[highest])
        others = _others(corner, shapes[highest], seed)

        def squares(number: int) -> tuple[np.ndarray, ...]:
            if number == highest:
                return tuple(_square(one, shapes[number]) for one in (corner, *others))
            return (np.zeros(shapes[number], bool),) * (1 + len(others))

        return [
            cls(everything, chosen, square, tuple(elsewhere))
            for everything, chosen, (square, *elsewhere) in zip(
                blind, bests, map(squares, range(len(blind))), strict=True
            )
        ]

    def named(self) -> list[tuple[str, np.ndarray]]:
        """Every part with its name."""
        known = [("blind", self.blind)]
        if self.best is not None and self.peak is not None:
            known += [("best", self.best), ("peak", self.peak)]
        return known + [("elsewhere", area) for area in self.elsewhere]


def _highest(levels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """The so many highest patches, bool (rows, cols); lots are drawn among those that equal the lowest of them."""
    edge = np.partition(levels, -count, axis=None)[-count]
    equal = np.abs(levels - edge) <= EQUAL
    chosen = (levels > edge) & ~equal
    places, left = np.flatnonzero(equal), count - int(chosen.sum())
    if len(places) > left:
        places = np.random.default_rng([seed, *np.packbits(equal)]).permutation(places)[:left]
    chosen.flat[places] = True
    return chosen


def side_of(shape: tuple[int, ...]) -> tuple[int, int]:
    """Rows and columns of the square around a peak, on a map of this shape."""
    rows, cols = (max(1, round(PEAK * length)) for length in shape)
    return rows, cols


def _around(peak: Sequence[Any], shape: tuple[int, ...]) -> tuple[int, int]:
    """The corner of the square around a peak that lies whole on the map."""
    row, col = (
        min(max(int(place) - side // 2, 0), length - side)
        for place, side, length in zip(peak, side_of(shape), shape, strict=True)
    )
    return row, col


def _square(corner: tuple[int, int], shape: tuple[int, ...]) -> np.ndarray:
    rows, cols = side_of(shape)
    mask = np.zeros(shape, bool)
    mask[corner[0] : corner[0] + rows, corner[1] : corner[1] + cols] = True
    return mask


@lru_cache(maxsize=4096)
def _others(corner: tuple[int, int], shape: tuple[int, ...], seed: int) -> list[tuple[int, int]]:
    """Corners of squares elsewhere: those that meet the first least, of them the ones most like it in distance."""
    sides = np.array(side_of(shape))
    ends = np.array(shape) - sides
    places = np.indices(ends + 1).reshape(2, -1).T
    places = places[(places != corner).any(1)]
    shared = np.clip(sides - np.abs(places - corner), 0, None).prod(1)
    border = np.minimum(places, ends - places).min(1)
    unlike = np.abs(border - np.minimum(corner, ends - corner).min())
    drawn = np.random.default_rng([seed, *corner, *shape]).permutation(len(places))
    ranked = drawn[np.lexsort((unlike[drawn], shared[drawn]))]
    return [(row, col) for row, col in places[ranked[:DRAWS]].tolist()]
