"""A run as the history stores it, and back: the package's own files, and the picture as the models were given it.

A result is `explanation.json` as `Explanation.save` writes it, a comparison `comparison.json`, both compressed.
"""

from __future__ import annotations

import hashlib
import io
import json
import zlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from PIL import Image

from relevancy import Explanation, formats
from relevancy.explanations.comparison import Comparison
from relevancy.images import open_picture
from relevancy.plotting.overlay import why_empty
from relevancy_app.asking import Ask
from relevancy_app.session import Session, of_token, reduced

Place = tuple[int, int, int]
"""Of a result: number of the model, position of the token, and the token it is explained against; -1 for none."""

_NONE = -1
_THUMBNAIL = 192  # pixels
_QUALITY = 80


def results(session: Session, known: Collection[Place]) -> dict[Place, bytes]:
    """The results that came first and those that are shown, as far as they are not known yet."""
    found = {(number, _NONE, _NONE): result for number, result in enumerate(session.first)}
    found |= zip(_shown(session), session.results, strict=True)
    return {place: _packed(result.to_json()) for place, result in found.items() if place not in known}


def digest(source: bytes) -> str:
    """A picture's name among all that are stored."""
    return hashlib.sha256(source).hexdigest()


def beginning(session: Session) -> dict[str, Any]:
    """What is known from the first result on, by column."""
    return {
        "id": session.kept,
        "question": session.ask.question,
        "made": session.ask.made,
        "notes": json.dumps(session.notes, ensure_ascii=False),
        "picture": digest(session.source),
        "bytes": sum(map(len, session.sources)),
        "thumbnail": _thumbnail(session.first[0]),
    }


def growing(session: Session) -> dict[str, Any]:
    """What changes as a run goes on, by column."""
    return {
        "answers": json.dumps([result.answer for result in session.first], ensure_ascii=False),
        "models": json.dumps(session.ask.models, ensure_ascii=False),
        "ask": json.dumps(asdict(session.ask), ensure_ascii=False),
        "shown": json.dumps(_shown(session)),
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
    others: Sequence[bytes],
    results: Iterable[tuple[int, int, int, bytes]],
) -> Session:
    """The session that was stored; one that was cut short is whole with what there is."""
    sources = (source, *others)
    decoded = cache(lambda number, pixels: open_picture(sources[number], max_pixels=pixels).image)  # once for all
    found = {(model, position, against): _explanation(packed, decoded) for model, position, against, packed in results}
    first = tuple(result for (_, position, _), result in found.items() if position == _NONE)
    picked = {
        pick: result for (number, *_), result in found.items() for pick, result in of_token(number, result).items()
    }
    now = tuple(found[model, position, against] for model, position, against in json.loads(shown))
    asked: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in json.loads(ask).items()
    }
    whole = Session(
        ask=Ask(**asked),
        source=source,
        others=tuple(others),
        notes=tuple(json.loads(notes)),
        first=first,
        results=now,
        screen=tuple(map(reduced, now)),
        comparison=None if comparison is None else _comparison(comparison, first),
        picked=picked,
        kept=kept,
    )
    return whole if whole.whole else whole.ended()


def _shown(session: Session) -> list[Place]:
    """Where the results that are shown stand among the stored ones."""
    return [
        (number, _NONE, _NONE)
        if result is first
        else (number, result.target.position, _or_none(result.target.contrast_id))
        for number, (result, first) in enumerate(zip(session.results, session.first, strict=True))
    ]


def _or_none(token: int | None) -> int:
    return _NONE if token is None else token


def _explanation(packed: bytes, decoded: Callable[[int, int], Image.Image]) -> Explanation:
    stored = json.loads(zlib.decompress(packed))
    formats.require_known(stored, formats.EXPLANATION, Path("explanation.json"))
    placed = [one["image"] for one in stored.get("pictures") or [stored]]
    images = [decoded(number, one["width"] * one["height"]) for number, one in enumerate(placed)]
    return Explanation.from_json(stored, images)


def _comparison(packed: bytes, first: tuple[Explanation, ...]) -> Comparison:
    stored = json.loads(zlib.decompress(packed))
    formats.require_known(stored, formats.COMPARISON, Path("comparison.json"))
    return Comparison.from_json(stored, first)


def _packed(content: Mapping[str, Any]) -> bytes:
    return zlib.compress(json.dumps(content, ensure_ascii=False, allow_nan=False).encode())


def _thumbnail(result: Explanation) -> bytes:
    small, buffer = result.reduced(_THUMBNAIL), io.BytesIO()
    why = why_empty(small.image_map, small.picture().share)  # words would be too small to be read here
    (small.image if why else small.overlay()).save(buffer, "JPEG", quality=_QUALITY)
    return buffer.getvalue()
