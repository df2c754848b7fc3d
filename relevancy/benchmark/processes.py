"""Work in a process of its own, with a time limit: what it yields comes here, and its death harms nothing else."""

from __future__ import annotations

import math
import multiprocessing
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any

from relevancy.benchmark.setting import Setting
from relevancy.errors import RelevancyError

_METHOD = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"


def preload(*modules: str) -> None:
    """Where processes can be forked, import once for all that come after; the first of them waits for it."""
    if _METHOD == "forkserver":
        multiprocessing.set_forkserver_preload(list(modules))


def measurement(setting: Setting) -> Iterator[Any]:
    """What `measured` yields, imported where it runs: the process that waits stays light."""
    from relevancy.benchmark.measurement import measured

    yield from measured(setting)


def apart(
    work: Callable[[Any], Iterator[Any]], argument: Any, *, limit: float = math.inf, beat: float = 1.0
) -> Iterator[Any]:
    """What `work(argument)` yields, and None after every `beat` seconds without anything.

    Raises RelevancyError where it raises, dies, or takes longer than `limit` seconds; then it is ended.
    """
    context: Any = multiprocessing.get_context(_METHOD)
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_serve, args=(there, work, argument))
    process.start()
    there.close()
    deadline = time.monotonic() + limit
    try:
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                raise RelevancyError(f"took longer than its {limit:.0f} s")
            if not here.poll(min(beat, left)):
                yield None
                continue
            try:
                kind, told = here.recv()
            except EOFError:
                process.join()
                raise RelevancyError(_death(process.exitcode)) from None
            if kind == "ended":
                return
            if kind == "raised":
                raise RelevancyError(told)
            yield told
    finally:
        process.kill()
        process.join()
        here.close()


def _death(code: int | None) -> str:
    return f"its process ended with code {code}" + (", as one that is out of memory does" if code == -9 else "")


def _serve(line: Connection, work: Callable[[Any], Iterator[Any]], argument: Any) -> None:
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        for told in work(argument):
            line.send(("told", told))
    except RelevancyError as error:
        line.send(("raised", str(error)))
    except Exception as error:
        traceback.print_exc(file=sys.stderr)
        line.send(("raised", f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"))
    else:
        line.send(("ended", None))
