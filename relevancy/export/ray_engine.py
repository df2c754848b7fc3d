"""The same work on a Ray cluster: chunks go through Ray Data to actors that hold the models."""

from __future__ import annotations

import logging
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from relevancy.data.arrow import pa
from relevancy.errors import RelevancyError
from relevancy.export.chunks import Chunk
from relevancy.export.engines import Results, WorkerSpec, processes
from relevancy.parallel.worker_pool import WorkerPool

_PATIENCE = 30  # seconds in which a cluster answers that is there


class _Actor:
    """Holds the models in a process of its own, so that a row that kills it is told from a machine that is gone."""

    def __init__(self, post: bytes) -> None:
        made: WorkerSpec = pickle.loads(post)
        self._crew: WorkerPool = processes(1, made, threads=made.threads)
        self._crew.wait_until_ready()

    def __call__(self, batch: pa.Table) -> pa.Table:
        found = [pickle.dumps(self._crew.ask(pickle.loads(chunk))) for chunk in batch["chunk"].to_pylist()]
        return pa.table({"number": batch["number"], "found": pa.array(found, pa.large_binary())})


@dataclass(frozen=True)
class RayEngine:
    """`size` actors, each with a GPU where the cluster has any. Ray starts lost ones anew and repeats their chunks."""

    post: WorkerSpec
    size: int
    gpus: bool

    def run(self, next_chunk: Callable[[], Chunk | None]) -> Results:
        """As in `engines.Engine`. All chunks go to Ray's object store first, which moves to disk what is much."""
        import ray
        from ray.exceptions import RayError

        ray.data.DataContext.get_current().enable_progress_bars = False
        needs: dict[str, Any] = {"num_gpus": 1} if self.gpus else {"num_cpus": self.post.threads or 1}
        # Parts of a chunk that killed its process come as chunks of their own, once the others are through.
        while planned := [_stored(number, chunk) for number, chunk in enumerate(iter(next_chunk, None))]:
            found = ray.data.from_arrow_refs(planned).map_batches(
                _Actor,
                fn_constructor_args=(pickle.dumps(self.post),),
                batch_size=1,
                batch_format="pyarrow",
                compute=ray.data.ActorPoolStrategy(size=min(self.size, len(planned))),
                **needs,
            )
            try:
                for row in found.iter_rows():
                    stored = ray.get(planned[row["number"]])
                    yield pickle.loads(stored["chunk"][0].as_py()), pickle.loads(row["found"])
            except RayError as error:
                raise RelevancyError(
                    f"Ray stopped: {_last_line(error)}; the same command goes on from here."
                ) from error


def _stored(number: int, chunk: Chunk) -> Any:
    """A chunk in Ray's object store."""
    import ray

    content = pa.array([pickle.dumps(chunk)], pa.large_binary())
    return ray.put(pa.table({"number": pa.array([number], pa.int64()), "chunk": content}))


@contextmanager
def cluster(post: WorkerSpec, actors: int | None, address: str | None) -> Iterator[RayEngine]:
    """An engine on the cluster at `address`, or on a local one that ends with the block. Raises RelevancyError."""
    try:
        import ray
        from ray.exceptions import RayError
    except ImportError as error:
        raise RelevancyError("The engine ray needs Ray: pip install 'relevancy[ray]'.") from error
    joined = address or os.environ.get("RAY_ADDRESS")
    if joined:
        _require_answer(joined)
    try:
        if joined:
            ray.init(address=joined, log_to_driver=False, logging_level=logging.ERROR)
        else:
            # Left to itself, Ray would join a cluster that someone else started here.
            ray.init(
                address="local", num_cpus=actors, include_dashboard=False, log_to_driver=False,
                logging_level=logging.ERROR,
            )  # fmt: skip
    except (OSError, RuntimeError, ValueError, RayError) as error:
        raise RelevancyError(f"Ray cannot be reached at {joined or 'this machine'}: {_last_line(error)}") from error
    try:
        there = ray.cluster_resources()
        gpus = int(there.get("GPU", 0))
        size = actors or gpus or max(1, int(there.get("CPU", 1)))
        yield RayEngine(replace(post, threads=None if gpus else 1), size, gpus > 0)
    finally:
        ray.shutdown()


def _require_answer(address: str) -> None:
    """Raise RelevancyError for a cluster that does not answer us: `ray.init` would try for a quarter of an hour."""
    if "://" in address:  # a Ray Client server, which has a time limit of its own
        return
    command = [sys.executable, "-m", "ray.scripts.scripts", "health-check", "--address", address]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE, check=False)
    except subprocess.TimeoutExpired as error:
        raise RelevancyError(f"Ray cannot be reached at {address}: no answer in {_PATIENCE} seconds.") from error
    if done.returncode and "AuthenticationError" in done.stderr:
        raise RelevancyError(
            f"Ray at {address} wants a token, and this process has none or another: set RAY_AUTH_MODE=token and the "
            "same RAY_AUTH_TOKEN on every node and here."
        )
    if done.returncode:
        raise RelevancyError(f"Ray cannot be reached at {address}: {_last_line(done.stderr)}")


def _last_line(told: object) -> str:
    return (str(told).strip().splitlines() or [type(told).__name__])[-1]
