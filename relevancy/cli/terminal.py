"""What every command has in common: where it prints, how it shows progress, how it refuses."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from relevancy.errors import RelevancyError

_LINE_EVERY = 30.0  # seconds between lines of steps that take long, where there is no terminal
WRONG_INPUT, EMPTY_MAP, INTERRUPTED = 2, 3, 130
EXIT_CODES = (
    "Exit codes: 0 done, 2 wrong input (one line says what to do), 3 done, but there is no map (all zero, or not a "
    "number)."
)

out = Console()
err = Console(stderr=True)


def check_writable(folder: Path) -> None:
    """Refuse an --out that cannot be written before anything long begins; create nothing yet."""
    existing = folder
    try:
        while not existing.exists() and existing != existing.parent:
            existing = existing.parent
    except OSError as error:  # a name that no file system takes
        raise RelevancyError(f"--out: {error.strerror}. Choose another --out.") from error
    if not existing.is_dir():
        raise RelevancyError(f"--out {folder}: {existing} is not a folder. Choose another --out.")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise RelevancyError(f"--out {folder}: no right to write in {existing}. Choose another --out.")


def say(text: str, *, markup: bool = False) -> None:
    """One line as it is, never broken or colored."""
    out.print(text, markup=markup, highlight=False, soft_wrap=True)


def escaped(text: str) -> str:
    """Text in which a bracket is a bracket, for what reads markup."""
    return text.replace("[", "\\[")


@contextmanager
def busy(what: str) -> Iterator[None]:
    """A spinner on a terminal's standard error, nothing elsewhere."""
    with err.status(what) if err.is_terminal else _nothing():
        yield


@contextmanager
def _nothing() -> Iterator[None]:
    yield


@contextmanager
def saying_how_to_go_on(how: str) -> Iterator[None]:
    """A training that was stopped and has saved ends the command with its own exit code, and a line that says how."""
    from relevancy.train.trainer import StoppedError

    try:
        yield
    except StoppedError as stopped:
        sys.stderr.write(f"relevancy: {stopped}; {how}\n")
        raise SystemExit(stopped.code) from stopped


def span(seconds: float) -> str:
    """A length of time, as a person says it."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


@contextmanager
def bars() -> Iterator[Callable[[str, float], None]]:
    """A progress bar per named step, on standard error, with the time it has left.

    Without a terminal, a line every half minute, and one as each step ends.
    """
    if not err.is_terminal:
        yield _steps()
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:.0f}%"))
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=err) as progress:
        tasks: dict[str, Any] = {}

        def report(what: str, share: float) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(escaped(what), total=1.0)
            progress.update(tasks[what], completed=share)

        yield report


def lines(every: float = 5.0, *, at_once: bool = False) -> Callable[..., None]:
    """Lines of progress on standard error, so many seconds apart at the least; the first one now, or after as long.

    What the function that it gives is told too early is not printed, except with always=True.
    """
    last = float("-inf") if at_once else time.monotonic()

    def line(text: str, *, always: bool = False) -> None:
        nonlocal last
        now = time.monotonic()
        due = now - last >= every
        if due:
            last = now
        if due or always:
            err.print(text, markup=False, highlight=False, soft_wrap=True)

    return line


def _steps() -> Callable[[str, float], None]:
    begun: dict[str, float] = {}  # a step begins as the one before it was last heard of
    ended: set[str] = set()
    heard = time.monotonic()
    line = lines(_LINE_EVERY)

    def report(what: str, share: float) -> None:
        nonlocal heard
        since = begun.setdefault(what, heard)
        heard = time.monotonic()
        if share >= 1 and what not in ended:
            ended.add(what)
            line(f"{what}: done", always=True)
        elif 0 < share < 1:
            line(f"{what}: {share:.0%}, {span((heard - since) / share * (1 - share))} left")

    return report


@contextmanager
def stages() -> Iterator[Callable[[str, float], None]]:
    """One progress bar that names the stage, on a terminal's standard error; nothing elsewhere."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:.0f}%"))
    with Progress(*columns, TimeElapsedColumn(), console=err, disable=not err.is_terminal, transient=True) as progress:
        task = progress.add_task("", total=1.0)
        yield lambda stage, share: progress.update(task, description=escaped(stage), completed=share)


def share_of(report: Callable[[str, float], None], what: str) -> Callable[[float], None]:
    """A report that is told the share alone."""
    return lambda share: report(what, share)
