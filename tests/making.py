"""Small inputs, the command in a process of its own, and an engine that explains nothing but answers for every row."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import tiny

from relevancy.export.identity import ExportPlan
from relevancy.export.records import faulty
from relevancy.export.request import Request
from relevancy.export.schema import table_of

QUESTIONS = ("Is the duck floating? (a) Yes (b) No", "What color is the ball?", "Where is the dog?")


def encoded(seed: int, width: int = 80, height: int = 60, kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    tiny.picture(width, height, seed).save(stream, kind)
    return stream.getvalue()


def write_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def rows_over(pictures: int, rows: int) -> list[dict[str, Any]]:
    """Rows that ask about pictures in turns, so that a picture's rows do not stand beside each other."""
    return [
        {"id": f"q{row}", "image": f"{row % pictures}.png", "question": QUESTIONS[row % 3], "answer": "Yes", "n": row}
        for row in range(rows)
    ]


class Stub:
    """An engine without models: each row's answer is its own question. Calls `before` with each chunk."""

    size = 1

    def __init__(self, columns: Any, names: tuple[str, ...] = ("stub",), before: Any = None) -> None:
        self.columns, self.names, self.before = columns, names, before

    def run(self, next_chunk: Any) -> Any:
        while (chunk := next_chunk()) is not None:
            if self.before:
                self.before(chunk)
            records = [
                faulty(item, name, "") | {"error": None, "answer": item.question}
                for name in self.names
                for item in chunk.items
            ]
            yield chunk, table_of(records, self.columns)


def stub_models(*names: str) -> list[Any]:
    """What a request names where a Stub works."""
    return [SimpleNamespace(name=name) for name in names or ("stub",)]


def stub_request(source: Path, out: Path, **changes: Any) -> Request:
    return Request(models=stub_models(), input=str(source), out=out, **changes)


def stub_for(request: Request, **options: Any) -> Stub:
    return Stub(ExportPlan.of(request).schema, tuple(model.name for model in request.models), **options)


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "relevancy.cli", "export", *map(str, arguments)]


def run(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command(*arguments), capture_output=True, text=True, timeout=600, env=environment, check=False, **options
    )
