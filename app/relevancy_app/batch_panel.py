"""What happens on a click where many pictures are explained: files in, a table that grows, and a report."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from relevancy import RelevancyError
from relevancy_app import asking
from relevancy_app.batch import Batch, check_count, table
from relevancy_app.downloads import fresh
from relevancy_app.layout import Page
from relevancy_app.pictures import fitted
from relevancy_app.safety import received, shown_line, speaking
from relevancy_app.session import Controls
from relevancy_app.wiring import ENABLE, PROGRESS, QUICK, Handlers, owner_of, report_to, running


@dataclass(frozen=True, eq=False)
class BatchHandlers:
    """The functions behind the panel. root: where batches lie."""

    shown: Handlers
    root: Path

    def run(
        self, controls: Controls, files: Any, request: gr.Request, progress: gr.Progress = PROGRESS, *asked: Any
    ) -> Iterator[tuple[Any, Any]]:
        """The table as it grows; at last the report."""
        report = report_to(progress, controls.start())
        settings, library = self.shown.settings, self.shown.library
        ask = asking.ask(library, settings, *asked)
        if ask.said([""]) != ask.question:
            raise RelevancyError("Many pictures take a question alone: clear the conversation and [picture] in it.")
        check_count(len(files or ()))  # before any of them is read
        pictures = [(Path(str(path)).name, self._taken(path)) for path in files or ()]
        batch = Batch.of(pictures, ask, owner_of(request), self.root, settings.max_pixels)
        yield table(batch, batch.rows()), gr.update(visible=False)
        with library.using(ask.models, report) as models:
            for rows in batch.run(models, report):
                yield table(batch, rows), gr.skip()
        try:
            page = batch.report(report)
        except RelevancyError as error:
            gr.Warning(f"There is no report. {shown_line(error)}")
            return
        copied = shutil.copy(page, fresh(self.shown.folder, page.name))
        yield gr.skip(), gr.update(value=copied, visible=True)

    def _taken(self, path: Any) -> bytes:
        """A file as the models are given it; what is no picture is told of in the table."""
        data = received(path, self.shown.settings)
        try:
            return fitted(data, self.shown.settings)[0]
        except RelevancyError:
            return data


def chosen(files: Any) -> tuple[Any, str, Any]:
    """The files that were chosen, how many there are in words, and no report."""
    paths = [str(path) for path in files or ()]
    count = f"{len(paths):,} picture{'' if len(paths) == 1 else 's'} chosen."
    return paths, f'<p class="rv-quiet" role="status">{count}</p>', gr.update(visible=False)


def wire(page: Page, handlers: BatchHandlers) -> Any:
    """Attach the handlers to the panel, inside the current `gr.Blocks`; the event that calls models."""
    batch = page.batch
    for button in batch.choosing:
        button.upload(speaking(chosen), button, [batch.files, batch.table, batch.report], **QUICK)
    batch.run.click(None, js=ENABLE, outputs=page.question.cancel)
    return batch.run.click(
        speaking(handlers.run), [page.controls, batch.files, *page.question.asked], [batch.table, batch.report],
        **running(batch.table),
    )  # fmt: skip
