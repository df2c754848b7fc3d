"""The models that this app offers, shared by everybody: in memory, or loaded when they are first asked for."""

from __future__ import annotations

import gc
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import RLock
from typing import Any

import torch

import relevancy
from relevancy import Model, RelevancyError
from relevancy.core.memory import free_bytes
from relevancy.models import bases
from relevancy.models.memory import ExpectedModel, bytes_of, expected
from relevancy.models.prefixes import PrefixCache, share_of
from relevancy_app.settings import DEMO_GEMMA, DEMO_PAIR, MOST_MODELS

Progress = Callable[[str, float], None]
"""Called as progress(stage, share of the whole); whatever it raises ends the run."""

_BESIDE = 1.1  # times its weights: what a model takes while it is loaded


@dataclass(frozen=True)
class Offer:
    """A model that is loaded when it is asked for.

    expected: what it will take, None where it must be fetched first. options: of `relevancy.load`.
    """

    name: str
    expected: ExpectedModel | None
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def size(self) -> str:
        """What it takes, as far as that is known."""
        return "to be fetched first" if self.expected is None else f"about {told_bytes(self.expected.bytes)}"


def offer(name: str, **options: Any) -> Offer:
    """A model by its name; options as in `relevancy.load`. Raises RelevancyError where there is none of it."""
    return Offer(name, expected(name, **options), options)


def usual() -> list[str]:
    """What is offered where no model is named: the embedded pair, and `demo-gemma` where its base can be had."""
    return [*DEMO_PAIR, *([DEMO_GEMMA] if bases.at_hand() else [])]


class Library:
    """Models by the names under which a browser may ask for them, made by `library`; no other name is ever loaded.

    Models that were given stay. Those that are offered are loaded when they are asked for; where memory is short, what
    was not asked for longest goes, unless somebody is using it. They share a quarter of the free memory for pictures
    that they read last.
    """

    def __init__(
        self, offered: Iterable[Model | Offer], load: Callable[..., Model], free: Callable[[torch.device], int]
    ) -> None:
        listed = list(offered)
        self.names = tuple(one.name for one in listed)
        """In the order given at start."""
        if not self.names or len(set(self.names)) < len(self.names):
            raise RelevancyError("give at least one model, and each only once")
        self._load, self._free = load, free
        self._offers = {one.name: one for one in listed if isinstance(one, Offer)}
        self._held: OrderedDict[str, Model] = OrderedDict()
        self._using: Counter[str] = Counter()
        self._lock = RLock()
        for model in (one for one in listed if isinstance(one, Model)):
            self._hold(model)
        known = [
            *map(depth, self._held.values()),
            *(one.expected.layers for one in self._offers.values() if one.expected),
        ]
        self.depth = max(known, default=1)
        """Decoder layers of the deepest model that is known."""

    @property
    def models(self) -> dict[str, Model]:
        """Those that are in memory, in the order given at start."""
        held = dict(self._held)
        return {name: held[name] for name in self.names if name in held}

    @property
    def on_demand(self) -> bool:
        """Whether there are some that are loaded when they are asked for."""
        return bool(self._offers)

    @property
    def labels(self) -> list[tuple[str, str]]:
        """What the page says of each model, and its name: with its memory, where not all are always there."""
        held = self.models
        told = {name: f" · {told_bytes(bytes_of(model))} in memory" for name, model in held.items()}
        waiting = {name: f" · {one.size}" for name, one in self._offers.items() if name not in held}
        return [(name + (told | waiting)[name] if self.on_demand else name, name) for name in self.names]

    def named(self, names: Any) -> tuple[str, ...]:
        """These names, each once. Raises RelevancyError for none, for too many, and for others."""
        if isinstance(names, str):
            names = [names]
        if not isinstance(names, Sequence) or not names:
            raise RelevancyError("No model is chosen: choose one, or several to set them side by side.")
        wanted = tuple(dict.fromkeys(str(name) for name in names))
        if any(name not in self.names for name in wanted):
            raise RelevancyError(f"This app does not offer that model; it has {', '.join(self.names)}.")
        if len(wanted) > MOST_MODELS:
            raise RelevancyError(f"At most {MOST_MODELS} models fit side by side: choose fewer.")
        return wanted

    @contextmanager
    def using(self, names: Any, progress: Progress | None = None) -> Iterator[tuple[Model, ...]]:
        """The models of these names, loaded where they are not there; none of them goes inside.

        Raises RelevancyError as `named`, and for a model that cannot be loaded.
        """
        wanted = self.named(names)
        self._using.update(wanted)
        try:
            yield self._loaded(wanted, progress or _silent)
        finally:
            self._using.subtract(wanted)

    def _loaded(self, names: Sequence[str], progress: Progress) -> tuple[Model, ...]:
        with self._lock:
            for name in names:
                if name not in self._held:
                    wanted = self._offers[name]
                    progress(f"loading {name} ({wanted.size})", 0.0)
                    self._make_room(wanted)
                    self._hold(self._load(name, **wanted.options))
                self._held.move_to_end(name)
            return tuple(self._held[name] for name in names)

    def _hold(self, model: Model) -> None:
        model.prefixes = PrefixCache(share_of(self._free(model.device)) // len(self.names))
        self._held[model.name] = model

    def _make_room(self, wanted: Offer) -> None:
        """Let models go until this one fits; what takes nobody knows how much, or where nobody knows, is tried."""
        if wanted.expected is None:
            return
        device, needed = wanted.expected.device, _BESIDE * wanted.expected.bytes
        while 0 < self._free(device) < needed:
            oldest = next((name for name in self._held if name in self._offers and self._using[name] <= 0), None)
            if oldest is None:
                raise RelevancyError(
                    f"{wanted.name} needs {wanted.size} of memory, and {told_bytes(self._free(device))} are free: "
                    "choose fewer models at once, or a smaller one."
                )
            del self._held[oldest]
            gc.collect()
            if device.type == "cuda":
                torch.cuda.empty_cache()


def library(
    offered: Iterable[Model | Offer],
    load: Callable[..., Model] = relevancy.load,
    free: Callable[[torch.device], int] = free_bytes,
) -> Library:
    """Models that are there, and such as are loaded when asked for. Raises when two have the same name.

    load: as `relevancy.load`. free: bytes that a device can still give.
    """
    return Library(offered, load, free)


def depth(model: Model) -> int:
    """How many layers its decoder has."""
    return int(model.model.config.get_text_config().num_hidden_layers)


def _silent(stage: str, share: float) -> None:
    """Progress that nobody asked for."""


def told_bytes(count: int) -> str:
    """Bytes as a reader knows them."""
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.0f} MB"
