"""One input row as the pipeline knows it, and where its picture lies."""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from relevancy.errors import RelevancyError

_BLOCK = 1 << 20
_MEMBER = ".tar::"
_LARGEST_MEMBER = 1 << 30


@dataclass(frozen=True)
class PictureSource:
    """Where a picture's encoded bytes are.

    name: as the input calls it, `shard.tar::member` inside a tar; None for bytes. path: the file to open; of a member,
    with the tar's own path. content: the bytes, where the input holds them.
    """

    name: str | None = None
    path: str = ""
    content: bytes | None = field(default=None, repr=False)

    @cached_property
    def key(self) -> str:
        """Equal for rows that ask about the same picture."""
        return self.path if self.content is None else picture_hash(self.content)

    @property
    def encoded(self) -> bytes | str:
        """What `open_picture` takes: the bytes, or the path of a file that holds nothing else.

        Raises RelevancyError for a member that is gone.
        """
        if self.content is not None:
            return self.content
        if _MEMBER not in self.path:
            return self.path
        tar, _, member = self.path.rpartition("::")
        place = _members(tar).get(member)
        if place is None:
            raise RelevancyError(f"{Path(tar).name} has no member {member}")
        offset, size = place
        if size > _LARGEST_MEMBER:
            raise RelevancyError(f"{self.name}: {size:,} bytes are more than a picture may have")
        with Path(tar).open("rb") as stream:
            stream.seek(offset)
            return stream.read(size)


def picture_hash(encoded: bytes | str) -> str:
    """BLAKE2b of a picture's encoded bytes, 32 hex digits; of `Source.encoded`."""
    if isinstance(encoded, bytes):
        return hashlib.blake2b(encoded, digest_size=16).hexdigest()
    digest = hashlib.blake2b(digest_size=16)
    with Path(encoded).open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


@lru_cache(maxsize=8)
def _members(tar: str) -> Mapping[str, tuple[int, int]]:
    """Where the plain files of a tar lie in it: offset and size by name."""
    try:
        with tarfile.open(tar, "r:") as archive:
            return {member.name: (member.offset_data, member.size) for member in archive if member.isfile()}
    except (OSError, tarfile.TarError) as error:
        raise RelevancyError(f"{tar}: cannot be read as a tar ({error})") from error


@dataclass(frozen=True)
class FilmSource:
    """Where a video's frames are, in their order.

    name: as the input calls its folder; None for a list of frames. fps: of them a second, None where it is not known.
    """

    frames: tuple[PictureSource, ...]
    name: str | None = None
    fps: float | None = None


@dataclass(frozen=True)
class Item:
    """One input row: what is asked about which picture, and what travels with it.

    others: the question's further pictures. films: its videos. messages: of a conversation, chat messages in
    transformers' format as JSON, with places for its pictures and videos; `question` is then what is asked last.
    fault: why it cannot be explained; the other fields are then what is known of it.
    boxes: (x0, y0, x1, y1) in the picture's pixels, or all of them as shares of its sides. extras: the further columns.
    """

    row: int
    id: str
    picture: PictureSource | None = None
    question: str | None = None
    others: tuple[PictureSource, ...] = field(default=(), kw_only=True)
    films: tuple[FilmSource, ...] = field(default=(), kw_only=True)
    messages: str | None = field(default=None, kw_only=True)
    expected: str | None = None
    boxes: tuple[tuple[float, float, float, float], ...] | None = None
    mask: str | None = None
    mask_png: bytes | None = field(default=None, repr=False)
    extras: Mapping[str, Any] = field(default_factory=dict, repr=False)
    notes: tuple[str, ...] = ()
    fault: str | None = None

    @property
    def pictures(self) -> tuple[PictureSource, ...]:
        """All of its pictures in their order."""
        return (self.picture, *self.others) if self.picture else ()

    @property
    def shown(self) -> tuple[PictureSource | FilmSource, ...]:
        """Pictures and videos in the order in which they stand in its messages, or pictures first."""
        if self.messages is None or not self.films:
            return (*self.pictures, *self.films)
        pictures, films = iter(self.pictures), iter(self.films)
        kinds = [part["type"] for message in json.loads(self.messages) for part in message["content"]]
        return tuple(next(films) if kind == "video" else next(pictures) for kind in kinds if kind != "text")

    @property
    def sources(self) -> tuple[PictureSource, ...]:
        """Every picture and every frame, in that order."""
        return tuple(one for each in self.shown for one in (each.frames if isinstance(each, FilmSource) else (each,)))

    @property
    def size(self) -> int:
        """About how many bytes it holds."""
        content = sum(len(source.content or b"") for source in self.sources)
        return 500 + content + len(self.messages or self.question or "") + len(self.mask_png or b"")
