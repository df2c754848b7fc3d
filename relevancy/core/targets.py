"""Which number is explained: a token of the answer by its place or its text, all of them, or one against another."""

from __future__ import annotations

__all__ = ["Target"]

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import index

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from relevancy.errors import RelevancyError

_WORD = re.compile(r"\w")
_POSITION = re.compile(r"-?\d{1,9}")
_NAMED = "word:"
_CONTRAST = "contrast"


@dataclass(frozen=True)
class Target:
    """One explained token.

    token, id: its text, and its number in the vocabulary.
    position: in the answer, from 0.
    probability: the token's softmax share at its position.
    logit: the token's own; with a contrast, what is explained is logit - contrast_logit.
    contrast, contrast_id, contrast_logit: the token that it is explained against, if there is one.
    """

    token: str
    id: int
    position: int
    probability: float
    logit: float
    contrast: str | None = None
    contrast_id: int | None = None
    contrast_logit: float | None = None


@dataclass(frozen=True)
class Choice:
    """Where to look and which ids to take the logits of: `id`, minus `contrast_id` if there is one.

    against_next: the contrast is the likeliest other token, which only the logits tell, see `against`.
    """

    position: int
    id: int
    contrast_id: int | None = None
    against_next: bool = False

    def against(self, logits: Tensor) -> Choice:
        """The same with its contrast known, from the position's logits (vocabulary,)."""
        if not self.against_next:
            return self
        first, second = logits.detach().topk(2).indices.tolist()
        return replace(self, contrast_id=second if first == self.id else first, against_next=False)

    def scalar(self, logits: Tensor) -> Tensor:
        """The number that is explained, from the position's logits (vocabulary,)."""
        return logits[self.id] if self.contrast_id is None else logits[self.id] - logits[self.contrast_id]

    def described(self, logits: Tensor, tokenizer: PreTrainedTokenizerBase) -> Target:
        """The target as a user reads it, from the position's logits (vocabulary,)."""
        scores = logits.detach().float()
        against = self.contrast_id
        return Target(
            token=shown(tokenizer, self.id),
            id=self.id,
            position=self.position,
            probability=float(scores.softmax(-1)[self.id]),
            logit=float(scores[self.id]),
            contrast=None if against is None else shown(tokenizer, against),
            contrast_id=against,
            contrast_logit=None if against is None else float(scores[against]),
        )


def parsed(target: str | int) -> str | int:
    """The user's target, a number in a string turned into one. Raises RelevancyError when it is empty.

    Digits are a position. "word:2" is the string 2 in the answer, and so "word:first", "word:contrast", "word:A|B".
    """
    if isinstance(target, str):
        if not target.removeprefix(_NAMED).strip():
            raise RelevancyError(
                "target is empty: use first, first-relevant, contrast, all, a position, a string, word:2 for a string "
                "that reads as one of these, or 'A|B'."
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


def choose(target: str | int, answer: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> list[Choice]:
    """What `target` means for an answer of these token ids, stop token excluded; several only for "all".

    Raises RelevancyError when the answer does not hold what was asked for.
    """
    if not answer:
        raise RelevancyError("The model's answer is empty, so there is no token to explain: ask another question.")
    if target == "all":
        return [Choice(position, token) for position, token in enumerate(answer)]
    if target == "first":
        return [Choice(0, answer[0])]
    if target in ("first-relevant", _CONTRAST):
        words = (position for position, token in enumerate(answer) if _WORD.search(shown(tokenizer, token)))
        position = next(words, 0)
        return [Choice(position, answer[position], against_next=target == _CONTRAST)]
    if isinstance(target, int):
        if not -len(answer) <= target < len(answer):
            raise RelevancyError(
                f"The answer has {len(answer)} tokens, 0 to {len(answer) - 1}: there is no {target} (the string is "
                f"named by {_NAMED}{target})."
            )
        return [Choice(target % len(answer), answer[target])]
    named = target.startswith(_NAMED)
    first, bar, second = target.partition("|")
    if bar and not named:
        return [_contrast(first, second, answer, tokenizer)]
    position = _position_of(target.removeprefix(_NAMED), answer, tokenizer)
    return [Choice(position, answer[position])]


def shown(tokenizer: PreTrainedTokenizerBase, *tokens: int) -> str:
    """Tokens as text, spaces and control tokens kept as they are."""
    return str(tokenizer.decode(list(tokens), clean_up_tokenization_spaces=False))


def _contrast(first: str, second: str, answer: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> Choice:
    """Logit against logit where the answer says one of the two words, spelled as there, else at its first token."""
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


def _position_of(wanted: str, answer: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> int:
    """The token with which `wanted` begins in the answer; its own spelling first, then upper and lower case alike."""
    text = shown(tokenizer, *answer)
    found = re.search(re.escape(wanted), text) or re.search(re.escape(wanted), text, re.IGNORECASE)
    if found is None:
        raise RelevancyError(
            f'The answer is "{text.strip()}"; it does not contain "{wanted}". Name a part of it, or explain another '
            "answer: answer= (--answer)."
        )
    said = (shown(tokenizer, *answer[:position]) for position in range(len(answer)))
    # The latest, since within a character of several tokens what is said so far may be longer than the character.
    return max(position for position, part in enumerate(said) if len(part) <= found.start())
