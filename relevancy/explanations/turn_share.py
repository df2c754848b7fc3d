"""How the relevance of a conversation falls to its turns."""

from __future__ import annotations

__all__ = ["TurnShare"]

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from relevancy.models.conversation import Conversation

_BLANK = re.compile(r"[\s▁ĠĊ]+")  # what a tokenizer writes for blanks


@dataclass(frozen=True)
class TurnShare:
    """What one side said, and the relevance on it.

    words: its tokens with their raw relevance, which stand at `places` among those of the question. pictures: the
    numbers of those in it and of its videos' frames, from 0. share: of the row's whole mass, what is on its words and
    its pictures; of signed numbers, that of their sizes.
    """

    role: str
    words: tuple[tuple[str, float], ...]
    pictures: tuple[int, ...]
    share: float
    places: tuple[int, ...] = ()


def by_turn(
    conversation: Conversation,
    tokens: Sequence[str],
    is_image: np.ndarray,
    relevance: np.ndarray,
    pictures: Sequence[Sequence[float]],
) -> list[TurnShare]:
    """The turns in their order; pictures: of each one its share, and of each video those of its frames.

    A turn's words are found among the tokens by their letters, in order, whatever stands between them.
    """
    places = np.flatnonzero(~is_image).tolist()
    letters = [_BLANK.sub("", tokens[place]) for place in places]
    text, owner = "".join(letters), np.repeat(places, [len(one) for one in letters])
    total = float(np.abs(relevance).sum(dtype=np.float64))
    found, start, left, first = [], 0, iter(pictures), 0
    for turn in conversation:
        own: dict[int, None] = {}
        for part in (_BLANK.sub("", part) for part in turn.texts):
            at = text.find(part, start)
            if at >= 0 and part:
                start = at + len(part)
                own |= dict.fromkeys(owner[at:start].tolist())
        shares = [share for _ in range(turn.pictures + turn.videos) for share in next(left)]
        numbers = tuple(range(first, first + len(shares)))
        first += len(shares)
        said = float(np.abs(relevance[list(own)]).sum(dtype=np.float64)) / total if total > 0 else 0.0
        words = tuple((tokens[place], float(relevance[place])) for place in own)
        found.append(TurnShare(turn.role, words, numbers, said + sum(shares), tuple(own)))
    return found
