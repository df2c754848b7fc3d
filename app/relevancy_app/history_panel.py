"""The panel of earlier runs: a list to search, to open again, to name, to pin, to delete, and to compare two of."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import gradio as gr
from starlette.requests import Request
from starlette.responses import Response

from relevancy import RelevancyError
from relevancy_app.guard import asks_for
from relevancy_app.history import History, Run
from relevancy_app.layout import Page
from relevancy_app.run_pair import RunPair
from relevancy_app.safety import said, speaking
from relevancy_app.session import Controls, Session
from relevancy_app.settings import methods
from relevancy_app.theme import ADDRESS_SCRIPT
from relevancy_app.wiring import QUICK, Handlers, owner_of, talked

_PAGE = 100  # runs that a list begins with; the rest comes as it is scrolled
_LONGEST_SEARCH = 200


@dataclass(frozen=True, eq=False)
class PastHandlers:
    """The functions behind the panel."""

    history: History
    shown: Handlers

    def listed(self, words: Any, event: gr.EventData, request: gr.Request) -> str:
        """The runs in which all words stand, as many as the list has come to."""
        given = said(event, "most")
        most = given if isinstance(given, int) and given > _PAGE else _PAGE
        return runs(*self.history.runs(owner_of(request), str(words or "")[:_LONGEST_SEARCH], most))

    def open(self, controls: Controls, event: gr.EventData, request: gr.Request) -> tuple[Any, ...]:
        """A run as it was shown: the panel shut, picture, `asked` values, `Page.results`; what goes on is stopped."""
        session = self.history.run(_named(event), owner_of(request))
        controls.press()
        path, others, strip = self.shown.pictured(session.source, session.others)
        places = tuple(Path(one).parent.name for one in others)
        session = replace(session, place=Path(path).parent.name, other_places=places)
        return (
            gr.update(open=False),
            path,
            others,
            strip,
            *self._asked(session),
            *self.shown.results(session, self.shown.drawn(session)),
        )

    def edit(self, words: Any, event: gr.EventData, request: gr.Request) -> str:
        """Name, pin or unpin a run; the list."""
        run, owner, name = _named(event), owner_of(request), said(event, "name")
        if isinstance(name, str):
            self.history.name(run, owner, name)
        else:
            self.history.pin(run, owner, said(event, "pinned") is True)
        return self.listed(words, event, request)

    def delete(self, words: Any, event: gr.EventData, request: gr.Request) -> str:
        """Remove a run; the list."""
        self.history.delete(_named(event), owner_of(request))
        return self.listed(words, event, request)

    def compare(self, event: gr.EventData, request: gr.Request) -> tuple[Any, ...]:
        """Two runs beside each other, for `Past.pair`."""
        given = said(event, "runs")
        if not isinstance(given, list) or len(given) != 2 or not all(isinstance(one, str) for one in given):
            raise RelevancyError("Choose two runs to compare.")
        pair = RunPair(*(self.history.run(run, owner_of(request)) for run in given))
        first, second = pair.boards()
        return pair.told(), first, gr.update(value=second, visible=bool(second)), pair.agreement()

    def _asked(self, session: Session) -> list[Any]:
        """What was asked, as far as it can be asked again here."""
        ask, deepest = session.ask, self.shown.deepest
        models = [name for name in ask.models if name in self.shown.library.names]
        return [
            ask.question,
            models or gr.skip(),
            ask.target,
            ask.scope,
            ask.method if ask.method in methods() else gr.skip(),
            min(ask.first_layer, deepest),
            deepest if ask.last_layer is None else min(ask.last_layer, deepest),
            *talked(ask.system, ask.video, ask.earlier),
        ]


def wire(page: Page, handlers: PastHandlers, running: list[Any]) -> None:
    """Attach the handlers to the panel, inside the current `gr.Blocks`. running: what opening a run puts an end to."""
    past = page.past
    listing: dict[str, Any] = {"inputs": past.search, "outputs": past.runs}
    each = {**QUICK, "trigger_mode": "multiple"}  # what is pressed soon after is not dropped
    gr.on(
        [past.panel.expand, past.search.change, past.runs.retry], speaking(handlers.listed), **listing, **QUICK
    )  # fmt: skip
    past.runs.edit(speaking(handlers.edit), **listing, **each)
    past.runs.delete(speaking(handlers.delete), **listing, **each)
    past.runs.submit(speaking(handlers.compare), None, past.pair, **QUICK)
    past.lines.clear(lambda: ("",) * len(past.pair), None, past.pair, **QUICK)
    past.link.select(
        speaking(handlers.open), page.controls,
        [past.panel, *page.question.shown, *page.question.asked, *page.results], cancels=running, **each,
    )  # fmt: skip
    page.answers.status.change(None, js=ADDRESS_SCRIPT.read_text())


class Thumbnails:
    """ASGI middleware: `GET /thumbnail?run=...` is a run's small picture, for its owner: lists ask as they scroll."""

    def __init__(self, app: Any, history: History, logins: bool) -> None:
        self.app, self.history, self.logins = app, history, logins

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass the request on unless it asks for a thumbnail."""
        if not asks_for(scope, "GET", "/thumbnail"):
            await self.app(scope, receive, send)
            return
        user = _user(scope) if self.logins else ""
        (run, *_) = parse_qs(scope["query_string"].decode("latin-1")).get("run", [""])
        try:
            found = None if user is None else await asyncio.to_thread(self.history.thumbnail, run, user)
        except RelevancyError:
            found = None
        kept = {"cache-control": "private, max-age=86400"}
        response = (
            Response(status_code=404) if found is None else Response(found, media_type="image/jpeg", headers=kept)
        )
        await response(scope, receive, send)


def _user(scope: Any) -> str | None:
    """Who has logged in, as Gradio knows it."""
    app, cookies = scope["app"], Request(scope).cookies
    token = cookies.get(f"access-token-{app.cookie_id}") or cookies.get(f"access-token-unsecure-{app.cookie_id}")
    name = app.tokens.get(token)
    return None if name is None else str(name)


# -- HTML


def runs(found: Sequence[Run], count: int) -> str:
    """The list, and how many there are."""
    told = f"{count:,} run{'' if count == 1 else 's'}"
    more = ""
    if count > len(found):
        more = f'<li><button type="button" class="rv-do" data-more="{2 * len(found)}">Show more</button></li>'
    rows = "".join(map(_run, found)) + more
    listed = f'<ul class="rv-runs" tabindex="0" aria-label="Runs">{rows}</ul>' if found else ""
    return (
        f'<div class="rv-runs-bar"><p class="rv-quiet" role="status">{told}.</p>'
        f'<button type="button" class="rv-do" data-compare disabled>Compare the two chosen</button></div>{listed}'
    )


def unusable(why: str) -> str:
    """What stands in the list's place where there is no history."""
    return f'<p class="rv-outdated">No history: {why}</p>'


def _run(run: Run) -> str:
    title = escape(run.name or run.question)
    answers = " · ".join(f"“{escape(answer)}”" for answer in run.answers)
    asked = f"<span>{escape(run.question)}</span>" if run.name else ""
    when = datetime.fromtimestamp(run.began, timezone.utc).isoformat(timespec="seconds")
    buttons = "".join(
        f'<button type="button" data-act="{act}" aria-label="{label} {title}"{state}>{label}</button>'
        for act, label, state in (
            ("pin", "Pin", f' aria-pressed="{"true" if run.pinned else "false"}"'), ("name", "Name", ""),
            ("delete", "Delete", ""),
        )
    )  # fmt: skip
    return (
        f'<li class="rv-run" data-run="{run.id}"><input type="checkbox" aria-label="Choose {title} for comparing">'
        f'<a href="?run={run.id}"><img loading="lazy" alt="" width="72" height="72" src="thumbnail?run={run.id}">'
        f'<span class="rv-run-words"><b>{title}</b>{asked}<span>{answers}</span>'
        f"<small>{escape(', '.join(run.models))} · {escape(run.made)}</small>"
        f'<time datetime="{when}">{when[:10]}</time></span></a>'
        f'<span class="rv-run-tools" data-name="{escape(run.name)}">{buttons}</span></li>'
    )


def _named(event: gr.EventData) -> str:
    """The run that an event is about."""
    run = said(event, "run")
    if not isinstance(run, str):
        raise RelevancyError("That is no run.")
    return run
