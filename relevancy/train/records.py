"""What stands beside the weights: the resolved configuration, its fingerprint, all versions, and how far a run is."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from relevancy import formats
from relevancy.atomic_io import LOCK, locked, write_whole, writing
from relevancy.errors import RelevancyError
from relevancy.train.checkpoints import begun, finished, step_of
from relevancy.train.presets import Preset, digest, from_plain, resolved

FILE, SKIPPED = "configuration.json", "skipped.jsonl"
_PATIENCE, _PAUSE = 600.0, 0.1  # seconds
_PACKAGES = (
    "relevancy", "torch", "transformers", "accelerate", "tokenizers", "safetensors", "numpy", "pillow", "peft",
    "deepspeed", "bitsandbytes", "datasets",
)  # fmt: skip


def versions() -> dict[str, str]:
    """Of Python and of every library that had a part in the result."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    present = {name for names in metadata.packages_distributions().values() for name in names}
    return found | {name: metadata.version(name) for name in _PACKAGES if name in present}


def configuration(preset: Preset, sources: Mapping[str, Mapping[str, Any]], processes: int) -> dict[str, Any]:
    """All that decides a run's weights, under one hash, and what was there besides."""
    deciding = {"preset": resolved(preset), "data": {name: dict(source) for name, source in sources.items()}}
    told = {formats.KEY: formats.TRAINING}
    return told | _hashed(deciding | {"processes": processes, "versions": versions()})


def _hashed(found: Mapping[str, Any]) -> dict[str, Any]:
    return {**found, "hash": digest({key: found[key] for key in ("preset", "data")})}


@contextmanager
def held(out: Path) -> Iterator[None]:
    """Within the block no other process works on `out`. Raises RelevancyError for a folder that is no run's."""
    if out.is_dir() and not (out / FILE).exists() and any(path.name != LOCK for path in out.iterdir()):
        raise RelevancyError(f"{out} is not empty and holds no run: choose another --out")
    with locked(out):
        yield


def claim(out: Path, wanted: Mapping[str, Any], *, resume: bool) -> None:
    """Make `out`, which is held, this run's, or refuse: another configuration, or a stop and `resume` was not said.

    A stage that is new to the folder may be added: `align` first, `finetune` in a later command.
    """
    file = out / FILE
    if file.exists():
        present = _read(file)
        differing, reached = _differing(present, wanted), progress_of(out)
        if differing and reached:
            raise RelevancyError(
                f"{out} holds a run with another configuration ({differing}): choose another --out or the same settings"
            )
        if reached and not resume and set(wanted["data"]) <= set(present["data"]):
            raise RelevancyError(f"{out} holds a run that is {reached}: add --resume to go on, or choose another --out")
        if reached:
            wanted = _hashed({**wanted, "data": present["data"] | wanted["data"]})
    with writing(out):
        for stage in wanted["data"]:
            if not finished(out / stage) and begun(out / stage) is None:  # what an earlier try skipped
                (out / stage / SKIPPED).unlink(missing_ok=True)
        write(file, wanted)


def skipped_in(out: Path, stage: str) -> int:
    """How many samples a stage could not train on."""
    file = out / stage / SKIPPED
    lines = file.read_text().splitlines() if file.exists() else []
    return len({json.loads(line)["position"] for line in lines if line.endswith("}")})


def write(file: Path, configuration: Mapping[str, Any]) -> None:
    """A configuration as a file, whole."""
    write_whole(file, json.dumps(configuration, indent=2) + "\n")


def await_claim(out: Path) -> None:
    """Wait until the first process has made `out` the run's; nothing is written to it before."""
    for _ in range(int(_PATIENCE / _PAUSE)):
        if (out / FILE).exists():
            return
        time.sleep(_PAUSE)
    raise RelevancyError(f"{out}: the first process wrote no {FILE} in {_PATIENCE:.0f} s; is the folder shared by all?")


def progress_of(out: Path) -> str:
    """How far a run is, in words; empty before its first checkpoint."""
    for name in ("finetune", "align"):
        if finished(out / name):
            return f"past its stage {name}"
        if checkpoint := begun(out / name):
            return f"at step {step_of(checkpoint)} of its stage {name}"
    return ""


def read(out: Path) -> dict[str, Any]:
    """The configuration of a run. Raises RelevancyError where there is none."""
    file = out / FILE
    if not file.is_file():
        raise RelevancyError(f"{out} holds no training run: there is no {FILE} in it")
    return _read(file)


def are_of_one_run(*files: Path) -> bool:
    """Whether two files hold configurations under which one run can go on."""
    try:
        return not _differing(*map(_read, files))
    except (OSError, RelevancyError):
        return False


def _read(file: Path) -> dict[str, Any]:
    try:
        stored = json.loads(file.read_text())
    except (ValueError, RecursionError) as error:
        raise RelevancyError(f"{file} is no JSON: it was changed by hand; choose another --out") from error
    formats.require_known(stored, formats.TRAINING, file)
    if missing := [name for name in ("preset", "data") if not isinstance(stored.get(name), dict)]:
        raise RelevancyError(f"{file} has no {' and no '.join(missing)}: it was changed by hand; choose another --out")
    return stored


def _differing(present: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """The first setting in which two configurations differ, in words; data of stages that both have.

    What a run of an older version could not set has its default.
    """
    for key, old, new in _pairs(resolved(from_plain(present["preset"])), wanted["preset"], ""):
        if old != new and not _free(key, present["preset"]):
            return f"{key} was {old!r}, now {new!r}"
    for stage in set(present["data"]) & set(wanted["data"]):
        if told := _other_data(present["data"][stage], wanted["data"][stage]):
            return f"the data of {stage}{told}"
    return ""


def _free(key: str, preset: Mapping[str, Any]) -> bool:
    """Whether a setting changes no result, and so may change between a stop and going on."""
    stage, _, name = key.partition(".")
    values = preset[stage] if name else {}
    return name == "save_every" or (name == "micro" and values["token_mean"] and not values["looking_cost"])


def _other_data(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """What is other about a stage's data, in words. It may have moved, but must be the same."""
    was, now = old.get("fingerprint"), new.get("fingerprint")
    if was is None or now is None:  # version 0.1.0 wrote where it was alone
        places = ("data", "images")
        return "" if all(old.get(name) == new.get(name) for name in places) else " lies elsewhere"
    if was["samples"] != now["samples"]:
        return f": {was['samples']} samples then, {now['samples']} now"
    if was["entries"] != now["entries"]:
        return ": its entries were changed, or their order"
    return "" if was["pictures"] == now["pictures"] else ": its pictures were changed, or some are missing"


def _pairs(old: Any, new: Any, key: str) -> Any:
    if not (isinstance(old, dict) and isinstance(new, dict)):
        yield key, old, new
        return
    for name in sorted({*old, *new}):
        yield from _pairs(old.get(name), new.get(name), f"{key}.{name}" if key else name)
