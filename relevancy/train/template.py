"""Gemma's chat turns -> token ids and labels, in one pass over the text.

The text is tokenized once. A token is supervised when it starts inside a span that the model must write itself: answer,
`<end_of_turn>` and the newline after it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

IGNORED = -100  # label of a token that is not supervised, as torch's cross entropy expects
IMAGE = "<image>"
START, END = "<start_of_turn>", "<end_of_turn>"
ROLES = ("user", "model")


class BadDialogueError(ValueError):
    """A dialogue that cannot be trained on; the message says why."""


@dataclass(frozen=True)
class Turn:
    """What one side says."""

    role: str
    text: str


@dataclass(frozen=True)
class Encoded:
    """Token ids and labels of equal length; labels are IGNORED where the model only reads."""

    ids: list[int]
    labels: list[int]


def dialogue(*texts: str) -> list[Turn]:
    """Texts of user and model in turn."""
    return [Turn(ROLES[index % 2], text) for index, text in enumerate(texts)]


def encode(turns: Sequence[Turn], tokenizer: PreTrainedTokenizerBase, image_tokens: int = 0) -> Encoded:
    """Ids and labels of a dialogue.

    A leading model turn is dropped, as LLaVA's recipe does, and so is a last question without an answer. An `<image>`
    anywhere in a user turn moves to the front of that turn, on a line of its own, and stands for `image_tokens` tokens.
    """
    turns = _checked(turns)
    pieces, spans, length = [tokenizer.bos_token], [], 0
    length = len(pieces[0])
    for turn in turns:
        text = turn.text.strip()
        if turn.role == "user" and IMAGE in text:
            text = f"{IMAGE * image_tokens}\n{text.replace(IMAGE, '').strip()}"
        opening, said = f"{START}{turn.role}\n", f"{text}{END}\n"
        if turn.role == "model":
            spans.append((length + len(opening), length + len(opening) + len(said)))
        pieces += [opening, said]
        length += len(opening) + len(said)
    encoded = tokenizer("".join(pieces), add_special_tokens=False, return_offsets_mapping=True)
    ids = list(encoded["input_ids"])
    starts = [start for start, _ in encoded["offset_mapping"]]
    supervised = [any(first <= start < last for first, last in spans) for start in starts]
    return Encoded(ids, [token if own else IGNORED for token, own in zip(ids, supervised, strict=True)])


def _checked(turns: Sequence[Turn]) -> Sequence[Turn]:
    if turns and turns[0].role == "model":
        turns = turns[1:]
    if len(turns) % 2:
        turns = turns[:-1]
    if not turns:
        raise BadDialogueError("no question with an answer")
    for index, turn in enumerate(turns):
        if turn.role != ROLES[index % 2]:
            raise BadDialogueError(f"turn {index} is by {turn.role!r}, expected {ROLES[index % 2]!r}")
        if START in turn.text or END in turn.text or (turn.role == "model" and IMAGE in turn.text):
            raise BadDialogueError(f"turn {index} contains a control token")
        if turn.text.count(IMAGE) > 1:
            raise BadDialogueError(f"turn {index} has more than one {IMAGE}")
    return turns
