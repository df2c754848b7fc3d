"""Processes that each hold something costly and answer one task after the other; one that dies is replaced.

A process of its own is started for each, with nothing of this one's memory, so that it works from scripts and notebooks
alike and ends by itself when this one is gone.
"""

from __future__ import annotations

import os
import pickle
import queue
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any

from relevancy.errors import RelevancyError

Work = Callable[[Iterable[Any]], Iterable[Any]]
"""Turns a stream of tasks into the stream of their results, in order."""

_ATTEMPTS = 3
_PATIENCE = 5.0  # seconds for a process to end by itself


@dataclass(frozen=True)
class WorkerCrash:
    """The result of a task on which processes died again and again."""

    why: str


@dataclass
class _Task:
    what: Any
    attempts: int = 0


@dataclass(eq=False)
class _Member:
    number: int
    process: subprocess.Popen[bytes]
    line: Connection
    ready: bool = False
    tasks: deque[_Task] = field(default_factory=deque)


class WorkerPool:
    """`size` processes; each calls `make(number)` once and then works on a stream of tasks.

    ahead: tasks that a process is sent before it has answered the first. environment: added to this process's own.
    `make` and tasks are pickled. Raises RelevancyError where `make` does, or dies.
    """

    def __init__(
        self, size: int, make: Callable[[int], Work], *, ahead: int = 1, environment: Mapping[str, str] | None = None
    ) -> None:
        self._make, self._ahead = pickle.dumps(make), ahead
        self._environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **(environment or {})}
        self._again: deque[_Task] = deque()
        self._stillborn = 0
        self._members: list[_Member] = []
        try:
            for number in range(size):
                self._members.append(self._start(number))
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    @property
    def size(self) -> int:
        """How many processes there are."""
        return len(self._members)

    def wait_until_ready(self) -> None:
        """Return when the first process is."""
        while not any(member.ready for member in self._members):
            list(self._listen())

    def run(self, next_task: Callable[[], Any | None]) -> Iterator[tuple[Any, Any]]:
        """Each task with its result, as they come; `WorkerCrash` is the result of one that kills its processes.

        next_task: asked whenever a process has room; None for no task now. Ends when nothing is under way.
        """
        while True:
            none_left = [self._fill(member, next_task) for member in self._members]
            if any(none_left) and not self._again and not any(member.tasks for member in self._members):
                return
            yield from self._listen()

    def ask(self, task: Any) -> Any:
        """One task's result."""
        left = [task]
        ((_, result),) = self.run(lambda: left.pop() if left else None)
        return result

    def close(self) -> None:
        """End every process, whatever it does."""
        for member in self._members:
            member.line.close()
        for member in self._members:
            _end(member.process)
        self._members.clear()

    def _start(self, number: int) -> _Member:
        here, there = socket.socketpair()
        with there:
            command = [sys.executable, "-m", "relevancy.parallel.worker_pool", str(there.fileno())]
            process = subprocess.Popen(
                command, pass_fds=[there.fileno()], env=self._environment, stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )  # fmt: skip
        member = _Member(number, process, Connection(here.detach()))
        self._send(member, (number, self._make))
        return member

    def _fill(self, member: _Member, next_task: Callable[[], Any | None]) -> bool:
        """Send a process what it has room for; whether there was no task for it."""
        while member.ready and len(member.tasks) < self._ahead:
            if self._again:
                task = self._again.popleft()
            elif (what := next_task()) is not None:
                task = _Task(what)
            else:
                return True
            member.tasks.append(task)
            if not self._send(member, task.what):
                break  # its end is noticed while listening
        return False

    def _send(self, member: _Member, what: Any) -> bool:
        try:
            member.line.send(what)
        except (BrokenPipeError, ConnectionResetError):
            return False
        return True

    def _listen(self) -> Iterator[tuple[Any, Any]]:
        by_line = {member.line: member for member in self._members}
        for line in wait(list(by_line)):
            member = by_line[line]  # type: ignore[index]
            try:
                said, what = member.line.recv()
            except (EOFError, OSError, pickle.UnpicklingError):  # its death, even in the middle of a word
                yield from self._replace(member)
                continue
            if said == "ready":
                member.ready, self._stillborn = True, 0
            elif said == "refused":
                raise RelevancyError(what)
            elif said == "failed":
                raise RuntimeError(f"a working process failed:\n{what}")
            else:
                yield member.tasks.popleft().what, what

    def _replace(self, member: _Member) -> Iterator[tuple[Any, Any]]:
        """A process died: another takes its place, and its tasks are done again, the one under way not for ever."""
        member.line.close()
        code = member.process.wait()
        if not member.ready:
            self._stillborn += 1
            if self._stillborn >= _ATTEMPTS:
                raise RelevancyError(
                    f"A working process died {_ATTEMPTS} times while it loaded its models (code {code}): "
                    "is there memory enough? Try --processes 1."
                )
        self._members[self._members.index(member)] = self._start(member.number)
        if member.tasks:
            suspect = member.tasks[0]
            suspect.attempts += 1
            if suspect.attempts >= _ATTEMPTS:
                member.tasks.popleft()
                yield suspect.what, WorkerCrash(f"its process died {_ATTEMPTS} times (code {code})")
        self._again.extendleft(reversed(member.tasks))


def _end(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _serve(handle: int) -> None:
    """A member's own process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides, and ends its children by hanging up
    line = Connection(handle)
    number, make = line.recv()
    tasks: queue.Queue[Any] = queue.Queue()

    def receive() -> None:
        try:
            while True:
                tasks.put(line.recv())
        except (EOFError, OSError):  # the parent hung up, or is no more
            os._exit(0)

    threading.Thread(target=receive, daemon=True).start()
    try:
        work = pickle.loads(make)(number)
        line.send(("ready", None))
        for result in work(iter(tasks.get, object())):
            line.send(("done", result))
    except RelevancyError as error:
        line.send(("refused", str(error)))
    except (BrokenPipeError, ConnectionResetError):
        return
    except Exception:
        line.send(("failed", traceback.format_exc()))


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
