"""One export from its request to its manifest: what is asked, what is left to do, who does it, where it goes."""

from __future__ import annotations

__all__ = ["Progress", "Request", "export"]

import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from relevancy.data.arrow import pa
from relevancy.data.columns import Columns, Itemizer, Survey
from relevancy.data.inputs import open_input
from relevancy.data.items import Item
from relevancy.data.reader import RowReader, digest_of
from relevancy.errors import RelevancyError
from relevancy.explanations.map_batch import ExplainConfig, versions
from relevancy.export import engines
from relevancy.export.chunks import Chunk, chunks, windows
from relevancy.export.engines import Engine, Here, WorkerSpec
from relevancy.export.folder import FORMAT, ExportFolder, FinishedRows, configuration_hash, held, manifest_of, now
from relevancy.export.overlays import Drawing, Wanted
from relevancy.export.records import faulty
from relevancy.export.schema import schema, table_of
from relevancy.export.writer import Writer
from relevancy.images import MAX_PIXELS
from relevancy.methods.registry import require_shared
from relevancy.models import adapters
from relevancy.models.device import device_for
from relevancy.models.model import Model
from relevancy.parallel.worker_pool import WorkerCrash

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


@dataclass(frozen=True)
class Progress:
    """How far an export is, in rows times models. rate: a second, since this process began; remaining: seconds."""

    done: int
    total: int
    errors: int
    rate: float
    remaining: float | None


Report = Callable[[Progress], None]


@dataclass(frozen=True)
class ExportPlan:
    """A request with its input looked through."""

    request: Request
    reader: RowReader
    columns: Columns
    survey: Survey
    names: tuple[str, ...]

    @classmethod
    def of(cls, request: Request) -> ExportPlan:
        """Reads the input once. Raises RelevancyError for what cannot be exported."""
        names = _names(request.models)
        _check(request, names)
        reader = open_input(request.input, request.kind)
        if reader.kind == "folder" and request.out.resolve().is_relative_to(reader.base.resolve()):
            raise RelevancyError(f"--out {request.out} lies among the pictures of {request.input}: give another --out.")
        columns = request.columns.found_in(reader.columns())
        return cls(request, reader, columns, Survey.of(reader, columns), names)

    @property
    def rows(self) -> int:
        """How many rows are to end."""
        limit = self.request.limit
        return self.survey.rows if limit is None else min(limit, self.survey.rows)

    @property
    def schema(self) -> pa.Schema:
        """Of the results."""
        return schema(self.survey.extras, self.request.map_dtype)

    def items(self) -> Iterator[Item]:
        """Every row."""
        base = self.request.pictures or self.reader.base
        return iter(Itemizer(self.columns, self.survey, base).items(self.reader, self.request.limit))

    def configuration(self) -> dict[str, Any]:
        """Everything that decides what a row's result is."""
        request, wish = self.request, self.request.wish
        return {
            "models": list(self.names),
            "weights": [_weights(model, request.options.get("revision")) for model in request.models],
            "target": wish.target,
            "scope": wish.scope,
            "layers": None if wish.layers is None else list(wish.layers),
            "method": wish.explainer.name,
            "max_new_tokens": wish.max_new_tokens,
            "evidence": wish.evidence,
            **{name: request.options.get(name) for name in ("dtype", "framing", "quantization", "revision")},
            "max_pixels": request.max_pixels,
            "map_dtype": request.map_dtype,
            **({} if request.maps == "all" else {"maps": request.maps}),
            "input": {
                "path": os.path.abspath(request.input) if Path(request.input).exists() else request.input,  # noqa: PTH100
                "kind": self.reader.kind,
                "pictures": None if request.pictures is None else str(request.pictures.absolute()),
                "fingerprint": self.reader.fingerprint(),
            },
            "columns": {name: of for name, of in asdict(self.columns).items() if name != "layout" or of is not None},
        }


def export(request: Request, report: Report | None = None, *, engine: Engine | None = None) -> FinishedRows:
    """Explain every row of the input by every model, into `request.out`; goes on where an earlier process stopped.

    Each (row, model) ends once, as a result or as an error with its reason. `report` is called as rows end; `engine`
    works in the place of the one that the request names. Raises RelevancyError: for what cannot be exported, for a
    folder in which another process works or which holds an export of another kind, and for a disk that is full; what
    has been written stays, and the same call goes on from there.
    """
    report = report or _unheard
    with held(request.out) as folder:
        earlier = manifest_of(request.out)
        plan = ExportPlan.of(request)
        configuration = plan.configuration()
        folder.read(configuration)
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
                if not _left(folder.done, plan, _names(models)):
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
    names = _names(models)
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
    device = _device(request)
    present = [model for model in request.models if not isinstance(model, str)]
    post = WorkerSpec(
        models=tuple(model for model in request.models if isinstance(model, str)),
        options=dict(request.options),
        wish=request.wish,
        batch=planning["batch"],
        max_pixels=request.max_pixels,
        columns=plan.schema,
        decoders=_decoders(request, device),
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
    size, threads, devices = _shape(request, device)
    if not size:
        yield Here(replace(post, decoders=0)(0))
        return
    require_shared(request.wish.method)
    with engines.processes(size, replace(post, threads=threads, devices=devices), threads=threads) as crew:
        crew.wait_until_ready()
        yield crew


def _check(request: Request, names: Sequence[str]) -> None:
    if not names:
        raise RelevancyError("Name at least one model.")
    if len(set(names)) < len(names):
        raise RelevancyError(f"A model is named twice in {', '.join(names)}: results could not be told apart.")
    if request.wish.target == "all":
        raise RelevancyError('An export explains one token of each answer, not "all": choose another target.')
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
        together = len(request.models) == 1 or sum(_sizes(request)) <= engines.SMALL
    return [request.models] if together else [[model] for model in request.models]


def _sizes(request: Request) -> list[int]:
    revision = request.options.get("revision")
    return [engines.parameters_of(model, revision) for model in request.models if isinstance(model, str)]


def _names(models: Sequence[str | Model]) -> tuple[str, ...]:
    return tuple(model if isinstance(model, str) else model.name for model in models)


def _left(done: FinishedRows, plan: ExportPlan, names: Sequence[str]) -> bool:
    return any(not done.has(row, name) for name in names for row in range(plan.rows))


def _shape(request: Request, device: str) -> tuple[int, int | None, tuple[str, ...]]:
    """How many processes, the threads of each (None for all), and the devices that they take in turns."""
    if device == "cuda" and torch.cuda.is_available():
        count = torch.cuda.device_count()
        size = count if request.processes is None else request.processes
        return size, None, tuple(f"cuda:{number}" for number in range(count))
    if device != "cpu":
        return (1 if request.processes is None else request.processes), None, ()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if request.processes is not None:
        return request.processes, max(1, cores // max(1, request.processes)), ()
    return (cores, 1, ()) if sum(_sizes(request)) <= engines.SMALL else (1, None, ())


def _decoders(request: Request, device: str) -> int:
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
    large = max(_sizes(request), default=0) > engines.SMALL
    on_cpu = _device(request) == "cpu"
    batch = request.batch or (4 if large and on_cpu else 32)
    return {"batch": batch, "chunk": request.chunk or (4 * batch if large else 128)}


def _device(request: Request) -> str:
    return str(request.options.get("device") or device_for(None))


def _weights(model: str | Model, revision: str | None) -> str | None:
    """Tells weights of a folder from those that stood there before."""
    if not isinstance(model, str):
        return None
    files = [file for folder in adapters.located(model, revision).folders for file in sorted(folder.glob("*"))]
    return digest_of([file for file in files if file.suffix in (".json", ".safetensors", ".jinja")])


def _manifest(plan: ExportPlan, configuration: dict[str, Any], planning: Mapping[str, int]) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "configuration": configuration,
        "configuration_hash": configuration_hash(configuration),
        "models": list(plan.names),
        "planning": dict(planning),
        "versions": versions(),
        "boxes": "pixels",
        "rows": None,
        "finished": False,
        "created": now(),
    }


def _begin(folder: ExportFolder, plan: ExportPlan, configuration: dict[str, Any], planning: Mapping[str, int]) -> None:
    """Called when models and input are known to be good: a mistake in their names binds the folder to nothing."""
    if folder.manifest is None:
        folder.write_manifest(_manifest(plan, configuration, planning))
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
