"""One export from its request to its end: what is left to do, who does it, where it goes."""

from __future__ import annotations

__all__ = ["Progress", "Request", "export"]

import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

from relevancy.data.arrow import pa
from relevancy.errors import RelevancyError
from relevancy.explanations.map_batch import versions
from relevancy.export import engines
from relevancy.export.chunks import Chunk, chunks, windows
from relevancy.export.engines import Engine, Here, WorkerSpec
from relevancy.export.folder import ExportFolder, FinishedRows, held, manifest_of, now
from relevancy.export.identity import ExportPlan, manifest
from relevancy.export.overlays import Drawing, Wanted
from relevancy.export.records import faulty
from relevancy.export.request import Request, decoders_for, device_of, names_of, planned_for, shape, turns
from relevancy.export.schema import table_of
from relevancy.export.writer import Writer
from relevancy.methods.registry import require_shared
from relevancy.models.model import Model
from relevancy.parallel.worker_pool import WorkerCrash


@dataclass(frozen=True)
class Progress:
    """How far an export is, in rows times models. rate: a second, since this process began; remaining: seconds."""

    done: int
    total: int
    errors: int
    rate: float
    remaining: float | None


Report = Callable[[Progress], None]


def export(
    request: Request, report: Report | None = None, *, engine: Engine | None = None, retry: bool = False
) -> FinishedRows:
    """Explain every row of the input by every model, into `request.out`; goes on where an earlier process stopped.

    Each (row, model) ends once, as a result or as an error with its reason. `report` is called as rows end; `engine`
    works in the place of the one that the request names; `retry`: rows that an earlier process ended as errors are done
    again. Raises RelevancyError: for what cannot be exported, for a folder in which another process works or which
    holds an export of another kind, and for a disk that is full; what has been written stays, and the same call goes on
    from there.
    """
    report = report or _unheard
    with held(request.out) as folder:
        earlier = manifest_of(request.out)
        plan = ExportPlan.of(request)
        configuration = plan.configuration()
        folder.read(configuration, retry=retry)
        total = plan.rows * len(plan.names)
        if earlier is not None and not _left(folder.done, plan, plan.names):
            _finish(folder, plan)
            report(Progress(folder.done.count, total, folder.done.errors, 0.0, 0.0))
            return folder.done
        planning = planned_for(request, earlier)
        if earlier is not None and earlier["versions"] != versions():
            folder.log(f"versions are not those of the beginning: {versions()} after {earlier['versions']}")
        folder.log(f"pid {os.getpid()}: {folder.done.count} of {total} done, {folder.done.errors} of them errors")
        drawing = Drawing(folder, plan.names, request.max_pixels)
        wanted = Wanted.parsed(request.overlays, plan.rows)
        writer = Writer(folder, drawing, wanted, rows=request.part_rows, seconds=request.part_seconds)
        started = time.monotonic(), folder.done.count
        try:
            for models in turns(request):
                if not _left(folder.done, plan, names_of(models)):
                    continue
                asked = replace(request, models=models)
                with nullcontext(engine) if engine else employed(asked, plan, planning) as working:
                    _begin(folder, plan, configuration, planning)
                    for table, chunk in _ended(plan, working, folder.done, models, planning["chunk"]):
                        writer.add(table, chunk)
                        report(_progress(folder.done, total, *started))
            writer.flush()
        except BaseException as error:
            folder.log(f"stopped: {type(error).__name__}: {error}")
            if isinstance(error, KeyboardInterrupt):
                writer.flush()
            raise
        finally:
            drawing.close()
        _finish(folder, plan)
        return folder.done


def _ended(
    plan: ExportPlan, engine: Engine, done: FinishedRows, models: Sequence[str | Model], chunk_rows: int
) -> Iterator[tuple[pa.Table, Chunk | None]]:
    """Tables of rows that ended, as they come."""
    names = names_of(models)
    waiting: deque[Chunk] = deque()
    faults: deque[pa.Table] = deque()

    def planned() -> Iterator[Chunk]:
        for window in windows(plan.items()):
            # All of a window is planned, then what is done is left out: batches are the same as if nothing were.
            faulted = [item for item in window if item.fault is not None]
            records = [
                faulty(item, name, item.fault or "")
                for item in faulted
                for name in names
                if not done.has(item.row, name)
            ]
            if records:
                faults.append(table_of(records, plan.schema))
            for chunk in chunks([item for item in window if item.fault is None], chunk_rows):
                if not all(done.has(item.row, name) for item in chunk.items for name in names):
                    yield chunk

    source = planned()

    def next_chunk() -> Chunk | None:
        return waiting.popleft() if waiting else next(source, None)

    for chunk, found in engine.run(next_chunk):
        while faults:
            yield faults.popleft(), None
        if not isinstance(found, WorkerCrash):
            yield found, chunk
        elif len(chunk.items) > 1:
            half = len(chunk.items) // 2
            waiting += [Chunk(chunk.items[:half]), Chunk(chunk.items[half:])]
        else:
            records = [faulty(chunk.items[0], name, found.why) for name in names]
            yield table_of(records, plan.schema), None
    while faults:
        yield faults.popleft(), None


@contextmanager
def employed(request: Request, plan: ExportPlan, planning: Mapping[str, Any]) -> Iterator[Engine]:
    """The engine that a request asks for, ready for work, ended with the block."""
    device = device_of(request)
    present = [model for model in request.models if not isinstance(model, str)]
    post = WorkerSpec(
        models=tuple(model for model in request.models if isinstance(model, str)),
        options=dict(request.options),
        wish=request.wish,
        batch=planning["batch"],
        max_pixels=request.max_pixels,
        columns=plan.schema,
        decoders=decoders_for(request, device),
        maps=Wanted.parsed(request.maps, plan.rows, "--maps"),
    )
    if present:
        if len(present) < len(request.models):
            raise RelevancyError("Give all models by name, or all of them loaded.")
        yield Here(replace(post, decoders=0).with_models(present))
        return
    if request.engine == "ray":
        require_shared(request.wish.method)
        from relevancy.export import ray_engine

        with ray_engine.cluster(post, request.processes, request.address) as engine:
            yield engine
        return
    size, threads, devices = shape(request, device)
    if not size:
        yield Here(replace(post, decoders=0)(0))
        return
    require_shared(request.wish.method)
    with engines.processes(size, replace(post, threads=threads, devices=devices), threads=threads) as crew:
        crew.wait_until_ready()
        yield crew


def _left(done: FinishedRows, plan: ExportPlan, names: Sequence[str]) -> bool:
    return any(not done.has(row, name) for name in names for row in range(plan.rows))


def _begin(folder: ExportFolder, plan: ExportPlan, configuration: dict[str, Any], planning: Mapping[str, int]) -> None:
    """Called when models and input are known to be good: a mistake in their names binds the folder to nothing."""
    if folder.manifest is None:
        folder.write_manifest(manifest(plan, configuration, planning))
    elif folder.manifest["finished"]:  # a limit was raised
        folder.write_manifest(folder.manifest | {"finished": False})


def _finish(folder: ExportFolder, plan: ExportPlan) -> None:
    assert folder.manifest is not None
    rows = max(plan.rows, folder.manifest["rows"] or 0)
    ended = {"rows": rows, "finished": True, "errors": folder.done.errors}
    if not folder.manifest["finished"] or folder.manifest["rows"] != rows:
        folder.write_manifest(folder.manifest | ended | {"ended": now()})
        folder.log(f"finished: {folder.done.count} done, {folder.done.errors} of them errors")


def _unheard(_: Progress) -> None:
    return


def _progress(done: FinishedRows, total: int, began: float, before: int) -> Progress:
    seconds = time.monotonic() - began
    rate = (done.count - before) / seconds if seconds > 0 else 0.0
    return Progress(done.count, total, done.errors, rate, (total - done.count) / rate if rate else None)
