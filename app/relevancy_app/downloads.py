"""Results as files: picture, vector figure, numbers, and a state from which the app goes on."""

from __future__ import annotations

import base64
import binascii
import io
import json
import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gradio.processing_utils import save_file_to_cache
from PIL import Image

from relevancy import RelevancyError
from relevancy.explanations.comparison import Comparison
from relevancy.images import open_picture
from relevancy_app.asking import Ask, Display, ask, display
from relevancy_app.library import Library
from relevancy_app.pictures import check_number
from relevancy_app.session import Session
from relevancy_app.settings import Settings

FORMAT = "relevancy-app-state"
_VERSIONS = (1, 2, 3)  # the first counted layers from 1, the third has several pictures
_LONGEST_STEM = 120


@dataclass(frozen=True, eq=False)
class Restored:
    """What a state file asks for."""

    ask: Ask
    display: Display
    source: bytes
    others: tuple[bytes, ...] = ()


def written(last: Session | None, kind: str, shown: Display, folder: str) -> str:
    """Write one file of this kind into a new folder inside `folder`; its path."""
    if last is None:
        raise RelevancyError("There is nothing to download yet: press Explain first.")
    ending, make = KINDS[kind]
    path = fresh(folder, f"{stem(last)}{ending}")
    path.write_bytes(make(last, shown))
    return str(path)


def fresh(folder: str, name: str) -> Path:
    """A file of this name that is not there yet, in a new folder inside `folder`."""
    return Path(tempfile.mkdtemp(dir=folder)) / name


def stem(last: Session) -> str:
    """A file's name without its ending: models, method, and what else is not as always."""
    ask = last.ask
    parts = ["relevancy", *(name.rpartition("/")[2] for name in ask.models), ask.method]
    if ask.target != Ask.target:
        parts.append(ask.target)
    if ask.scope != "language":
        parts.append(ask.scope)
    if ask.first_layer > 0 or ask.last_layer is not None:
        parts.append(f"layers-{ask.first_layer}-{'last' if ask.last_layer is None else ask.last_layer}")
    return re.sub(r"[^\w.-]+", "-", "_".join(parts))[:_LONGEST_STEM]


def _figure(last: Session, shown: Display, kind: str) -> bytes:
    options = asdict(shown)
    shared = options.pop("one_scale")
    both = last.shown
    drawn = last.results[0].figure(**options) if both is None else both.figure(shared_scale=shared, **options)
    buffer = io.BytesIO()
    drawn.savefig(buffer, format=kind)
    return buffer.getvalue()


def _json(last: Session, _: Display) -> bytes:
    both = last.shown
    content = {
        "comparison": None if both is None else both.to_json(),
        "explanations": [result.to_json() for result in last.results],
    }
    return json.dumps(content, ensure_ascii=False, indent=1, allow_nan=False).encode()


def _npz(last: Session, _: Display) -> bytes:
    """Per model, by its number: the map, the row over the tokens, and where the patches lie; and how it was made.

    Of a further picture the names end with its number, from 2 on. The map in the picture's pixels follows from these
    (`Grid.heatmap`), and would be most of the file.
    """
    settings = {
        **asdict(last.ask),
        "made": [result.how for result in last.results],
        "targets": [result.to_json()["target"] for result in last.results],
        "versions": dict(last.results[0].versions),
    }
    arrays: dict[str, Any] = {
        "models": np.array([result.model for result in last.results]),
        "picture_size": np.array(last.picture.size),
        "picture_sizes": np.array([picture.size for picture in last.pictures]),
        "settings": np.array(json.dumps(settings, ensure_ascii=False)),
    }
    for number, result in enumerate(last.results):
        arrays |= {
            f"{number}_relevance": result.relevance,
            f"{number}_tokens": np.array(result.tokens),
            f"{number}_is_image": result.is_image,
            f"{number}_picture_shares": np.array([picture.share for picture in result.pictures]),
        }
        for place, picture in enumerate(result.pictures, 1):
            end = f"_{place}" if place > 1 else ""
            arrays |= {
                f"{number}_image_map{end}": picture.image_map,
                f"{number}_x_edges{end}": picture.grid.x_edges,
                f"{number}_y_edges{end}": picture.grid.y_edges,
            }
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def _state(last: Session, shown: Display) -> bytes:
    content = {
        "format": FORMAT,
        "version": _VERSIONS[-1],
        "ask": asdict(last.ask),
        "display": asdict(shown),
        "pictures": [base64.b64encode(source).decode() for source in last.sources],
    }
    return json.dumps(content, ensure_ascii=False).encode()


KINDS: Mapping[str, tuple[str, Callable[[Session, Display], bytes]]] = {
    "PNG": (".png", lambda last, shown: _figure(last, shown, "png")),
    "PDF": (".pdf", lambda last, shown: _figure(last, shown, "pdf")),
    "JSON": (".json", _json),
    "NPZ": (".npz", _npz),
    "State": ("-state.json", _state),
}


def restored(path: Any, library: Library, settings: Settings) -> Restored:
    """What an uploaded state file asks for, checked like anything that a browser sends. Raises RelevancyError."""
    try:
        file = Path(path)
        if file.stat().st_size > settings.file_bytes:
            raise RelevancyError(f"The state file is larger than {settings.file_bytes >> 20} MB.")
        content = json.loads(file.read_bytes())
        if content["format"] != FORMAT or content["version"] not in _VERSIONS:
            raise ValueError("not a state")
        stored = content["pictures"] if content["version"] > 2 else [content["picture"]]
        source, *others = (base64.b64decode(one, validate=True) for one in stored)
        wanted, shown = dict(content["ask"]), dict(content["display"])
        if content["version"] == 1:
            last = wanted.get("last_layer")
            wanted["first_layer"] = wanted.get("first_layer", 1) - 1
            wanted["last_layer"] = None if last is None else last - 1
        earlier = wanted.pop("earlier", [])
        names = ("question", "models", "target", "scope", "method", "first_layer", "last_layer", "system", "video")
        asked = ask(library, settings, *(wanted.pop(name, getattr(Ask, name, None)) for name in names), *earlier)
        if wanted:
            raise ValueError("more than a state holds")
        drawn = display(**shown)
    except (OSError, ValueError, KeyError, TypeError, RecursionError, binascii.Error) as error:
        raise RelevancyError("That is no state file of this app: give one that its State button wrote.") from error
    check_number(1 + len(others))
    for one in (source, *others):
        open_picture(one, max_pixels=settings.max_pixels)
    return Restored(asked, drawn, source, tuple(others))


def placed(source: bytes, folder: str) -> str:
    """A picture's file, written into a new folder inside `folder`; its path."""
    kind = Image.open(io.BytesIO(source)).format or "png"
    path = fresh(folder, f"picture.{kind.lower()}")
    path.write_bytes(source)
    return str(path)


def shared(picture: Image.Image, folder: str) -> str:
    """A picture as PNG inside `folder`, named by its bytes; its path.

    Such a file is never written again: whoever reads it gets all of it, however many ask for the same.
    """
    with tempfile.TemporaryDirectory(prefix="made-", dir=folder) as made:
        path = Path(made) / "picture.png"
        picture.save(path)
        return save_file_to_cache(path, folder)


def pictured(both: Comparison, folder: str) -> str:
    """A comparison's figure as PNG in a new folder inside `folder`; its path."""
    path = fresh(folder, "comparison.png")
    both.figure().savefig(path)
    return str(path)
