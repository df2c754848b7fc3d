"""Many pictures and one question: an export underneath, so that it goes on where it stopped, and has a report."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from html import escape
from itertools import takewhile
from pathlib import Path

from relevancy import Model, RelevancyError
from relevancy.atomic_io import locked
from relevancy.data.columns import Columns
from relevancy.explanations.explain import ExplainConfig
from relevancy.export.results import open_export
from relevancy.export.run import Request, export
from relevancy.report.build import make_report, save
from relevancy_app.asking import Ask
from relevancy_app.board import told
from relevancy_app.library import Progress

MOST_PICTURES = 500
_MOST_BATCHES = 20  # folders that are kept
_STEP = 8  # pictures between two looks at the table
_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
_COLUMNS = ("row", "model", "answer", "share_image", "verdict", "error")


@dataclass(frozen=True)
class BatchRow:
    """What became of one picture with one model; state is waiting, done, or why it could not be explained."""

    picture: str
    model: str
    answer: str = ""
    share: float = float("nan")
    verdict: str = ""
    state: str = "waiting"


def check_count(pictures: int) -> None:
    """Raise RelevancyError for none, and for more than `MOST_PICTURES`."""
    if not pictures:
        raise RelevancyError("No pictures yet: choose some files, or a folder.")
    if pictures > MOST_PICTURES:
        raise RelevancyError(
            f"{pictures:,} pictures are more than {MOST_PICTURES}: leave some out, or take relevancy export."
        )


@dataclass(frozen=True, eq=False)
class Batch:
    """Pictures in a folder of their own, named after all that decides the results: the same again goes on there."""

    folder: Path
    names: tuple[str, ...]
    ask: Ask
    max_pixels: int

    @classmethod
    def of(cls, pictures: Sequence[tuple[str, bytes]], ask: Ask, owner: str, root: Path, max_pixels: int) -> Batch:
        """The batch of these files, each a name and its bytes; of the folders there, those used last are kept."""
        files = [(name, hashlib.sha256(data).hexdigest()) for name, data in pictures]
        deciding = [owner, repr(ask), max_pixels, files]
        folder = root / hashlib.sha256(json.dumps(deciding).encode()).hexdigest()[:32]
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        with locked(root, wait=True):  # all apps of a user share it
            if not folder.exists():
                _make_room(root)
                with tempfile.TemporaryDirectory(prefix=".part-", dir=root) as part:
                    made = Path(part) / "batch"
                    (made / "pictures").mkdir(parents=True)
                    for number, (name, data) in enumerate(pictures):
                        (made / "pictures" / _numbered(number, name)).write_bytes(data)
                    made.replace(folder)
            os.utime(folder)
        return cls(folder, tuple(name for name, _ in pictures), ask, max_pixels)

    def run(self, models: Sequence[Model], progress: Progress) -> Iterator[list[BatchRow]]:
        """The table as it grows, at last the whole; what was done before is not done again."""
        request = Request(
            models=models,
            input=str(self.folder / "pictures"),
            out=self.folder / "maps",
            kind="folder",
            columns=Columns(every=self.ask.question),
            wish=ExplainConfig(self.ask.target, self.ask.scope, self.ask.method, self._layers(models)),
            max_pixels=self.max_pixels,
            chunk=_STEP,
        )
        count, done = len(self.names), self._done
        for end in (min(start + _STEP, count) for start in range(min(done - done % _STEP, count - 1), count, _STEP)):
            progress(f"picture {end} of {count}", done / count)
            export(replace(request, limit=end))
            os.utime(self.folder)
            done = end
            yield self.rows()

    def rows(self) -> list[BatchRow]:
        """Every picture with every model, in their order."""
        table = open_export(self.folder / "maps").table(_COLUMNS).to_pylist() if self._begun else []
        ended = {(record["row"], record["model"]): record for record in table}
        return [
            _row(name, model, ended.get((number, model)))
            for number, name in enumerate(self.names)
            for model in self.ask.models
        ]

    def report(self, progress: Progress) -> Path:
        """The page of what the export shows. Raises RelevancyError where nothing could be explained."""
        made = make_report(self.folder / "maps", progress=progress)
        return save(made, self.folder / "report")

    @property
    def _done(self) -> int:
        """How many pictures have ended, up to the first that has not."""
        states = (row.state for row in self.rows())
        return sum(1 for _ in takewhile(lambda state: state != "waiting", states)) // len(self.ask.models)

    @property
    def _begun(self) -> bool:
        return (self.folder / "maps" / "manifest.json").exists()

    def _layers(self, models: Sequence[Model]) -> range | None:
        found = {self.ask.layers(model) for model in models}
        if len(found) > 1:
            raise RelevancyError("These layers are others in each of the models: choose one model, or all layers.")
        return found.pop()


def table(batch: Batch, rows: Sequence[BatchRow]) -> str:
    """The rows as HTML."""
    titles = ("Picture", "Model", "Answer", "Picture’s share", "Evidence", "State")
    heads = "".join(f'<th scope="col">{title}</th>' for title in titles)
    lines = "".join(
        f'<tr><th scope="row">{escape(row.picture)}</th><td>{escape(row.model)}</td><td>{escape(row.answer)}</td>'
        f"<td>{told(row.share)}</td><td>{escape(row.verdict)}</td><td>{escape(row.state)}</td></tr>"
        for row in rows
    )
    ended = sum(row.state != "waiting" for row in rows)
    return (
        f'<div class="rv-scroll rv-batch" tabindex="0"><table class="rv-table"><caption>“{escape(batch.ask.question)}”'
        f"<small>{escape(batch.ask.made)} · {ended} of {len(rows)} ended</small></caption>"
        f"<thead><tr>{heads}</tr></thead><tbody>{lines}</tbody></table></div>"
    )


def _row(name: str, model: str, record: dict[str, object] | None) -> BatchRow:
    if record is None:
        return BatchRow(name, model)
    if record["error"] is not None:
        return BatchRow(name, model, state=str(record["error"]))
    share = record["share_image"]
    return BatchRow(
        name, model, str(record["answer"]), float("nan") if share is None else float(str(share)),
        str(record["verdict"] or ""), "done",
    )  # fmt: skip


def _numbered(number: int, name: str) -> str:
    """A file's name in the order of the files, of a kind that a folder of pictures may hold."""
    path = Path(name)
    suffix = path.suffix.lower() if path.suffix.lower() in _SUFFIXES else ".png"
    return f"{number:04d}-{re.sub(r'[^A-Za-z0-9_-]+', '-', path.stem)[:60]}{suffix}"


def _make_room(root: Path) -> None:
    """Remove what was used longest ago until one more has room, but nothing that is at work."""
    known = sorted((one for one in root.iterdir() if one.is_dir()), key=lambda one: one.stat().st_mtime)
    for old in known[: max(0, len(known) - _MOST_BATCHES + 1)]:
        with suppress(RelevancyError), locked(old / "maps"):
            shutil.rmtree(old, ignore_errors=True)
