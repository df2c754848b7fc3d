"""Chat turns -> token ids and labels, in one pass over the text.

The text is tokenized once. A token is supervised when it starts inside a span that the model must write itself: with
Gemma's turns the answer, `<end_of_turn>` and the newline after it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from transformers import PreTrainedTokenizerBase

from relevancy.data import fields

IGNORED = -100  # label of a token that is not supervised, as torch's cross entropy expects
IMAGE = fields.IMAGE
START, END = "<start_of_turn>", "<end_of_turn>"
AUTHORS = "authors"  # the style that writes, and loses, what LLaVA-Gemma's own code does
ROLES = ("user", "model")
OVERLONG = ("cut", "drop")  # what becomes of a dialogue that is too long: see `encode`


class BadDialogueError(ValueError):
    """A dialogue that cannot be trained on; the message says why."""


class LostDialogueError(BadDialogueError):
    """A dialogue of which the authors' code trains on nothing, since it counts tokens and finds another number."""


@dataclass(frozen=True)
class Turn:
    """What one side says."""

    role: str
    text: str


@dataclass(frozen=True)
class Encoded:
    """Token ids and labels of equal length; labels are IGNORED where the model only reads.

    pictures: how many of the dialogue's pictures are within. dropped: tokens that were too many.
    """

    ids: list[int]
    labels: list[int]
    pictures: int = 0
    dropped: int = 0


Spelled: TypeAlias = tuple[str, list[tuple[int, int]]]  # the whole text, and the spans of it that are supervised
Style: TypeAlias = Callable[[Sequence[Turn], PreTrainedTokenizerBase], Spelled]


def dialogue(*texts: str) -> list[Turn]:
    """Texts of user and model in turn."""
    return [Turn(ROLES[index % 2], text) for index, text in enumerate(texts)]


def encode(
    turns: Sequence[Turn],
    tokenizer: PreTrainedTokenizerBase,
    image_tokens: int = 0,
    *,
    style: str = "gemma",
    max_length: int | None = None,
    overlong: str = "cut",
) -> Encoded:
    """Ids and labels of a dialogue.

    A leading model turn is dropped, as LLaVA's recipe does, and so is a last question without an answer. One `<image>`
    in a user turn moves to the front of that turn, on a line of its own; several stay where they are. Each stands for
    `image_tokens` tokens.

    style       "gemma": the recipe's turns; "plain": pictures and answers alone, as LLaVA-1.5 aligns its connector;
                "chat": the tokenizer's own chat template; "authors": as LLaVA-Gemma's own code has it, which keeps
                spaces, reads control tokens in a text as such, and loses what `check_counted` names
    max_length  in tokens, pictures included. Beyond it "cut" cuts, never through a picture; "drop" drops whole rounds
                of question and answer

    Raises BadDialogueError for what cannot be trained on, also where no answer is left within max_length.
    """
    as_authors = style == AUTHORS
    if as_authors:
        check_counted(turns, tokenizer.unk_token)
    texts = [Turn(turn.role, _placed(turn, not as_authors)) for turn in answered(turns, style)]
    pictured = [Turn(turn.role, turn.text.replace(IMAGE, IMAGE * image_tokens)) for turn in texts]
    text, spans = STYLES[style](pictured, tokenizer)
    tokenized = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids = list(tokenized["input_ids"])
    starts = [start for start, _ in tokenized["offset_mapping"]]
    supervised = [False] * len(ids)
    for first, last in spans:
        begin, end = bisect_left(starts, first), bisect_left(starts, last)
        supervised[begin:end] = [True] * (end - begin)
    image: Any = tokenizer.convert_tokens_to_ids(IMAGE)  # one token, so one number
    kept = len(ids)
    if max_length is not None and kept > max_length:
        rounds = [bisect_left(starts, last) for _, last in spans]
        kept = _last_within(rounds, max_length) if overlong == "drop" else _cut(ids, max_length, image)
        if not any(supervised[:kept]):
            raise BadDialogueError(f"no answer within {max_length} tokens: it has {len(ids)}")
    labels = [token if own else IGNORED for token, own in zip(ids[:kept], supervised[:kept], strict=True)]
    pictures = ids[:kept].count(image) // image_tokens if image_tokens else 0
    return Encoded(ids[:kept], labels, pictures, len(ids) - kept)


def answered(turns: Sequence[Turn], style: str = "gemma") -> Sequence[Turn]:
    """The turns that are trained on: questions, each with its answer. Raises BadDialogueError."""
    control = () if style == AUTHORS else (START, END)
    if turns and turns[0].role == "model":
        turns = turns[1:]
    if len(turns) % 2:
        turns = turns[:-1]
    if not turns:
        raise BadDialogueError("no question with an answer")
    for index, turn in enumerate(turns):
        if turn.role != ROLES[index % 2]:
            raise BadDialogueError(f"turn {index} is by {turn.role!r}, expected {ROLES[index % 2]!r}")
        if any(token in turn.text for token in control) or (turn.role == "model" and IMAGE in turn.text):
            raise BadDialogueError(f"turn {index} contains a control token")
    return turns


def check_counted(turns: Sequence[Turn], unknown: str | None) -> None:
    """Refuse what the authors' code loses: it finds rounds by splitting the text, and counts their tokens again.

    unknown: the tokenizer's `<unk>`, with which that code pads, so that it is not counted. Raises LostDialogueError.
    """
    asked = turns[1:] if turns and turns[0].role == "model" else turns
    texts = [_placed(turn, strip=False) for turn in asked]
    reasons = (
        (len(asked) % 2, "a last question without an answer"),
        (not all(texts), "an empty turn"),
        (any(f"{END}\n" in text for text in texts), f"{END} and a line's end within a turn"),
        (any(unknown and unknown in text for text in texts), f"{unknown} in a turn"),
    )
    if why := next((why for holds, why in reasons if holds), None):
        raise LostDialogueError(f"{why}: the authors' code trains on nothing of it")


def _placed(turn: Turn, strip: bool) -> str:
    text = turn.text.strip() if strip else turn.text
    if text.count(IMAGE) == 1:
        return f"{IMAGE}\n{text.replace(IMAGE, '').strip()}".strip()
    return text


def _last_within(ends: Sequence[int], most: int) -> int:
    return max((end for end in ends if end <= most), default=0)


def _cut(ids: Sequence[int], most: int, image: int) -> int:
    """`most`, or where the run of pictures begins that it would cut through."""
    while most and ids[most] == image == ids[most - 1]:
        most -= 1
    return most


def _gemma(turns: Sequence[Turn], tokenizer: PreTrainedTokenizerBase) -> Spelled:
    text, spans = tokenizer.bos_token or "", []
    for turn in turns:
        text += f"{START}{turn.role}\n"
        begin = len(text)
        text += f"{turn.text}{END}\n"
        if turn.role == "model":
            spans.append((begin, len(text)))
    return text, spans


def _plain(turns: Sequence[Turn], tokenizer: PreTrainedTokenizerBase) -> Spelled:
    text, spans = tokenizer.bos_token or "", []
    for turn in turns:
        if turn.role == "user":
            text += IMAGE * turn.text.count(IMAGE)
        else:
            spans.append((len(text), len(text) + len(turn.text) + 1))
            text += f"{turn.text}\n"
    return text, spans


def _chat(turns: Sequence[Turn], tokenizer: PreTrainedTokenizerBase) -> Spelled:
    """As the template writes the dialogue up to each answer, and with it: what comes between is the model's."""
    roles = {"user": "user", "model": "assistant"}
    messages = [{"role": roles[turn.role], "content": turn.text} for turn in turns]

    def written(count: int, open_turn: bool) -> str:
        return str(tokenizer.apply_chat_template(messages[:count], tokenize=False, add_generation_prompt=open_turn))

    whole, spans = written(len(messages), False), []
    for answer in range(1, len(messages), 2):
        before, after = written(answer, True), written(answer + 1, False)
        if not (whole.startswith(after) and after.startswith(before)):
            raise BadDialogueError("the tokenizer's chat template rewrites earlier turns: use style 'gemma' or 'plain'")
        spans.append((len(before), len(after)))
    return whole, spans


STYLES: Mapping[str, Style] = {"gemma": _gemma, "plain": _plain, "chat": _chat, AUTHORS: _gemma}
