"""What an export would take, from a sample of its rows; nothing is written."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from itertools import islice

import pyarrow.parquet as pq

from relevancy.data.arrow import pa
from relevancy.data.columns import Columns
from relevancy.export.chunks import Chunk
from relevancy.export.identity import ExportPlan
from relevancy.export.overlays import Wanted
from relevancy.export.request import Request, planned_for, turns
from relevancy.export.run import employed
from relevancy.parallel.worker_pool import WorkerCrash

SAMPLE = 20


@dataclass(frozen=True)
class ExportEstimate:
    """rows and models there are; of a sample of `sampled` rows `faults` could not be explained.

    seconds, bytes: estimated for the whole, without the time to load models. overlays: how many would be drawn.
    """

    rows: int
    models: tuple[str, ...]
    columns: Columns
    sampled: int
    faults: int
    seconds: float
    bytes: int
    overlays: int
    first_fault: str | None


def estimate(request: Request) -> ExportEstimate:
    """Look through the input and explain its first rows. Raises RelevancyError for what cannot be exported."""
    plan = ExportPlan.of(request)
    items = list(islice(plan.items(), SAMPLE))
    good = [item for item in items if item.fault is None]
    planning = planned_for(request, None)
    tables: list[pa.Table] = []
    seconds, fault = 0.0, next((item.fault for item in items if item.fault is not None), None)
    for models in turns(request) if good else ():
        with employed(replace(request, models=models), plan, planning) as engine:
            for _ in range(2):  # the first time warms up
                left = [Chunk(tuple(good))]
                start = time.perf_counter()
                ((_, table),) = engine.run(lambda left=left: left.pop() if left else None)  # type: ignore[misc]
                took = time.perf_counter() - start
            working = 1 if request.engine == "ray" else engine.size
            seconds += took / len(items) / working
            if not isinstance(table, WorkerCrash):
                tables.append(table)
                fault = fault or next((why for why in table["error"].to_pylist() if why is not None), None)
    failed = {row for table in tables for row in table.filter(table["error"].is_valid())["row"].to_pylist()}
    return ExportEstimate(
        rows=plan.rows,
        models=plan.names,
        columns=plan.columns,
        sampled=len(items),
        faults=len(items) - len(good) + len(failed),
        seconds=seconds * plan.rows,
        bytes=sum(map(_size, tables)) * plan.rows // len(items),
        overlays=_overlays(request, plan),
        first_fault=fault,
    )


def _size(table: pa.Table) -> int:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return int(sink.getvalue().size)


def _overlays(request: Request, plan: ExportPlan) -> int:
    wanted = Wanted.parsed(request.overlays, plan.rows)
    return (plan.rows if wanted.every else len(wanted.rows)) * len(plan.names)
