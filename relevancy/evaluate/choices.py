"""The choices in which models differ: what the record of a training carries, and what a file says of others."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from relevancy.atomic_io import write_whole
from relevancy.data.inputs import open_input
from relevancy.data.reader import Broken
from relevancy.errors import RelevancyError, shortened
from relevancy.evaluate.files import read_object

SEED = "seed"
"""The choice that makes another run of a model, not another model."""

PRETRAINED = ("pretrained", "not pretrained")
_FILE, _TRAINED = "choices.json", "training.json"
Choices = Mapping[str, str]
"""Choice -> the value that a model has of it."""


def write_choices(model: str, folder: Path) -> None:
    """FOLDER/choices.json, where `model` is a folder that `relevancy train` wrote; else nothing."""
    if (record := Path(model, _TRAINED)).is_file():
        write_whole(folder / _FILE, json.dumps(_trained(read_object(record), record), ensure_ascii=False) + "\n")


def read_choices(folder: Path) -> Choices:
    """What `write_choices` wrote; empty where it wrote nothing."""
    path = folder / _FILE
    return {name: str(value) for name, value in read_object(path).items()} if path.is_file() else {}


def choices_in(path: Path) -> dict[str, Choices]:
    """Model -> its choices, from rows (CSV, JSON lines, Parquet) of `model` and a column a choice. RelevancyError."""
    found: dict[str, Choices] = {}
    for number, row in enumerate(open_input(str(path)).rows(), 1):
        if isinstance(row, Broken) or not row.get("model"):
            raise RelevancyError(f"{path}, row {number}: needs model, the name of a folder of scores.")
        name = str(row["model"])
        if name in found:
            raise RelevancyError(f"{path}: {shortened(name)} stands there twice.")
        found[name] = {key: str(value) for key, value in row.items() if key != "model" and value not in (None, "")}
    return found


def _trained(record: Mapping[str, object], path: Path) -> Choices:
    preset = record.get("preset")
    if not isinstance(preset, dict) or not {"language", "vision", "seed"} <= preset.keys():
        raise RelevancyError(f"{path}: is not what relevancy train writes.")
    return {
        "decoder": str(preset["language"]),
        "tower": str(preset["vision"]),
        "connector": PRETRAINED[preset.get("align") is None],
        SEED: str(preset["seed"]),
    }
