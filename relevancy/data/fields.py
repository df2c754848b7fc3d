"""Names under which rows hold pictures, questions, answers, boxes and masks, and the shapes of dialogues."""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from relevancy.images import is_data_url

DIALOGUES = ("conversations", "messages")
NAMES: Mapping[str, tuple[str, ...]] = {
    "id": ("id", "question_id", "uid", "__key__"),
    "picture": (
        "picture", "image", "image_path", "img", "file_name", "jpg", "jpeg", "png", "webp", "images", "img_path",
        "picture_path", "image_file",
    ),
    "video": ("video", "videos"),
    "question": ("question", "prompt", "query", *DIALOGUES, "text", "txt"),
    "expected": ("expected", "answer", "answers", "label", "truth", "ground_truth", "gt"),
    "boxes": ("boxes", "bboxes", "bbox", "box"),
    "mask": ("mask", "mask_path"),
}  # fmt: skip
"""For every reader of rows, to export, to check and to train: of several names in a row the first counts."""

IMAGE, VIDEO = "<image>", "<video>"
"""Where in a dialogue's text a picture stands, or a video."""

_SOURCES = ("path", "url", "base64")  # where transformers looks for a picture, besides "image"
_ROLES = {"human": "user", "user": "user", "gpt": "model", "assistant": "model", "model": "model"}
_PICTURE_FILE = re.compile(r".+\.(jpe?g|png|webp|gif|bmp|tiff?|avif|jp2|ppm|qoi|heic)", re.IGNORECASE | re.DOTALL)
_PICTURE_DATA = re.compile(r"data:image/")
_PICTURE_NAME = re.compile(
    r"(.*_)?(image|img|picture|photo|pic)s?(_?(path|file|filename|name|url|uri))?", re.IGNORECASE
)
_PICTURE_BYTES = (b"\xff\xd8\xff", b"\x89PNG", b"RIFF", b"GIF8")
_LISTED = re.compile(r"\s*[\[{]")
_QUOTES_APART = re.compile(r"(?<=['\"])\s+(?=['\"])")  # how numpy prints a list, without commas
_SHOWN = 120
_LONG = re.compile(r"\S{300,}")


class ShapeError(ValueError):
    """An entry that is no dialogue; the message says why."""


def first_of(entry: Mapping[str, Any], role: str) -> str | None:
    """The name under which an entry holds something of a role; None where nothing stands under any of them."""
    return next((name for name in NAMES[role] if name in entry and not _nothing(entry[name])), None)


def unread_picture(entry: Any) -> str | None:
    """A name under which an entry without a picture seems to hold one, which no reader knows; None if there is none."""
    if not isinstance(entry, Mapping) or first_of(entry, "picture") is not None:
        return None
    known = {name for role in NAMES.values() for name in role}
    return next((str(name) for name, value in entry.items() if name not in known and _pictured(name, value)), None)


def source_in(part: Mapping[str, Any], kind: str) -> Any:
    """The picture or the frames that a part of a message holds, None where it only keeps a place for them.

    kind: "image" or "video".
    """
    key = next((key for key in (kind, *_SOURCES) if part.get(key) is not None), None)
    if key == "base64" and not is_data_url(str(part[key])):
        return f"data:image/;base64,{part[key]}"
    return None if key is None else part[key]


def missing(value: Any) -> bool:
    """Whether a cell holds nothing."""
    return value is None or value == "" or (isinstance(value, float) and not math.isfinite(value))


def clean(text: str) -> str:
    """The text with what UTF-8 cannot hold spelled out."""
    return text.encode("utf-8", "backslashreplace").decode()


def turns_of(entry: Mapping[str, Any], *, videos: bool = False) -> list[tuple[str, str]]:
    """Who says what, "user" and "model" in any order; `<image>` stands for a picture. Raises ShapeError.

    Shapes: `conversations` of `from` and `value`, as LLaVA has them; `messages` of `role` and `content` (text, or parts
    of type text and image); a question and an answer. videos: whether parts may be of type video, each `<video>`.
    """
    if "conversations" in entry:
        turns = [_turn(one, "from", "value", videos=videos) for one in _listed(entry["conversations"], "conversations")]
    elif "messages" in entry:
        turns = [_turn(one, "role", "content", videos=videos) for one in _listed(entry["messages"], "messages")]
    else:
        question, answer = (
            next((name for name in NAMES[of] if name in entry), None) for of in ("question", "expected")
        )
        if question is None or answer is None:
            raise ShapeError("the entry has no conversations, no messages, and no question with an answer")
        turns = [("user", _text(entry[question])), ("model", _text(entry[answer]))]
    if not turns:
        raise ShapeError("no turns")
    return turns


def listed(text: str) -> list[Any] | dict[Any, Any] | None:
    """The list or the object that a text spells, as JSON or as Python and numpy print it; None if it spells none."""
    if not _LISTED.match(text):
        return None
    for read in (json.loads, lambda spelled: ast.literal_eval(_QUOTES_APART.sub(", ", spelled.strip()))):
        try:
            found = read(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            continue
        if isinstance(found, list | dict):
            return found
    return None


def kind_of(value: Any) -> str:
    """What a value is, for a message."""
    return "null" if value is None else type(value).__name__


def short(text: str) -> str:
    """The text with the inside of endless words left out, such as a picture's base64."""
    return _LONG.sub(lambda word: f"{word[0][:_SHOWN]}... ({len(word[0]):,} characters)", text)


def _nothing(value: Any) -> bool:
    return value is None or (isinstance(value, str | bytes | list | tuple) and not len(value))


def _pictured(name: Any, value: Any) -> bool:
    if isinstance(value, list | tuple):
        return bool(value) and _pictured(name, value[0])
    if isinstance(value, Mapping):
        return set(value) == {"bytes", "path"} and any(value.values())
    if isinstance(value, bytes):
        return value.startswith(_PICTURE_BYTES)
    if isinstance(value, str):
        named = bool(value) and isinstance(name, str) and _PICTURE_NAME.fullmatch(name)
        return bool(named or _PICTURE_FILE.fullmatch(value) or _PICTURE_DATA.match(value))
    return type(value).__module__.startswith("PIL.")


def _listed(value: Any, name: str) -> Sequence[Any]:
    if not isinstance(value, list | tuple):
        raise ShapeError(f"{name} is {kind_of(value)}, not a list")
    return value


def _turn(given: Any, who: str, what: str, *, videos: bool) -> tuple[str, str]:
    if not isinstance(given, Mapping) or who not in given or what not in given:
        raise ShapeError(f"a turn is not an object with {who!r} and {what!r}")
    role = given[who]
    return _ROLES.get(role, str(role)) if isinstance(role, str) else str(role), _text(given[what], videos=videos)


def _text(value: Any, *, videos: bool = False) -> str:
    if isinstance(value, list | tuple):
        return "".join(_part(part, videos=videos) for part in value)
    if not isinstance(value, str):
        raise ShapeError(f"a turn's text is {kind_of(value)}")
    if not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value):
        raise ShapeError("a turn's text holds half a letter (a lone surrogate)")
    return value


def _part(part: Any, *, videos: bool) -> str:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind == "image" or (kind == "video" and videos):
        return f"{IMAGE if kind == 'image' else VIDEO}\n"
    if kind == "text":
        return _text(part.get("text"))
    raise ShapeError(f"a part of a message is neither text nor image but {kind or kind_of(part)}")
