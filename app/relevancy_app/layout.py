"""What stands where on the page. No behavior: that is `wiring`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from relevancy.methods.registry import DEFAULT
from relevancy_app import views
from relevancy_app.asking import PLACE, Display
from relevancy_app.board import tables
from relevancy_app.downloads import KINDS
from relevancy_app.examples import Example
from relevancy_app.library import Library
from relevancy_app.safety import as_uploaded
from relevancy_app.session import Controls
from relevancy_app.settings import (
    COLORMAPS,
    DEMO_GEMMA,
    DEMO_PAIR,
    MOST_EXCHANGES,
    MOST_LAYERS,
    REPLACEMENTS,
    SCOPES,
    SET_BESIDE,
    TARGETS,
    Settings,
    methods,
)
from relevancy_app.theme import BOARD_SCRIPT, HISTORY_SCRIPT, LINK_SCRIPT, MARKER_SCRIPT

_HEADER = (
    '<header class="rv-header"><h1>relevancy</h1>'
    "<p>Which parts of a picture, and which words, made a vision-language model say <em>that</em> token?</p></header>"
)
_DEMO_NOTE = "The demo models are for demonstration: they know drawn scenes like the examples, and no photographs."


# Gradio asks for both of two presses within a moment, and answers them in any order: one is sent, for the last.
_CHOOSING = """let soon;
element.addEventListener("click", (event) => {
  const chosen = event.target.closest("[data-example]");
  if (!chosen) return;
  props.value = Number(chosen.dataset.example);
  clearTimeout(soon);
  soon = setTimeout(() => trigger("select"), 50);
});"""
_LEAVING = """window.addEventListener("pagehide", (event) => {
  const visit = element.querySelector("[data-visit]");
  if (visit && !event.persisted) navigator.sendBeacon("closed?visit=" + visit.dataset.visit);
});"""


_ARRANGING = """element.addEventListener("click", (event) => {
  const button = event.target.closest("[data-move]");
  if (button) trigger("edit", { move: button.dataset.move, number: Number(button.dataset.number) });
});"""


_CLEARING = """element.addEventListener("click", (event) => {
  if (event.target.closest("[data-clear]")) trigger("clear");
});"""


@dataclass(frozen=True, eq=False)
class Talk:
    """What was said before the question. turns: the user's and the model's texts in turns, those in use visible."""

    panel: gr.Accordion
    system: gr.Textbox
    video: gr.Checkbox
    turns: list[gr.Textbox]
    more: gr.Button
    clear: gr.Button

    @property
    def texts(self) -> list[Any]:
        """In the order of `asking.ask`'s last arguments."""
        return [self.system, self.video, *self.turns]


@dataclass(frozen=True, eq=False)
class Question:
    """What is asked: pictures, words, models, and what of the answer is explained how.

    others: the files of further pictures.
    """

    picture: gr.Image
    others: gr.State
    strip: gr.HTML
    add: gr.UploadButton
    examples: gr.HTML
    question: gr.Textbox
    presets: gr.Dataset
    models: gr.CheckboxGroup
    target: gr.Dropdown
    scope: gr.Radio
    method: gr.Dropdown
    first_layer: gr.Slider
    last_layer: gr.Slider
    options: gr.Accordion
    explain: gr.Button
    cancel: gr.Button
    restore: gr.UploadButton
    talk: Talk

    @property
    def asked(self) -> list[Any]:
        """In the order of `asking.ask`'s arguments."""
        return [
            self.question, self.models, self.target, self.scope, self.method, self.first_layer, self.last_layer,
            *self.talk.texts,
        ]  # fmt: skip

    @property
    def shown(self) -> list[Any]:
        """The pictures: the first, the files of further ones, and these as the page shows them."""
        return [self.picture, self.others, self.strip]


@dataclass(frozen=True, eq=False)
class Drawing:
    """How maps are drawn."""

    opacity: gr.Slider
    colormap: gr.Dropdown
    smooth: gr.Checkbox
    one_scale: gr.Checkbox
    log: gr.Checkbox
    threshold: gr.Slider

    @property
    def all(self) -> list[Any]:
        """In the order of `asking.display`'s arguments."""
        return [self.opacity, self.colormap, self.smooth, self.one_scale, self.log, self.threshold]


@dataclass(frozen=True, eq=False)
class Answers:
    """Where results go."""

    status: gr.HTML
    tools: gr.Column
    board: gr.HTML
    details: gr.Column
    agreement: gr.HTML
    downloads: dict[str, gr.Button]
    file: gr.DownloadButton
    drawing: Drawing


@dataclass(frozen=True, eq=False)
class Variations:
    """The same picture, other questions."""

    model: gr.Radio
    questions: gr.Textbox
    run: gr.Button
    board: gr.HTML


@dataclass(frozen=True, eq=False)
class Ways:
    """The same token, by other methods, by parts of the layers, or by heads."""

    model: gr.Radio
    methods: gr.CheckboxGroup
    compare: gr.Button
    layers: gr.Button
    heads: gr.Button
    board: gr.HTML


@dataclass(frozen=True, eq=False)
class WhatIf:
    """The same question, a part of the picture hidden."""

    replacement: gr.Radio
    marker: gr.HTML
    changes: gr.HTML


@dataclass(frozen=True, eq=False)
class Past:
    """Earlier runs: a list, and two of them compared. `link` opens the run that the address names."""

    panel: gr.Accordion
    search: gr.Textbox
    runs: gr.HTML
    lines: gr.HTML
    first: gr.HTML
    second: gr.HTML
    agreement: gr.HTML
    link: gr.HTML

    @property
    def pair(self) -> list[Any]:
        """Where two runs are compared."""
        return [self.lines, self.first, self.second, self.agreement]


@dataclass(frozen=True, eq=False)
class Many:
    """Many pictures, one question. files: where those lie that were chosen by one of the buttons."""

    files: gr.State
    choosing: list[gr.UploadButton]
    run: gr.Button
    table: gr.HTML
    report: gr.DownloadButton


@dataclass(frozen=True, eq=False)
class Page:
    """Everything with a behavior; `session` and `controls` are the visitor's own, `visit` tells the page its number."""

    visit: gr.HTML
    session: gr.State
    controls: gr.State
    beat: gr.Timer
    question: Question
    answers: Answers
    variations: Variations
    ways: Ways
    what_if: WhatIf
    past: Past
    batch: Many

    @property
    def results(self) -> list[Any]:
        """What a run fills in: with each map the first four, the others when all maps are there."""
        answers, what_if = self.answers, self.what_if
        return [
            self.session, answers.status, answers.board, answers.tools, answers.agreement, what_if.marker,
            what_if.changes, self.variations.board, self.ways.board, answers.details,
        ]  # fmt: skip


def page(library: Library, settings: Settings, examples: Sequence[Example]) -> Page:
    """Place all components inside the current `gr.Blocks`."""
    seconds = settings.keep_minutes * 60
    gr.HTML(_HEADER + tables(), apply_default_css=False, js_on_load=None)
    visit = gr.HTML("", elem_id="rv-visit", visible="hidden", apply_default_css=False, js_on_load=_LEAVING)
    session = gr.State(None, time_to_live=seconds)
    controls = gr.State(Controls())
    beat = gr.Timer(seconds / 4)
    with gr.Row(elem_id="rv-beside"):
        past, batch = _past(settings), _many()
    with gr.Row(elem_id="rv-main"):
        with gr.Column(scale=4, min_width=300, elem_id="rv-ask"):
            question = _question(library, settings, examples)
        with gr.Column(scale=9, min_width=300, elem_id="rv-results"):
            answers, variations, ways, what_if = _results(library)
    return Page(visit, session, controls, beat, question, answers, variations, ways, what_if, past, batch)


def _question(library: Library, settings: Settings, examples: Sequence[Example]) -> Question:
    picture = as_uploaded(
        gr.Image(
            examples[0].image if examples else None, label="Picture", type="filepath", format="png", image_mode=None,
            sources=["upload", "clipboard", "webcam"], height=220, elem_id="rv-picture", buttons=[],
            placeholder="Drop a picture here\n\nor click to choose one", alt_text="The picture that is asked about",
        )
    )  # fmt: skip
    others = gr.State([])
    strip = gr.HTML("", elem_id="rv-strip", apply_default_css=False, js_on_load=_ARRANGING)
    add = gr.UploadButton(
        "Add another picture", file_count="multiple", file_types=["image"], size="sm", elem_id="rv-add-picture"
    )
    shown = gr.HTML(
        0, html_template=views.examples([example.image for example in examples]), elem_id="rv-examples",
        visible=bool(examples), apply_default_css=False, js_on_load=_CHOOSING,
    )  # fmt: skip
    questions = list(examples[0].questions) if examples else []
    presets = gr.Dataset(
        label="Questions to try", components=[gr.Textbox(render=False)], samples=[[text] for text in questions],
        type="values", layout="gallery", elem_id="rv-presets", visible=bool(questions),
    )  # fmt: skip
    models = gr.CheckboxGroup(
        library.labels, value=list(library.names[:2]), label="Models", elem_id="rv-models",
        info=_DEMO_NOTE if set(library.names) & {*DEMO_PAIR, DEMO_GEMMA} else None,
    )  # fmt: skip
    talk = _talk(settings)
    with gr.Column(elem_id="rv-dock"):
        question = gr.Textbox(
            questions[0] if questions else "", label="Question", lines=1, max_lines=3, elem_id="rv-question",
            max_length=settings.question_characters, placeholder="What do you want to know about the picture?",
        )  # fmt: skip
        with gr.Row(elem_id="rv-go"):
            explain = gr.Button("Explain", variant="primary", elem_id="rv-explain", scale=3, min_width=120)
            cancel = gr.Button("Cancel", variant="stop", interactive=False, elem_id="rv-cancel", scale=1, min_width=80)
    with gr.Accordion("What to explain, and how", open=False, elem_id="rv-options") as options:
        target = gr.Dropdown(
            list(TARGETS), value=TARGETS[0][1], label="Target", allow_custom_value=True, elem_id="rv-target",
            info="Or type: a word of the answer, a position from 0 on (word:2 is the word 2), or two words: Red|Blue.",
        )  # fmt: skip
        scope = gr.Radio(list(SCOPES), value=SCOPES[0][1], label="Scope", elem_id="rv-scope")
        with gr.Row():
            end = library.depth - 1
            first_layer, last_layer = (
                gr.Slider(0, end, value=value, step=1, label=label, elem_id=name, min_width=120, buttons=[])
                for label, value, name in (("First layer", 0, "rv-first-layer"), ("Last layer", end, "rv-last-layer"))
            )
        gr.HTML(
            '<p class="rv-quiet">Early layers can add artefacts: leave some out and look again.</p>', js_on_load=None,
            apply_default_css=False,
        )  # fmt: skip
        method = gr.Dropdown(list(methods()), value=DEFAULT, label="Method", elem_id="rv-method")
    restore = as_uploaded(
        gr.UploadButton("Go on from a state file", file_types=[".json"], size="sm", elem_id="rv-restore")
    )
    return Question(
        picture, others, strip, add, shown, question, presets, models, target, scope, method, first_layer, last_layer,
        options, explain, cancel, restore, talk,
    )  # fmt: skip


def _talk(settings: Settings) -> Talk:
    with gr.Accordion("Conversation", open=False, elem_id="rv-talk") as panel:
        gr.HTML(
            '<p class="rv-quiet">What was said before the question. Pictures come before the first text; write '
            f"{PLACE} to put the last of them elsewhere.</p>", js_on_load=None, apply_default_css=False,
        )  # fmt: skip
        common: dict[str, Any] = {"lines": 1, "max_lines": 4, "max_length": settings.question_characters}
        system = gr.Textbox(
            label="System prompt", placeholder="None; not every model takes one", elem_id="rv-system", **common
        )
        turns = [
            gr.Textbox(
                label=f"{('User', 'Model')[place % 2]}, {place // 2 + 1}", visible=place < 2, elem_classes="rv-turn",
                elem_id=f"rv-turn-{place}", placeholder=("What was asked", "What was answered")[place % 2], **common,
            )
            for place in range(2 * MOST_EXCHANGES)
        ]  # fmt: skip
        video = gr.Checkbox(False, label="The pictures are the frames of one video, in their order", elem_id="rv-video")
        with gr.Row():
            more = gr.Button("One exchange more", size="sm", elem_id="rv-more-turns")
            clear = gr.Button("Clear", size="sm", elem_id="rv-clear-talk")
    return Talk(panel, system, video, turns, more, clear)


def _results(library: Library) -> tuple[Answers, Variations, Ways, WhatIf]:
    status = gr.HTML(views.ready(), elem_id="rv-status", apply_default_css=False, js_on_load=None)
    with gr.Column(visible=False) as tools:
        drawing = _drawing()
    board = gr.HTML(views.welcome(), elem_id="rv-board", apply_default_css=False, js_on_load=BOARD_SCRIPT.read_text())
    with gr.Column(visible=False, elem_id="rv-details") as details:
        agreement = gr.HTML("", elem_id="rv-agreement", apply_default_css=False, js_on_load=None)
        with gr.Row(elem_id="rv-downloads"):
            gr.HTML('<p class="rv-heading">Download</p>', js_on_load=None, apply_default_css=False)
            downloads = {
                kind: gr.Button(kind, size="sm", min_width=70, elem_id=f"rv-download-{kind.lower()}") for kind in KINDS
            }
        file = gr.DownloadButton("Fetch", visible="hidden", elem_id="rv-file")
        with gr.Tabs(elem_id="rv-more"):
            with gr.Tab("Questions"):
                variations = _variations(library)
            with gr.Tab("Methods"):
                ways = _ways(library)
            with gr.Tab("What if?"):
                what_if = _what_if()
    return Answers(status, tools, board, details, agreement, downloads, file, drawing), variations, ways, what_if


def _drawing() -> Drawing:
    with gr.Row(elem_id="rv-drawing"):
        opacity = gr.Slider(
            0, 1, value=Display.opacity, step=0.05, label="Opacity", elem_id="rv-opacity", min_width=160, buttons=[]
        )
        threshold = gr.Slider(
            0, 1, value=Display.threshold, step=0.01, label="Hide below", elem_id="rv-threshold", min_width=160,
            buttons=[],
        )  # fmt: skip
        colormap = gr.Dropdown(
            list(COLORMAPS), value=Display.colormap, label="Colors", elem_id="rv-colormap", min_width=120
        )
        smooth = gr.Checkbox(Display.smooth, label="Smooth", elem_id="rv-smooth", min_width=120)
        one_scale = gr.Checkbox(Display.one_scale, label="One scale", elem_id="rv-one-scale", min_width=120)
        log = gr.Checkbox(Display.log, label="Log scale", elem_id="rv-log", min_width=120)
    return Drawing(opacity, colormap, smooth, one_scale, log, threshold)


def _variations(library: Library) -> Variations:
    gr.HTML(
        '<p class="rv-quiet">Does the map change with the question at all? One question per line, same picture, one '
        "scale; each map is compared with the first.</p>", js_on_load=None, apply_default_css=False,
    )  # fmt: skip
    with gr.Row():
        questions = gr.Textbox(
            label="Questions", lines=4, max_lines=6, elem_id="rv-questions", scale=3, min_width=280,
            placeholder="Is the duck floating?\nWhat color is the duck?",
        )  # fmt: skip
        with gr.Column(scale=1, min_width=160):
            model = _one_model(library, "rv-variation-model")
            run = gr.Button("Compare the questions", variant="primary", elem_id="rv-vary")
    board = gr.HTML("", elem_id="rv-variations", apply_default_css=False, js_on_load=BOARD_SCRIPT.read_text())
    return Variations(model, questions, run, board)


def _one_model(library: Library, elem_id: str) -> gr.Radio:
    """Which of the models; at first the second of a pair."""
    names = list(library.names)
    return gr.Radio(names, value=names[min(1, len(names) - 1)], label="Model", elem_id=elem_id)


def _ways(library: Library) -> Ways:
    gr.HTML(
        '<p class="rv-quiet">Do other methods point to the same place, and which layers and heads bring it in? The '
        "same token of the same question. Each map is compared with the shown one; those of heads add up to it.</p>",
        js_on_load=None, apply_default_css=False,
    )  # fmt: skip
    offered = methods()
    with gr.Row():
        chosen = gr.CheckboxGroup(
            [(f"{name} ({method.cost})", name) for name, method in offered.items()],
            value=[name for name in SET_BESIDE if name in offered], label="Methods, with the passes that each costs",
            elem_id="rv-methods", scale=3, min_width=280,
        )  # fmt: skip
        with gr.Column(scale=1, min_width=160):
            model = _one_model(library, "rv-ways-model")
            compare = gr.Button("Compare the methods", variant="primary", elem_id="rv-compare-methods")
            layers = gr.Button(f"Compare the layers ({MOST_LAYERS} parts)", elem_id="rv-compare-layers")
            heads = gr.Button("Compare the heads (all: 1 forward, 1 backward)", elem_id="rv-compare-heads")
    board = gr.HTML("", elem_id="rv-ways", apply_default_css=False, js_on_load=BOARD_SCRIPT.read_text())
    return Ways(model, chosen, compare, layers, heads, board)


def _what_if() -> WhatIf:
    replacement = gr.Radio(
        list(REPLACEMENTS), value=REPLACEMENTS[0][1], label="Hide it under", elem_id="rv-replacement"
    )
    marker = gr.HTML(
        views.no_marker(), elem_id="rv-marker", apply_default_css=False, js_on_load=MARKER_SCRIPT.read_text()
    )
    changes = gr.HTML("", elem_id="rv-changes", apply_default_css=False, js_on_load=None)
    return WhatIf(replacement, marker, changes)


def _past(settings: Settings) -> Past:
    with gr.Accordion("History", open=False, elem_id="rv-past", visible=settings.history is not None) as panel:
        search = gr.Textbox(
            label="Search", placeholder="Words of the question, the answer, a name, a model, a method", lines=1,
            elem_id="rv-search",
        )  # fmt: skip
        listed = gr.HTML("", elem_id="rv-list", apply_default_css=False, js_on_load=HISTORY_SCRIPT.read_text())
        lines = gr.HTML("", elem_id="rv-compared", apply_default_css=False, js_on_load=_CLEARING)
        with gr.Column(elem_id="rv-pair"):
            first, second = (
                gr.HTML("", elem_id=name, apply_default_css=False, js_on_load=BOARD_SCRIPT.read_text())
                for name in ("rv-compared-first", "rv-compared-second")
            )
        agreement = gr.HTML("", apply_default_css=False, js_on_load=None)
    link = gr.HTML("", elem_id="rv-link", visible="hidden", apply_default_css=False, js_on_load=LINK_SCRIPT.read_text())
    return Past(panel, search, listed, lines, first, second, agreement, link)


def _many() -> Many:
    with gr.Accordion("Many pictures", open=False, elem_id="rv-many"):
        gr.HTML(
            '<p class="rv-quiet">The question below, asked about each picture, with the models and options chosen '
            "there. What has ended stays: after Cancel or a restart, the same pictures and question go on.</p>",
            js_on_load=None, apply_default_css=False,
        )  # fmt: skip
        files = gr.State([])
        with gr.Row():
            several = gr.UploadButton(
                "Choose pictures", file_count="multiple", file_types=["image"], size="sm", elem_id="rv-files"
            )
            folder = gr.UploadButton("Choose a folder", file_count="directory", size="sm", elem_id="rv-folder")
            run = gr.Button("Explain all", variant="primary", size="sm", elem_id="rv-batch")
            report = gr.DownloadButton("Download the report", visible=False, size="sm", elem_id="rv-report")
        shown = gr.HTML("", elem_id="rv-table", apply_default_css=False, js_on_load=None)
    return Many(files, [several, folder], run, shown, report)
