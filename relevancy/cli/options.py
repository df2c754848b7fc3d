"""Options that several commands share, and the model they ask for."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable
from enum import Enum
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from relevancy.cli.terminal import busy
from relevancy.errors import RelevancyError

if TYPE_CHECKING:
    from relevancy.models.model import Model

_LAYERS = re.compile(r"(?P<one>-?\d{1,4})|(?P<first>\d{1,4})-(?P<last>\d{1,4})")

MOST_SEED = (1 << 32) - 1  # what is drawn from it still fits the 64 bits of a tensor


class ScopeName(str, Enum):
    """How far relevance is followed."""

    language = "language"
    full = "full"


class Framing(str, Enum):
    """How a picture is brought to the tower's square."""

    pad = "pad"
    crop = "crop"


class BoxLayout(str, Enum):
    """What the four numbers of a box are."""

    xyxy = "xyxy"
    xywh = "xywh"
    cxcywh = "cxcywh"


class Bits(str, Enum):
    """Quantized weights."""

    four = "4bit"
    eight = "8bit"


MESSAGES_HELP = (
    "JSON with chat messages in transformers' format, system messages and earlier turns too; pictures stand in them as "
    '{"type": "image", "image": "FILE"}, found from the JSON\'s own folder, or are taken from --image in their order.'
)
EVIDENCE_HELP = (
    "Knock parts of the picture out of attention and see what becomes of the explained token, so that the map says by "
    "itself whether to believe it."
)

BOX_LAYOUT_HELP = (
    "What a box is: its corners x0, y0, x1, y1 (xyxy, by default), x, y, width, height (xywh, as COCO) or the middle "
    "with width and height (cxcywh); in pixels, or from 0 to 1 as shares of the picture."
)


def taken_apart(command: Callable[..., int]) -> Callable[..., int]:
    """A command whose first parameter is a dataclass, with an option for each of its fields instead."""
    hints = get_type_hints(command, include_extras=True)
    shared, *own = inspect.signature(command).parameters.values()
    kind = hints.pop(shared.name)
    hints |= get_type_hints(kind, include_extras=True)
    fields = inspect.signature(kind).parameters

    @wraps(command)
    def gathered(**given: Any) -> int:
        values = {name: given.pop(name) for name in fields}
        return command(kind(**values), **given)

    options = sorted([*own, *fields.values()], key=lambda one: one.default is not one.empty)  # what is required first
    gathered.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [one.replace(annotation=hints[one.name]) for one in options], return_annotation=hints["return"]
    )
    gathered.__annotations__ = hints
    return gathered


def layer_numbers(text: str | None) -> list[int] | None:
    """`6-17-17` or `0,4,8` -> layer numbers."""
    if text is None:
        return None
    chosen: list[int] = []
    for part in text.split(","):
        found = _LAYERS.fullmatch(part.strip())
        if found is None:
            raise RelevancyError(f"--layers takes numbers such as 6-17 or 0,4,8, not {text!r}.")
        chosen += [int(found["one"])] if found["one"] else range(int(found["first"]), int(found["last"]) + 1)
    if not chosen:
        raise RelevancyError(f"--layers {text}: no layer is in this range; give the smaller number first.")
    return chosen


def value(choice: Enum | None) -> Any:
    """What the chosen name stands for; None if nothing was chosen."""
    return None if choice is None else choice.value


def load_model(name: str, **options: Any) -> Model:
    """`relevancy.load` behind a spinner."""
    with busy(f"loading {name}"):
        return load_quietly(name, **options)


def folder_of(out_folder: Path, model: str) -> Path:
    """Where a command keeps what it finds of a model, whose name may be a path."""
    return out_folder / re.sub(r"[^\w.-]+", "-", model)


def load_quietly(name: str, **options: Any) -> Model:
    """`relevancy.load` without what transformers prints beside it."""
    from transformers.utils import logging

    from relevancy.models.model import load

    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    logging.set_verbosity_error()
    return load(name, **options)
