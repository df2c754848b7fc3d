"""What the numbers are called, what they mean, and how they are written."""

from __future__ import annotations

__all__ = ["MEASURES"]

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from relevancy.stats.clustered import Estimate

_VISIBLE = 0.0005  # a share below it is 0.0%
_LEAST = 0.00001  # a share below it is not written in full


@dataclass(frozen=True)
class Meaning:
    """A measure's name on the page, one sentence about it, and whether it is a share, written in percent."""

    title: str
    sentence: str
    share: bool = True


MEASURES: Mapping[str, Meaning] = MappingProxyType(
    {
        "blind_tv": Meaning(
            "Use of the picture",
            "How much of the next token's probability moves when the picture is knocked out of attention (total "
            "variation): 0% is nothing, 100% all of it.",
        ),
        "blind_drop": Meaning(
            "Loss without the picture",
            "By how much the explained token is less probable with the picture knocked out; below zero it is surer.",
        ),
        "image_share": Meaning(
            "Image share", "How much of all relevance lies on the picture. It is no measure of the picture's use."
        ),
        "text_share": Meaning("Text share", "How much lies on the words, the first token left out."),
        "first_token_share": Meaning(
            "First-token share", "How much lies on the first token, which often gathers what goes nowhere else."
        ),
        "entropy": Meaning(
            "Spread of the map",
            "Normalised entropy over the patches: 1 is even everywhere, 0 is all on one patch.",
            share=False,
        ),
        "top_mass": Meaning(
            "Mass in the top 10%", "How much of the map the most relevant tenth of the patches holds; even is 10%."
        ),
        "probability": Meaning("Probability", "How sure the model was of the explained token."),
        "correct": Meaning("Right answers", "Share of answers that are right, where the truth is known."),
    }
)


def level(value: float | None, share: bool) -> str:
    """A value as written in text: 62.3%, or 0.623."""
    if value is None:
        return "–"
    if share and 0 < value < _LEAST:
        return f"<{_LEAST:.3%}"
    return f"{value:.{_digits(value)}%}" if share else f"{value:.3f}"


def row_share(value: float) -> str:
    """A share of one row, which may be very small or very near to one."""
    return f"{value:.2%}" if value < 0.01 or value > 0.99 else level(value, True)


def chosen_by(measure: str, value: float) -> str:
    """The number that a row of the gallery was chosen for; measure: of `MEASURES`, divergence or change."""
    if measure == "divergence":
        return f"divergence {value:.3f} bits"
    if measure == "change":
        return f"change without the picture {signed(value, 3)}"
    return f"{MEASURES[measure].title.lower()} {row_share(value)}"


def step(value: float | None, share: bool) -> str:
    """A difference: in percentage points, or as a signed number."""
    if value is None:
        return "–"
    return f"{signed(100 * value, _digits(value))} pp" if share else signed(value, 3)


def level_interval(estimate: Estimate, share: bool) -> str:
    """The interval of a value, in brackets; empty where there is none."""
    if estimate.low is None or estimate.high is None:
        return ""
    if share:
        digits = _digits(estimate.low, estimate.high)
        return f"[{100 * estimate.low:.{digits}f}, {100 * estimate.high:.{digits}f}]"
    return f"[{estimate.low:.3f}, {estimate.high:.3f}]"


def step_interval(estimate: Estimate, share: bool) -> str:
    """The interval of a difference, in brackets; empty where there is none."""
    if estimate.low is None or estimate.high is None:
        return ""
    ends = (estimate.low, estimate.high)
    low, high = (signed(100 * end, _digits(*ends)) if share else signed(end, 3) for end in ends)
    return f"[{low}, {high}]"


def effect(value: float | None) -> str:
    """An effect, d_z."""
    return "–" if value is None else signed(value, 2)


def effect_interval(estimate: Estimate) -> str:
    """The interval of an effect, in brackets; empty where there is none."""
    if estimate.low is None or estimate.high is None:
        return ""
    return f"[{signed(estimate.low, 2)}, {signed(estimate.high, 2)}]"


def _digits(*shares: float) -> int:
    """Digits in percent: one, or three where one would say nothing but zero."""
    return 1 if max(map(abs, shares)) >= _VISIBLE or not any(shares) else 3


def ticks(values: Sequence[float], *, share: bool, difference: bool) -> list[str]:
    """An axis' labels, all with as few digits as tell them apart."""
    scaled = [100 * value if share else value for value in values]
    digits = next(digits for digits in range(6) if digits == 5 or all(abs(v - round(v, digits)) < 1e-9 for v in scaled))
    if difference:
        return [signed(value, digits) + (" pp" if share else "") for value in scaled]
    return [f"{value:.{digits}f}{'%' if share else ''}" for value in scaled]


def chance(p: float | None) -> str:
    """A p value; the least that the test can find is written as a bound."""
    if p is None:
        return "–"
    return f"{p:.4f}" if p < 0.01 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def outcome(first: str, second: str, first_right: bool, second_right: bool) -> str:
    """Which of two models is right."""
    if first_right and second_right:
        return "both right"
    return f"only {first if first_right else second} right" if first_right or second_right else "both wrong"


def counted(rows: int, pictures: int) -> str:
    """What a number rests on."""
    return f"n = {rows:,} / {pictures:,} pictures"


def signed(value: float, digits: int) -> str:
    """With a sign that is a minus and no hyphen; what rounds to zero has none."""
    text = f"{abs(value):.{digits}f}"
    return text if not float(text) else f"{'+' if value > 0 else '−'}{text}"


def cut(text: str, most: int = 220) -> str:
    """A text that may be any length, no longer than `most`."""
    return text if len(text) <= most else f"{text[:most]} …"
