"""Where keeping what all layers need for backward would not fit in memory, they keep their input, and run again.

Chen et al., 2016 (activation checkpointing). The first layer that makes a graph is run as ever and weighed: all others
would keep as much. The row is the same, for one more forward pass in each backward pass.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from relevancy.core import attention
from relevancy.core.memory import free_bytes
from relevancy.core.patching import KeptBytes
from relevancy.errors import RelevancyError

_WORK = 3  # as many layers' activations as backward itself needs, and what else comes
_CACHES = ("past_key_values", "use_cache")


class ShortOfMemoryError(RelevancyError):
    """What comes before a question does not fit in memory with its graph; it must be read with the question."""


@runtime_checkable
class RepeatingRecorder(Protocol):
    """A recorder that knows of layers which run again."""

    rehearsing: bool
    repeating: bool

    def root(self, device: torch.device) -> Tensor:
        """As `attention.Recorder` says it."""

    def rehearsal(self) -> AbstractContextManager[None]:
        """Inside, a layer runs without a graph, and no row is wanted of it."""

    def repetition(self) -> AbstractContextManager[None]:
        """Inside, backward runs it once more, on whatever thread."""


class Recomputation:
    """Decides, pass by pass, whether a decoder's layers keep their activations or their inputs.

    needed: of the present pass; None as long as it is not known. expected, free: the bytes it was decided by. always:
    whatever memory is free, layers run again.
    """

    always = False

    def __init__(self, decoder: PreTrainedModel, kept: KeptBytes) -> None:
        self._decoder, self._kept = decoder, kept
        found = getattr(decoder, "layers", None)
        self._layers: list[nn.Module] = list(found) if isinstance(found, nn.ModuleList) else []
        self._in_parts = False
        self.needed: bool | None = None
        self.expected = self.free = 0

    def begin(self, *, in_parts: bool) -> None:
        """A new forward pass. in_parts: a later one goes on from it, or it goes on from an earlier one."""
        self.needed, self._in_parts = None, in_parts

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Inside, the layers run by what is decided here."""
        with ExitStack() as stack:
            # The last one's activations would be there at backward's beginning in any case.
            for number, layer in enumerate(self._layers[:-1]):
                own = vars(layer).get("forward")  # as accelerate sets it where layers lie on several devices
                layer.forward = partial(self._run, layer.forward, number)
                stack.callback(*((delattr, layer, "forward") if own is None else (setattr, layer, "forward", own)))
            yield

    def _run(self, run: Callable[..., Any], number: int, *args: Any, **named: Any) -> Any:
        tape = attention.recorder.get()
        if not isinstance(tape, RepeatingRecorder) or not torch.is_grad_enabled() or tape.rehearsing or tape.repeating:
            return run(*args, **named)
        if self.needed is None:
            with self._kept.counted(self._decoder) as size:
                output = run(*args, **named)
            if size():
                self._decide(size(), self._layers[number:])
            return output
        return _again(run, tape, args, named) if self.needed else run(*args, **named)

    def _decide(self, size: int, layers: Sequence[nn.Module]) -> None:
        """From what one of these layers keeps: whether there is a device that would not hold what all of its own do."""
        places = Counter(next(layer.parameters()).device for layer in layers)
        sizes = [(size * (count + _WORK), free_bytes(device)) for device, count in places.items()]
        self.expected, self.free = max(sizes, key=lambda pair: pair[0] - pair[1])
        self.needed = self.always or 0 < self.free < self.expected
        if self.needed and self._in_parts:
            raise ShortOfMemoryError("The picture's graph does not fit in memory: ask without sharing it.")


def _again(run: Callable[..., Any], tape: RepeatingRecorder, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
    """A layer's output, for which backward will run it again; its keys and values go into the cache only once."""
    hidden, *others = args or (named.pop("hidden_states"),)
    if any(isinstance(value, Tensor) and value.requires_grad for value in (*others, *named.values())):
        return run(hidden, *others, **named)
    cast = _autocast_of(hidden.device.type)
    bare = {name: value for name, value in named.items() if name not in _CACHES}
    rest: list[Any] = []

    def first() -> Tensor:
        output = run(hidden, *others, **named)
        if isinstance(output, Tensor):
            return output
        rest.append(output[1:])
        return output[0]

    def once_more(source: Tensor) -> Tensor:
        with cast():
            output = run(source, *others, **bare)
        return output if isinstance(output, Tensor) else output[0]

    output = _RunAgain.apply(hidden, tape.root(hidden.device), tape, first, once_more)
    return (output, *rest[0]) if rest else output


def _autocast_of(device: str) -> Callable[[], Any]:
    """Makes contexts that cast as it is done now."""
    enabled, dtype = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
    return partial(torch.autocast, device, dtype=dtype, enabled=enabled)


class _RunAgain(torch.autograd.Function):
    """A layer of which only the input is kept."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        root: Tensor,
        tape: RepeatingRecorder,
        first: Callable[[], Tensor],
        once_more: Callable[[Tensor], Tensor],
    ) -> Tensor:
        ctx.save_for_backward(hidden)
        ctx.tape, ctx.root, ctx.once_more = tape, root, once_more
        with tape.rehearsal():
            return first()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        wanted = ctx.needs_input_grad[0]
        source = ctx.saved_tensors[0].detach().requires_grad_(wanted)
        roots = [source, ctx.root] if wanted else [ctx.root]
        with torch.enable_grad(), ctx.tape.repetition():
            output = ctx.once_more(source)
        found = torch.autograd.grad(output, roots, grad, allow_unused=True) if output.requires_grad else [None] * 2
        return found[0] if wanted else None, torch.zeros_like(ctx.root), None, None, None
