"""Trainings in processes of their own: what they make, what they tell, and how they stop."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import pytest
import torch

from relevancy.demo.jobs import each
from relevancy.errors import RelevancyError


def squared(number: int, report) -> tuple[int, int, int]:
    report(f"number {number}", 0.5)
    report(f"number {number}", 1.0)
    if number == 13:
        raise RelevancyError("no thirteen")
    return number**2, os.getpid(), torch.get_num_threads()


@pytest.fixture
def _four_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("jobs", "threads"), [(1, 4), (2, 2)])
@pytest.mark.usefixtures("_four_threads")
def test_every_task_is_done_on_its_share_of_the_threads_and_tells_how_far_it_is(jobs: int, threads: int) -> None:
    told: list[tuple[str, float]] = []
    made = list(each(squared, [1, 2, 3], jobs, lambda *one: told.append(one)))
    assert sorted(square for square, _, _ in made) == [1, 4, 9]
    assert sorted(told) == [(f"number {number}", share) for number in (1, 2, 3) for share in (0.5, 1.0)]
    assert (os.getpid() in {pid for _, pid, _ in made}) == (jobs == 1)
    assert {found for _, _, found in made} == {threads}


def test_what_a_task_refuses_is_raised_here() -> None:
    with pytest.raises(RelevancyError, match="no thirteen"):
        list(each(squared, [13, 1], 2, lambda *_: None))


SCRIPT = dedent("""
    import signal, sys, time
    from pathlib import Path
    from relevancy.demo.jobs import each
    from relevancy.train.trainer import StoppedError

    folder = Path(sys.argv[1])

    def train(name, report):
        if name == "none":  # nothing trains here, so nothing listens
            print("at work", flush=True)
            time.sleep(600)
        heard = []
        before = {
            number: signal.signal(number, lambda number, _: heard.append(number))
            for number in (signal.SIGTERM, signal.SIGINT)
        }
        print("at work", flush=True)
        while not heard:
            report(name, 0.5)
            time.sleep(0.01)
        (folder / name).touch()
        for number, listens in before.items():  # as `run` does
            signal.signal(number, listens)
        raise StoppedError("stopped after step 3 of 9, and saved", heard[0])

    if __name__ == "__main__":
        try:
            list(each(train, sys.argv[2:], 2, lambda *_: None))
        except StoppedError as stopped:
            print(stopped, stopped.code, flush=True)
""")


@pytest.mark.parametrize(
    ("number", "names", "says"),
    [
        (signal.SIGTERM, ["one", "two"], {"stopped after step 3 of 9, and saved 143\n"}),
        # which of the two ends first is chance
        (signal.SIGINT, ["one", "none"], {"stopped after step 3 of 9, and saved 130\n", "stopped 130\n"}),
        (signal.SIGKILL, ["one", "two"], {""}),
    ],
)
def test_stopped_alone_or_killed_all_save(number: int, names: list[str], says: set[str], tmp_path: Path) -> None:
    script, saved = tmp_path / "script.py", tmp_path / "saved"
    script.write_text(SCRIPT)
    saved.mkdir()
    parent = subprocess.Popen(
        [sys.executable, script, saved, *names], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert [parent.stdout.readline() for _ in names] == ["at work\n"] * 2
    parent.send_signal(number)
    said, complained = parent.communicate(timeout=60)  # until none of them holds its standard output
    assert said in says
    assert "Traceback" not in complained
    assert {file.name for file in saved.iterdir()} == set(names) - {"none"}
