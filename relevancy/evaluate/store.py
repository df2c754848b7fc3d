"""A model's scores in its folder: what they are, and the sums over pictures by which models are compared."""

from __future__ import annotations

import json
from pathlib import Path
from zipfile import BadZipFile

from relevancy.atomic_io import whole, write_whole, writing
from relevancy.errors import RelevancyError, shortened
from relevancy.evaluate.scores import BenchmarkScore, PictureSums


def write_score(found: BenchmarkScore, folder: Path) -> None:
    """FOLDER/BENCHMARK.json, and BENCHMARK.npz with what paired differences to other models need."""
    text = json.dumps(found.to_json(), ensure_ascii=False, allow_nan=False) + "\n"
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with whole(folder / f"{found.benchmark}.npz") as part, part.open("wb") as stream:
            if found.sums is not None:
                found.sums.write(stream)
        write_whole(folder / f"{found.benchmark}.json", text)


def read_sums(folder: Path, name: str) -> PictureSums | None:
    """What `write_score` wrote of a benchmark's sums; None where there are none. Raises RelevancyError."""
    path = folder / f"{name}.npz"
    if not path.is_file():
        return None
    try:
        with path.open("rb") as stream:
            return PictureSums.read(stream)
    except (OSError, ValueError, KeyError, BadZipFile) as error:
        raise RelevancyError(f"{path}: cannot be read ({shortened(error)}); score this model again.") from error
