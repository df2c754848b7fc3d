"""Frames of a video, in whatever form a user has them -> upright RGB pictures of one size."""

from __future__ import annotations

__all__ = ["Film", "Video", "frames_in", "open_shown", "open_video"]

import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from relevancy.errors import RelevancyError
from relevancy.images import MAX_PIXELS, Picture, Source, is_there, open_picture


@dataclass(frozen=True)
class Film:
    """What a user gives for a video: pictures in their order, an array (frames, height, width, 3), or their folder.

    fps: frames a second, None where it is not known.
    """

    frames: Sequence[Source] | np.ndarray | str | os.PathLike[str]
    fps: float | None = None


@dataclass(frozen=True, eq=False)
class Video:
    """Frames of one size in their order; fps: of them a second, None where it is not known."""

    frames: tuple[Picture, ...]
    fps: float | None = None

    @property
    def size(self) -> tuple[int, int, int]:
        """How many frames, their width and height."""
        return len(self.frames), *self.frames[0].size

    @property
    def notes(self) -> tuple[str, ...]:
        """What was done to the frames, each note once."""
        return tuple(dict.fromkeys(note for frame in self.frames for note in frame.notes))

    def pixels(self) -> np.ndarray:
        """(frames, height, width, 3) uint8."""
        return np.stack([np.asarray(frame.image) for frame in self.frames])


def open_video(film: Film, *, max_pixels: int = MAX_PIXELS) -> Video:
    """The frames of a video, each as `open_picture` opens it; a folder's pictures by name, numbers as numbers.

    Raises RelevancyError for what holds no frames, for frames of different sizes, and for a video file.
    """
    sources: Any = film.frames
    if isinstance(sources, str | os.PathLike):
        sources = frames_in(Path(sources))
    if not isinstance(sources, list | tuple | np.ndarray) or not len(sources):
        raise RelevancyError("a video is a list of pictures, its frames in their order, or the folder that holds them")
    frames = tuple(open_picture(source, max_pixels=max_pixels) for source in sources)
    sizes = dict.fromkeys(frame.size for frame in frames)
    if len(sizes) > 1:
        told = " and ".join(f"{width} x {height}" for width, height in list(sizes)[:2])
        raise RelevancyError(f"the frames of a video must be of one size, not {told}")
    fps = film.fps
    if fps is not None and not (isinstance(fps, int | float) and 0 < fps < math.inf):
        raise RelevancyError(f"fps is how many of the frames make a second, such as 2, not {fps!r}")
    return Video(frames, fps)


def open_shown(source: Source | Film, *, max_pixels: int = MAX_PIXELS) -> Picture | Video:
    """A picture or a video, whichever it is. Raises RelevancyError."""
    if isinstance(source, Film):
        return open_video(source, max_pixels=max_pixels)
    return open_picture(source, max_pixels=max_pixels)


def frames_in(folder: Path) -> list[Path]:
    """The pictures of a folder in the order of their names. Raises RelevancyError."""
    if not folder.is_dir():
        what = "is no folder" if is_there(folder) else "no such folder"
        raise RelevancyError(
            f"{folder}: {what}; a video is given as a folder of its frames: ffmpeg -i {folder.name} -vf fps=2 "
            "frames/%04d.png writes two a second"
        )
    found = [file for file in folder.iterdir() if file.suffix.lower() in Image.registered_extensions()]
    if not found:
        raise RelevancyError(f"{folder}: holds no pictures")
    return sorted(
        found, key=lambda file: [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", file.name)]
    )
