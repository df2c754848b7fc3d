"""A frozen tower looks at each picture of a data set once; its features are kept in a file, in bfloat16.

Worth it where the same pictures are read several times and the disk has room: CLIP's 577 tokens of 1,024 values take
1.2 MB a picture. Workers and later runs share the file through the page cache.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import LlavaForConditionalGeneration

from relevancy.atomic_io import synced, write_whole, writing
from relevancy.errors import RelevancyError
from relevancy.train.data.dialogues import Picture
from relevancy.train.data.examples import Encoder
from relevancy.train.data.sources import Dialogues
from relevancy.train.presets import digest

FILE, INDEX = "features.bin", "features.json"
_BATCH = 32
_KEPT = 32  # batches; a pass that is stopped has lost no more


class CachedEncoder(Encoder):
    """An encoder whose pictures are rows of a file: (pictures, tokens, width) where another gives pixels."""

    def __init__(self, encoder: Encoder, rows: np.ndarray, places: dict[str, int]) -> None:
        vars(self).update(vars(encoder))
        self.picture_shape = rows.shape[1:]
        self._rows, self._places = rows, places

    def pixels(self, images: tuple[Picture, ...]) -> Tensor:
        """Features (pictures, tokens, width) bfloat16. Raises RelevancyError for a picture that would not open."""
        unknown = [image for image in images if _name(image) not in self._places]
        if unknown:
            raise RelevancyError(f"{_told(unknown[0])} would not open when the tower looked at the data")
        found = np.stack([self._rows[self._places[_name(image)]] for image in images])
        return torch.from_numpy(found).view(torch.bfloat16)


def cached(
    encoder: Encoder,
    dialogues: Dialogues,
    model: LlavaForConditionalGeneration,
    folder: Path,
    progress: Callable[[float], None] | None = None,
) -> CachedEncoder:
    """The encoder on features that lie in `folder`, or are put there now: one pass of the tower over all pictures.

    It leaves out those that lie there: a pass that was stopped goes on, and mended pictures come in. All are made anew
    where they are another tower's, layer's or framing's.
    """
    known = _Features.of(folder, _key(encoder, model))
    _look(encoder, dialogues, model, known, progress)
    rows = np.memmap(folder / FILE, np.int16, "r", shape=(len(known.names), *known.shape))
    return CachedEncoder(encoder, rows, {name: place for place, name in enumerate(known.names)})


@dataclass
class _Features:
    """Rows of a file in a folder; its index says under which key they are, and of which pictures, in their order."""

    folder: Path
    key: str
    shape: Sequence[int] = ()
    names: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, folder: Path, key: str) -> _Features:
        """What lies there under this key; what was written after the index was is let go of. Raises RelevancyError."""
        index, file = folder / INDEX, folder / FILE
        known = cls(folder, **json.loads(index.read_text())) if index.exists() else cls(folder, key)
        size = len(known.names) * math.prod(known.shape) * np.dtype(np.int16).itemsize
        if known.key != key or size > (file.stat().st_size if file.exists() else 0):
            known, size = cls(folder, key), 0
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            if not size:
                index.unlink(missing_ok=True)
            with file.open("ab") as stream:
                stream.truncate(size)
        return known

    def add(self, names: Iterable[str], features: Tensor) -> None:
        """Rows (pictures, tokens, width) bfloat16, which count from the next `keep` on. Raises RelevancyError."""
        with writing(self.folder), (self.folder / FILE).open("ab") as stream:
            stream.write(features.contiguous().view(torch.int16).numpy().tobytes())
        self.names += names
        self.shape = features.shape[1:]

    def keep(self) -> None:
        """Write the index, once all rows are on the disk. Raises RelevancyError."""
        with writing(self.folder):
            synced(self.folder / FILE)
            told = {"key": self.key, "shape": list(self.shape), "names": self.names}
            write_whole(self.folder / INDEX, json.dumps(told))


@torch.no_grad()
def _look(
    encoder: Encoder,
    dialogues: Dialogues,
    model: LlavaForConditionalGeneration,
    known: _Features,
    progress: Callable[[float], None] | None,
) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tower = model.model.vision_tower.to(device).eval()
    layer = model.config.vision_feature_layer
    for number, (batch, share) in enumerate(_batches(encoder, dialogues, known.names), 1):
        pixels = torch.cat(list(batch.values())).to(device, tower.dtype)
        known.add(batch, tower(pixels, output_hidden_states=True).hidden_states[layer].to(torch.bfloat16).cpu())
        if number % _KEPT == 0:
            known.keep()
        if progress:
            progress(share)
    known.keep()
    tower.cpu()


def _batches(encoder: Encoder, dialogues: Dialogues, known: Iterable[str]) -> Iterator[tuple[dict[str, Tensor], float]]:
    """Pixels (1, 3, height, width) of each picture not known that opens, by name; and the share of the data read."""
    seen = set(known)
    batch: dict[str, Tensor] = {}
    for place in range(len(dialogues)):
        for image in dialogues[place].images:
            name = _name(image)
            if name in seen:
                continue
            seen.add(name)
            try:
                batch[name] = encoder.pixels((image,))
            except RelevancyError:
                continue  # named when its sample is read
        if len(batch) >= _BATCH:
            yield batch, (place + 1) / len(dialogues)
            batch = {}
    if batch:
        yield batch, 1.0


def _key(encoder: Encoder, model: LlavaForConditionalGeneration) -> str:
    """What decides the features besides the pictures: the tower, its layer, how pictures are brought to it."""
    weights = hashlib.sha256()
    for value in model.model.vision_tower.state_dict().values():
        weights.update(value.flatten()[:64].float().numpy().tobytes())
    processor = encoder._images.to_dict()
    plain = json.loads(json.dumps(processor, default=str, sort_keys=True))
    return digest({"tower": weights.hexdigest(), "layer": model.config.vision_feature_layer, "pictures": plain})


def _name(image: Picture) -> str:
    if isinstance(image, Path):
        return str(image)
    raw = image.tobytes() if isinstance(image, Image.Image) else image
    return hashlib.sha256(raw).hexdigest()


def _told(image: Picture) -> str:
    return str(image) if isinstance(image, Path) else "a picture"
