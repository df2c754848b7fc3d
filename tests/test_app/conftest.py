"""The app on tiny random models and on the embedded pair, in this process, with nothing reachable but itself."""

import os
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import huggingface_hub
import pytest
import tiny

import relevancy

APP = Path(__file__).parents[2] / "app"
sys.path.insert(0, str(APP))
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

from relevancy_app.building import build, launch_options  # noqa: E402
from relevancy_app.library import library  # noqa: E402
from relevancy_app.settings import Settings  # noqa: E402

_LOOPBACK = {None, "", "localhost", "127.0.0.1", "::1", b"127.0.0.1", b"localhost"}


@dataclass
class Served:
    """A running app: where it is, which models it has, where its files go."""

    url: str
    models: tuple[relevancy.Model, ...]
    folder: Path
    blocks: object
    settings: Settings = field(default_factory=Settings)


@pytest.fixture(scope="session")
def outside() -> Iterator[list[str]]:
    """Names that were looked up and lie outside this machine; looking one up fails."""
    asked: list[str] = []
    real = socket.getaddrinfo

    def only_loopback(host, *rest, **options):
        if host not in _LOOPBACK:
            asked.append(str(host))
            raise socket.gaierror(f"{host}: no network in tests")
        return real(host, *rest, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", only_loopback)
        patch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_TELEMETRY", True)  # gradio_client's, not the app's
        yield asked


@contextmanager
def serving(models: tuple[relevancy.Model, ...], folder: Path, settings: Settings) -> Iterator[Served]:
    """The app on a free port until the block ends."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(folder))
        blocks = build(models, settings)
        _, url, _ = blocks.launch(**launch_options(settings), prevent_thread_lock=True)
        try:
            yield Served(url, models, folder, blocks, settings)
        finally:
            blocks.close(verbose=False)


@pytest.fixture(scope="session")
def serve() -> Callable[..., object]:
    """`serving` for tests that need settings of their own."""
    return serving


@pytest.fixture(scope="session")
def pair_of_models() -> tuple[relevancy.Model, ...]:
    """The embedded pair."""
    return tuple(relevancy.load(name) for name in ("demo-small", "demo-large"))


@pytest.fixture(scope="session")
def served(outside: list[str], pair_of_models, tmp_path_factory) -> Iterator[Served]:
    """The app with the embedded pair."""
    with serving(pair_of_models, tmp_path_factory.mktemp("served"), Settings()) as running:
        yield running


@pytest.fixture(scope="module")
def served_and_kept(outside: list[str], pair_of_models, tmp_path_factory) -> Iterator[Served]:
    """The same with a history of its own."""
    settings = Settings(history=tmp_path_factory.mktemp("kept") / "history.sqlite3")
    with serving(pair_of_models, tmp_path_factory.mktemp("served"), settings) as running:
        yield running


@pytest.fixture(scope="session")
def random_models(built) -> tuple[relevancy.Model, ...]:
    """Two tiny models with random weights, three and two layers deep."""
    made = {"deep": built["gemma-clip"], "flat": tiny.llama_clip(num_hidden_layers=2)}
    return tuple(relevancy.wrap(*pair, name=name) for name, pair in made.items())


@pytest.fixture(scope="session")
def shelf(random_models):
    """A library of the two random models."""
    return library(random_models)


@pytest.fixture(scope="session")
def picture_file(tmp_path_factory) -> Path:
    """A landscape picture as PNG."""
    path = tmp_path_factory.mktemp("picture") / "picture.png"
    tiny.picture().save(path)
    return path


@pytest.fixture(scope="session")
def source(picture_file: Path) -> bytes:
    """The same picture's bytes."""
    return picture_file.read_bytes()


@pytest.fixture
def passes(request: pytest.FixtureRequest) -> Iterator[Callable[..., list[str]]]:
    """Counting of forward passes: what it gives for some models grows by a name with each of them."""
    handles = []

    def counting(*models: relevancy.Model) -> list[str]:
        seen: list[str] = []
        for model in models:
            hook = model.model.register_forward_hook(lambda *_, name=model.name: seen.append(name))
            handles.append(hook)
        return seen

    yield counting
    for handle in handles:
        handle.remove()
