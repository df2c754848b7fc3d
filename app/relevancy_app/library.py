"""The models that this app offers: loaded once when it starts, shared by everybody."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from relevancy import Model, RelevancyError
from relevancy.core.memory import free_bytes
from relevancy.models.prefixes import PrefixCache, share_of
from relevancy_app.settings import MOST_MODELS


@dataclass(frozen=True)
class Library:
    """Models by the names under which a browser may ask for them; no other name is ever loaded."""

    models: Mapping[str, Model]

    @property
    def names(self) -> tuple[str, ...]:
        """In the order given at start."""
        return tuple(self.models)

    @property
    def depth(self) -> int:
        """Decoder layers of the deepest model."""
        return max(depth(model) for model in self.models.values())

    def chosen(self, names: Any) -> tuple[Model, ...]:
        """The models of these names, each once. Raises RelevancyError for none, for too many, and for others."""
        if isinstance(names, str):
            names = [names]
        if not isinstance(names, Sequence) or not names:
            raise RelevancyError("No model is chosen: choose one, or several to set them side by side.")
        wanted = list(dict.fromkeys(str(name) for name in names))
        if any(name not in self.models for name in wanted):
            raise RelevancyError(f"This app does not offer that model; it has {', '.join(self.names)}.")
        if len(wanted) > MOST_MODELS:
            raise RelevancyError(f"At most {MOST_MODELS} models fit side by side: choose fewer.")
        return tuple(self.models[name] for name in wanted)


def library(models: Iterable[Model]) -> Library:
    """These models, by their names; they share a quarter of the free memory for the pictures that they read last.

    Raises when two have the same name.
    """
    found = list(models)
    names = [model.name for model in found]
    if not names or len(set(names)) < len(names):
        raise RelevancyError("give at least one model, and each only once")
    for model in found:
        model.prefixes = PrefixCache(share_of(free_bytes(model.device)) // len(found))
    return Library(dict(zip(names, found, strict=True)))


def depth(model: Model) -> int:
    """How many layers its decoder has."""
    return int(model.model.config.get_text_config().num_hidden_layers)
