"""Where a method gets between the picture and the decoder: at the connector's input, and at the decoder's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from relevancy.errors import RelevancyError
from relevancy.models import Model

Change = Callable[[Tensor], Tensor]


@contextmanager
def into_decoder(model: Model, change: Change) -> Iterator[None]:
    """Inside, the decoder reads what `change` makes of its embeddings, (batch, tokens, width)."""

    def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return args, kwargs | {"inputs_embeds": change(kwargs["inputs_embeds"])}

    handle = model.model.get_decoder().register_forward_pre_hook(before, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def into_connector(model: Model, change: Change) -> Iterator[None]:
    """Inside, the connector reads what `change` makes of the tower's features, (batch, patches, channels)."""

    def before(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return change(args[0]), *args[1:]

    handle = _connector(model).register_forward_pre_hook(before)
    try:
        yield
    finally:
        handle.remove()


def _connector(model: Model) -> nn.Module:
    for name, module in model.model.named_modules():
        if name.split(".")[-1] == "multi_modal_projector":
            return module
    raise RelevancyError(f"{model.name} has no connector that is known here (multi_modal_projector): use relevancy.")
