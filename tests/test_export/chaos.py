"""An export that is killed with SIGKILL, again and again, and each time begun anew with the same command.

`python chaos.py ARGUMENTS` is that export: as the command's, but in parts of a few rows, so that much is written and
each life leaves something behind.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

LIFE = 600.0  # seconds after which an export that wrote nothing new is stuck
MOST_WORKERS = 2  # killed in one life of the export
STARTING = 8.0  # seconds that a process takes to load, about


@dataclass
class Chaos:
    """Kills the export of `arguments` until `kills` are done, then lets it end.

    killed: how often, by the way it was killed. writing: files that stood half-written when it was.
    """

    arguments: Mapping[str, Any]
    kills: int
    seed: int = 0
    killed: Counter[str] = field(default_factory=Counter)
    writing: int = 0

    def __post_init__(self) -> None:
        self.out = Path(self.arguments["out"])
        self.chance = random.Random(self.seed)
        self.ways: dict[str, tuple[Callable[[subprocess.Popen[bytes]], None], int]] = {
            "main, at any moment": (self._at_any_moment, 3),
            "main, at work": (self._at_work, 3),
            "main, as it writes": (self._as_it_writes, 4),
            "a worker": (self._worker, 3),
            "all at once": (self._all, 2),
        }

    def run(self) -> None:
        """Every kill, then an end in peace. Raises AssertionError for an export that ended too early or not well."""
        while sum(self.killed.values()) < self.kills:
            way = self._chosen()
            fate = {"dies": self.chance.randint(1, 30)} if way == "main, as it writes" else {}
            process = begun({**self.arguments, **fate})
            workers = 0
            try:
                while True:
                    self.ways[way][0](process)
                    assert process.poll() in (None, -signal.SIGKILL), f"ended by itself after {self.killed}"
                    self.killed[way] += 1
                    # A worker's death is no reason for the export to end. But a third on the same rows would be: they
                    # would travel in other batches from there, and their sums differ in the last bits.
                    workers += way == "a worker"
                    if process.poll() is not None or sum(self.killed.values()) >= self.kills:
                        break
                    way = self._chosen("main, as it writes", *(["a worker"] if workers == MOST_WORKERS else []))
            finally:
                _kill(process)
            self.writing += len(list(self._unfinished()))
        last = begun(self.arguments)
        assert last.wait(600) == 0

    def _chosen(self, *but: str) -> str:
        names = [name for name in self.ways if name not in but]
        return self.chance.choices(names, [self.ways[name][1] for name in names])[0]

    def _at_any_moment(self, process: subprocess.Popen[bytes]) -> None:
        _wait(process, self.chance.uniform(0, STARTING))
        _kill(process)

    def _at_work(self, process: subprocess.Popen[bytes]) -> None:
        self._new_part(process)
        _wait(process, self.chance.uniform(0, 0.5))
        _kill(process)

    def _as_it_writes(self, process: subprocess.Popen[bytes]) -> None:
        process.wait(LIFE)

    def _worker(self, process: subprocess.Popen[bytes]) -> None:
        self._new_part(process)
        if children := workers_of(process.pid):
            os.kill(self.chance.choice(children), signal.SIGKILL)
        _wait(process, 0.2)

    def _all(self, process: subprocess.Popen[bytes]) -> None:
        self._new_part(process)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def _new_part(self, process: subprocess.Popen[bytes]) -> None:
        before, end = self._parts(), time.monotonic() + LIFE
        while process.poll() is None and self._parts() == before:
            assert time.monotonic() < end, "nothing new was written"
            time.sleep(0.005)

    def _parts(self) -> int:
        return sum(1 for _ in (self.out / "results").glob("part-*"))

    def _unfinished(self) -> Iterator[Path]:
        for folder in (self.out / "results", self.out / "overlays", self.out):
            yield from folder.glob(".unfinished-*")


def begun(arguments: Mapping[str, Any]) -> subprocess.Popen[bytes]:
    """The export as a process that leads a group of its own."""
    return subprocess.Popen(
        [sys.executable, __file__, json.dumps(dict(arguments), default=str)], stdout=subprocess.DEVNULL,
        env=os.environ | {"OMP_NUM_THREADS": "1"}, start_new_session=True,
    )  # fmt: skip


def workers_of(pid: int) -> list[int]:
    """The processes that hold models below a process, wherever they are."""
    found = []
    for child in _children(pid):
        found += [child] if b"relevancy.parallel.worker_pool" in _command(child) else workers_of(child)
    return found


def _children(pid: int) -> list[int]:
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        return [int(child) for task in tasks for child in (task / "children").read_text().split()]
    except OSError:
        return []


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _wait(process: subprocess.Popen[bytes], seconds: float) -> None:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return


def _kill(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.kill()
    process.wait()


def die_at(call: int) -> None:
    """Let this process be killed at that call of fsync: with a file half-written, or in place but not settled."""
    settle, left = os.fsync, iter(range(call - 1))

    def fsync(handle: int) -> None:
        if next(left, None) is None:
            if os.path.isfile(f"/proc/self/fd/{handle}"):  # noqa: PTH113  what a handle stands for
                os.truncate(handle, os.fstat(handle).st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        settle(handle)

    os.fsync = fsync


def main(told: str) -> None:
    from relevancy.explanations.explain import ExplainConfig
    from relevancy.export.run import Request, export

    arguments = json.loads(told)
    arguments["out"] = Path(arguments["out"])
    if call := arguments.pop("dies", None):
        die_at(call)
    export(Request(wish=ExplainConfig(max_new_tokens=4), options={"device": "cpu"}, **arguments))


if __name__ == "__main__":
    main(sys.argv[1])
