"""A question as turns of a conversation, with the places of its pictures, and chat messages in transformers' format."""

from __future__ import annotations

__all__ = ["ChatTurn", "Conversation", "conversation_of", "is_messages", "pictured", "read_messages"]

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, TypeAlias

from relevancy.data.fields import source_in
from relevancy.errors import RelevancyError, shortened
from relevancy.images import is_data_url
from relevancy.videos import Film

ROLES = ("system", "user", "assistant")
_FILES = ("image", "video", "path", "url")
_VIDEO = '{"type": "video", "video": [frame, frame, ..]}, or a folder of frames; "fps": frames a second, if known'
_FORMAT = (
    'a message is {"role": "user", "content": "text"}, or content [{"type": "image"}, {"type": "text", "text": ..}]'
)


class Moving(Enum):
    """What stands where a video does."""

    VIDEO = "video"


Part: TypeAlias = str | Moving | None


@dataclass(frozen=True)
class ChatTurn:
    """What one side says: texts, None where a picture stands, and `Moving.VIDEO` where a video does.

    role: "system", "user" or "assistant".
    """

    role: str
    parts: tuple[Part, ...]

    @property
    def texts(self) -> list[str]:
        """Its words alone, part by part."""
        return [part for part in self.parts if isinstance(part, str)]

    @property
    def text(self) -> str:
        """Its words alone."""
        return "\n".join(self.texts)

    @property
    def pictures(self) -> int:
        """How many there are in it, videos left out."""
        return self.parts.count(None)

    @property
    def videos(self) -> int:
        """How many there are in it."""
        return self.parts.count(Moving.VIDEO)


Conversation: TypeAlias = tuple[ChatTurn, ...]
"""Turns in their order; the next one is the model's."""


def conversation_of(question: str | Conversation, pictures: int, videos: int = 0) -> Conversation:
    """A question after so many pictures and videos, as a conversation of one turn; a conversation as it is.

    Raises RelevancyError for an empty question, and where there are fewer or more of them than places.
    """
    if not isinstance(question, tuple):
        return (ChatTurn("user", (*[None] * pictures, *[Moving.VIDEO] * videos, checked(question))),)
    for name, part, given, places in (
        ("pictures", "image", pictures, sum(turn.pictures for turn in question)),
        ("videos", "video", videos, sum(turn.videos for turn in question)),
    ):
        if places != given:
            raise RelevancyError(
                f"the messages have {places} places for {name} and {given} were given: write "
                f'{{"type": "{part}"}} where each of them stands'
            )
    return question


def question_in(question: str | Conversation) -> str:
    """What is asked last, as text."""
    return question if isinstance(question, str) else question[-1].text


def checked(question: str) -> str:
    """The question without surrounding blanks; raises where nothing is asked, or it is no text."""
    if not isinstance(question, str):
        raise RelevancyError(
            f"the question must be text, not {type(question).__name__}: give its words, or a list of chat messages"
        )
    if not question.strip():
        raise RelevancyError("the question is empty: ask something about the picture")
    return encodable(question, "question").strip()


def is_messages(value: Any) -> bool:
    """Whether a value is a list of chat messages, and not a list of questions."""
    return isinstance(value, list | tuple) and bool(value) and all(isinstance(one, Mapping) for one in value)


def read_messages(messages: Sequence[Mapping[str, Any]]) -> tuple[Conversation, tuple[Any, ...]]:
    """Chat messages in transformers' format as a conversation, and what they show, None where a picture lacks.

    Raises RelevancyError for messages that are not in this format, or that leave nothing to answer.
    """
    turns: list[ChatTurn] = []
    sources: list[Any] = []
    for message in messages:
        role = message.get("role")
        if role not in ROLES:
            raise RelevancyError(f"a message's role is one of {', '.join(ROLES)}, not {role!r}: {_FORMAT}")
        parts: list[Part] = []
        for part in _listed(message.get("content")):
            kind = part.get("type") if isinstance(part, Mapping) else None
            if kind == "text" and isinstance(part.get("text"), str):
                parts.append(encodable(part["text"], "question"))
            elif kind == "image":
                parts.append(None)
                sources.append(source_in(part, "image"))
            elif kind == "video":
                parts.append(Moving.VIDEO)
                frames = source_in(part, "video")
                sources.append(None if frames is None else Film(frames, part.get("fps")))
            else:
                raise RelevancyError(f"{shortened(repr(part))} is no part of a message that can be read: {_FORMAT}")
        turns.append(ChatTurn(role, tuple(parts)))
    if not turns or turns[-1].role != "user":
        raise RelevancyError("the last message must be the user's: the model answers it")
    if not any(not isinstance(part, str) or part.strip() for part in turns[-1].parts):
        raise RelevancyError("the last message is empty: ask something")
    return tuple(turns), tuple(sources)


def pictured(shown: Any, question: Any) -> tuple[list[Any], str | Conversation]:
    """The pictures and videos of one question in their order, and what is said about them.

    shown: a picture, a list of several, or None; those fill the places of messages that hold none of their own. Raises
    RelevancyError where they are not as many, and for a video without frames.
    """
    given = list(shown) if isinstance(shown, list | tuple) else [] if shown is None else [shown]
    if not is_messages(question):
        return given, checked(question)
    conversation, sources = read_messages(question)
    kinds = [part for turn in conversation for part in turn.parts if not isinstance(part, str)]
    if any(kind is Moving.VIDEO and source is None for kind, source in zip(kinds, sources, strict=True)):
        raise RelevancyError(f"a video is a part of a message that holds its frames: {_VIDEO}")
    left = iter(given)
    pictures = [next(left, None) if source is None else source for source in sources]
    if any(source is None for source in pictures) or next(left, None) is not None:
        raise RelevancyError(
            f"the messages have {sum(source is None for source in sources)} places for pictures without one of their "
            f"own, and {len(given)} were given: give as many"
        )
    return pictures, conversation


def messages_in(file: Path) -> list[dict[str, Any]]:
    """Chat messages in a JSON file, pictures found from its folder. Raises RelevancyError."""
    try:
        messages = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RelevancyError(f"{file} cannot be read as JSON ({error})") from error
    if not is_messages(messages):
        raise RelevancyError(f"{file} holds no list of chat messages: {_FORMAT}")
    return [message | {"content": _from(file.parent, message.get("content"))} for message in messages]


def _from(folder: Path, content: Any) -> Any:
    """A message's content with the paths of pictures seen from a folder."""
    if not isinstance(content, list):
        return content

    def seen(value: Any) -> Any:
        if isinstance(value, list):
            return [seen(each) for each in value]
        return str(folder / value) if isinstance(value, str) and not is_data_url(value) else value

    return [
        {key: seen(value) if key in _FILES else value for key, value in part.items()}
        if isinstance(part, dict) and part.get("type") in ("image", "video")
        else part
        for part in content
    ]


def to_messages(conversation: Conversation) -> list[dict[str, Any]]:
    """A conversation as chat messages in transformers' format, without pictures and videos themselves."""
    return [
        {
            "role": turn.role,
            "content": [_as_part(part) for part in turn.parts],
        }
        for turn in conversation
    ]


def _as_part(part: Part) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    return {"type": "image" if part is None else part.value}


def _listed(content: Any) -> Sequence[Any]:
    """The parts of a message's content."""
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if not isinstance(content, list | tuple):
        raise RelevancyError(f"a message's content is text or a list of parts, not {type(content).__name__}: {_FORMAT}")
    return content


def encodable(text: str, what: str) -> str:
    """The text as it is. Raises RelevancyError, which calls it what it is, where half of a character stands alone."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RelevancyError(f"the {what} is not valid text: give it in UTF-8") from error
    return text
