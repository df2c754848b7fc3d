"""What an export is asked for, and how its work is shaped: models in memory together, processes, batches."""

from __future__ import annotations

__all__ = ["ENGINES", "MAP_DTYPES", "Request"]

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from relevancy.data.columns import Columns
from relevancy.errors import RelevancyError
from relevancy.explanations.map_batch import ExplainConfig
from relevancy.export import engines
from relevancy.export.overlays import Wanted
from relevancy.images import MAX_PIXELS
from relevancy.models.device import device_for
from relevancy.models.model import Model

ENGINES = ("processes", "ray")
MAP_DTYPES = ("float32", "float16")


@dataclass(frozen=True)
class Request:
    """What to export, and how.

    models: names for `load`, or models in memory (which then work in this process). options: for `load`.
    batch: questions that a model reads at once; chunk: rows that are planned together. Both are chosen where None.
    processes: working processes, 0 for this one; decoders: for each of them, processes that open pictures ahead.
    maps: of which rows there is a map, all, none or sample:200; of the others the answer alone, which costs less.
    limit: only the first rows. part_rows, part_seconds: a part is written when so many rows are together, or after so
    long. address: of a Ray cluster; a local one without.
    """

    models: Sequence[str | Model]
    input: str
    out: Path
    kind: str | None = None
    columns: Columns = field(default_factory=Columns)
    pictures: Path | None = None
    wish: ExplainConfig = field(default_factory=ExplainConfig)
    options: Mapping[str, Any] = field(default_factory=dict)
    max_pixels: int = MAX_PIXELS
    map_dtype: str = "float32"
    overlays: str = "none"
    maps: str = "all"
    limit: int | None = None
    engine: str = "processes"
    address: str | None = None
    processes: int | None = None
    decoders: int | None = None
    together: bool | None = None
    batch: int | None = None
    chunk: int | None = None
    part_rows: int = 2000
    part_seconds: float = 60.0


def check(request: Request, names: Sequence[str]) -> None:
    """Raises RelevancyError for what is asked wrongly, before any input is read."""
    if not names:
        raise RelevancyError("Name at least one model.")
    if len(set(names)) < len(names):
        raise RelevancyError(f"A model is named twice in {', '.join(names)}: results could not be told apart.")
    if request.wish.several:
        raise RelevancyError(
            f'An export makes one map of each answer, not "{request.wish.target}": choose another target, as answer.'
        )
    for what, given, known in (
        ("engine", request.engine, ENGINES), ("map dtype", request.map_dtype, MAP_DTYPES)
    ):  # fmt: skip
        if given not in known:
            raise RelevancyError(f"There is no {what} {given!r}; choose from {', '.join(known)}.")
    if request.limit is not None and request.limit < 1:
        raise RelevancyError("--limit must be 1 or more.")
    Wanted.parsed(request.overlays, 0)
    Wanted.parsed(request.maps, 0, "--maps")


def turns(request: Request) -> list[Sequence[str | Model]]:
    """Models that stay in memory together: all, or one at a time where they are large or `together` is False."""
    if any(not isinstance(model, str) for model in request.models):
        return [request.models]
    together = request.together
    if together is None:
        together = len(request.models) == 1 or sum(sizes(request)) <= engines.SMALL
    return [request.models] if together else [[model] for model in request.models]


def sizes(request: Request) -> list[int]:
    """Parameters of the models that are given by name."""
    revision = request.options.get("revision")
    return [engines.parameters_of(model, revision) for model in request.models if isinstance(model, str)]


def names_of(models: Sequence[str | Model]) -> tuple[str, ...]:
    """The models' names, as results tell them."""
    return tuple(model if isinstance(model, str) else model.name for model in models)


def shape(request: Request, device: str) -> tuple[int, int | None, tuple[str, ...]]:
    """How many processes, the threads of each (None for all), and the devices that they take in turns.

    Together the processes have no more threads than cores, and none has more than this one may use.
    """
    if device == "cuda" and torch.cuda.is_available():
        count = torch.cuda.device_count()
        size = count if request.processes is None else request.processes
        return size, None, tuple(f"cuda:{number}" for number in range(count))
    if device != "cpu":
        return (1 if request.processes is None else request.processes), None, ()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if request.processes is not None:
        return request.processes, max(1, min(torch.get_num_threads(), cores // max(1, request.processes))), ()
    return (cores, 1, ()) if sum(sizes(request)) <= engines.SMALL else (1, None, ())


def decoders_for(request: Request, device: str) -> int:
    """Beside a model on the cores themselves, opening ahead would only take its place."""
    if request.decoders is not None:
        return request.decoders
    return 0 if device == "cpu" else 2


def planned_for(request: Request, earlier: Mapping[str, Any] | None) -> dict[str, int]:
    """How rows are batched: as it was when the export began, since sums in another order differ in their last bits.

    A chunk is what a process loses when it is killed, and what progress counts in: small where rows take long.
    """
    if earlier is not None:
        return dict(earlier["planning"])
    large = max(sizes(request), default=0) > engines.SMALL
    on_cpu = device_of(request) == "cpu"
    batch = request.batch or (4 if large and on_cpu else 32)
    return {"batch": batch, "chunk": request.chunk or (4 * batch if large else 128)}


def device_of(request: Request) -> str:
    """Where the models are to work."""
    return str(request.options.get("device") or device_for(None))
