"""Questions about a layout and their answers, in open form and in "(a) .. (b) .." form.

For every question text each answer is as likely as any other before the picture is seen: the layout draws kinds,
colors, counts and floating uniformly, the asked color is the true one half of the time, the order of the options is a
coin flip, and left and right are the same by mirror symmetry.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from relevancy.demo.layout import COLORS, FLOATERS, KINDS, MOST, SceneItem, SceneLayout

TYPES = ("floating", "color", "is-color", "presence", "side", "left-of", "count")
FORMS = ("open", "ab")
MIN_VISIBLE = 0.55  # below this share an object is not asked about alone
FROM_MIDDLE = 0.06  # an object this near to the middle is neither left nor right
APART = 0.1  # two objects this near in x are not compared
YES_NO = ("Yes", "No")
ASKED_FOR, COUNTED = 2, 3  # kinds that may be missing: in questions about a scene, in its description


def chance(type_: str, form: str) -> float:
    """Share of right answers of who knows the question and all habits of this world, but sees no picture."""
    if form == "ab":
        return 1 / 2
    return {"color": 1 / len(COLORS), "count": 1 / MOST}.get(type_, 1 / 2)


@dataclass(frozen=True)
class Question:
    """One question, its only right answer, and the items it asks about (indices into the layout; empty if none)."""

    type: str
    form: str
    text: str
    answer: str
    items: tuple[int, ...]


def plural(kind: str) -> str:
    """The noun for several of a kind."""
    return f"{kind}s"


def ask(
    layout: SceneLayout, shares: np.ndarray, rng: np.random.Generator, forms: Sequence[str] = FORMS, doubt: float = 0.0
) -> list[Question]:
    """All questions this scene can be asked, each in one of `forms`, in random order.

    `shares`: (items,) visible share of each item, see `drawing.visible_shares`. `doubt`: how likely each answer is to
    be a wrong one.
    """
    drafts = _drafts(layout, shares, rng)
    if doubt:
        drafts = [_mistaken(draft) if rng.uniform() < doubt else draft for draft in drafts]
    return [_in_some_form(draft, rng, forms) for draft in drafts]


def ask_twice(layout: SceneLayout, shares: np.ndarray, rng: np.random.Generator) -> list[tuple[Question, Question]]:
    """As `ask`, each question openly and with options."""
    return [
        (_in_some_form(draft, rng, ("open",)), _in_some_form(draft, rng, ("ab",)))
        for draft in _drafts(layout, shares, rng)
    ]


@dataclass(frozen=True)
class _Draft:
    """A question before its form is chosen: the right answer and one wrong one for the (a)/(b) form."""

    type: str
    text: str
    answer: str
    wrong: str
    items: tuple[int, ...]


def _drafts(layout: SceneLayout, shares: np.ndarray, rng: np.random.Generator) -> list[_Draft]:
    counts = {kind: layout.of_kind(kind) for kind in KINDS}
    single = [where[0] for where in counts.values() if len(where) == 1 and shares[where[0]] >= MIN_VISIBLE]
    drafts = _about_one(layout, single, rng) + _about_presence(counts, rng) + _about_pairs(layout, single, rng)
    drafts.append(_about_count(counts, rng))
    return [drafts[index] for index in rng.permutation(len(drafts))]


def _mistaken(draft: _Draft) -> _Draft:
    return replace(draft, answer=draft.wrong, wrong=draft.answer)


def _in_some_form(draft: _Draft, rng: np.random.Generator, forms: Sequence[str]) -> Question:
    form = forms[int(rng.integers(len(forms)))]
    if form == "open":
        return Question(draft.type, form, draft.text, draft.answer, draft.items)
    text, answer = with_options(draft.text, draft.answer, draft.wrong, right_first=bool(rng.integers(2)))
    return Question(draft.type, form, text, answer, draft.items)


def with_options(text: str, right: str, wrong: str, *, right_first: bool) -> tuple[str, str]:
    """The "(a) .. (b) .." form of a question and its answer."""
    first, second = (right, wrong) if right_first else (wrong, right)
    return f"{text} (a) {first} (b) {second}", f"({'a' if right_first else 'b'}) {right}"


def _yes_no(kind: str, text: str, truth: bool, items: tuple[int, ...]) -> _Draft:
    right, wrong = YES_NO if truth else YES_NO[::-1]
    return _Draft(kind, text, right, wrong, items)


def _about_one(layout: SceneLayout, single: Sequence[int], rng: np.random.Generator) -> list[_Draft]:
    drafts = []
    for index in single:
        item = layout.items[index]
        color = item.color or COLORS[0]
        other = str(rng.choice([name for name in COLORS if name != color]))
        asked = color if rng.integers(2) else other
        drafts.append(_Draft("color", f"What color is the {item.kind}?", color.title(), other.title(), (index,)))
        drafts.append(_yes_no("is-color", f"Is the {item.kind} {asked}?", asked == color, (index,)))
        if item.kind in FLOATERS:
            drafts.append(_yes_no("floating", f"Is the {item.kind} floating?", item.floating, (index,)))
        if abs(item.x - 0.5) >= FROM_MIDDLE:
            right, wrong = ("Left", "Right") if item.x < 0.5 else ("Right", "Left")
            drafts.append(_Draft("side", f"Is the {item.kind} on the left or on the right?", right, wrong, (index,)))
    return drafts


def _about_presence(counts: dict[str, list[int]], rng: np.random.Generator) -> list[_Draft]:
    kinds = _there_or_not({kind: len(where) for kind, where in counts.items()}, rng, ASKED_FOR)
    return [_yes_no("presence", f"Is there a {kind}?", bool(counts[kind]), tuple(counts[kind])) for kind in kinds]


def _about_pairs(layout: SceneLayout, single: Sequence[int], rng: np.random.Generator) -> list[_Draft]:
    if len(single) < 2:
        return []
    one, other = (int(index) for index in rng.permutation(np.array(single))[:2])
    a, b = layout.items[one], layout.items[other]
    if abs(a.x - b.x) < APART:
        return []
    return [_yes_no("left-of", f"Is the {a.kind} left of the {b.kind}?", a.x < b.x, (one, other))]


def _about_count(counts: dict[str, list[int]], rng: np.random.Generator) -> _Draft:
    """How many there are of the kind that may stand there more than once.

    With several of a kind it is that kind; else any kind that is there, which keeps one, two and three equally likely.
    """
    kind = max(counts, key=lambda name: len(counts[name]))
    if len(counts[kind]) == 1:
        kind = str(rng.choice([name for name in KINDS if counts[name]]))
    number = len(counts[kind])
    wrong = int(rng.choice([n for n in range(1, MOST + 1) if n != number]))
    return _Draft("count", f"How many {plural(kind)} are there?", str(number), str(wrong), tuple(counts[kind]))


def describe(layout: SceneLayout, rng: np.random.Generator) -> str:
    """What can be said about a scene, in random order: a few words on each object, and the number of some kinds.

    An object's kind, color, stand and place are said in random order, so that any of them may be what the next one has
    to be found by; of the kinds that are counted some are missing.
    """
    sentences = [
        f"A {' '.join(rng.permutation(np.array(_words_on(item))))}." for item in layout.items if item.color is not None
    ]
    counts = {kind: len(layout.of_kind(kind)) for kind in KINDS}
    counted = _there_or_not(counts, rng, COUNTED)
    sentences += [f"Of {plural(kind)} {counts[kind] or 'none'}." for kind in counted]
    return " ".join(sentences[index] for index in rng.permutation(len(sentences)))


def _words_on(item: SceneItem) -> list[str]:
    stand = {"water": "floats", "sky": "flies"}.get(item.support, "stands")
    place = "middle" if abs(item.x - 0.5) < FROM_MIDDLE else ("left" if item.x < 0.5 else "right")
    return [str(item.color), item.kind, stand, place]


def _there_or_not(counts: Mapping[str, int], rng: np.random.Generator, number: int) -> list[str]:
    """Some kinds, `number` or nearly as many; each is there or not by a coin flip of its own."""
    there = rng.permutation(np.array([kind for kind in KINDS if counts[kind]]))
    absent = rng.permutation(np.array([kind for kind in KINDS if not counts[kind]]))
    chosen = [there if rng.integers(2) else absent for _ in range(number)]
    return [str(kinds[turn]) for turn, kinds in enumerate(chosen) if turn < len(kinds)]
