"""One entry of a data set, in any of the usual shapes -> a Dialogue."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from PIL import Image

from relevancy.fields import ShapeError, first_of, kind_of, turns_of, unread_picture
from relevancy.train.template import IMAGE, Turn

Picture: TypeAlias = Path | bytes | Image.Image

_SPELLINGS = {".jpg": ".png", ".png": ".jpg"}


@dataclass(frozen=True)
class Dialogue:
    """What was said about which pictures; nothing is opened yet.

    Each picture has its `<image>` in a user turn, in the same order. fault: why an entry is no dialogue; it then has
    no turns. unread: a name under which an entry without a picture seems to hold one, which nobody reads.
    """

    id: str
    turns: tuple[Turn, ...] = ()
    images: tuple[Picture, ...] = ()
    fault: str | None = None
    unread: str | None = None

    @property
    def words(self) -> int:
        """Length as LLaVA's recipe takes it to sort by: words of all turns, pictures not counted."""
        return sum(len(turn.text.split()) for turn in self.turns)


def dialogue_of(entry: Any, number: int, images: Path | None = None) -> Dialogue:
    """An entry's dialogue; `number` is its name where it has no `id`, `images` where relative picture paths begin.

    Shapes: those of `fields.turns_of`. Pictures: under any name of `fields.NAMES`, one or a list of paths, bytes,
    Pillow images, or `{"bytes", "path"}`. Pictures that no turn mentions stand before the first. Never raises: what is
    wrong stands in `fault`.
    """
    name = str(entry.get("id", number)) if isinstance(entry, Mapping) else str(number)
    try:
        if not isinstance(entry, Mapping):
            raise ShapeError(f"the entry is {kind_of(entry)}, not an object")
        turns, pictures = [Turn(*said) for said in turns_of(entry)], _pictures(entry, images)
        marks = sum(turn.text.count(IMAGE) for turn in turns if turn.role == "user")
        if pictures and not marks:
            first = next((place for place, turn in enumerate(turns) if turn.role == "user"), 0)
            turns[first] = Turn(turns[first].role, f"{IMAGE}\n" * len(pictures) + turns[first].text)
        elif marks != len(pictures):
            raise ShapeError(f"{marks} {IMAGE} in the text, but {len(pictures)} pictures")
        return Dialogue(name, tuple(turns), tuple(pictures), unread=unread_picture(entry))
    except ShapeError as error:
        return Dialogue(name, fault=str(error), unread=unread_picture(entry))


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
        if not picture.exists() and other.exists():
            return other
    return picture
