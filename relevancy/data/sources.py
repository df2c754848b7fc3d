"""Where the pictures and the videos of a row lie, told from its values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from relevancy.data.fields import clean, listed, missing, source_in
from relevancy.data.items import FilmSource, PictureSource
from relevancy.errors import RelevancyError
from relevancy.images import data_url, is_data_url
from relevancy.videos import frames_in

_LONGEST_SHOWN = 200


@dataclass(frozen=True)
class RowSources:
    """The pictures and videos of a row, each kind in its order; fault: what is wrong with the first that is wrong."""

    pictures: tuple[PictureSource, ...] = ()
    films: tuple[FilmSource, ...] = ()
    fault: str | None = None

    @classmethod
    def of(cls, pictures: Any, films: Any, messages: Any, base: Path, *, optional: bool = False) -> RowSources:
        """Of the values of a row's columns; what its messages hold stands before what only has a place in them.

        optional: whether a row may show nothing.
        """
        parts = list(_parts_of(messages))
        held = {kind: [source_in(part, kind) for part in parts if part["type"] == kind] for kind in ("image", "video")}
        own = any(value is not None for values in held.values() for value in values)
        nothing = (missing(pictures) or pictures == []) and (optional or own or held["video"] or not missing(films))
        stills, fault = ([], None) if nothing else _sources(pictures, base)
        videos, wrong = ([], None) if missing(films) else _films(films, base)
        faults = [fault, wrong]
        if own:
            stills, fault = _filled([_one(value, base) for value in held["image"]], stills)
            rates = [part.get("fps") for part in parts if part["type"] == "video"]
            filled = [_held(value, rate, base) for value, rate in zip(held["video"], rates, strict=True)]
            videos, wrong = _filled(filled, videos)
            faults += [fault, wrong]
        return cls(tuple(stills), tuple(videos), next(filter(None, faults), None))


def _parts_of(messages: Any) -> Iterator[Mapping[str, Any]]:
    """The pictures and videos among the parts of chat messages, in their order; none of what is not such a list."""
    spelled = listed(messages) if isinstance(messages, str) else messages
    for message in spelled if isinstance(spelled, list | tuple) else ():
        content = message.get("content") if isinstance(message, Mapping) else None
        for part in content if isinstance(content, list | tuple) else ():
            if isinstance(part, Mapping) and part.get("type") in ("image", "video"):
                yield part


def _sources(value: Any, base: Path) -> tuple[list[PictureSource], str | None]:
    """Where the pictures of a value lie, one or a list of several, or what is wrong with the first that is wrong."""
    several = _several(value)
    found = [source(one, base) for one in ([value] if several is None else several or [None])]
    wrong = next((wrong for _, wrong in found if wrong), None)
    return [one for one, _ in found if one is not None], wrong


def source(value: Any, base: Path) -> tuple[PictureSource | None, str | None]:
    """Where the picture of a value lies, or what is wrong with the value."""
    if isinstance(value, Mapping):  # Hugging Face's Image: bytes, or else a path
        content, path = value.get("bytes"), value.get("path")
        return source(content if content is not None else path, base)
    if isinstance(value, bytes | bytearray | memoryview):
        return (PictureSource(content=bytes(value)), None) if len(value) else (None, "the picture has 0 bytes")
    if missing(value):
        return None, "there is no picture"
    if not isinstance(value, str):
        return None, f"the picture is no path and no bytes but {type(value).__name__}"
    if is_data_url(value):
        try:
            return PictureSource(content=data_url(value)), None
        except RelevancyError as error:
            return None, str(error)
    name = clean(value)
    if value.startswith(("http://", "https://")):
        return PictureSource(
            name
        ), f"{name[:_LONGEST_SHOWN]}: is a web address; download the picture first and give the file"
    if name != value or "\0" in value:
        return PictureSource(name), f"{name[:_LONGEST_SHOWN]!r}: is not a path"
    return PictureSource(name, str(base / value)), None


def _films(value: Any, base: Path) -> tuple[list[FilmSource], str | None]:
    """The videos of a value: one, a folder or a list of its frames; or a list of several."""
    several = _several(value)
    one = several is None or not several or isinstance(several[0], bytes | Mapping) or _names_picture(several[0])
    found = [_film(each, None, base) for each in ([several or value] if one or several is None else several)]
    return [film for film, _ in found if film is not None], next((wrong for _, wrong in found if wrong), None)


def _film(value: Any, fps: Any, base: Path) -> tuple[FilmSource | None, str | None]:
    """A video of a folder's name, of a list of frames, or of both with their rate, {"video": .., "fps": 2}."""
    if isinstance(value, Mapping):
        return _film(source_in(value, "video"), value.get("fps"), base)
    name: str | None = None
    if isinstance(value, str):
        if value.startswith(("http://", "https://")):
            return None, f"{clean(value)[:_LONGEST_SHOWN]}: is a web address; download the video first"
        name = clean(value)
        try:
            value = [str(Path(name) / frame.name) for frame in frames_in(base / name)]
        except (RelevancyError, OSError, ValueError) as error:
            return None, str(error)
    if not isinstance(value, list | tuple) or not value:
        return None, "a video is a list of pictures, its frames in their order, or the folder that holds them"
    frames, wrong = _sources(value, base)
    if wrong is not None:
        return None, wrong
    if fps is not None and not isinstance(fps, int | float):
        return None, f"fps is how many of a video's frames make a second, such as 2, not {fps!r}"
    return FilmSource(tuple(frames), name, fps), None


def _one(value: Any, base: Path) -> tuple[PictureSource | None, str | None] | None:
    return None if value is None else source(value, base)


def _held(value: Any, fps: Any, base: Path) -> tuple[FilmSource | None, str | None] | None:
    return None if value is None else _film(value, fps, base)


def _filled(places: Sequence[Any], given: Sequence[Any]) -> tuple[list[Any], str | None]:
    """What stands in each place of messages: its own, or, where it has none, what the row gives beside them."""
    left = iter(given)
    found = [(next(left, None), None) if own is None else own for own in places]
    short = any(one is None and wrong is None for one, wrong in found) or next(left, None) is not None
    wrong = next((wrong for _, wrong in found if wrong), None)
    fault = "the messages have other places for pictures and videos than the row has of them" if short else wrong
    return [one for one, _ in found if one is not None], fault


def _names_picture(value: Any) -> bool:
    return isinstance(value, str) and (
        is_data_url(value) or Path(value).suffix.lower() in Image.registered_extensions()
    )


def _several(value: Any) -> Sequence[Any] | None:
    """The pictures of a list, also of one that a CSV spells; None for what is no list."""
    spelled = listed(value) if isinstance(value, str) and value.startswith(("['", '["', "[]")) else value
    return spelled if isinstance(spelled, list | tuple) else None
