"""A run as the history stores it, and back: the package's own files, and the picture as the models were given it.

A result is `explanation.json` as `Explanation.save` writes it, a comparison `comparison.json`, both compressed.
"""

from __future__ import annotations

import hashlib
import io
import json
import zlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from relevancy import Explanation, formats
from relevancy.explanations.comparison import Comparison
from relevancy.images import open_picture
from relevancy_app.asking import Ask
from relevancy_app.session import Session, plain, reduced

FIRST = -1
"""In the place of a token's position: the result that was asked for."""

_THUMBNAIL = 192  # pixels
_QUALITY = 80


def results(session: Session, known: Collection[tuple[int, int]]) -> dict[tuple[int, int], bytes]:
    """Every result that is not known yet, by number of the model and position."""
    found = {(number, FIRST): result for number, result in enumerate(session.first)}
    found |= {key: result for key, result in session.picked.items() if result is not session.first[key[0]]}
    return {key: _packed(result.to_json()) for key, result in found.items() if key not in known}


def beginning(session: Session) -> dict[str, Any]:
    """What is known from the first result on, by column."""
    return {
        "id": session.kept,
        "question": session.ask.question,
        "made": session.ask.made,
        "notes": json.dumps(session.notes, ensure_ascii=False),
        "picture": hashlib.sha256(session.source).hexdigest(),
        "bytes": len(session.source),
        "thumbnail": _thumbnail(session.first[0]),
    }


def growing(session: Session) -> dict[str, Any]:
    """What changes as a run goes on, by column."""
    shown = [
        FIRST if result is first else result.target.position
        for result, first in zip(session.results, session.first, strict=True)
    ]
    return {
        "answers": json.dumps([result.answer for result in session.first], ensure_ascii=False),
        "models": json.dumps(session.ask.models, ensure_ascii=False),
        "ask": json.dumps(asdict(session.ask), ensure_ascii=False),
        "shown": json.dumps(shown),
        "comparison": None if session.comparison is None else _packed(session.comparison.to_json()),
    }


def session(
    kept: str,
    source: bytes,
    ask: str,
    notes: str,
    shown: str,
    comparison: bytes | None,
    *,
    results: Iterable[tuple[int, int, bytes]],
) -> Session:
    """The session that was stored; one that was cut short is whole with what there is."""
    found = {(model, position): _explanation(packed, source) for model, position, packed in results}
    first = tuple(result for (_, position), result in found.items() if position == FIRST)
    picked = {key: result for key, result in found.items() if key[1] != FIRST}
    for number, result in enumerate(first):
        picked |= plain(number, result)
    now = tuple(found[number, position] for number, position in enumerate(json.loads(shown)))
    asked = json.loads(ask)
    whole = Session(
        ask=Ask(**asked | {"models": tuple(asked["models"])}),
        source=source,
        notes=tuple(json.loads(notes)),
        first=first,
        results=now,
        screen=tuple(map(reduced, now)),
        comparison=None if comparison is None else _comparison(comparison, first),
        picked=picked,
        kept=kept,
    )
    return whole if whole.whole else whole.ended()


def _explanation(packed: bytes, source: bytes) -> Explanation:
    stored = json.loads(zlib.decompress(packed))
    formats.require_known(stored, formats.EXPLANATION, Path("explanation.json"))
    size = stored["image"]["width"] * stored["image"]["height"]
    return Explanation.from_json(stored, [open_picture(source, max_pixels=size).image])


def _comparison(packed: bytes, first: tuple[Explanation, ...]) -> Comparison:
    stored = json.loads(zlib.decompress(packed))
    formats.require_known(stored, formats.COMPARISON, Path("comparison.json"))
    return Comparison.from_json(stored, first)


def _packed(content: Mapping[str, Any]) -> bytes:
    return zlib.compress(json.dumps(content, ensure_ascii=False, allow_nan=False).encode())


def _thumbnail(result: Explanation) -> bytes:
    small, buffer = result.reduced(_THUMBNAIL), io.BytesIO()
    empty = small.shown()[1]  # told in words, too small to be read here
    (small.image if empty else small.overlay()).save(buffer, "JPEG", quality=_QUALITY)
    return buffer.getvalue()
