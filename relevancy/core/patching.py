"""What a model lends while it is recorded: each context manager changes one thing and always puts it back.

Hooks that remember something listen to the thread that set them: another one may run the same model meanwhile.
"""

from __future__ import annotations

import itertools
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedConfig, PreTrainedModel

from relevancy.errors import RelevancyError

_ACTIVATION_MODULES = ("torch.nn.modules.activation", "transformers.activations")


def require_gradients(model: nn.Module) -> None:
    """Raise RelevancyError where torch would make no graph whatever is asked of it."""
    if torch.is_inference_mode_enabled():
        raise RelevancyError("Relevancy needs gradients: leave torch.inference_mode() before recording.")
    tensors = [*model.named_parameters(), *model.named_buffers()]
    made = [name for name, tensor in tensors if tensor.is_inference()]
    if made:
        raise RelevancyError(
            f"{len(made)} of the model's tensors, such as {made[0]}, were made inside torch.inference_mode(), and no "
            "gradient can pass them: load, cast or move the model outside it (torch.no_grad() does no harm)."
        )


_serials = itertools.count()
_locks: dict[int, tuple[int, Any]] = {}  # of the living, by id
_registering = threading.Lock()


@contextmanager
def alone(model: nn.Module) -> Iterator[None]:
    """Inside, no other thread borrows this model or one that shares a part with it; the same thread may again.

    What is guarded is what is changed, weights and settings, not what is wrapped around them: a model and its adapter,
    two models with one tower, or two that were made from one config wait for each other.
    """
    parts: dict[int, Any] = {}
    for module in model.modules():
        config = vars(module).get("config")
        if isinstance(config, PreTrainedConfig):
            parts[id(config)] = config
        if module._parameters:
            parts[id(module)] = module
    with ExitStack() as held:
        for _, lock in sorted((_lock_of(part) for part in parts.values()), key=lambda known: known[0]):
            held.enter_context(lock)
        yield


def _lock_of(part: Any) -> tuple[int, Any]:
    """A part's lock, and its place in the order in which every thread takes locks."""
    with _registering:
        if id(part) not in _locks:
            _locks[id(part)] = (next(_serials), threading.RLock())
            weakref.finalize(part, _locks.pop, id(part), None).atexit = False
        return _locks[id(part)]


@contextmanager
def frozen_parameters(model: nn.Module) -> Iterator[None]:
    """No parameter asks for a gradient; the work of a map is then that of activations alone."""
    asked = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        for parameter in asked:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in asked:
            parameter.requires_grad_(True)


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Every module in evaluation mode, its outputs by name; afterwards each has its own ways again."""
    modules = list(model.modules())
    training = [module for module in modules if module.training]
    found = (vars(module).get("config") for module in modules)
    nameless = [config for config in found if isinstance(config, PreTrainedConfig) and not config.return_dict]
    try:
        if training:  # asking every module again costs a tenth of a small model's forward pass
            model.eval()
        for config in nameless:
            config.return_dict = True
        yield
    finally:
        for module in training:
            module.training = True
        for config in nameless:
            config.return_dict = False


@contextmanager
def attention_implementation(name: str, stack: PreTrainedModel) -> Iterator[None]:
    """The stack's attention goes through the registered function `name`.

    Raises RelevancyError when the model's attention takes no other implementation.
    """
    before = stack.config._attn_implementation
    if before == name:  # lent within a loan
        yield
        return
    try:
        stack.set_attn_implementation(name)
        if stack.config._attn_implementation != name:
            raise RelevancyError(
                f"{type(stack).__name__} does not let its attention be replaced: "
                "it needs transformers' attention interface."
            )
        yield
    finally:
        if stack.config._attn_implementation != before:
            stack.set_attn_implementation(before)


class KeptBytes:
    """What a graph keeps for backward, in bytes, each tensor counted once and none that was there before."""

    def __init__(self) -> None:
        self._sizes: dict[int, int] | None = None
        self._before: set[int] = set()

    @contextmanager
    def counted(self, model: nn.Module) -> Iterator[Callable[[], int]]:
        """Inside, graphs are counted; gives a function that says how much it is by now. The model's weights are not."""
        sizes: dict[int, int] = {}
        outer, before = self._sizes, self._before
        self._before = before | {
            tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())
        }
        self._sizes = sizes
        try:
            yield lambda: sum(sizes.values())
        finally:
            self._sizes, self._before = outer, before
            if outer is not None:
                outer |= sizes

    def note(self, tensor: Tensor) -> None:
        """A graph keeps this one."""
        if self._sizes is not None:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in self._before:
                self._sizes[storage.data_ptr()] = storage.nbytes()


@contextmanager
def activations_recomputed(stack: nn.Module) -> Iterator[KeptBytes]:
    """Of a gated product act(a) * b, backward keeps a and b, and computes act(a) again.

    The elementwise function costs little beside the matrices around it; its kept output would be a third of all the
    memory that a gated feed-forward layer holds for backward. Gives what tells how much graphs keep.
    """
    kept = KeptBytes()
    latest: list[tuple[nn.Module, Tensor, Tensor]] = []
    owner = threading.get_ident()

    def remember(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if threading.get_ident() != owner:
            return
        # The output is held until the next one comes, so that its address cannot belong to another tensor meanwhile.
        if torch.is_grad_enabled() and isinstance(output, Tensor) and output.requires_grad:
            latest[:] = [(module, inputs[0].detach(), output.detach())]

    def pack(tensor: Tensor) -> Any:
        if latest:
            module, source, output = latest[0]
            if tensor.data_ptr() == output.data_ptr() and tensor.shape == output.shape and not output._version:
                kept.note(source)
                return module, source
        kept.note(tensor)
        return tensor.detach()  # with its own graph it would be a circle that no garbage collector sees

    def unpack(packed: Any) -> Tensor:
        if isinstance(packed, Tensor):
            return packed
        module, source = packed
        with torch.no_grad():
            return module.forward(source)

    with ExitStack() as hooks:
        for module in stack.modules():
            if type(module).__module__ in _ACTIVATION_MODULES:
                hooks.callback(module.register_forward_hook(remember).remove)
        hooks.callback(latest.clear)
        with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
            yield kept


@contextmanager
def output_rows_picked(model: PreTrainedModel) -> Iterator[None]:
    """Backward through the output matrix reads only the rows of the words that the target names.

    A target is one logit or the difference of two, so the gradient of 256,000 logits is zero but for those, and the
    product with the whole matrix (1 GB in LLaVA-Gemma) would add nothing but its reading.
    """
    head = model.get_output_embeddings()
    if type(head) is not nn.Linear or head.bias is not None:
        yield
        return
    entered: list[Tensor] = []
    owner = threading.get_ident()

    def before_head(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        if threading.get_ident() != owner:
            return None
        entered.clear()
        if not (torch.is_grad_enabled() and args[0].requires_grad):
            return None
        entered.append(args[0])
        return (_own(args[0].detach()),)

    def after_head(_: nn.Module, _args: Any, output: Tensor) -> Tensor | None:
        mine = entered and threading.get_ident() == owner
        return _PickedRows.apply(entered.pop(), output, head.weight) if mine else None

    with ExitStack() as hooks:
        hooks.callback(head.register_forward_pre_hook(before_head).remove)
        hooks.callback(head.register_forward_hook(after_head).remove)
        yield


class _FinishedProduct(torch.autograd.Function):
    """Takes a product x W^T that is already there, so that a subclass can give it a backward of its own."""

    @staticmethod
    def forward(ctx: Any, source: Tensor, output: Tensor, weight: Tensor) -> Tensor:
        ctx.shape, ctx.weight = source.shape, weight
        return output.view_as(output)


class _PickedRows(_FinishedProduct):
    """Multiplies only with the columns in which the gradient of finished logits is not zero."""

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        flat = grad.flatten(0, -2)
        words = flat.any(0).nonzero().squeeze(1)
        dense = 16 * words.numel() > flat.shape[1]  # a probability instead of a logit: copying rows would not pay
        product = flat @ ctx.weight if dense else flat[:, words] @ ctx.weight[words]
        return product.view(ctx.shape), None, None


@contextmanager
def linears_fast_backward(stack: nn.Module) -> Iterator[None]:
    """On a CPU in half precision, backward through a frozen linear layer takes the product in the order that is fast.

    oneDNN computes (W^T g^T)^T, its copy back to rows included, in two thirds of the time of g W.
    """
    parameter = next(stack.parameters())
    if parameter.device.type != "cpu" or parameter.dtype not in (torch.bfloat16, torch.float16):
        yield
        return
    with _LinearMode():
        yield


class _LinearMode(TorchFunctionMode):
    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        if func is not nn.functional.linear or not output.requires_grad or args[1].requires_grad:
            return output
        return _FrozenLinear.apply(args[0], output.detach(), args[1])


class _FrozenLinear(_FinishedProduct):
    """Takes the product of backward in the order that is fast."""

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        product = ctx.weight.T @ grad.flatten(0, -2).T
        return product.T.contiguous().view(ctx.shape), None, None


@contextmanager
def unread_rows_skipped(model: PreTrainedModel, stack: PreTrainedModel) -> Iterator[None]:
    """The last layer's feed-forward computes only the positions whose logits were asked for by `logits_to_keep`.

    It acts position by position and nothing but the output matrix comes after it, so the logits stay the same, and
    a whole layer's largest matrices drop out of forward and backward.
    """
    layers = getattr(stack, "layers", None)
    feed_forward = getattr(layers[-1], "mlp", None) if isinstance(layers, nn.ModuleList) and len(layers) else None
    if feed_forward is None:
        yield
        return
    kept: list[int] = []
    lengths: list[int] = []
    owner = threading.get_ident()

    def before_model(_: nn.Module, _args: Any, kwargs: dict[str, Any]) -> None:
        if threading.get_ident() != owner:
            return
        keep = kwargs.get("logits_to_keep")
        hidden_wanted = kwargs.get("output_hidden_states") or model.config.output_hidden_states
        kept[:] = [keep] if isinstance(keep, int) and keep > 0 and not hidden_wanted else []

    def before_feed_forward(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if not kept or threading.get_ident() != owner:
            return None
        if len(args) > 1:  # it is told of each position what it is, such as a picture's
            kept.clear()
            return None
        lengths[:] = [args[0].shape[1]]
        return (_own(args[0][:, -kept[0] :]), *args[1:])

    def after_feed_forward(_: nn.Module, _args: Any, output: Tensor) -> Tensor | None:
        if not kept or threading.get_ident() != owner:
            return None
        missing = lengths[0] - output.shape[1]
        # Where the model is lent within a loan, the outer one has put back all rows already.
        return nn.functional.pad(output, (0, 0, missing, 0)) if missing > 0 else None

    with ExitStack() as hooks:
        hooks.callback(model.register_forward_pre_hook(before_model, with_kwargs=True).remove)
        hooks.callback(feed_forward.register_forward_pre_hook(before_feed_forward).remove)
        hooks.callback(feed_forward.register_forward_hook(after_feed_forward).remove)
        yield


def _own(rows: Tensor) -> Tensor:
    """A copy with strides of its own: matmul would not fold a slice's, and copy the whole weight matrix instead."""
    return rows.clone(memory_format=torch.contiguous_format)
