"""The whole app from its parts: `build(models, settings)` and how it is to be launched."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import gradio as gr
from starlette.middleware import Middleware

from relevancy import Model, RelevancyError
from relevancy_app import batch_panel, endpoints, history_panel, layout, wiring
from relevancy_app.examples import examples
from relevancy_app.guard import BodyLimit, Guard, Leaving, Patience
from relevancy_app.history import History, opened
from relevancy_app.library import Library, library
from relevancy_app.safety import check_binding, harden, shown_line
from relevancy_app.settings import BODY_BYTES, Settings
from relevancy_app.theme import STYLE, theme

_SWEEP = 60  # seconds between two looks for files that are too old
_FIRST_WAIT = 0.5  # seconds, after a wrong password


def build(models: Library | Iterable[Model], settings: Settings) -> gr.Blocks:
    """The app for these models; nothing is shared with another one. Files go to Gradio's folder, GRADIO_TEMP_DIR."""
    offered, pictures = models if isinstance(models, Library) else library(models), examples()
    seconds = max(1, round(settings.keep_minutes * 60))
    sweep = (min(_SWEEP, seconds), seconds)
    with gr.Blocks(title="relevancy", fill_width=True, analytics_enabled=False, delete_cache=sweep) as blocks:
        page = layout.page(offered, settings, pictures)
        folder = page.answers.file.GRADIO_CACHE
        Path(folder).mkdir(parents=True, exist_ok=True)
        endpoints.add(endpoints.Endpoints(offered, settings, folder))  # first, so that their names are theirs
        history = _history(settings, page.past)
        handlers = wiring.Handlers(offered, settings, pictures, folder, history)
        root = Path(folder) if history is None else history.path.parent
        many = batch_panel.wire(page, batch_panel.BatchHandlers(handlers, root / "batches"))
        runs = wiring.wire(page, handlers, many)
        if history is not None:
            history_panel.wire(page, history_panel.PastHandlers(history, handlers), runs)
    harden(blocks)
    return blocks.queue(max_size=settings.queue, api_open=False, default_concurrency_limit=4)


def _history(settings: Settings, place: layout.Past) -> History | None:
    """The history in the file that the settings name; where it cannot be used, the log and the page say why."""
    if settings.history is None:
        return None
    try:
        return opened(settings.history, settings.history_megabytes)
    except RelevancyError as error:
        sys.stderr.write(f"no history: {error}\n")
        place.runs.value = history_panel.unusable(shown_line(error))
        place.search.visible = False
        return None


def launch_options(settings: Settings) -> dict[str, Any]:
    """Keyword arguments for `Blocks.launch`. Raises RelevancyError where the app would be open to strangers."""
    check_binding(settings)
    thumbnails = []
    if settings.history is not None:
        history = History(settings.history, settings.history_megabytes)
        thumbnails = [Middleware(history_panel.Thumbnails, history=history, logins=bool(settings.logins))]
    return {
        "server_name": settings.host,
        "server_port": settings.port,
        "share": settings.share,
        "auth": list(settings.logins) or None,
        "max_file_size": settings.file_bytes,
        "show_error": False,
        "state_session_capacity": settings.sessions,
        "app_kwargs": {
            "middleware": [
                Middleware(Guard, local=not settings.logins),
                Middleware(BodyLimit, most=BODY_BYTES),
                Middleware(Patience, first_wait=_FIRST_WAIT),
                Middleware(Leaving),
                *thumbnails,
            ],
            "docs_url": None,
            "redoc_url": None,
            "openapi_url": None,
        },
        "theme": theme(),
        "css_paths": [STYLE],
        "footer_links": ["api", "settings"],
        "run_history": False,
        "enable_monitoring": False,
        "mcp_server": False,
        "ssr_mode": False,
        "pwa": False,
        "quiet": True,
    }
