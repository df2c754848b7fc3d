"""Ray nodes on this machine, each on a loopback address of its own, that end with the block."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "5" * 32}
# Ray's workers give way to all else on a machine, which a busy one turns into minutes; and nothing is to be told home.
QUIET = {"RAY_worker_niceness": "0", "RAY_USAGE_STATS_ENABLED": "0"}
STARTING = 90.0  # seconds


class Node:
    """A node with one CPU; a head unless it joins one. Its address is `127.0.0.number`."""

    def __init__(self, number: int, place: Path, head: Node | None = None) -> None:
        self.host = f"127.0.0.{number}"
        self.address = head.address if head else f"{self.host}:{_free_port(self.host)}"
        role = (
            [f"--address={head.address}"]
            if head
            else ["--head", f"--port={self.address.split(':')[1]}", f"--temp-dir={place}", "--include-dashboard=false"]
        )
        self.log = place / f"node-{number}.log"
        with self.log.open("w") as log:
            self._process = subprocess.Popen(
                [*RAY, "start", "--block", *role, f"--node-ip-address={self.host}", "--num-cpus=1",
                 "--min-worker-port=0", "--max-worker-port=0"],
                stdout=log, stderr=log, env=os.environ | TOKEN | QUIET,
            )  # fmt: skip

    def wait(self) -> None:
        """Until the node is there. Raises AssertionError with what it said."""
        end = time.monotonic() + STARTING
        while "Ray runtime started" not in self.log.read_text():
            assert self._process.poll() is None, self.log.read_text()
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(0.1)

    def kill(self) -> None:
        """As a machine that loses its power: every process of the node, at once."""
        if self._process.poll() is None:
            whole = psutil.Process(self._process.pid)
            family = [*whole.children(recursive=True), whole]
            for one in family:
                with _gone():
                    one.kill()
            psutil.wait_procs(family, 20)
        self._process.wait()


RAY = (sys.executable, "-m", "ray.scripts.scripts")


@contextmanager
def two_nodes() -> Iterator[tuple[Node, Node]]:
    """A head and a node that has joined it, which both want `TOKEN`."""
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as place:  # a socket's path is short
        head = Node(2, Path(place))
        try:
            head.wait()
            other = Node(3, Path(place), head)
            try:
                other.wait()
                yield head, other
            finally:
                other.kill()
        finally:
            head.kill()


@contextmanager
def _gone() -> Iterator[None]:
    try:
        yield
    except psutil.NoSuchProcess:
        return


def _free_port(host: str) -> int:
    with socket.socket() as free:
        free.bind((host, 0))
        return int(free.getsockname()[1])
