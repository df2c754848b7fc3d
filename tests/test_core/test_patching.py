"""Each thing a recording changes in a model: put back afterwards, and without effect on the numbers."""

import copy
import gc
import threading

import pytest
import tiny
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from transformers import GemmaConfig, GemmaForCausalLM

from relevancy.core import patching
from relevancy.core.attention import NAME, register
from relevancy.errors import RelevancyError

IDS = torch.tensor([[2, 5, 9, 11, 30, 7]])


@pytest.fixture
def model() -> GemmaForCausalLM:
    """A text-only Gemma of two layers, its output matrix of 60 words."""
    changes = {"num_hidden_layers": 2, "tie_word_embeddings": False}
    model = GemmaForCausalLM(tiny.text(GemmaConfig, 60, **changes)).eval()
    tiny.randomize(model, 5)
    return model


def managers(model: GemmaForCausalLM) -> dict:
    register()
    stack = model.get_decoder()
    return {
        "frozen": lambda: patching.frozen_parameters(model),
        "evaluating": lambda: patching.eval_mode(model),
        "attention_named": lambda: patching.attention_implementation(NAME, stack),
        "activations_recomputed": lambda: patching.activations_recomputed(stack),
        "output_rows_picked": lambda: patching.output_rows_picked(model),
        "linears_fast_backward": lambda: patching.linears_fast_backward(stack),
        "unread_rows_skipped": lambda: patching.unread_rows_skipped(model, stack),
    }


def state(model: nn.Module) -> dict:
    """What a context manager here can change in a model."""
    return {
        "attention": [part.config._attn_implementation for part in model.modules() if hasattr(part, "config")],
        "hooks": [
            (name, list(hooks.items()))
            for name, part in model.named_modules()
            for hooks in (part._forward_hooks, part._forward_pre_hooks, part._backward_hooks)
        ],
        "with_kwargs": [list(part._forward_pre_hooks_with_kwargs) for part in model.modules()],
        "asks": [parameter.requires_grad for parameter in model.parameters()],
        "training": [part.training for part in model.modules()],
        "function_modes": torch._C._len_torch_function_stack(),
    }


CHANGES = {
    "frozen": "asks",
    "evaluating": "training",
    "attention_named": "attention",
    "activations_recomputed": "hooks",
    "output_rows_picked": "hooks",
    "linears_fast_backward": "function_modes",
    "unread_rows_skipped": "hooks",
}


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("name", CHANGES)
def test_what_is_borrowed_is_put_back(model, name, fails):
    model(input_ids=IDS)  # transformers adds hooks of its own on the first forward
    if name == "linears_fast_backward":
        model = model.to(torch.bfloat16)
    model.train()
    model.get_decoder().layers[0].eval()
    next(model.parameters()).requires_grad_(False)
    before = state(model)
    during = None
    try:
        with managers(model)[name]():
            during = state(model)
            model(input_ids=IDS, logits_to_keep=1)
            if fails:
                raise KeyError("inside")
    except KeyError:
        assert fails
    assert during[CHANGES[name]] != before[CHANGES[name]], "nothing was changed, so nothing is tested"
    assert state(model) == before


def test_attention_that_cannot_be_replaced_is_refused_and_kept(model):
    stack = model.get_decoder()
    stack.set_attn_implementation = lambda name: None
    refused = pytest.raises(RelevancyError, match="GemmaModel does not let its attention be replaced")
    with refused, patching.attention_implementation(NAME, stack):
        pass
    assert stack.config._attn_implementation == "sdpa"


def gradients(model: GemmaForCausalLM, score) -> Tensor:
    """dy/d(input embeddings) of a score of the logits."""
    embedded = model.get_input_embeddings()(IDS).detach().requires_grad_()
    logits = model(inputs_embeds=embedded, logits_to_keep=2).logits
    return torch.autograd.grad(score(logits), embedded)[0]


def test_recomputed_activations_store_less_and_change_no_bit(model):
    kept: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel() * tensor.element_size())
        return tensor

    def measured(manager) -> tuple[Tensor, int]:
        """The gradients, and the bytes that autograd itself still holds for backward."""
        kept.clear()
        with patching.frozen_parameters(model), saved_tensors_hooks(pack, lambda tensor: tensor), manager:
            found = gradients(model, lambda logits: logits[0, -1, 3])
        return found, sum(kept)

    plain, plain_bytes = measured(torch.enable_grad())
    # Inside, hooks of its own stand between autograd and `pack`: what they pass through is counted here instead.
    stored: list[Tensor] = []
    real = saved_tensors_hooks.__init__

    def counted(self, pack_, unpack_) -> None:
        def outer(tensor: Tensor):
            packed = pack_(tensor)
            stored.extend([packed] if isinstance(packed, Tensor) else [])
            return packed

        real(self, outer, unpack_)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(saved_tensors_hooks, "__init__", counted)
        with patching.frozen_parameters(model), patching.activations_recomputed(model.get_decoder()):
            found = gradients(model, lambda logits: logits[0, -1, 3])
    config = model.config
    recomputed = config.num_hidden_layers * IDS.numel() * config.intermediate_size * 4
    assert torch.equal(found, plain)
    assert plain_bytes - sum(tensor.numel() * tensor.element_size() for tensor in stored) == recomputed


SCORES = {
    "one logit": lambda logits: logits[0, -1, 3],
    "an earlier position": lambda logits: logits[0, 0, 59],
    "a difference": lambda logits: logits[0, -1, 3] - logits[0, -1, 40],
    "several": lambda logits: logits[0, :, 3:5].sum(),
    "dense": lambda logits: logits[0, -1].log_softmax(-1)[3],
}


@pytest.mark.parametrize("name", SCORES)
def test_picked_output_rows_give_the_same_gradients(model, name):
    expected = gradients(model, SCORES[name])
    with patching.output_rows_picked(model):
        found = gradients(model, SCORES[name])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)
    assert expected.abs().max() > 0.01


def test_picked_output_rows_leave_a_head_with_a_bias_alone(model):
    model.set_output_embeddings(nn.Linear(64, 60, bias=True))
    before = state(model)
    with patching.output_rows_picked(model):
        assert state(model) == before


@pytest.mark.parametrize("bias", [False, True])
def test_fast_linears_equal_the_plain_product_within_rounding(bias):
    generator = torch.Generator().manual_seed(0)
    layer = nn.Linear(48, 80, bias=bias).to(torch.bfloat16).requires_grad_(False)
    source = torch.randn(2, 5, 48, generator=generator).to(torch.bfloat16).requires_grad_()
    grad = torch.randn(2, 5, 80, generator=generator).to(torch.bfloat16)
    plain = layer(source)
    expected = torch.autograd.grad(plain, source, grad)[0]
    with patching.linears_fast_backward(layer):
        output = layer(source)
    (found,) = torch.autograd.grad(output, source, grad)
    assert type(output.grad_fn).__name__.startswith("_FrozenLinear")
    assert torch.equal(output, plain)
    exact = grad.double() @ layer.weight.double()
    worst = float((expected.double() - exact).abs().max())
    assert float((found.double() - exact).abs().max()) <= 2 * worst
    assert found.shape == source.shape


def test_fast_linears_are_for_half_precision_and_frozen_weights():
    source = torch.randn(3, 8, requires_grad=True)
    single = nn.Linear(8, 4).requires_grad_(False)
    with patching.linears_fast_backward(single):
        assert "FrozenLinear" not in type(single(source).grad_fn).__name__
    learning = nn.Linear(8, 4).to(torch.bfloat16)
    with patching.linears_fast_backward(learning):
        output = learning(source.to(torch.bfloat16))
    output.sum().backward()
    assert learning.weight.grad is not None


@pytest.mark.parametrize("keep", [1, 3])
def test_unread_rows_are_skipped_and_the_logits_stay(model, keep):
    stack = model.get_decoder()
    seen: list[int] = []
    hook = stack.layers[-1].mlp.down_proj.register_forward_hook(lambda _, args, __: seen.append(args[0].shape[1]))
    expected = model(input_ids=IDS, logits_to_keep=keep).logits
    with patching.unread_rows_skipped(model, stack):
        found = model(input_ids=IDS, logits_to_keep=keep).logits
        whole = model(input_ids=IDS).logits
        hidden = model(input_ids=IDS, logits_to_keep=keep, output_hidden_states=True).hidden_states[-1]
    hook.remove()
    assert seen == [6, keep, 6, 6]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(whole[:, -keep:], expected, rtol=1e-5, atol=1e-6)
    assert hidden.abs().sum(-1).min() > 0.1


def held_meanwhile(one, other) -> bool:
    """Whether another thread must wait for `other` while this one holds `one`."""
    entered = threading.Event()

    def enter() -> None:
        with patching.alone(other):
            entered.set()

    thread = threading.Thread(target=enter)
    with patching.alone(one), patching.alone(one):
        thread.start()
        waited = not entered.wait(0.3)
    thread.join(10)
    assert entered.is_set()
    return waited


def test_a_lock_belongs_to_what_it_guards():
    first, second = tiny.gemma_clip()[0], tiny.gemma_clip()[0]
    wrapper = torch.nn.Sequential(first)
    assert held_meanwhile(first, first)
    assert held_meanwhile(first, wrapper)
    assert held_meanwhile(wrapper, first.get_encoder(modality="image"))
    assert not held_meanwhile(first, second)
    assert not held_meanwhile(first, copy.deepcopy(first))
    second.model.vision_tower = first.model.vision_tower
    assert held_meanwhile(first, second)


def test_models_made_from_one_config_share_its_settings_and_so_its_lock():
    config = tiny.gemma_clip()[0].config
    first, second = (type(tiny.gemma_clip()[0])(config) for _ in range(2))
    assert held_meanwhile(first, second) is (first.config is second.config)


def test_locks_go_with_their_models():
    gc.collect()  # models of other tests
    model = tiny.gemma_clip()[0]
    with patching.alone(model):
        known = len(patching._locks)
    parts = len(list(model.modules()))
    del model
    gc.collect()
    assert known - parts < len(patching._locks) < known


def test_what_a_graph_keeps_is_counted_without_the_weights():
    layers = torch.nn.Sequential(torch.nn.Linear(50, 20, bias=False), torch.nn.Tanh()).requires_grad_(False)
    source = torch.ones(3, 50, requires_grad=True)
    with patching.activations_recomputed(layers) as kept:
        with kept.counted(layers) as size:
            output = layers(source)
            assert size() == output.nbytes
            with kept.counted(layers) as inner:
                layers(source).sum()
                assert inner() == output.nbytes
        assert size() == 2 * output.nbytes
