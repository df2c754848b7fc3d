"""Processes that die are replaced, and end with their parent."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from relevancy.errors import RelevancyError
from relevancy.parallel.worker_pool import WorkerCrash, WorkerPool


@dataclass(frozen=True)
class Worker:
    """Doubles numbers; kills itself on 13, once on 7 (it leaves a note), and refuses to start where told so."""

    note: str = ""
    refuse: str = ""
    broken: bool = False

    def __call__(self, number):
        if self.refuse == "stillborn":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.broken:
            os.write(int(sys.argv[1]), b"\0\0\x10\0half")  # a message of 4096 bytes, of which 4 come
            os.kill(os.getpid(), signal.SIGKILL)
        if self.refuse:
            raise RelevancyError(self.refuse)
        return partial(map, self.double)

    def double(self, task):
        if task == 13 or (task == 7 and not Path(self.note).exists()):
            Path(self.note).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return 2 * task


def doubled(crew, tasks):
    left = list(tasks)
    return dict(crew.run(lambda: left.pop(0) if left else None))


@pytest.mark.parametrize("size", [1, 2])
def test_every_task_has_its_result(size):
    with WorkerPool(size, Worker(), ahead=2) as crew:
        assert doubled(crew, range(6)) == {task: 2 * task for task in range(6)}
        assert doubled(crew, []) == {}
        assert crew.ask(20) == 40


def test_a_process_that_dies_is_replaced_and_its_task_done_again(tmp_path):
    with WorkerPool(1, Worker(str(tmp_path / "note")), ahead=2) as crew:
        assert doubled(crew, range(9)) == {task: 2 * task for task in range(9)}


def test_a_task_that_kills_again_and_again_is_given_up_alone(tmp_path):
    with WorkerPool(1, Worker(str(tmp_path / "note")), ahead=2) as crew:
        found = doubled(crew, [12, 13, 14])
    assert isinstance(found.pop(13), WorkerCrash)
    assert found == {12: 24, 14: 28}


def test_a_refusal_is_the_parents():
    with pytest.raises(RelevancyError, match="no such model"), WorkerPool(1, Worker(refuse="no such model")) as crew:
        crew.wait_until_ready()


def test_a_process_that_dies_in_the_middle_of_a_message_is_replaced():
    with (
        pytest.raises(RelevancyError, match="died 3 times while it loaded"),
        WorkerPool(1, Worker(broken=True)) as crew,
    ):
        crew.wait_until_ready()


def test_processes_that_never_start_are_not_started_for_ever():
    with (
        pytest.raises(RelevancyError, match="died 3 times while it loaded"),
        WorkerPool(1, Worker(refuse="stillborn")) as crew,
    ):
        crew.wait_until_ready()


def test_processes_end_with_a_parent_that_is_killed():
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from test_worker_pool import Worker; from relevancy.parallel.worker_pool import WorkerPool\n"
        "crew = WorkerPool(1, Worker()); crew.wait_until_ready()\n"
        "print(crew._members[0].process.pid, flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(Path(__file__).parent)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as parent:  # fmt: skip
        child = int(parent.stdout.readline())
        parent.kill()
        parent.wait()
    for _ in range(100):
        try:
            os.kill(child, 0)
        except ProcessLookupError:
            return
        if Path(f"/proc/{child}/stat").exists() and Path(f"/proc/{child}/stat").read_text().split()[2] == "Z":
            return
        time.sleep(0.1)
    pytest.fail("the child outlived its parent")
