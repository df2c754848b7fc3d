"""Stacks of layers whose attention is followed: which they are, and that they are what the equations take them for.

Eqs. 5 and 6 know one self-attention in each layer, and nothing else that carries a value from one position to another.
Where a family has more, the row would look right and not be; it is refused by name.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from relevancy.errors import RelevancyError

# Arguments by which an attention is given the sequence that its keys come from.
_OTHER_SEQUENCES = (
    "context",
    "context_hidden_states",
    "cross_attention_states",
    "encoder_hidden_states",
    "image_hidden_states",
    "key_value_states",
)
_ATTENTION = re.compile("(attention|attn)(?!.*layer$)", re.IGNORECASE)
_CROSS = re.compile("cross_?att", re.IGNORECASE)
# What mixes positions and may do so without a convolution, by the names of its classes.
_RECURRENT = re.compile("mamba|rwkv|lstm|retention|recurrent|lightning|linear_?att|delta_?(net|att)", re.IGNORECASE)
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


class Stack:
    """A decoder, or a tower, and what was heard of its attention in the latest forward pass.

    Raises RelevancyError where its layers mix positions by anything but attention.
    """

    def __init__(self, model: PreTrainedModel, depth: int, *, numbered: bool) -> None:
        self.model, self.depth = model, depth
        self._name, self._numbered = type(model).__name__, numbered
        kinds = type(model.config), type(model.config.get_text_config(decoder=True))
        self._modules = dict(_own(model, "", kinds))
        self._ids = set(map(id, self._modules.values()))
        self._heard: dict[int, nn.Module] = {}
        self._given: dict[int, int] = {}  # positions that an attention was given in this pass, by its id
        self._parts: dict[int, int] = {}  # of them, those that it has attended to
        self._begun = False
        self._require_attention_alone()

    @classmethod
    def decoder(cls, model: PreTrainedModel) -> Stack:
        """The decoder of a model, whose attention says of itself which layer it belongs to."""
        decoder = model.get_decoder()
        depth = depth_of(decoder)
        if decoder.config.is_encoder_decoder:
            raise RelevancyError(
                f"{type(model).__name__} writes with a decoder that attends to an encoder (cross-attention): the "
                "equations followed here are those of self-attention."
            )
        return cls(decoder, depth, numbered=True)

    @classmethod
    def tower(cls, tower: PreTrainedModel) -> Stack:
        """A vision tower, whose layers count in the order in which they are heard."""
        return cls(tower, depth_of(tower), numbered=False)

    def owns(self, module: nn.Module) -> bool:
        """Whether this attention is one of the stack's, and not of a tower inside it."""
        return id(module) in self._ids

    def begin(self) -> None:
        """A new forward pass."""
        self._begun = True
        for noted in (self._heard, self._given, self._parts):
            noted.clear()

    def hear_part(self, module: nn.Module, tokens: int) -> tuple[int, slice | None]:
        """The layer of an attention that was called, and which of its positions this call is about, None for all.

        Towers attend window by window, or picture by picture, in calls of their own. tokens: of this call, over all of
        its batch. Raises RelevancyError as `hear` does.
        """
        given, before = self._given.get(id(module), 0), self._parts.get(id(module), 0)
        self._parts[id(module)] = before + tokens
        if not before or before + tokens > given:
            layer = self.hear(module)
        else:
            layer = next(layer for layer, other in self._heard.items() if other is module)
        return layer, slice(before, before + tokens) if tokens < given else None

    def hear(self, module: nn.Module) -> int:
        """The layer, from 0, of an attention that was called. Raises RelevancyError at its second call in one pass."""
        layer = getattr(module, "layer_idx", None) if self._numbered else len(self._heard)
        if not isinstance(layer, int):
            raise RelevancyError(f"{type(module).__name__} does not say which layer of {self._name} it belongs to.")
        if layer in self._heard or any(module is other for other in self._heard.values()):
            raise RelevancyError(
                f"{type(module).__name__} attends more than once in layer {layer} of {self._name}: the equations know "
                "one attention in each layer."
            )
        self._heard[layer] = module
        return layer

    def layer_of(self, module: nn.Module) -> int:
        """The layer of an attention that was heard in this forward pass."""
        return next(layer for layer, other in self._heard.items() if other is module)

    def require_every_layer(self) -> None:
        """Raise RelevancyError unless the attention of every layer was heard in the last forward pass."""
        if not self._heard and not self._begun:
            raise RelevancyError("Nothing was recorded: run the model inside `with record(model) as tape` first.")
        missing = [layer for layer in range(self.depth) if layer not in self._heard]
        if missing:
            raise RelevancyError(
                f"Only {self.depth - len(missing)} of {self.depth} layers of {self._name} went through "
                "transformers' attention interface; the map would not be the one the equations define."
            )
        if len(lengths := set(self._parts.values())) > 1:
            raise RelevancyError(
                f"{self._name} reads {' and '.join(map(str, sorted(lengths)))} tokens in different layers, so no row "
                'goes through it. Use scope="language".'
            )

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Inside, an attention that reads another sequence than its own raises RelevancyError."""

        def count(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            states = args[0] if args else kwargs.get("hidden_states")
            if isinstance(states, Tensor):
                self._given[id(module)] = states.shape[:-1].numel()

        with ExitStack() as hooks:
            for name, module in self._modules.items():
                if is_attention(module):
                    check = _refusal_of_other_sequences(name.rpartition(".")[2], module)
                    hooks.callback(module.register_forward_pre_hook(check, with_kwargs=True).remove)
                    hooks.callback(module.register_forward_pre_hook(count, with_kwargs=True).remove)
            yield

    @contextmanager
    def listened(self) -> Iterator[Callable[[], list[Tensor]]]:
        """Inside, a call gives what attention made in each layer of this pass, (images, tokens, width) or
        (tokens, width), only once.
        """
        made: dict[int, Tensor] = {}

        def keep(module: nn.Module, _: Any, output: Any) -> None:
            states = output[0] if isinstance(output, tuple) else output
            if any(module is other for other in self._heard.values()) and states.requires_grad:
                made[id(module)] = states

        def taken() -> list[Tensor]:
            layers = [made[id(module)] for _, module in sorted(self._heard.items()) if id(module) in made]
            made.clear()
            return layers

        with ExitStack() as hooks:
            hooks.callback(made.clear)
            for module in self._modules.values():
                if is_attention(module):
                    hooks.callback(module.register_forward_hook(keep).remove)
            yield taken

    def _require_attention_alone(self) -> None:
        for name, module in self._modules.items():
            layered = any(part.isdigit() for part in name.split("."))
            convolves = isinstance(module, _CONVOLUTIONS) and max(module.kernel_size) > 1
            if layered and (convolves or _RECURRENT.search(type(module).__name__)):
                owner = type(self._modules[name.rpartition(".")[0]] if convolves else module).__name__
                raise RelevancyError(
                    f"{self._name} mixes positions in {owner} as well as by attention, and a map from attention alone "
                    "would leave that part out."
                )


def depth_of(stack: Any) -> int:
    """How many layers a decoder or a tower has. Raises RelevancyError for what is neither."""
    config = getattr(stack, "config", None)
    if not isinstance(stack, PreTrainedModel) or config is None:
        raise RelevancyError(
            f"{type(stack).__name__} is no stack of layers that can be followed: this family keeps its decoder where "
            "transformers' get_decoder() does not find it."
        )
    own = config.get_text_config(decoder=True)
    depth = getattr(own, "num_hidden_layers", None) or getattr(own, "depth", None)
    if not isinstance(depth, int) or depth < 1:
        raise RelevancyError(f"{type(stack).__name__} does not say how many layers it has.")
    return depth


def is_attention(module: nn.Module) -> bool:
    """Whether a module attends, by the name of its class."""
    return _ATTENTION.search(type(module).__name__) is not None


def _own(module: nn.Module, name: str, kinds: tuple[type, ...]) -> Iterator[tuple[str, nn.Module]]:
    """A stack's modules by name; what is inside it and configured as something else, a tower, is none of them."""
    yield name, module
    for child_name, child in module.named_children():
        config = getattr(child, "config", None)
        if not isinstance(config, PreTrainedConfig) or isinstance(config, kinds):
            yield from _own(child, f"{name}.{child_name}".lstrip("."), kinds)


def _refusal_of_other_sequences(name: str, module: nn.Module) -> Any:
    crossing = _CROSS.search(name) or _CROSS.search(type(module).__name__)
    places = [
        (place, parameter)
        for place, parameter in enumerate(inspect.signature(module.forward).parameters)
        if parameter in _OTHER_SEQUENCES
    ]

    def check(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = [args[place] if place < len(args) else kwargs.get(parameter) for place, parameter in places]
        if crossing or any(isinstance(states, Tensor) for states in given):
            raise RelevancyError(
                f"{type(module).__name__} attends to another sequence than its own (cross-attention): the equations "
                "followed here are those of self-attention."
            )

    return check
