"""The two endpoints for programs, /explain and /compare: stateless, everything checked as on the page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

import relevancy
from relevancy import RelevancyError
from relevancy.methods.registry import DEFAULT
from relevancy.models.conversation import is_messages, read_messages
from relevancy_app import asking, downloads
from relevancy_app.actions import explanation
from relevancy_app.asking import LAST
from relevancy_app.library import Library
from relevancy_app.pictures import taken
from relevancy_app.safety import as_uploaded, speaking
from relevancy_app.settings import SCOPES, Settings
from relevancy_app.wiring import MODELS

_TARGET = "first-relevant"


@dataclass(frozen=True, eq=False)
class Endpoints:
    """The functions behind the endpoints."""

    library: Library
    settings: Settings
    folder: str

    def explain(
        self,
        image: Any,
        question: Any,
        model: Any,
        target: Any,
        scope: Any,
        first_layer: Any,
        last_layer: Any,
        method: Any,
        pictures: Any,
        messages: Any,
    ) -> tuple[Any, str]:
        """Why one model says what it says: everything `explanation.json` holds, and the overlay as PNG.

        image: a picture file. model: one of this app's. target: first, first-relevant, contrast, a position, a
        word of the answer, or two words such as Yes|No. scope: language or full. Layers count from 0; last_layer -1 is
        the last. method: one of those that the page offers. pictures: files of further pictures. messages: instead of a
        question, a conversation in transformers' chat format, {"type": "image"} where each of the pictures stands.
        """
        sources, question = self._asked(image, question, pictures, messages)
        ask = asking.ask(self.library, self.settings, question, [model], target, scope, method, first_layer, last_layer)
        with self.library.using(ask.models) as (only,):
            options = ask.options(only) | {"max_pixels": self.settings.max_pixels}
            result = explanation(only, sources, messages or ask.said(sources), **options)
        return result.to_json(), downloads.shared(result.overlay(), self.folder)

    def compare(
        self,
        image: Any,
        question: Any,
        models: Any,
        target: Any,
        scope: Any,
        method: Any,
        pictures: Any,
        messages: Any,
    ) -> tuple[Any, str]:
        """Several models, one picture and question: answers, agreement and all explanations, and the figure as PNG.

        models: names of this app's models, two or more. All others: as in /explain.
        """
        sources, question = self._asked(image, question, pictures, messages)
        ask = asking.ask(self.library, self.settings, question, models, target, scope, method)
        with self.library.using(ask.models) as models:
            both = relevancy.compare(
                models, sources, messages or ask.said(sources), target=ask.target, scope=ask.scope,
                method=ask.method, max_pixels=self.settings.max_pixels,
            )  # fmt: skip
        content = both.to_json() | {"explanations": [result.to_json() for result in both.explanations]}
        return content, downloads.pictured(both, self.folder)

    def _asked(self, image: Any, question: Any, pictures: Any, messages: Any) -> tuple[list[bytes], Any]:
        """The pictures' files, and what is asked last. Raises RelevancyError."""
        paths = [path for path in (image, *(pictures or ())) if path] or [None]
        asked = _asked_last(messages, question, self.settings) if messages else question
        return [source for source, _ in taken(paths, self.settings)], asked


def _asked_last(messages: Any, question: Any, settings: Settings) -> str:
    """What a program's chat messages ask in the end.

    Raises RelevancyError for what is none, for a question beside them, and for pictures in them: a path would be read.
    """
    if not is_messages(messages):
        raise RelevancyError('messages is a list of chat messages, such as [{"role": "user", "content": "text"}].')
    if question:
        raise RelevancyError("Give a question, or messages that end with one, not both.")
    conversation, held = read_messages(messages)
    if any(source is not None for source in held) or any(turn.videos for turn in conversation):
        raise RelevancyError('Pictures are uploaded beside the messages: write {"type": "image"} where each stands.')
    if any(len(turn.text) > settings.question_characters for turn in conversation):
        most = f"{settings.question_characters:,}"
        raise RelevancyError(f"A message has more than {most} characters: shorten it.")
    return conversation[-1].text


def add(endpoints: Endpoints) -> None:
    """Attach them to the current `gr.Blocks`, on components that no page shows."""
    library = endpoints.library
    with gr.Row(visible=False):
        image = as_uploaded(gr.Image(type="filepath", image_mode=None, label="image"))
        question = gr.Textbox("", label="question")
        model = gr.Textbox(library.names[0], label="model")
        models = gr.JSON(list(library.names[:2]), label="models")
        target = gr.Textbox(_TARGET, label="target")
        scope = gr.Textbox(SCOPES[0][1], label="scope")
        first_layer, last_layer = gr.Number(0, label="first_layer"), gr.Number(LAST, label="last_layer")
        method = gr.Textbox(DEFAULT, label="method")
        pictures = as_uploaded(gr.File([], file_count="multiple", label="pictures"))
        messages = gr.JSON([], label="messages")
        result, drawn = gr.JSON(label="result"), gr.Image(format="png", label="overlay")
        explain, compare = gr.Button(), gr.Button()
    shared: dict[str, Any] = {"concurrency_id": MODELS, "concurrency_limit": 1}
    explain.click(
        speaking(endpoints.explain),
        [image, question, model, target, scope, first_layer, last_layer, method, pictures, messages], [result, drawn],
        api_name="explain", **shared,
    )  # fmt: skip
    compare.click(
        speaking(endpoints.compare), [image, question, models, target, scope, method, pictures, messages],
        [result, drawn], api_name="compare", **shared,
    )  # fmt: skip
