"""What happens on a click: values in, results out. Errors become one line, runs can be stopped."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from relevancy import Region, RelevancyError
from relevancy_app import actions, asking, board, downloads, views
from relevancy_app.examples import Example
from relevancy_app.head_grid import HeadGrid
from relevancy_app.history import History
from relevancy_app.layout import Page
from relevancy_app.library import Library
from relevancy_app.pictures import check_number, small, taken
from relevancy_app.safety import check_size, received, said, shown_line, speaking, still_needed
from relevancy_app.session import Controls, Pick, Session
from relevancy_app.settings import MOST_EXCHANGES, REPLACEMENTS, SCREEN_SIDE, Settings
from relevancy_app.theme import OUTDATED_SCRIPT

PROGRESS = gr.Progress()
"""As a default it tells Gradio where to hand in each run's own."""
MODELS = "models"
"""One run at a time touches the models, whoever asks for it: first come, first served."""

ENABLE, _DISABLE = (f"() => ({{__type__: 'update', interactive: {value}}})" for value in ("true", "false"))
_SHOW_RESULTS = """() => {
  const results = document.getElementById("rv-results");
  window.rvAwaited = results.getBoundingClientRect().top > window.innerHeight * 0.3;
  if (window.rvAwaited) results.scrollIntoView({block: "start"});
}"""
_MORE_TURNS = """(...turns) => {
  const shown = document.querySelectorAll(".rv-turn textarea").length + 2;
  return turns.map((_, place) => ({__type__: "update", visible: place < shown}));
}"""
_TO_QUESTION = "() => document.querySelector('#rv-question textarea').focus()"
_FETCH_FILE = "() => setTimeout(() => document.querySelector('#rv-file a, a#rv-file, #rv-file')?.click(), 150)"
_COLOR = """(opacity, colormap, smooth, one_scale, log, threshold) => {
  window.rvDisplay = {opacity, colormap, smooth, one_scale, log, threshold};
  window.dispatchEvent(new Event("rv-display"));
}"""

QUICK: dict[str, Any] = {
    "api_visibility": "private", "show_progress": "hidden", "concurrency_limit": 8,
    "trigger_mode": "always_last",  # of what is pressed meanwhile, the last counts
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Handlers:
    """The functions behind the page; none of them keeps anything."""

    library: Library
    settings: Settings
    examples: tuple[Example, ...]
    folder: str
    history: History | None = None

    def explain(
        self,
        controls: Controls,
        path: Any,
        others: Any,
        request: gr.Request,
        progress: gr.Progress = PROGRESS,
        *asked: Any,
    ) -> Iterator[tuple[Any, ...]]:
        """`results` from `asked` values: once more with each map, then with all the numbers."""
        check = controls.start()
        begun = self._begun(asking.ask(self.library, self.settings, *asked), [path, *others])
        session = None
        try:
            for found in actions.explained(self.library, self.settings, begun, report_to(progress, check)):
                kept = "" if session is None else session.kept
                session = self._kept(replace(found, kept=kept), request)
                drawn = session.comparison is not None  # at last, only numbers are new
                yield self.results(session, gr.skip() if drawn else self.drawn(session))
        except Exception:
            if session is not None and not session.whole:
                ended = self._kept(session.ended(), request)
                yield self.results(ended, self.drawn(ended))
            raise

    def _begun(self, ask: asking.Ask, paths: Sequence[Any]) -> Session:
        """A session without results, about the pictures in these files."""
        read = taken(paths, self.settings)
        notes = [
            f"{f'picture {number}: ' if len(read) > 1 else ''}{note}"
            for number, (_, said) in enumerate(read, 1)
            for note in said
        ]
        place, *other_places = (Path(path).parent.name for path in paths)
        source, *others = (source for source, _ in read)
        return Session(
            ask, source, place, tuple(notes), others=tuple(others), other_places=tuple(other_places)
        )  # fmt: skip

    def pick(
        self,
        session: Session | None,
        controls: Controls,
        event: gr.SelectData,
        request: gr.Request,
        progress: gr.Progress = PROGRESS,
    ) -> tuple[Any, ...]:
        """Another token's map: session, board, agreement."""
        pick, report = _pick(event.index), report_to(progress, controls.start())
        session = self._kept(actions.picked(self.library, session, pick, report), request)
        return session, self.drawn(session), views.agreement(session.shown)

    def every_token(
        self,
        session: Session | None,
        controls: Controls,
        event: gr.EventData,
        progress: gr.Progress = PROGRESS,
    ) -> tuple[Any, ...]:
        """The maps of all tokens of one answer, to be looked at one by one: session, board."""
        number = said(event, "model")
        if type(number) is not int:
            raise RelevancyError("That is no model on the screen.")
        session = actions.every_token(self.library, session, number, report_to(progress, controls.start()))
        return session, self.drawn(session)

    def vary(
        self,
        session: Session | None,
        controls: Controls,
        text: Any,
        model: Any,
        progress: gr.Progress = PROGRESS,
        *asked: Any,
    ) -> str:
        """Other questions about the picture that was explained: a board."""
        (_, _, *how) = asked
        check = controls.start()
        questions = asking.variations(text, self.settings)
        ask = asking.ask(self.library, self.settings, questions[0], [model], *how)
        found = actions.varied(self.library, session, ask, questions, report_to(progress, check))
        return _varied(found, questions)

    def ways(
        self,
        session: Session | None,
        controls: Controls,
        model: Any,
        names: Any,
        progress: gr.Progress = PROGRESS,
    ) -> str:
        """The same token by other methods: a board, each map on a scale of its own."""
        report, wanted = report_to(progress, controls.start()), asking.several_methods(names)
        found = actions.by_method(self.library, session, model, wanted, report)
        return _varied(found, [result.method for result in found.results], own_scales=True)

    def layers(
        self,
        session: Session | None,
        controls: Controls,
        model: Any,
        progress: gr.Progress = PROGRESS,
    ) -> str:
        """The same token by parts of the decoder: a board."""
        found = actions.by_layers(self.library, session, model, report_to(progress, controls.start()))
        parts = [result.layers or () for result in found.results[1:]]
        return _varied(found, ["as shown", *(f"layers {part[0]} to {part[-1]}" for part in parts)])

    def heads(
        self,
        session: Session | None,
        controls: Controls,
        model: Any,
        event: gr.EventData,
        progress: gr.Progress = PROGRESS,
    ) -> str:
        """What every head adds: a board of one layer's, the strongest head's or the one that was pressed."""
        layer, pressed = said(event, "layer"), said(event, "model")
        report = report_to(progress, controls.start())
        found = actions.by_head(self.library, session, pressed or model, report)
        if layer is not None and [layer] not in [[one.head[0]] for one in found if one.head]:
            raise RelevancyError("There is no such layer.")
        return HeadGrid(found, layer).board()

    def hide(
        self,
        session: Session | None,
        controls: Controls,
        replacement: Any,
        event: gr.EventData,
        progress: gr.Progress = PROGRESS,
    ) -> str:
        """What became of each answer."""
        check = controls.start()
        if session is None:
            raise RelevancyError("There is no result yet, or it has expired: press Explain first.")
        part = said(event, "part")
        if part not in (actions.DRAWN, actions.PATCHES, actions.MOST, actions.LEAST):
            raise RelevancyError("Say what to hide: the rectangle, patches, or a tenth of the map.")
        if replacement not in {value for _, value in REPLACEMENTS}:
            raise RelevancyError("There is no such replacement.")
        marked = None
        if part == actions.DRAWN:
            marked = Region(box=asking.box(said(event, "box"), *session.picture.size))
        if part == actions.PATCHES:
            grids = [result.grid for result in session.first]
            marked = asking.patches(said(event, "patches"), said(event, "of"), grids)
        found = actions.hidden(self.library, session, part, marked, replacement, report_to(progress, check))
        return views.changes(found, session.ask.question, SCREEN_SIDE)

    def add(self, others: Any, paths: Any) -> tuple[Any, str]:
        """Further pictures, those in these files last; their files, and the strip."""
        return self._others([*others, *(str(path) for path in paths or ())])

    def arrange(self, picture: Any, others: Any, event: gr.EventData) -> tuple[Any, Any, str]:
        """Another order of the pictures, or one less: the first, the files of the further ones, and the strip."""
        move, number = said(event, "move"), said(event, "number")
        if move not in ("earlier", "later", "remove") or type(number) is not int or not 0 <= number < len(others):
            raise RelevancyError("There is no such picture to move.")
        paths = [picture, *others]
        moved = paths.pop(number + 1)
        if move != "remove":
            paths.insert(number + (0 if move == "earlier" else 2), moved)
        return paths[0], *self._others([path for path in paths[1:] if path])

    def _others(self, paths: list[str]) -> tuple[list[str], str]:
        check_number(1 + len(paths))
        shown = [(Path(path).parent.name, small(received(path, self.settings), self.settings)) for path in paths]
        return paths, views.strip(shown)

    def further(self, session: Session | None, event: gr.EventData) -> tuple[Any, ...]:
        """The conversation with one model's answer in it, and room for the next question: question, `Talk.texts`."""
        number = said(event, "model")
        if session is None or type(number) is not int or not 0 <= number < len(session.first):
            raise RelevancyError("That answer is not on the screen: press Explain first.")
        ask, answer = session.ask, session.first[number].answer
        if not answer:
            raise RelevancyError("The model said nothing, so there is nothing to go on from.")
        if ask.exchanges == MOST_EXCHANGES:
            raise RelevancyError(f"At most {MOST_EXCHANGES} exchanges stand before a question.")
        return "", *talked(ask.system, ask.video, (*ask.earlier, ask.question, answer)), gr.update(open=True)

    def example(self, index: Any) -> tuple[Any, ...]:
        """An example's picture alone, its first question, its others to pick from, and nothing said before."""
        if not isinstance(index, int) or not 0 <= index < len(self.examples):
            raise RelevancyError("There is no such example.")
        chosen = self.examples[index]
        shown = downloads.shared(chosen.image, self.folder)
        presets = gr.Dataset(samples=[[text] for text in chosen.questions])
        return shown, [], "", chosen.questions[0], presets, *talked()

    def offered(self) -> Any:
        """What the page says of each model now."""
        return gr.update(choices=self.library.labels)

    def download(self, session: Session | None, kind: str, *drawn: Any) -> str:
        """A file's path inside the app's own folder."""
        path = downloads.written(session, kind, asking.display(*drawn), self.folder)
        if kind == "State" and Path(path).stat().st_size > self.settings.file_bytes:
            raise RelevancyError("The pictures are too large together for one state file: save them smaller.")
        return path

    def take(self, path: Any) -> None:
        """Say at once what would keep an upload from being explained."""
        if path and Path(path).is_file():
            check_size(Path(path).stat().st_size, self.settings)

    def entered(self, request: gr.Request) -> str:
        """The number of this visit, for the page to say when it is closed."""
        return f'<span data-visit="{request.session_hash}"></span>'

    def restore(self, path: Any) -> tuple[Any, ...]:
        """A state file's pictures, its `asked` values, its `drawn` values, and the options unfolded."""
        if not path:
            raise RelevancyError("No state file was given.")
        state = downloads.restored(path, self.library, self.settings)
        ask, display = state.ask, state.display
        return (
            *self.pictured(state.source, state.others),
            ask.question, list(ask.models), ask.target, ask.scope, ask.method, ask.first_layer,
            self.deepest if ask.last_layer is None else ask.last_layer, *talked(ask.system, ask.video, ask.earlier),
            display.opacity, display.colormap, display.smooth, display.one_scale, display.log, display.threshold,
            gr.update(open=True),
        )  # fmt: skip

    def pictured(self, source: bytes, others: Sequence[bytes]) -> tuple[str, list[str], str]:
        """Pictures' files written anew: that of the first, those of the further ones, and the strip."""
        first, *further = (downloads.placed(one, self.folder) for one in (source, *others))
        return first, *self._others(further)

    @property
    def deepest(self) -> int:
        """The number of the last layer that can be asked for."""
        return self.library.depth - 1

    def keep(self, session: Session | None, path: Any, others: Any) -> Session | None:
        """Count the visit as going on: results, and the pictures' files, live on while the page is open."""
        for one in (path, *others):
            still_needed(one)
        return session

    def cancel(self, session: Session | None, controls: Controls, request: gr.Request) -> tuple[Any, ...]:
        """Stop this visitor's runs at their next stage; button, and `results` of the maps that are there."""
        controls.press()
        if session is None or session.whole:
            results = (gr.skip(), views.stopped(session, self.deepest), *(gr.skip(),) * 8)
        else:
            session = self._kept(session.ended(), request)
            results = self.results(session, self.drawn(session), views.stopped(session, self.deepest))
        return gr.update(interactive=False), *results

    def results(self, session: Session, shown: Any, status: str | None = None) -> tuple[Any, ...]:
        """Values for `Page.results`; `shown` is the board. What needs all maps stays as it is until they are there."""
        numbers: tuple[Any, ...] = (gr.skip(),) * 6
        if session.whole:
            marker = views.marker(session.screen)
            numbers = views.agreement(session.shown), marker, "", "", "", gr.update(visible=True)
        status = status or views.status(session, self.deepest)
        return session, status, shown, gr.update(visible=True), *numbers

    def drawn(self, session: Session) -> str:
        """The board of what is shown."""
        tokens = [session.tokens_of(number) for number in range(len(session.screen))]
        return board.board(session.screen, waiting=session.waiting, tokens=tokens)

    def _kept(self, session: Session, request: gr.Request) -> Session:
        """The same, in the history before it is shown; where that cannot be, a warning says so."""
        if self.history is None:
            return session
        try:
            return self.history.keep(session, owner_of(request))
        except RelevancyError as error:
            gr.Warning(f"This run is not kept. {shown_line(error)}")
            return session


def wire(page: Page, handlers: Handlers, *others: Any) -> list[Any]:
    """Attach the handlers to the page, inside the current `gr.Blocks`; the events that call models, `others` too."""
    runs = [*_wire_runs(page, handlers), *others]
    for event in runs:
        event.success(None, js=_DISABLE, outputs=page.question.cancel)
        event.failure(None, js=_DISABLE, outputs=page.question.cancel)
    page.question.cancel.click(
        speaking(handlers.cancel), [page.session, page.controls], [page.question.cancel, *page.results], cancels=runs,
        queue=False, **QUICK,
    )  # fmt: skip
    if handlers.library.on_demand:
        for shown in (*(event.then for event in runs), partial(gr.on, None)):
            shown(speaking(handlers.offered), None, page.question.models, **QUICK)
    _wire_question(page, handlers)
    _wire_drawing(page, handlers)
    page.beat.tick(speaking(handlers.keep), [page.session, *page.question.shown[:2]], page.session, **QUICK)
    gr.on(None, handlers.entered, None, page.visit, **QUICK)
    return runs


def _wire_runs(page: Page, handlers: Handlers) -> list[Any]:
    """Everything that calls a model."""
    question, answers, what_if, variations = page.question, page.answers, page.what_if, page.variations
    ways = page.ways
    drawn = answers.drawing.all
    ask = [question.explain.click, question.question.submit]
    # First, since a browser takes an event's listeners one after the other.
    for trigger in (
        *ask, answers.board.select, answers.board.expand, variations.run.click, what_if.marker.submit,
        ways.compare.click, ways.layers.click, ways.heads.click, ways.board.submit,
    ):  # fmt: skip
        trigger(None, js=ENABLE, outputs=question.cancel)
    gr.on(ask, None, js=_SHOW_RESULTS)
    whole: dict[str, Any] = {
        "fn": speaking(handlers.explain),
        "inputs": [page.controls, question.picture, question.others, *question.asked],
        "outputs": page.results,
        **running(answers.status),
    }  # fmt: skip
    restored = question.restore.upload(
        speaking(handlers.restore),
        question.restore,
        [*question.shown, *question.asked, *drawn, question.options],
        **QUICK,
    )
    return [
        gr.on(ask, **whole),
        restored.success(**whole),
        answers.board.select(
            speaking(handlers.pick), [page.session, page.controls],
            [page.session, answers.board, answers.agreement], **running(answers.status),
        ),
        answers.board.expand(
            speaking(handlers.every_token), [page.session, page.controls], [page.session, answers.board],
            **running(answers.status),
        ),
        ways.compare.click(
            speaking(handlers.ways), [page.session, page.controls, ways.model, ways.methods], ways.board,
            **running(ways.board),
        ),
        ways.layers.click(
            speaking(handlers.layers), [page.session, page.controls, ways.model], ways.board, **running(ways.board)
        ),
        gr.on(
            [ways.heads.click, ways.board.submit], speaking(handlers.heads),
            [page.session, page.controls, ways.model], ways.board, **running(ways.board),
        ),
        variations.run.click(
            speaking(handlers.vary),
            [page.session, page.controls, variations.questions, variations.model, *question.asked],
            variations.board, **running(variations.board),
        ),
        what_if.marker.submit(
            speaking(handlers.hide), [page.session, page.controls, what_if.replacement], what_if.changes,
            **running(what_if.changes),
        ),
    ]  # fmt: skip


def _wire_question(page: Page, handlers: Handlers) -> None:
    """Examples and presets fill in the question; results say when it is no longer theirs."""
    question, talk = page.question, page.question.talk
    question.add.upload(
        speaking(handlers.add), [question.others, question.add], [question.others, question.strip], **QUICK
    )
    question.strip.edit(speaking(handlers.arrange), question.shown[:2], question.shown, **QUICK)
    talk.more.click(None, talk.turns, talk.turns, js=_MORE_TURNS)
    talk.clear.click(talked, None, talk.texts, **QUICK)
    going_on = page.answers.board.submit(
        speaking(handlers.further), page.session, [question.question, *talk.texts, talk.panel], **QUICK
    )
    going_on.success(None, js=_TO_QUESTION)
    question.picture.upload(speaking(handlers.take), question.picture, None, **QUICK)
    changed = [one.change for one in (question.picture, question.strip, *question.asked, page.answers.status)]
    gr.on(changed, None, [question.picture, *question.asked], js=OUTDATED_SCRIPT.read_text())
    question.examples.select(
        speaking(handlers.example), question.examples,
        [*question.shown, question.question, question.presets, *talk.texts], **QUICK,
    )  # fmt: skip
    question.presets.click(speaking(_sample), question.presets, question.question, **QUICK)


def _wire_drawing(page: Page, handlers: Handlers) -> None:
    """What needs no model: other colors, and files."""
    answers, drawn = page.answers, page.answers.drawing.all
    gr.on([control.change for control in drawn], None, drawn, js=_COLOR, trigger_mode="multiple")
    for kind, button in answers.downloads.items():
        written = button.click(
            speaking(_download(handlers, kind)), [page.session, *drawn], answers.file, show_progress="full",
            show_progress_on=button, api_visibility="private", concurrency_limit=8,
        )  # fmt: skip
        written.success(None, js=_FETCH_FILE)


def running(progress_on: gr.HTML) -> dict[str, Any]:
    """Options of an event that calls a model."""
    return {
        "concurrency_id": MODELS,
        "concurrency_limit": 1,
        "show_progress_on": progress_on,
        "trigger_mode": "multiple",  # what is pressed while one runs comes after it
        "api_visibility": "private",
    }


def _download(handlers: Handlers, kind: str) -> Callable[..., str]:
    return lambda session, *drawn: handlers.download(session, kind, *drawn)


def owner_of(request: gr.Request) -> str:
    """Who asks: a user's name, "" where the app asks for no password."""
    return str(request.username or "")


def _varied(found: actions.Varied, titles: Sequence[str], **options: Any) -> str:
    lines = ["what the others are compared with", *(_correlation(pair.rank_correlation) for pair in found.agreement)]
    reduced = [result.reduced(SCREEN_SIDE) for result in found.results]
    return board.board(reduced, titles=titles, lines=lines, **options)


def _correlation(value: float) -> str:
    return "rank correlation with the first map: " + ("–" if value != value else f"{value:+.2f}")


def talked(system: str = "", video: bool = False, earlier: Sequence[str] = ()) -> list[Any]:
    """What was said before, for `Talk.texts`; at least one exchange has room."""
    turns = [*earlier, *[""] * (2 * MOST_EXCHANGES - len(earlier))]
    shown = max(2, len(earlier))
    return [system, video, *(gr.update(value=text, visible=place < shown) for place, text in enumerate(turns))]


def _sample(sample: Any) -> str:
    """The text of a preset."""
    return str(sample[0])


def _pick(index: Any) -> Pick:
    """What the board's script sends: number of a model, position in its answer, and another token's number or null."""
    if isinstance(index, (list, tuple)) and len(index) == 3:
        number, position, against = index
        if type(number) is int and type(position) is int and (against is None or type(against) is int):
            return number, position, against
    raise RelevancyError("That is no token of an answer.")


def report_to(progress: gr.Progress, check: Callable[[], None]) -> actions.Progress:
    """What tells the page how far a run is, and ends it once Cancel was pressed."""

    def report(stage: str, share: float) -> None:
        check()
        progress(share, desc=stage)

    return report
