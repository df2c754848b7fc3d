"""Processes of multiprocessing that end with the one that started them, however it ends."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time

_BETWEEN = 1.0  # seconds


def end_with_parent() -> None:
    """In a process that multiprocessing started: once its parent is gone it is sent SIGTERM until it ends.

    What listens to the first one, as a stage that trains does, can save before the next.
    """
    threading.Thread(target=_end_later, daemon=True).start()


def _end_later() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    while True:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(_BETWEEN)
