"""One entry of a data set, in any of the usual shapes -> a Dialogue."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from PIL import Image

from relevancy.images import COLUMNS, is_there
from relevancy.train.template import IMAGE, Turn

Picture: TypeAlias = Path | bytes | Image.Image

_ROLES = {"human": "user", "user": "user", "gpt": "model", "assistant": "model", "model": "model"}
_SPELLINGS = {".jpg": ".png", ".png": ".jpg"}
_PICTURES = ("image", "images", *COLUMNS)  # LLaVA's own names first
_SAID = ("id", "conversations", "messages", "question", "answer")
_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")


class _ShapeError(ValueError):
    """An entry that is no dialogue."""


PLACED: Mapping[str, str] = {
    "unmarked": f"no {IMAGE} in the text: the pictures stand before the first question",
    "marked again": f"a turn has {IMAGE} more often than there are pictures: it stands there once",
    "several": "several pictures in one dialogue",
}
"""What is decided about pictures that do not come one by one, each with one mark."""


@dataclass(frozen=True)
class Dialogue:
    """What was said about which pictures; nothing is opened yet.

    Each picture has its `<image>` in a user turn, in the same order. fault: why an entry is no dialogue; it then has
    no turns. placed: what was decided about its pictures, a key of PLACED. unread: names of the entry under which
    pictures seem to lie that are not read.
    """

    id: str
    turns: tuple[Turn, ...] = ()
    images: tuple[Picture, ...] = ()
    fault: str | None = None
    placed: str | None = None
    unread: tuple[str, ...] = ()

    @property
    def words(self) -> int:
        """Length as LLaVA's recipe takes it to sort by: words of all turns, pictures not counted."""
        return sum(len(turn.text.split()) for turn in self.turns)


def dialogue_of(entry: Any, number: int, images: Path | None = None) -> Dialogue:
    """An entry's dialogue; `number` is its name where it has no `id`, `images` where relative picture paths begin.

    Shapes: `conversations` of `from` and `value`, as LLaVA has them; `messages` of `role` and `content` (text, or parts
    of type text and image); `question` and `answer`. Pictures: `image` or `images`, or another name of
    `pictures.COLUMNS`; one or a list of paths, bytes, Pillow images, or `{"bytes", "path"}`. Pictures that no turn
    mentions stand before the first question; a turn that mentions its one picture again and again has it once. Never
    raises: what is wrong stands in `fault`.
    """
    name = str(entry.get("id", number)) if isinstance(entry, Mapping) else str(number)
    unread: tuple[str, ...] = ()
    try:
        if not isinstance(entry, Mapping):
            raise _ShapeError(f"the entry is {_kind(entry)}, not an object")
        turns, pictures = _turns(entry), _pictures(entry, images)
        unread = () if pictures else _unread(entry)
        turns, placed = _placed(turns, len(pictures))
        return Dialogue(name, tuple(turns), tuple(pictures), placed=placed, unread=unread)
    except _ShapeError as error:
        return Dialogue(name, fault=str(error), unread=unread)


def _placed(turns: list[Turn], pictures: int) -> tuple[list[Turn], str | None]:
    """The turns with a mark for each picture, and what of PLACED was done for it."""
    marks = [turn.text.count(IMAGE) if turn.role == "user" else 0 for turn in turns]
    if pictures and not sum(marks):
        first = next((place for place, turn in enumerate(turns) if turn.role == "user"), 0)
        front = Turn(turns[first].role, f"{IMAGE}\n" * pictures + turns[first].text)
        return [*turns[:first], front, *turns[first + 1 :]], "unmarked"
    if sum(marks) == pictures:
        return turns, "several" if pictures > 1 else None
    if sum(map(bool, marks)) == pictures:
        return [_once(turn) if many > 1 else turn for turn, many in zip(turns, marks, strict=True)], "marked again"
    raise _ShapeError(f"{sum(marks)} {IMAGE} in the text, but {pictures} pictures")


def _once(turn: Turn) -> Turn:
    before, *rest = turn.text.split(IMAGE)
    return Turn(turn.role, f"{before}{IMAGE}{''.join(rest)}")


def _unread(entry: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of an entry whose values look like pictures: files called so, bytes, or Hugging Face's Image."""
    return tuple(str(name) for name, value in entry.items() if name not in _SAID and _looks(value))


def _looks(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return bool(value) and _looks(value[0])
    if isinstance(value, Mapping):
        return {"bytes", "path"} <= value.keys() and any(value.values())
    return isinstance(value, bytes | Image.Image) or (isinstance(value, str) and value.lower().endswith(_ENDINGS))


def _kind(value: Any) -> str:
    return "null" if value is None else type(value).__name__


def _turns(entry: Mapping[str, Any]) -> list[Turn]:
    if "conversations" in entry:
        turns = [_turn(one, "from", "value") for one in _listed(entry["conversations"], "conversations")]
    elif "messages" in entry:
        turns = [_turn(one, "role", "content") for one in _listed(entry["messages"], "messages")]
    elif "question" in entry and "answer" in entry:
        turns = [Turn("user", _text(entry["question"])), Turn("model", _text(entry["answer"]))]
    else:
        raise _ShapeError("the entry has no conversations, no messages, and no question with an answer")
    if not turns:
        raise _ShapeError("no turns")
    return turns


def _listed(value: Any, name: str) -> Sequence[Any]:
    if not isinstance(value, list | tuple):
        raise _ShapeError(f"{name} is {_kind(value)}, not a list")
    return value


def _turn(given: Any, who: str, what: str) -> Turn:
    if not isinstance(given, Mapping) or who not in given or what not in given:
        raise _ShapeError(f"a turn is not an object with {who!r} and {what!r}")
    role = given[who]
    return Turn(_ROLES.get(role, str(role)) if isinstance(role, str) else str(role), _text(given[what]))


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "".join(_part(part) for part in value)
    if not isinstance(value, str):
        raise _ShapeError(f"a turn's text is {_kind(value)}")
    if not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value):
        raise _ShapeError("a turn's text holds half a letter (a lone surrogate)")
    return value


def _part(part: Any) -> str:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind == "image":
        return f"{IMAGE}\n"
    if kind == "text":
        return _text(part.get("text"))
    raise _ShapeError(f"a part of a message is neither text nor image but {kind or _kind(part)}")


def _pictures(entry: Mapping[str, Any], images: Path | None) -> list[Picture]:
    given = next((entry[name] for name in _PICTURES if entry.get(name) not in (None, "", [], ())), None)
    if given is None:
        return []
    return [_picture(one, images) for one in (given if isinstance(given, list | tuple) else [given])]


def _picture(given: Any, images: Path | None) -> Picture:
    if isinstance(given, Mapping):
        given = given.get("bytes") or given.get("path")
    if isinstance(given, bytes | Image.Image):
        return given
    if isinstance(given, str) and given:
        return Path(given) if images is None else images / given
    raise _ShapeError(f"a picture is {_kind(given)}, not a path or bytes")


def on_disk(picture: Picture) -> Picture:
    """The picture; where its file is missing but lies there as .png for .jpg or the reverse, that file."""
    if isinstance(picture, Path) and picture.suffix in _SPELLINGS:
        other = picture.with_suffix(_SPELLINGS[picture.suffix])
        if not is_there(picture) and is_there(other):
            return other
    return picture
