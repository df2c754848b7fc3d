"""Evidence: does this very map show where the answer comes from?

A map always looks convincing. So parts of the picture are knocked out of attention for every later position, and the
explained token's probability is read again: all of the picture, the map's best patches, the square around its peak, and
squares elsewhere. What the map says must follow from what these do.
"""

from __future__ import annotations

__all__ = ["Evidence"]

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Verdict = Literal["words alone", "confirmed", "unconfirmed"]

BLIND_TV = 0.1
"""A picture whose knockout changes the next token's distribution by less does not decide the answer. More need not be
what the picture shows: attention then has fewer tokens to go to, and who is shown nothing may answer otherwise."""
LEAD_TV = 0.15
"""A map is confirmed where the mean of its best patches and the square at its peak changes the distribution by so much
more than squares elsewhere do, and that square by as much as those at least."""

_SENTENCES: Mapping[Verdict, str] = {
    "words alone": "Words alone: without the picture the model says this about as likely.",
    "confirmed": "Confirmed: what the map points at is what the answer needs of the picture.",
    "unconfirmed": "The picture may matter, but this map does not show where.",
}


@dataclass(frozen=True)
class Evidence:
    """What knocking out parts of the picture does to the explained token.

    probability: of the explained token, untouched. blind, best, peak, elsewhere: the same with image tokens knocked out
    of attention for every later position: all of them, the map's best eighth, the square around its peak, squares of
    that size elsewhere (mean of several, as far from the border, seeded). *_tv: total variation between the untouched
    distribution of the next token and that one, 0 the same, 1 disjoint; it also hears answers that become surer.
    NaN where the map is empty and there is no best. runner_up: probability of the second likeliest token, by variant.
    lead: against a contrast, the difference of the two logits, by variant. says: the likeliest token, by variant.
    Of several tokens together: the product of their probabilities, each after those before it; *_tv between the
    distributions of where, and with which token, the model first leaves them, which a longer span can only raise; says:
    the likeliest token in each place; no runner_up.
    shared: whether only the tokens after the picture ran again; otherwise whole forward passes did.
    without, without_tv: of several pictures, the numbers with each of them alone knocked out, in their order; best,
    peak and elsewhere are then of all maps together, the peak the highest of them, elsewhere on the peak's picture.
    """

    probability: float
    blind: float
    best: float
    peak: float
    elsewhere: float
    blind_tv: float
    best_tv: float
    peak_tv: float
    elsewhere_tv: float
    runner_up: Mapping[str, float] = field(default_factory=dict)
    lead: Mapping[str, float] | None = None
    says: Mapping[str, str] = field(default_factory=dict)
    shared: bool = True
    without: tuple[float, ...] = ()
    without_tv: tuple[float, ...] = ()

    @property
    def lead_tv(self) -> float:
        """How much more the map's own places change than others: mean of best_tv and peak_tv, less elsewhere_tv."""
        return (self.best_tv + self.peak_tv) / 2 - self.elsewhere_tv

    @property
    def verdict(self) -> Verdict:
        """In two words, by the thresholds of this module."""
        if self.blind_tv < BLIND_TV:
            return "words alone"
        shown = self.lead_tv >= LEAD_TV and self.peak_tv >= self.elsewhere_tv
        return "confirmed" if shown else "unconfirmed"

    @property
    def claim(self) -> str:
        """The verdict as a sentence."""
        return _SENTENCES[self.verdict]

    @property
    def sentence(self) -> str:
        """The verdict as a sentence, with the numbers it rests on."""
        read, moved = [f"without the picture {self.blind:.2f}"], [self.blind_tv]
        if self.without:
            read = [f"without all pictures {self.blind:.2f}"]
            read += [f"without picture {number} {value:.2f}" for number, value in enumerate(self.without, 1)]
            moved += self.without_tv
        if not math.isnan(self.peak):
            read += [
                f"without the map's best eighth {self.best:.2f}",
                f"without the square at its peak {self.peak:.2f}",
                f"without such a square elsewhere {self.elsewhere:.2f}",
            ]
            moved += [self.best_tv, self.peak_tv, self.elsewhere_tv]
        *others, last = (f"{value:.2f}" for value in moved)
        shares = f"{', '.join(others)} and {last}" if others else last
        return (
            f"{self.claim} (p = {self.probability:.2f}; {', '.join(read)}. "
            f"Of the next token's distribution that moves {shares}.)"
        )

    def to_json(self) -> dict[str, Any]:
        """All numbers, the verdict and the sentence."""
        return asdict(self) | {"verdict": self.verdict, "sentence": self.sentence}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Evidence:
        """What `to_json` gave; null stands for what was not a number."""
        known = {name: stored[name] for name in cls.__dataclass_fields__ if name in stored}
        numbers = {name: math.nan for name in NUMBERS if known.get(name) is None}
        each = {name: tuple(known.get(name) or ()) for name in ("without", "without_tv")}
        return cls(**{**known, **numbers, **each})


NUMBERS = (
    "probability", "blind", "best", "peak", "elsewhere", "blind_tv", "best_tv", "peak_tv", "elsewhere_tv"
)  # fmt: skip
"""The fields that are numbers, in their order."""
