"""Where a method gets between the picture and the decoder: at the connector's input, and at the decoder's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from relevancy.errors import RelevancyError
from relevancy.models.model import Model

_CONNECTOR = "multi_modal_projector"
Change = Callable[[Tensor], Tensor]


@contextmanager
def into_decoder(model: Model, change: Change) -> Iterator[None]:
    """Inside, the decoder reads what `change` makes of its embeddings, (batch, tokens, width)."""

    def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        embeddings = kwargs.get("inputs_embeds")
        if embeddings is None:  # a model of words alone leaves that to its decoder
            ids = args[0] if args else kwargs.pop("input_ids")
            embeddings, args = model.model.get_input_embeddings()(ids), (None, *args[1:])[: len(args)]
        return args, kwargs | {"inputs_embeds": change(embeddings)}

    handle = model.model.get_decoder().register_forward_pre_hook(before, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def read_by_decoder(model: Model) -> Iterator[list[Tensor]]:
    """Inside, a list grows with what the decoder reads in each pass: embeddings (batch, tokens, width)."""
    seen: list[Tensor] = []

    def look(embeddings: Tensor) -> Tensor:
        seen.append(embeddings)
        return embeddings

    with into_decoder(model, look):
        yield seen


@contextmanager
def into_connector(model: Model, change: Change) -> Iterator[None]:
    """Inside, the connector reads what `change` makes of the tower's features, (batch, patches, channels)."""

    def before(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return change(args[0]), *args[1:]

    connector = connector_of(model)
    if connector is None:
        raise RelevancyError(f"{model.name} has no connector that is known here ({_CONNECTOR}): use relevancy.")
    handle = connector.register_forward_pre_hook(before)
    try:
        yield
    finally:
        handle.remove()


def connector_of(model: Model) -> nn.Module | None:
    """What stands between tower and decoder, None where it has another name than LLaVA's."""
    named = model.model.named_modules()
    return next((module for name, module in named if name.split(".")[-1] == _CONNECTOR), None)
