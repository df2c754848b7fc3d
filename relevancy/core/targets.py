"""Which number is explained: a token of the answer by its place or text, several together, or one against another."""

from __future__ import annotations

__all__ = ["Alternative", "Target", "gives_several"]

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import exp
from operator import index

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from relevancy.errors import RelevancyError
from relevancy.token_text import whole_words

_WORD = re.compile(r"\w")
_POSITION = re.compile(r"-?\d{1,9}")
_SPAN = re.compile(r"(-?\d{1,9})?:(-?\d{1,9})?")
_AGAINST = re.compile(r"(-?\d{1,9})\|#(\d{1,9})")
_NAMED = "word:"
_EACH = "each:"
_CONTRAST, _ALL, _WORDS, _WHOLE = "contrast", "all", "words", "answer"


_ALTERNATIVES = 5


@dataclass(frozen=True)
class Alternative:
    """A token that could have stood in a target's place: text, number in the vocabulary, softmax share there."""

    token: str
    id: int
    probability: float


@dataclass(frozen=True)
class Target:
    """One explained token, or a span of tokens that are explained together.

    token, id: its text, and its number in the vocabulary.
    position: in the answer, from 0.
    probability: the token's softmax share at its position.
    logit: the token's own; with a contrast, what is explained is logit - contrast_logit.
    contrast, contrast_id, contrast_logit: the token that it is explained against, if there is one.
    length: how many tokens from `position` on.
    log_probability: of a span, what is explained: the sum over its tokens, each after those before it; None for a token
        whose logit is. A span's token is the text of all, its probability the product; id and logit are its first's.
    alternatives: the five likeliest others in its place, the likeliest first; none of a span.
    """

    token: str
    id: int
    position: int
    probability: float
    logit: float
    contrast: str | None = None
    contrast_id: int | None = None
    contrast_logit: float | None = None
    length: int = 1
    log_probability: float | None = None
    alternatives: tuple[Alternative, ...] = field(default=(), compare=False, repr=False)

    @property
    def positions(self) -> range:
        """All of its tokens' places in the answer."""
        return range(self.position, self.position + self.length)

    @property
    def named(self) -> str:
        """The target as `relevancy.explain` takes it."""
        if self.length > 1:
            return f"{self.position}:{self.position + self.length}"
        return str(self.position) if self.contrast_id is None else f"{self.position}|#{self.contrast_id}"

    @property
    def place(self) -> str:
        """In words, which tokens of the answer they are, counted from 0."""
        last = self.positions[-1]
        where = f"token {self.position}" if self.length == 1 else f"tokens {self.position} to {last}"
        return f"{where} “{self.token.strip()}”{self.against}"

    @property
    def against(self) -> str:
        """In words, the token that it is held against; empty without one."""
        return "" if self.contrast is None else f" rather than “{self.contrast.strip()}”"


@dataclass(frozen=True)
class Choice:
    """Where to look and which ids to take the logits of: `id`, minus `contrast_id` if there is one.

    against_next: the contrast is the likeliest other token, which only the logits tell, see `against`.
    span: ids of all tokens from `position` on that are explained together, by the sum of their log-probabilities; empty
        where it is one token's logit.
    """

    position: int
    id: int
    contrast_id: int | None = None
    against_next: bool = False
    span: tuple[int, ...] = ()

    @classmethod
    def spanning(cls, position: int, ids: Sequence[int]) -> Choice:
        """A span of these tokens, the first of them at `position`."""
        return cls(position, ids[0], span=tuple(ids))

    @property
    def ids(self) -> tuple[int, ...]:
        """All of its tokens."""
        return self.span or (self.id,)

    @property
    def length(self) -> int:
        """How many positions emit it."""
        return len(self.ids)

    @property
    def last(self) -> int:
        """The position of its last token."""
        return self.position + self.length - 1

    def singly(self) -> list[Choice]:
        """Its tokens, each for itself."""
        return [Choice(self.position + number, token) for number, token in enumerate(self.span)] or [self]

    def against(self, logits: Tensor) -> Choice:
        """The same with its contrast known, from the position's logits (vocabulary,)."""
        if not self.against_next:
            return self
        first, second = logits.detach().topk(2).indices.tolist()
        return replace(self, contrast_id=second if first == self.id else first, against_next=False)

    def scalar(self, logits: Tensor) -> Tensor:
        """The number that is explained, from its position's logits (vocabulary,), a span's (length, vocabulary)."""
        if self.span:
            return self._log_probabilities(logits).sum()
        return logits[self.id] if self.contrast_id is None else logits[self.id] - logits[self.contrast_id]

    def _log_probabilities(self, logits: Tensor) -> Tensor:
        """Of a span's tokens, (length,), in float32 or finer."""
        exact = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
        return exact.gather(-1, torch.tensor(self.span, device=logits.device)[:, None])[:, 0]

    def described(self, logits: Tensor, tokenizer: PreTrainedTokenizerBase) -> Target:
        """The target as a user reads it, from logits as `scalar` takes them."""
        scores = logits.detach().float()
        against = self.contrast_id
        if self.span:
            total = float(self._log_probabilities(scores).sum())
            return Target(
                token=shown(tokenizer, *self.span),
                id=self.id,
                position=self.position,
                probability=exp(total),
                logit=float(scores[0, self.id]),
                length=len(self.span),
                log_probability=total,
            )
        shares = scores.softmax(-1)
        most, ids = (found.tolist() for found in shares.topk(min(_ALTERNATIVES + 1, len(shares))))
        others = [(token, share) for token, share in zip(ids, most, strict=True) if token != self.id]
        return Target(
            token=shown(tokenizer, self.id),
            id=self.id,
            position=self.position,
            probability=float(shares[self.id]),
            logit=float(scores[self.id]),
            contrast=None if against is None else shown(tokenizer, against),
            contrast_id=against,
            contrast_logit=None if against is None else float(scores[against]),
            alternatives=tuple(
                Alternative(shown(tokenizer, token), token, share) for token, share in others[:_ALTERNATIVES]
            ),
        )


def parsed(target: str | int) -> str | int:
    """The user's target, a number in a string turned into one. Raises RelevancyError when it is empty.

    Digits are a position. "2|#1234" is the token at position 2 against the one of that number in the vocabulary.
    "word:2" is the string 2 in the answer, and so "word:first", "word:contrast", "word:A|B".
    """
    if isinstance(target, str):
        if not target.removeprefix(_EACH).removeprefix(_NAMED).strip():
            raise RelevancyError(
                "target is empty: use first, first-relevant, contrast, answer, all, words, a position, a span such as "
                "3:7, a string, word:2 for a string that reads as one of these, each:3:7 for its tokens one by one, or "
                "'A|B'."
            )
        return int(target.strip()) if _POSITION.fullmatch(target.strip()) else target
    try:
        if isinstance(target, bool):
            raise TypeError
        return index(target)
    except TypeError as error:
        raise RelevancyError(f"target must be a word such as 'first', a position, or 'A|B', not {target!r}.") from error


def needs_answer(target: str | int) -> bool:
    """Whether the answer must be known before the target can be: not for its first token."""
    return target not in ("first", 0)


def gives_several(target: str | int) -> bool:
    """Whether there is a result for each of several tokens, or words."""
    return isinstance(target, str) and (target in (_ALL, _WORDS) or target.startswith(_EACH))


def choose(target: str | int, answer: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> list[Choice]:
    """What `target` means for an answer of these token ids, stop token excluded; several where it `gives_several`.

    Raises RelevancyError when the answer does not hold what was asked for.
    """
    if not answer:
        raise RelevancyError("The model's answer is empty, so there is no token to explain: ask another question.")
    if target == _WORDS:
        runs = whole_words(tokenizer.convert_ids_to_tokens(list(answer)))
        return [_together(range(run.start, run.stop), answer) for run in runs]
    if isinstance(target, str) and gives_several(target):
        within = _WHOLE if target == _ALL else parsed(target.removeprefix(_EACH))
        return [one for choice in choose(within, answer, tokenizer) for one in choice.singly()]
    if target == _WHOLE:
        return [Choice.spanning(0, answer)]
    if target == "first":
        return [Choice(0, answer[0])]
    if target in ("first-relevant", _CONTRAST):
        words = (position for position, token in enumerate(answer) if _WORD.search(shown(tokenizer, token)))
        position = next(words, 0)
        return [Choice(position, answer[position], against_next=target == _CONTRAST)]
    if isinstance(target, int):
        return [_at(target, answer)]
    if against := _AGAINST.fullmatch(target.strip()):
        chosen, other = _at(int(against[1]), answer), int(against[2])
        if other == chosen.id or other >= len(tokenizer):
            raise RelevancyError(
                f"There is no contrast with token {other}: take another of the vocabulary's {len(tokenizer):,} than "
                f"the answer's own, {chosen.id}."
            )
        return [replace(chosen, contrast_id=other)]
    if span := _SPAN.fullmatch(target.strip()):
        return [_span(span, answer)]
    named = target.startswith(_NAMED)
    first, bar, second = target.partition("|")
    if bar and not named:
        return [_contrast(first, second, answer, tokenizer)]
    places = _places_of(target.removeprefix(_NAMED), answer, tokenizer)
    return [_together(places, answer)]


def _together(places: range, answer: Sequence[int]) -> Choice:
    """Tokens of the answer as one target; a single one by its logit."""
    ids = [answer[place] for place in places]
    return Choice(places[0], ids[0]) if len(ids) == 1 else Choice.spanning(places[0], ids)


def shown(tokenizer: PreTrainedTokenizerBase, *tokens: int) -> str:
    """Tokens as text, spaces and control tokens kept as they are."""
    return str(tokenizer.decode(list(tokens), clean_up_tokenization_spaces=False))


def _at(position: int, answer: Sequence[int]) -> Choice:
    if not -len(answer) <= position < len(answer):
        raise RelevancyError(
            f"The answer has {len(answer)} tokens, 0 to {len(answer) - 1}: there is no {position} (the string is "
            f"named by {_NAMED}{position})."
        )
    return Choice(position % len(answer), answer[position])


def _span(span: re.Match[str], answer: Sequence[int]) -> Choice:
    """As Python slices: from the first number, before the second; without one, from the beginning or to the end."""
    places = range(len(answer))[slice(*(None if end is None else int(end) for end in span.groups()))]
    beyond = any(end is not None and not -len(answer) <= int(end) <= len(answer) for end in span.groups())
    if not places or beyond:
        raise RelevancyError(
            f"The answer has {len(answer)} tokens, so a span lies within 0:{len(answer)}: there is no {span[0]} (the "
            f"string is named by {_NAMED}{span[0]})."
        )
    return Choice.spanning(places[0], [answer[place] for place in places])


def _contrast(first: str, second: str, answer: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> Choice:
    """Logit against logit where the answer says one of the two words, spelled as there, else at its first token."""
    if "|" in second:
        whole = f"{first}|{second}"
        raise RelevancyError(
            f'"{whole}" is more than two words: a contrast is of two, as Yes|No (the string is named by '
            f"{_NAMED}{whole})."
        )
    spelled = [tuple(_first_id(f"{space}{word}", tokenizer) for word in (first, second)) for space in ("", " ")]
    known = [pair for pair in spelled if pair[0] != pair[1]]  # a space may be a token of its own
    if not known:
        raise RelevancyError(f'"{first}" and "{second}" begin with the same token, so their logits cannot be compared.')
    said = ((place, pair) for place, token in enumerate(answer) for pair in known if token in pair)
    position, pair = next(said, (0, known[0]))
    return Choice(position, pair[0], pair[1])


def _first_id(word: str, tokenizer: PreTrainedTokenizerBase) -> int:
    ids = tokenizer.encode(word, add_special_tokens=False) if word.strip() else []
    if not ids or ids[0] == tokenizer.unk_token_id or str(tokenizer.convert_ids_to_tokens(ids[0])).startswith("<0x"):
        raise RelevancyError(
            f'The model has no token for "{word.strip()}": a contrast needs two known words, as Yes|No.'
        )
    return ids[0]


def _places_of(wanted: str, answer: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> range:
    """The tokens that hold `wanted` in the answer; its own spelling first, then upper and lower case alike."""
    text = shown(tokenizer, *answer)
    found = re.search(re.escape(wanted), text) or re.search(re.escape(wanted), text, re.IGNORECASE)
    if found is None:
        raise RelevancyError(
            f'The answer is "{text.strip()}"; it does not contain "{wanted}". Name a part of it, or explain another '
            "answer: answer= (--answer)."
        )
    said = [shown(tokenizer, *answer[:position]) for position in range(len(answer))]
    # The latest, since within a character of several tokens what is said so far may be longer than the character.
    first = max(position for position, part in enumerate(said) if len(part) <= found.start())
    whole = (place for place in range(first + 1, len(answer)) if len(said[place]) >= found.end())
    through = next((place for place in whole if text.startswith(said[place])), len(answer))
    return range(first, through)
