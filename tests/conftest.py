"""Tiny random models for every test: built once per session, given back unchanged by whoever borrows them."""

import logging
import os
import re
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib.util import find_spec
from typing import Any

import pytest
import tiny
import tiny_gemma
import torch
from hypothesis import HealthCheck, settings
from PIL import Image

# No test is timed: how long an example takes says how busy the machine is.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What takes minutes runs when it is asked for: `pytest -m slow -s tests/test_export`.

    What needs packages of the environment for engines is skipped without them; `-m engines` fails instead. What needs
    weights that no test may fetch is skipped where the variable that it names does not say where they are.
    """
    for item in items:
        for name in (name for mark in item.iter_markers("weights") for name in mark.args):
            if not os.environ.get(name):
                item.add_marker(pytest.mark.skip(reason=f"{name} does not name a folder of real weights"))
    if config.option.markexpr:
        return
    for item in items:
        needed = {name for mark in item.iter_markers("engines") for name in mark.args}
        if missing := sorted(name for name in needed if find_spec(name) is None):
            item.add_marker(pytest.mark.skip(reason=f"{', '.join(missing)} not installed: make test-engines"))
    slow = [item for item in items if item.get_closest_marker("slow")]
    items[:] = [item for item in items if item not in slow]
    config.hook.pytest_deselected(items=slow)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Tiny matrices gain nothing from threads, and the machine may be shared."""
    torch.set_num_threads(1)


class _Announcements(logging.Handler):
    """Raises what transformers logs of its own end: most of its deprecations are log messages, not warnings."""

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if re.search(r"deprecat|will be removed in", message, re.IGNORECASE):
            raise DeprecationWarning(message)


@pytest.fixture(scope="session", autouse=True)
def _deprecations_are_heard() -> Iterator[None]:
    """The package lives on transformers' inner parts: what is about to go must not be found out by a user."""
    logger, handler = logging.getLogger("transformers"), _Announcements(logging.WARNING)
    logger.addHandler(handler)
    yield
    logger.removeHandler(handler)


@pytest.fixture(scope="session")
def built() -> dict[str, tiny.Built]:
    """Every tiny model with its processor, by name."""
    return {name: build() for name, build in tiny.BUILDERS.items()}


@pytest.fixture(params=sorted(tiny.BUILDERS))
def pair(request: pytest.FixtureRequest, built: dict[str, tiny.Built]) -> tiny.Built:
    """One (model, processor) after the other."""
    return built[request.param]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Debian's chromium or one of its family, headless, driven by Playwright; each module has its own."""
    sync_api = pytest.importorskip(
        "playwright.sync_api", reason="the browser test needs playwright: make test installs it"
    )
    path = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip(f"no browser here (looked for {', '.join(BROWSERS)}): apt install chromium")
    with sync_api.sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture
def picture() -> Image.Image:
    """A landscape picture, not a multiple of anything."""
    return tiny.picture()


@pytest.fixture(scope="session")
def trained_gemma(tmp_path_factory: pytest.TempPathFactory) -> tiny_gemma.TrainedGemma:
    """`relevancy train demo --gemma --quick` on a tiny random Gemma: a model's folder without its decoder."""
    return tiny_gemma.train(tmp_path_factory.mktemp("gemma"))


@pytest.fixture
def demo_gemma(trained_gemma: tiny_gemma.TrainedGemma, monkeypatch: pytest.MonkeyPatch) -> tiny_gemma.TrainedGemma:
    """It stands where `demo-gemma` does, and its base where Google's would."""
    trained_gemma.put_in_place(monkeypatch)
    return trained_gemma


@pytest.fixture
def full_disk() -> Callable[[], AbstractContextManager[None]]:
    """A context in which this process cannot write a byte to a file."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    @contextmanager
    def full() -> Iterator[None]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    return full
