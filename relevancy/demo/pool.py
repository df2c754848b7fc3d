"""Many scenes drawn ahead of training by several processes: small pictures, patch labels, layouts. No torch here."""

from __future__ import annotations

import multiprocessing
import os
import pickle
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from relevancy.atomic_io import whole
from relevancy.demo.layout import COLORS, DISTRACTORS, GROUNDS, KINDS, SUPPORTS, SceneLayout
from relevancy.demo.world import Scene, scene

LABELS = {  # what the tower learns to say about each patch: number of classes; class 0 is "no object"
    "kind": 1 + len(KINDS) + len(DISTRACTORS),
    "color": 1 + len(COLORS),
    "support": 1 + len(SUPPORTS),
    "ground": len(GROUNDS),
    "middle": 2,
}
MIN_COVER = 0.4  # a patch belongs to an object that covers at least this share of it
CHUNK = 250
COARSE = 4  # labels are counted on every fourth pixel in both directions


@dataclass(frozen=True)
class Pool:
    """Scenes as arrays, first axis the scene."""

    pixels: np.ndarray  # (scenes, size, size, 3) uint8, resized as the image processor does
    labels: dict[str, np.ndarray]  # each (scenes, patches) int8
    layouts: list[SceneLayout]
    shares: list[np.ndarray]

    def __len__(self) -> int:
        return len(self.layouts)


def shrink(pixels: np.ndarray, size: int) -> np.ndarray:
    """Bicubic resize by PIL: for square pictures exactly what CLIP's image processor does before normalizing."""
    return np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC))


def patch_labels(drawn: Scene, patches: int) -> dict[str, np.ndarray]:
    """What each of `patches` x `patches` patches shows, each (patches**2,) int8.

    Kind, color and support of the object that covers most of it, the ground that fills most of it, and whether it holds
    the middle of an object's visible part.
    """
    items = drawn.layout.items
    owner = drawn.owner[::COARSE, ::COARSE]
    cell = len(owner) // patches
    blocks = owner.reshape(patches, cell, patches, cell).swapaxes(1, 2).reshape(patches * patches, -1)
    cover = np.stack([(blocks == index).mean(1) for index in range(len(items))], 1)
    best, held = cover.argmax(1), cover.max(1) >= MIN_COVER
    names = [*KINDS, *DISTRACTORS]
    kinds = np.array([1 + names.index(item.kind) for item in items])
    colors = np.array([1 + COLORS.index(item.color) if item.color else 0 for item in items])
    supports = np.array([1 + SUPPORTS.index(item.support) for item in items])
    regions = drawn.layout.ground.regions(patches * 4).reshape(patches, 4, patches, 4).swapaxes(1, 2)
    cells = regions.reshape(patches * patches, -1)
    ground = np.stack([(cells == index).sum(1) for index in range(len(GROUNDS))], 1).argmax(1)
    middle = np.zeros(patches * patches, np.int8)
    for index, item in enumerate(items):
        rows, columns = np.nonzero(owner == index)
        if item.kind in KINDS and len(rows):
            middle[int(rows.mean() // cell) * patches + int(columns.mean() // cell)] = 1
    labels = {"kind": kinds[best] * held, "color": colors[best] * held, "support": supports[best] * held}
    return {name: values.astype(np.int8) for name, values in (labels | {"ground": ground, "middle": middle}).items()}


_Drawn = tuple[np.ndarray, dict[str, np.ndarray], list[SceneLayout], list[np.ndarray]]


def _draw(seeds: Sequence[int], size: int, patches: int) -> _Drawn:
    cv2.setNumThreads(1)
    pixels, labels, layouts, shares = [], [], [], []
    for seed in seeds:
        drawn = scene(seed)
        pixels.append(shrink(drawn.pixels, size))
        labels.append(patch_labels(drawn, patches))
        layouts.append(drawn.layout)
        shares.append(drawn.shares)
    stacked = {name: np.stack([one[name] for one in labels]) for name in LABELS}
    return np.stack(pixels), stacked, layouts, shares


def draw_pool(
    seeds: range, size: int, patches: int, workers: int | None = None, progress: Callable[[float], None] | None = None
) -> Pool:
    """Draw the scenes of these seeds with `workers` processes, one per core by default."""
    workers = workers or os.cpu_count() or 1
    chunks = [seeds[start : start + CHUNK] for start in range(0, len(seeds), CHUNK)]
    draw = partial(_draw, size=size, patches=patches)
    parts = []
    for part in _map(draw, chunks, workers):
        parts.append(part)
        if progress:
            progress(len(parts) / len(chunks))
    labels = {name: np.concatenate([part[1][name] for part in parts]) for name in LABELS}
    layouts = [layout for part in parts for layout in part[2]]
    shares = [share for part in parts for share in part[3]]
    return Pool(np.concatenate([part[0] for part in parts]), labels, layouts, shares)


def _map(draw: Callable, chunks: list[range], workers: int) -> Iterator:
    if workers == 1 or len(chunks) == 1:
        yield from map(draw, chunks)
        return
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as processes:
        yield from processes.map(draw, chunks)


def keep_pool(
    file: Path,
    seeds: range,
    size: int,
    patches: int,
    workers: int | None = None,
    progress: Callable[[float], None] | None = None,
) -> None:
    """Draw the scenes of these seeds into a file, unless it is there."""
    if not file.exists():
        pool = draw_pool(seeds, size, patches, workers, progress)
        with whole(file) as part:
            part.write_bytes(pickle.dumps(pool))


@lru_cache(1)
def kept_pool(file: Path) -> Pool:
    """What `keep_pool` has drawn."""
    pool: Pool = pickle.loads(file.read_bytes())
    return pool
