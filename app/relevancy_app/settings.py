"""What the operator decides when the app starts, and the limits that follow from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from relevancy.core.tape import Scope
from relevancy.methods import registry
from relevancy.methods.registry import Method

COLORMAPS = ("inferno", "magma", "plasma", "viridis", "cividis")
"""Perceptually uniform, and told apart by lightness alone: safe for color-blind readers."""
TARGETS = (
    ("First word that carries meaning", "first-relevant"),
    ("What was said rather than the next best", "contrast"),
    ("Very first token", "first"),
    ("Yes rather than No", "Yes|No"),
    ("No rather than Yes", "No|Yes"),
    ("The whole answer", "answer"),
)
SCOPES: tuple[tuple[str, Scope], ...] = (
    ("Decoder: up to the image tokens", "language"),
    ("Full: on through the vision tower", "full"),
)
REPLACEMENTS = (("Gray", "grey"), ("Mean color of the picture", "mean"), ("Blur", "blur"))
DEMO_PAIR, DEMO_GEMMA = ("demo-small", "demo-large"), "demo-gemma"
"""What is offered where no model is named; the last where its base can be had."""
SCREEN_SIDE = 1280  # pixels of the longer side of a picture as it is shown
MOST_MODELS = 4  # side by side
MOST_QUESTIONS = 6  # variations side by side
MOST_LAYERS = 5  # parts of a decoder side by side
MOST_PICTURES = 16  # in one question, frames of a video too
MOST_EXCHANGES = 6  # before a question: what was asked, and what was answered
MOST_TOKENS = 64  # of an answer, whose maps are made in one go
BODY_BYTES = 1 << 20  # of a request that is no upload


SET_BESIDE = ("relevancy", "relevancy-magnitude", "attnlrp", "tam", "rollout")
"""Methods that are set side by side where nothing else is chosen."""


def methods() -> dict[str, Method]:
    """Those that cost a few passes, for which a visitor waits; what outside packages have registered is among them."""
    return {name: method for name, method in registry.METHODS.usable().items() if method.quick}


def history_path(environment: Mapping[str, str]) -> Path:
    """Where the history of this machine's user lies: in the folder of caches."""
    caches = environment.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(caches) / "relevancy" / "history.sqlite3"


@dataclass(frozen=True)
class Settings:
    """How the app is served, and what one visitor may ask of it. history: the file of earlier runs, None for none."""

    host: str = "127.0.0.1"
    port: int | None = None
    share: bool = False
    logins: tuple[tuple[str, str], ...] = ()
    upload_megabytes: int = 10
    max_pixels: int = 25_000_000
    question_characters: int = 1000
    queue: int = 100
    sessions: int = 64
    keep_minutes: float = 60
    history: Path | None = None
    history_megabytes: int = 1000

    @property
    def file_bytes(self) -> int:
        """Largest file that the server takes: a state file, which holds a picture's file in base64 and little else."""
        return (self.upload_megabytes << 20) * 4 // 3 + (1 << 20)
