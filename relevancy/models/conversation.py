"""A question as turns of a conversation, with the places of its pictures, and chat messages in transformers' format."""

from __future__ import annotations

__all__ = ["ChatTurn", "Conversation", "conversation_of", "is_messages", "pictured", "read_messages"]

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from relevancy.errors import RelevancyError, shortened
from relevancy.images import is_data_url

ROLES = ("system", "user", "assistant")
_SOURCES = ("image", "path", "url", "base64")  # where transformers looks for a picture
_FILES = ("image", "path", "url")
_FORMAT = (
    'a message is {"role": "user", "content": "text"}, or content [{"type": "image"}, {"type": "text", "text": ..}]'
)


@dataclass(frozen=True)
class ChatTurn:
    """What one side says: texts, and None where a picture stands. role: "system", "user" or "assistant"."""

    role: str
    parts: tuple[str | None, ...]

    @property
    def text(self) -> str:
        """Its words alone."""
        return "\n".join(part for part in self.parts if part is not None)

    @property
    def pictures(self) -> int:
        """How many there are in it."""
        return self.parts.count(None)


Conversation: TypeAlias = tuple[ChatTurn, ...]
"""Turns in their order; the next one is the model's."""


def conversation_of(question: str | Conversation, pictures: int) -> Conversation:
    """A question after so many pictures, as a conversation of one turn; a conversation as it is.

    Raises RelevancyError for an empty question, and where there are fewer or more pictures than places for them.
    """
    if isinstance(question, tuple):
        places = sum(turn.pictures for turn in question)
        if places != pictures:
            raise RelevancyError(
                f"the messages have {places} places for pictures and {pictures} were given: write "
                '{"type": "image"} where each of them stands'
            )
        return question
    return (ChatTurn("user", (*[None] * pictures, checked(question))),)


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
    return _encodable(question).strip()


def is_messages(value: Any) -> bool:
    """Whether a value is a list of chat messages, and not a list of questions."""
    return isinstance(value, list | tuple) and bool(value) and all(isinstance(one, Mapping) for one in value)


def read_messages(messages: Sequence[Mapping[str, Any]]) -> tuple[Conversation, tuple[Any, ...]]:
    """Chat messages in transformers' format as a conversation, and the pictures that they hold, None where one lacks.

    Raises RelevancyError for messages that are not in this format, or that leave nothing to answer.
    """
    turns: list[ChatTurn] = []
    sources: list[Any] = []
    for message in messages:
        role = message.get("role")
        if role not in ROLES:
            raise RelevancyError(f"a message's role is one of {', '.join(ROLES)}, not {role!r}: {_FORMAT}")
        parts: list[str | None] = []
        for part in _listed(message.get("content")):
            kind = part.get("type") if isinstance(part, Mapping) else None
            if kind == "text" and isinstance(part.get("text"), str):
                parts.append(_encodable(part["text"]))
            elif kind == "image":
                parts.append(None)
                sources.append(_source_in(part))
            else:
                raise RelevancyError(f"{shortened(repr(part))} is no part of a message that can be read: {_FORMAT}")
        turns.append(ChatTurn(role, tuple(parts)))
    if not turns or turns[-1].role != "user":
        raise RelevancyError("the last message must be the user's: the model answers it")
    if not any(part is None or part.strip() for part in turns[-1].parts):
        raise RelevancyError("the last message is empty: ask something")
    return tuple(turns), tuple(sources)


def pictured(shown: Any, question: Any) -> tuple[list[Any], str | Conversation]:
    """The pictures of one question in their order, and what is said about them.

    shown: a picture, a list of several, or None; those fill the places of messages that hold none of their own. Raises
    RelevancyError where they are not as many.
    """
    given = list(shown) if isinstance(shown, list | tuple) else [] if shown is None else [shown]
    if not is_messages(question):
        return given, checked(question)
    conversation, sources = read_messages(question)
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
    except (OSError, ValueError) as error:
        raise RelevancyError(f"{file} cannot be read as JSON ({error})") from error
    if not is_messages(messages):
        raise RelevancyError(f"{file} holds no list of chat messages: {_FORMAT}")
    return [message | {"content": _from(file.parent, message.get("content"))} for message in messages]


def _from(folder: Path, content: Any) -> Any:
    """A message's content with the paths of pictures seen from a folder."""
    if not isinstance(content, list):
        return content
    return [
        {
            key: str(folder / value) if key in _FILES and isinstance(value, str) and not is_data_url(value) else value
            for key, value in part.items()
        }
        if isinstance(part, dict) and part.get("type") == "image"
        else part
        for part in content
    ]


def to_messages(conversation: Conversation) -> list[dict[str, Any]]:
    """A conversation as chat messages in transformers' format, without the pictures themselves."""
    return [
        {
            "role": turn.role,
            "content": [{"type": "image"} if part is None else {"type": "text", "text": part} for part in turn.parts],
        }
        for turn in conversation
    ]


def _source_in(part: Mapping[str, Any]) -> Any:
    """The picture that a part of a message holds, None where it only keeps a place for one."""
    key = next((key for key in _SOURCES if part.get(key) is not None), None)
    if key == "base64" and not is_data_url(str(part[key])):
        return f"data:image/;base64,{part[key]}"
    return None if key is None else part[key]


def _listed(content: Any) -> Sequence[Any]:
    """The parts of a message's content."""
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if not isinstance(content, list | tuple):
        raise RelevancyError(f"a message's content is text or a list of parts, not {type(content).__name__}: {_FORMAT}")
    return content


def _encodable(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RelevancyError("the question is not valid text: give it in UTF-8") from error
    return text
