"""Trainings that go on at once, each in a process of its own; they tell how far they are, and stop as one."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing.managers import SyncManager
from typing import Any, TypeVar

import torch

from relevancy.parallel.orphans import end_with_parent
from relevancy.train.trainer import Progress, StoppedError

Given = TypeVar("Given")
Made = TypeVar("Made")


def each(
    task: Callable[[Given, Progress], Made], given: Sequence[Given], jobs: int, report: Progress
) -> Iterator[Made]:
    """What a task makes of each of the given, as they end; in processes of their own if there are several jobs.

    The processes share torch's threads among them, and each is told of a SIGTERM or a Ctrl-C. Raises StoppedError once
    all have saved, and what a task raises.
    """
    jobs = min(jobs, len(given))
    if jobs < 2:
        yield from (task(one, report) for one in given)
        return
    context = multiprocessing.get_context("spawn")
    threads = max(1, torch.get_num_threads() // jobs)
    with (
        _line(context, report) as tell,
        _handed_on() as heard,
        ProcessPoolExecutor(jobs, context, _begin, (threads,)) as processes,
    ):
        waiting = [processes.submit(task, one, tell) for one in given]
        try:
            for ended in as_completed(waiting):
                yield _made(ended, heard)
        finally:
            for one in waiting:
                one.cancel()


def _begin(threads: int) -> None:
    """What a process of several does first. Where nothing trains, a Ctrl-C ends it without a word."""
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    torch.set_num_threads(threads)


def _made(ended: Future[Made], heard: Sequence[int]) -> Made:
    """A task's result; one that was stopped where nothing trains has nothing to save."""
    try:
        return ended.result()
    except (KeyboardInterrupt, BrokenProcessPool):
        if heard:
            raise StoppedError("stopped", heard[0]) from None
        raise


@contextmanager
def _line(context: Any, report: Progress) -> Iterator[Progress]:
    """What processes may call in place of `report`, which is called in this one."""
    manager = SyncManager(ctx=context)
    manager.start(end_with_parent)
    with manager:
        told = manager.Queue()

        def listen() -> None:
            for what, share in iter(told.get, None):
                report(what, share)

        listener = threading.Thread(target=listen, daemon=True)
        listener.start()
        try:
            yield partial(_tell, told)
        finally:
            told.put(None)
            listener.join()


def _tell(told: Any, what: str, share: float) -> None:
    with suppress(OSError, EOFError):  # nobody listens any more: who trains must still save
        told.put((what, share))


@contextmanager
def _handed_on() -> Iterator[list[int]]:
    """Within the block this process hands a SIGTERM or a Ctrl-C on to those it starts, and notes it."""
    heard: list[int] = []
    others = set(multiprocessing.active_children())

    def hand_on(number: int, _: Any) -> None:
        heard.append(number)
        for process in multiprocessing.active_children():
            if process not in others:
                os.kill(process.pid, number)  # type: ignore[arg-type]

    if threading.current_thread() is not threading.main_thread():  # no other thread is told of signals
        yield heard
        return
    before = {number: signal.signal(number, hand_on) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield heard
    finally:
        for number, listens in before.items():
            signal.signal(number, listens)
