"""A model's scores in its folder: what they are, each answer's own, and the sums by which models are compared."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from relevancy.atomic_io import whole, write_whole, writing
from relevancy.errors import RelevancyError, shortened
from relevancy.evaluate.benchmarks import BENCHMARKS
from relevancy.evaluate.scores import BenchmarkScore, PictureSums


@dataclass(frozen=True, eq=False)
class AnswerScores:
    """Of each question the picture that it is about, and how right the answer is, from 0 to 1; all (questions,)."""

    questions: tuple[str, ...]
    pictures: tuple[str, ...]
    right: np.ndarray


def write_score(found: BenchmarkScore, folder: Path) -> None:
    """FOLDER/BENCHMARK.json, and BENCHMARK.npz with each answer's score and what paired differences need."""
    text = json.dumps(found.to_json(), ensure_ascii=False, allow_nan=False) + "\n"
    arrays = {} if found.sums is None else found.sums.arrays()
    arrays |= {
        "questions": np.array(list(found.rights)), "right": np.array(list(found.rights.values()), np.float64),
        "about": np.array(found.pictures),
    }  # fmt: skip
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with whole(folder / f"{found.benchmark}.npz") as part, part.open("wb") as stream:
            np.savez_compressed(stream, allow_pickle=False, **arrays)
        write_whole(folder / f"{found.benchmark}.json", text)


def read_sums(folder: Path, name: str) -> PictureSums | None:
    """What `write_score` wrote of a benchmark's sums; None where there are none. Raises RelevancyError."""
    with _arrays(folder, name) as found:
        return PictureSums.of_arrays(found) if "keys" in found else None


def read_answer_scores(folder: Path, name: str) -> AnswerScores | None:
    """What `write_score` wrote of the single answers; None where there is nothing. Raises RelevancyError."""
    with _arrays(folder, name) as found:
        if "questions" not in found:
            return None
        return AnswerScores(tuple(map(str, found["questions"])), tuple(map(str, found["about"])), found["right"])


def models_in(folders: Sequence[Path]) -> dict[str, Path]:
    """The folders of single models, by the names that they are called by: each given one, or those in it with scores.

    Raises RelevancyError for two of one name.
    """
    found: dict[str, Path] = {}
    for folder in folders:
        inner = sorted(own for own in folder.iterdir() if own.is_dir() and _scored(own)) if folder.is_dir() else []
        for own in [folder] if _scored(folder) or not inner else inner:
            name = own.resolve().name
            if name in found:
                raise RelevancyError(
                    f"Two of the folders are named {name}, and a model is named after its folder; rename one."
                )
            found[name] = own
    return found


def _scored(folder: Path) -> bool:
    return any((folder / f"{name}.json").is_file() for name in BENCHMARKS)


@contextmanager
def _arrays(folder: Path, name: str) -> Iterator[Mapping[str, np.ndarray]]:
    path = folder / f"{name}.npz"
    if not path.is_file():
        yield {}
        return
    try:
        with np.load(path) as found:
            yield found
    except (OSError, ValueError, KeyError, BadZipFile) as error:
        raise RelevancyError(f"{path}: cannot be read ({shortened(error)}); score this model again.") from error
