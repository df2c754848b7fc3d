"""One entry of a data set, in any of the usual shapes -> a Dialogue."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from PIL import Image

from relevancy.data.fields import ShapeError, first_of, kind_of, turns_of, unread_picture
from relevancy.images import is_there
from relevancy.train.template import IMAGE, Turn

Picture: TypeAlias = Path | bytes | Image.Image

_SPELLINGS = {".jpg": ".png", ".png": ".jpg"}


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

    Shapes: those of `fields.turns_of`. Pictures: under any name of `fields.NAMES`, one or a list of paths, bytes,
    Pillow images, or `{"bytes", "path"}`. Pictures that no turn mentions stand before the first question; a turn that
    mentions its one picture again and again has it once. Never raises: what is wrong stands in `fault`.
    """
    name = str(entry.get("id", number)) if isinstance(entry, Mapping) else str(number)
    unread: tuple[str, ...] = ()
    try:
        if not isinstance(entry, Mapping):
            raise ShapeError(f"the entry is {kind_of(entry)}, not an object")
        turns, pictures = [Turn(*said) for said in turns_of(entry)], _pictures(entry, images)
        name_of_other = unread_picture(entry)
        unread = () if name_of_other is None else (name_of_other,)
        turns, placed = _placed(turns, len(pictures))
        return Dialogue(name, tuple(turns), tuple(pictures), placed=placed, unread=unread)
    except ShapeError as error:
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
    raise ShapeError(f"{sum(marks)} {IMAGE} in the text, but {pictures} pictures")


def _once(turn: Turn) -> Turn:
    before, *rest = turn.text.split(IMAGE)
    return Turn(turn.role, f"{before}{IMAGE}{''.join(rest)}")


def _pictures(entry: Mapping[str, Any], images: Path | None) -> list[Picture]:
    name = first_of(entry, "picture")
    if name is None:
        return []
    given = entry[name]
    return [_picture(one, images) for one in (given if isinstance(given, list | tuple) else [given])]


def _picture(given: Any, images: Path | None) -> Picture:
    if isinstance(given, Mapping):
        given = given.get("bytes") or given.get("path")
    if isinstance(given, bytes | Image.Image):
        return given
    if isinstance(given, str) and given:
        return Path(given) if images is None else images / given
    raise ShapeError(f"a picture is {kind_of(given)}, not a path or bytes")


def on_disk(picture: Picture) -> Picture:
    """The picture; where its file is missing but lies there as .png for .jpg or the reverse, that file."""
    if isinstance(picture, Path) and picture.suffix in _SPELLINGS:
        other = picture.with_suffix(_SPELLINGS[picture.suffix])
        if not is_there(picture) and is_there(other):
            return other
    return picture
