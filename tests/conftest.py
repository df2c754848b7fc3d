"""Tiny random models for every test: built once per session, given back unchanged by whoever borrows them."""

import pytest
import tiny
import torch
from PIL import Image


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What takes minutes runs when it is asked for: `pytest -m slow -s tests/test_export`."""
    if config.option.markexpr:
        return
    slow = [item for item in items if item.get_closest_marker("slow")]
    items[:] = [item for item in items if item not in slow]
    config.hook.pytest_deselected(items=slow)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Tiny matrices gain nothing from threads, and the machine may be shared."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def built() -> dict[str, tiny.Built]:
    """Every tiny model with its processor, by name."""
    return {name: build() for name, build in tiny.BUILDERS.items()}


@pytest.fixture(params=sorted(tiny.BUILDERS))
def pair(request: pytest.FixtureRequest, built: dict[str, tiny.Built]) -> tiny.Built:
    """One (model, processor) after the other."""
    return built[request.param]


@pytest.fixture
def picture() -> Image.Image:
    """A landscape picture, not a multiple of anything."""
    return tiny.picture()
