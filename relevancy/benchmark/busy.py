"""The share of a stretch of time in which the model computes, read from outside while it runs."""

from __future__ import annotations

import subprocess
import sys
import threading
from contextlib import suppress
from typing import Any

from relevancy.benchmark.setting import Setting

_MODEL_CODE = ("torch/nn/modules/module.py", "torch/autograd/__init__.py")
_EVERY = 0.005  # seconds
_CARD = ("nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "--loop-ms=200")


class BusyShare:
    """Samples from when it is entered until it is left; then `share` is the mean, None where nothing could be read."""

    share: float | None = None

    @classmethod
    def of(cls, setting: Setting) -> BusyShare:
        """A card is asked itself, whichever process works on it; on a CPU this thread's stack is read."""
        if setting.device.startswith("cuda"):
            return _CardShare(setting.device)
        return BusyShare() if setting.apart else _StackShare()

    def __enter__(self) -> BusyShare:
        return self

    def __exit__(self, *_: Any) -> None:
        return


class _StackShare(BusyShare):
    """How often a module's forward pass or a backward pass is on the stack of the thread that entered."""

    def __enter__(self) -> BusyShare:
        self._thread, self._ended = threading.get_ident(), threading.Event()
        self._samples: list[bool] = []
        self._sampler = threading.Thread(target=self._sample, daemon=True)
        self._sampler.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._ended.set()
        self._sampler.join()
        self.share = sum(self._samples) / len(self._samples) if self._samples else None

    def _sample(self) -> None:
        while not self._ended.wait(_EVERY):
            frame: Any = sys._current_frames().get(self._thread)
            while frame is not None and not frame.f_code.co_filename.endswith(_MODEL_CODE):
                frame = frame.f_back
            self._samples.append(frame is not None)


class _CardShare(BusyShare):
    """What the driver says of the card: the share of the last moments in which any kernel ran."""

    def __init__(self, device: str) -> None:
        self._card = device.partition(":")[2] or "0"
        self._driver: subprocess.Popen[str] | None = None

    def __enter__(self) -> BusyShare:
        with suppress(FileNotFoundError):
            self._driver = subprocess.Popen(
                [*_CARD, f"--id={self._card}"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )
        return self

    def __exit__(self, *_: Any) -> None:
        if self._driver is None:
            return
        self._driver.terminate()
        told, _error = self._driver.communicate()
        numbers = [int(line) for line in told.splitlines() if line.strip().isdigit()]
        self.share = sum(numbers) / len(numbers) / 100 if numbers else None
