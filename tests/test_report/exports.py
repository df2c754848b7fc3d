"""Exports written by the format's description alone, with values a test chooses."""

import hashlib
import json
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

WORDS = pa.dictionary(pa.int32(), pa.string())
COLUMNS = {
    "row": pa.int64(), "id": pa.string(), "model": pa.string(), "picture": pa.string(), "picture_hash": pa.string(),
    "question": pa.string(), "answer": pa.string(), "token": pa.string(), "token_id": pa.int64(),
    "position": pa.int32(), "probability": pa.float64(), "logit": pa.float64(), "expected": pa.string(),
    "correct": pa.bool_(), "share_image": pa.float64(), "share_text": pa.float64(),
    "share_first_token": pa.float64(), "width": pa.int32(), "height": pa.int32(), "rows": pa.int32(),
    "cols": pa.int32(), "x_edges": pa.list_(pa.float64()), "y_edges": pa.list_(pa.float64()),
    "image_map": pa.list_(pa.float32()), "tokens": pa.list_(pa.string()), "is_image": pa.list_(pa.bool_()),
    "relevance": pa.list_(pa.float32()), "answer_tokens": pa.list_(pa.string()),
    "boxes": pa.list_(pa.list_(pa.float64())), "mask": pa.string(), "mask_png": pa.binary(),
    "notes": pa.list_(pa.string()), "seconds": pa.float64(), "error": pa.string(), "scope": WORDS, "method": WORDS,
    "verdict": pa.string(), "evidence_probability": pa.float64(), "evidence_blind": pa.float64(),
    "evidence_blind_tv": pa.float64(),
}  # fmt: skip
EVIDENCE = [name for name in COLUMNS if name == "verdict" or name.startswith("evidence_")]
SIDE = 4  # cells of a map made here


def line(row: int, model: str = "small", /, **values: Any) -> dict[str, Any]:
    """One line of results, a 40 x 40 picture under a map of 4 x 4; any column may be given another value."""
    rng = np.random.default_rng([row, zlib.crc32(model.encode())])
    image, first = float(rng.uniform(0.2, 0.7)), float(rng.uniform(0.05, 0.2))
    moved = float(np.random.default_rng([row, zlib.crc32(model.encode()), 1]).uniform(0, 0.6))
    edges = np.linspace(0, 40, SIDE + 1).tolist()
    made = {
        "row": row, "id": f"item-{row}", "model": model, "picture": None, "picture_hash": f"picture-{row}",
        "question": f"What is in picture {row}?", "answer": "A duck.", "token": "▁A", "token_id": 5, "position": 0,
        "probability": float(rng.uniform(0.3, 1)), "logit": 7.0, "expected": "A duck.",
        "correct": bool(rng.integers(2)), "share_image": image, "share_text": 1 - image - first,
        "share_first_token": first, "width": 40, "height": 40, "rows": SIDE, "cols": SIDE, "x_edges": edges,
        "y_edges": edges, "image_map": rng.uniform(0, 1, SIDE * SIDE).astype(np.float32).tolist(),
        "tokens": ["<bos>", "<image>", "▁What"], "is_image": [False, True, False], "relevance": [0.1, 0.2, 0.3],
        "answer_tokens": ["▁A", "▁duck", "."], "boxes": None, "mask": None, "mask_png": None, "notes": [],
        "seconds": 0.1, "error": None, "scope": "language", "method": "relevancy",
        "evidence_blind_tv": moved,
    }  # fmt: skip
    made |= values
    moved, probability = made["evidence_blind_tv"], made["probability"]
    if moved is not None:
        verdict = "words alone" if moved < 0.1 else ("confirmed", "unconfirmed")[row % 3 == 0]
        loss = {"verdict": verdict, "evidence_probability": probability, "evidence_blind": (probability or 0) - moved}
        made = loss | made
    return made


def failed(row: int, model: str = "small", error: str = "no such file") -> dict[str, Any]:
    """A line that says why there is no result."""
    kept = {"row": row, "id": f"item-{row}", "model": model, "error": error}
    return dict.fromkeys(COLUMNS) | kept


def write_export(
    folder: Path, lines: Iterable[Mapping[str, Any]], *, part: int = 64, evidence: bool = True, **manifest: Any
) -> Path:
    """An export's folder: parts of `part` lines, and a manifest with the given entries changed.

    evidence: False leaves its columns out, as 0.1.0 did.
    """
    columns = {name: kind for name, kind in COLUMNS.items() if evidence or name not in EVIDENCE}
    listed = [{key: value for key, value in one.items() if key in columns or key not in COLUMNS} for one in lines]
    results = folder / "results"
    results.mkdir(parents=True)
    own = sorted({key for one in listed for key in one} - COLUMNS.keys())
    types = dict(columns)
    for key in own:
        types[key] = pa.array([one.get(key) for one in listed]).type
    schema = pa.schema(list(types.items()))
    for number, start in enumerate(range(0, len(listed), part)):
        rows = [{key: one.get(key) for key in types} for one in listed[start : start + part]]
        pq.write_table(pa.Table.from_pylist(rows, schema), results / f"part-{number:05d}.parquet")
    models = list(dict.fromkeys(one["model"] for one in listed))
    written = {
        "format": 1, "configuration": {"models": models, "target": "first", "scope": "language"},
        "configuration_hash": hashlib.sha256(str(models).encode()).hexdigest(), "models": models,
        "versions": {"relevancy": "0.1.0"}, "rows": len({one["row"] for one in listed}), "finished": True,
        "created": "2026-01-02T03:04:05+00:00",
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(written | manifest))
    return folder


def picture_file(folder: Path, number: int, size: tuple[int, int] = (40, 40)) -> Path:
    """A picture of noise on disk."""
    path = folder / f"{number}.png"
    pixels = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path
