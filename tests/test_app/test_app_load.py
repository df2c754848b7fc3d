"""Fifty visitors at once, five hundred requests: every answer right, none lost, order fair, memory flat.

The server has a process of its own, so that its memory is its own. `pytest -m slow -s` prints the figures.
"""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

import pytest
from gradio_client import Client, handle_file

APP = Path(__file__).parents[2] / "app" / "app.py"
USERS, ROUNDS, WARM_UP = 50, 10, 5
QUESTIONS = (
    "Is the duck floating? (a) Yes (b) No",
    "What color is the duck?",
    "Is there a boat in the picture?",
    "How many ducks are there?",
)
GROWTH = 30  # MB over the rounds after the warm-up, in which each visit comes to its size


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """The running program and its address."""
    environment = os.environ | {"TMPDIR": str(tmp_path_factory.mktemp("load"))}
    with subprocess.Popen([sys.executable, str(APP)], env=environment, stderr=subprocess.PIPE, text=True) as running:
        for line in running.stderr:
            if found := re.search(r"http://\S+", line):
                break
        drain = threading.Thread(target=lambda: [None for _ in running.stderr], daemon=True)
        drain.start()
        yield running, found[0]
        running.send_signal(signal.SIGTERM)
        running.wait(60)


def resident(running):
    """Memory of the process in MB."""
    status = Path(f"/proc/{running.pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024


def said(result):
    """What must be the same for everybody: every number of the result."""
    return {key: result[key] for key in ("answer", "target", "shares", "relevance", "image_map")}


@pytest.mark.slow
def test_fifty_visitors(program, outside, picture_file, tmp_path):
    running, url = program
    visitors = [Client(url, verbose=False, download_files=str(tmp_path)) for _ in range(USERS)]
    alone = {
        text: said(visitors[0].predict(handle_file(picture_file), text, "demo-large", api_name="/explain")[0])
        for text in QUESTIONS
    }
    ended, waits, memory, lock = [], [], [], threading.Lock()
    start = threading.Barrier(USERS)

    def visit(number):
        start.wait()
        for turn in range(ROUNDS):
            text = QUESTIONS[(number + turn) % len(QUESTIONS)]
            began = time.monotonic()
            found = visitors[number].predict(handle_file(picture_file), text, "demo-large", api_name="/explain")[0]
            with lock:
                waits.append(time.monotonic() - began)
                ended.append((number, said(found) == alone[text]))
                if len(ended) % USERS == 0:
                    memory.append(resident(running))

    began = time.monotonic()
    with ThreadPoolExecutor(USERS) as pool:
        list(pool.map(visit, range(USERS)))
    seconds = time.monotonic() - began

    counts, spread = [0] * USERS, 0
    for number, _ in ended:
        counts[number] += 1
        if max(counts) < ROUNDS:  # until the first has finished
            spread = max(spread, max(counts) - min(counts))
    growth = memory[-1] - memory[WARM_UP - 1]
    sys.stdout.write(
        f"\n{USERS} visitors, {len(ended)} requests in {seconds:.0f} s ({len(ended) / seconds:.1f} a second); wait "
        f"median {median(waits):.2f} s, longest {max(waits):.2f} s; turns apart at most {spread}; server MB after each "
        f"{USERS}: {', '.join(f'{one:.0f}' for one in memory)} (growth after {WARM_UP * USERS}: {growth:+.0f})\n"
    )
    assert len(ended) == USERS * ROUNDS
    assert all(right for _, right in ended)
    assert spread <= 3
    assert growth < GROWTH
