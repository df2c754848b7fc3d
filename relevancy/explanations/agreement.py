"""How far two maps of one picture agree, in numbers."""

from __future__ import annotations

__all__ = ["MEANINGS", "Agreement", "agreement"]

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from relevancy.errors import RelevancyError
from relevancy.explanations.explanation import Explanation

TOP = 0.1  # of the pixels both models saw: what top_overlap compares
MEANINGS: Mapping[str, str] = MappingProxyType(
    {
        "rank_correlation": "Do both order the picture's parts alike? 1: exactly, 0: unrelated, -1: in reverse.",
        "top_overlap": "How much of the most relevant tenth of the picture is the same; 10% is chance.",
        "divergence": "How much relevance lies elsewhere, in bits. 0: the same map, 1: maps that never meet.",
    }
)
_DIGITS = 6  # of a map's largest value: what differs by less is equal
_SIDE = 128  # samples per side of the picture on which maps of different grids are compared


@dataclass(frozen=True)
class Agreement:
    """How far two maps of one picture agree, on the part of it that both models saw.

    rank_correlation: Spearman's, -1 to 1.
    top_overlap: the share of the most relevant tenth that is the same, 0 to 1; 0.1 is chance. Places of equal relevance
        share the room that is left, and the least relevant ones have none.
    divergence: Jensen-Shannon's of the maps as distributions, in bits, 0 (same) to 1 (disjoint); relevance for and
        against the token never meet.
    image_shares, text_shares: of each model's relevance.
    The first three are NaN where a map is empty or the same everywhere.
    """

    models: tuple[str, str]
    rank_correlation: float
    top_overlap: float
    divergence: float
    same_answer: bool
    image_shares: tuple[float, float]
    text_shares: tuple[float, float]

    def summary(self) -> str:
        """The numbers in one line of plain words."""
        if np.isnan(self.rank_correlation):
            return f"{' and '.join(self.models)}: a map is empty or the same everywhere, there is nothing to compare"
        return (
            f"{' and '.join(self.models)}: rank correlation {self.rank_correlation:.2f}, the same "
            f"{self.top_overlap:.0%} of their most relevant tenth, divergence {self.divergence:.2f} of 1 bit"
        )


def agreement(first: Explanation, second: Explanation, *, top: float = TOP) -> Agreement:
    """The agreement of two maps, sampled on the original picture where both models looked; of several, on all of them.

    top: the most relevant share of the picture whose overlap is taken. Raises RelevancyError for different pictures.
    """
    sizes = [[picture.image.size for picture in one.pictures] for one in (first, second)]
    if sizes[0] != sizes[1]:
        raise RelevancyError("Maps are compared on one picture: these two are of pictures of different sizes.")
    if not 0 < top <= 1:
        raise RelevancyError(f"top is a share of the picture, above 0 and up to 1, not {top}.")
    one, other = _sampled(first), _sampled(second)
    seen = np.isfinite(one) & np.isfinite(other)
    values = one[seen].astype(np.float64), other[seen].astype(np.float64)
    drawable = seen.any() and all(np.ptp(each) > 10.0**-_DIGITS * np.abs(each).max() for each in values)
    return Agreement(
        models=(first.model, second.model),
        rank_correlation=spearman(*values) if drawable else float("nan"),
        top_overlap=_top_overlap(*values, top) if drawable else float("nan"),
        divergence=_jensen_shannon(*values) if drawable else float("nan"),
        same_answer=first.answer.casefold() == second.answer.casefold(),
        image_shares=(first.shares["image"], second.shares["image"]),
        text_shares=(first.shares["text"], second.shares["text"]),
    )


def _sampled(result: Explanation) -> np.ndarray:
    """The smooth map on an even raster of each picture, one after the other."""
    found = [np.zeros(0, np.float32)]
    for heatmap in (picture.heatmap() for picture in result.pictures):
        rows, cols = (np.linspace(0, length - 1, min(length, _SIDE)).round().astype(int) for length in heatmap.shape)
        found.append(heatmap[np.ix_(rows, cols)].ravel())
    return np.concatenate(found)


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 0, equal values sharing the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts + 1) / 2)[inverse]


def spearman(one: np.ndarray, other: np.ndarray) -> float:
    """Spearman's rank correlation of two arrays of one length, equal values sharing their mean rank."""
    return float(np.corrcoef(_ranks(one), _ranks(other))[0, 1])


def _top_overlap(one: np.ndarray, other: np.ndarray, top: float = TOP) -> float:
    parts = [_in_top(each, max(1, round(top * each.size))) for each in (one, other)]
    return float(np.minimum(*parts).sum() / max(part.sum() for part in parts))


def _in_top(values: np.ndarray, count: int) -> np.ndarray:
    """How much of each value is among the `count` highest, 0 to 1, equal ones sharing the room that is left.

    Where that is between those that are lowest of all, they are not among the highest: a map of one small spot says
    nothing of the rest.
    """
    values = np.round(values / np.abs(values).max(), _DIGITS)  # equal before they were interpolated
    cut = np.partition(values, values.size - count)[values.size - count]
    above, level = values > cut, values == cut
    room = (count - above.sum()) / level.sum()
    return above + level * (room if room == 1 or cut > values.min() else 0.0)


def _jensen_shannon(one: np.ndarray, other: np.ndarray) -> float:
    # What speaks for the token and what speaks against it are apart, as if they lay on two pictures.
    parts = [np.concatenate([np.clip(each, 0, None), np.clip(-each, 0, None)]) for each in (one, other)]
    shares = [part / part.sum() for part in parts]
    middle = (shares[0] + shares[1]) / 2
    halves = [
        float(np.sum(share * np.log2(np.divide(share, middle, out=np.ones_like(share), where=share > 0))))
        for share in shares
    ]
    return sum(halves) / 2
