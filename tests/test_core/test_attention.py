"""The attention function: two layers worked by hand, autograd through plain softmax attention, and refusals by name."""

from contextlib import contextmanager
from math import log
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from relevancy.core import attention
from relevancy.errors import RelevancyError


class Layer(nn.Module):
    """A module as transformers hands it to its attention function."""

    def __init__(self, *, is_causal: bool = True, groups: int = 1) -> None:
        super().__init__()
        self.is_causal, self.num_key_value_groups = is_causal, groups


class Row:
    """A relevance row that starts as given, and notes each update."""

    by_head = False

    def __init__(self, start: Tensor, *, fresh: bool = True, rule=attention.clamped) -> None:
        self.value, self.fresh, self.rule, self.updates = start, fresh, rule, []
        self.totals: list[Tensor] = []

    def read(self, like: Tensor) -> Tensor:
        return self.value

    def advance(self, row: Tensor, flow: Tensor, total: Tensor) -> Tensor:
        self.totals.append((row[:, None] * total).sum((1, 2)))
        return self.rule(row, flow)

    def add(self, update: Tensor) -> None:
        self.updates.append(update)
        self.value, self.fresh = self.value + update, False


class Recorder:
    """Every layer advances the same row."""

    known = 0

    def __init__(self, row: Row | None) -> None:
        self.row, self.roots = row, []

    def row_for(self, module: nn.Module, query: Tensor) -> Row | None:
        return self.row

    def root(self, device: torch.device) -> Tensor:
        self.roots.append(torch.zeros((), device=device, requires_grad=True))
        return self.roots[-1]


@contextmanager
def recording(row: Row | None):
    recorder = Recorder(row)
    token = attention.recorder.set(recorder)
    try:
        yield recorder
    finally:
        attention.recorder.reset(token)


def heads(*columns: list[float]) -> Tensor:
    """One list of token values per head as (1, heads, tokens, 1)."""
    return torch.tensor(columns)[None, :, :, None]


def test_two_layers_worked_by_hand():
    """Two tokens, two heads of width 1, causal; y reads the second token. A softmax of (0, log 3) is (1/4, 3/4)."""
    row = Row(torch.tensor([[0.0, 1.0]]))
    keys = heads([0.0, 1.0], [0.0, 1.0])
    with recording(row) as tape:
        # Layer 1: A V of head 0 is 4 and 1/4 * 4 + 3/4 * 8 = 7; of head 1 it is 2 and 1/2 * 2 - 1/2 * 4 = -1.
        first, _ = attention.attend(
            Layer(), heads([0.0, log(3)], [0.0, 0.0]), keys, heads([4.0, 8.0], [2.0, -4.0]), None, scaling=1.0
        )
        # Layer 2 takes these as values, and sees (1/2, 1/2) in head 0, (3/4, 1/4) in head 1.
        second, _ = attention.attend(
            Layer(), heads([0.0, 0.0], [0.0, -log(3)]), keys, first.transpose(1, 2), None, scaling=1.0
        )
        # y = head 0 - 2 * head 1 of the second token = (1/2 * 4 + 1/2 * 7) - 2 * (3/4 * 2 - 1/4 * 1)
        y = second[0, 1, 0, 0] - 2 * second[0, 1, 1, 0]
        torch.autograd.grad(y, tape.roots)
    torch.testing.assert_close(first[0, :, :, 0], torch.tensor([[4.0, 2.0], [7.0, -1.0]]))
    assert y.item() == pytest.approx(5.5 - 2.5)
    # Layer 2, second token. G V^T: head 0 (4, 7), head 1 -2 * (2, -1) = (-4, 2).
    # A * dy/dA: (1/2 * 4, 1/2 * 7) = (2, 7/2) and (3/4 * -4, 1/4 * 2) = (-3, 1/2), clamped to (0, 1/2).
    # Abar = ((2 + 0) / 2, (7/2 + 1/2) / 2) = (1, 2); a mean before the clamp would give (0, 2).
    torch.testing.assert_close(row.updates[0], torch.tensor([[1.0, 2.0]]))
    # r = (0, 1) + (1, 2) = (1, 3).
    # Layer 1. G: head 0 (1/2, 1/2), head 1 -2 * (3/4, 1/4) = (-3/2, -1/2), for the two tokens.
    # First token, A = (1, 0): head 0 1 * 1/2 * 4 = 2, head 1 1 * -3/2 * 2 = -3, clamped 0: Abar = (1, 0).
    # Second token: head 0 (1/4 * 1/2 * 4, 3/4 * 1/2 * 8) = (1/2, 3), head 1 (1/2 * -1/2 * 2, 1/2 * -1/2 * -4)
    # = (-1/2, 1), clamped (0, 1): Abar = (1/4, 2).
    # r Abar = 1 * (1, 0) + 3 * (1/4, 2) = (7/4, 6).
    torch.testing.assert_close(row.updates[1], torch.tensor([[1.75, 6.0]]))
    torch.testing.assert_close(row.value, torch.tensor([[2.75, 9.0]]))


def test_advance_clamps_before_the_mean_over_heads():
    flow = torch.tensor([[[[2.0, -1.0]], [[-3.0, 5.0]]]])
    assert attention.clamped(torch.tensor([[2.0]]), flow).tolist() == [[2 * (2 + 0) / 2, 2 * (0 + 5) / 2]]


def test_magnitudes_take_sizes_before_the_mean_and_rows_that_sum_to_one():
    flow = torch.tensor([[[[2.0, -1.0], [0.0, 0.0]], [[-3.0, 5.0], [0.0, 0.0]]]])  # the second query row has none
    # Sizes, mean over heads: (5/2, 3); over its sum 11/2: (5/11, 6/11).
    found = attention.magnitudes(torch.tensor([[2.0, 7.0]]), flow)
    torch.testing.assert_close(found, torch.tensor([[2 * 5 / 11, 2 * 6 / 11]]))


@st.composite
def calls(draw):
    """Random attention calls: shapes, grouped heads, masks, soft cap; the gradient may touch some rows only."""
    batch, kv_heads, groups = draw(st.integers(1, 2)), draw(st.integers(1, 2)), draw(st.integers(1, 3))
    tokens, dim = draw(st.integers(1, 7)), draw(st.integers(1, 4))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    kind = draw(st.sampled_from(["none", "bool", "float", "infinite"]))
    seen = torch.rand(batch, draw(st.sampled_from([1, kv_heads * groups])), tokens, tokens, generator=generator) < 0.6
    if draw(st.booleans()):
        seen[0, :, 0] = False  # as a padding row is
    hidden = float("-inf") if kind == "infinite" else torch.finfo(torch.float64).min
    additive = noise(*seen.shape).masked_fill(~seen, hidden)
    read = torch.rand(batch, 1, tokens, 1, generator=generator) < draw(st.sampled_from([0.3, 1.0]))
    return {
        "query": noise(batch, kv_heads * groups, tokens, dim),
        "key": noise(batch, kv_heads, tokens, dim),
        "value": noise(batch, kv_heads, tokens, dim),
        "mask": {"none": None, "bool": seen, "float": additive, "infinite": additive}[kind],
        "causal": draw(st.booleans()),
        "softcap": draw(st.sampled_from([None, 0.7, 5.0])),
        "scaling": draw(st.sampled_from([None, 1.3])),
        "weight": noise(batch, kv_heads * groups, tokens, dim) * read,
        "row": noise(batch, tokens),
        "fresh": draw(st.booleans()),
        "rule": draw(st.sampled_from([attention.clamped, attention.magnitudes])),
        "tile_bytes": draw(st.sampled_from([1, 100, 1 << 20])),
    }


def plain(call: dict, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Softmax attention as the textbook has it: output (batch, heads, tokens, dim), probabilities."""
    groups = query.shape[1] // key.shape[1]
    scale = query.shape[-1] ** -0.5 if call["scaling"] is None else call["scaling"]
    scores = query @ key.repeat_interleave(groups, 1).mT * scale
    if call["softcap"] is not None:
        scores = call["softcap"] * torch.tanh(scores / call["softcap"])
    mask = call["mask"]
    if mask is None:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool).tril() if call["causal"] else torch.ones(1, 1).bool()
    scores = scores.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else scores + mask
    blind = (scores == float("-inf")).all(-1, keepdim=True)
    probabilities = torch.softmax(scores.masked_fill(blind, 0), -1).masked_fill(blind, 0)
    return probabilities @ value.repeat_interleave(groups, 1), probabilities


@given(calls())
@settings(max_examples=200)
def test_output_gradients_and_row_equal_autograd_through_plain_attention(call):
    leaves = [call[name].clone().requires_grad_() for name in ("query", "key", "value")]
    expected, probabilities = plain(call, *leaves)
    *expected_grads, slopes = torch.autograd.grad((expected * call["weight"]).sum(), [*leaves, probabilities])
    flow = probabilities * slopes
    if call["rule"] is attention.clamped:
        abar = flow.clamp(min=0).mean(1)
    else:
        sizes = flow.abs().mean(1)
        sums = sizes.sum(-1, keepdim=True)
        abar = torch.where(sums > 0, sizes / sums.clamp(min=torch.finfo(sums.dtype).tiny), 0)
    expected_update = torch.einsum("bi,bij->bj", call["row"], abar)
    expected_total = torch.einsum("bi,bhij->b", call["row"], flow)
    if call["fresh"]:  # above the last layer the row is a unit at a position that carries the gradient
        call["row"] = call["row"] * call["weight"].any(-1).any(1)

    layer = Layer(is_causal=not call["causal"], groups=call["query"].shape[1] // call["key"].shape[1])
    row = Row(call["row"], fresh=call["fresh"], rule=call["rule"])
    options = {name: call[name] for name in ("softcap", "scaling")}
    with mock.patch.object(attention, "_CPU_TILE_BYTES", call["tile_bytes"]), recording(row):
        output, nothing = attention.attend(layer, *leaves, call["mask"], is_causal=call["causal"], **options)
        found = output.transpose(1, 2)
        grads = torch.autograd.grad((found * call["weight"]).sum(), leaves)

    assert nothing is None
    exact = {"rtol": 1e-9, "atol": 1e-11}
    torch.testing.assert_close(found, expected, **exact)
    for grad, expected_grad in zip(grads, expected_grads, strict=True):
        torch.testing.assert_close(grad, expected_grad, **exact)
    torch.testing.assert_close(row.updates[0], expected_update, **exact)
    torch.testing.assert_close(sum(row.totals, torch.zeros_like(expected_total)), expected_total, **exact)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_on_a_gpu_half_precision_is_multiplied_as_it_is_into_float32(dtype):
    with FakeTensorMode():  # types and shapes of a CUDA device, without one
        key, rows = (torch.empty(2, 3, tokens, 8, device="cuda", dtype=dtype) for tokens in (5, 4))
        assert attention._Factor.of(key).exact is None, "a copy in float32"
        assert attention._Factor.of(key.float()).exact is not None
        product = torch.bmm(rows.flatten(0, 1), key.flatten(0, 1).mT, out_dtype=torch.float32)
        assert (product.dtype, product.shape) == (torch.float32, (6, 4, 5))
    assert attention._Factor.of(torch.empty(1, 1, 2, 2, dtype=dtype)).exact.dtype == torch.float32


def test_factors_are_multiplied_alike_with_a_copy_and_without(monkeypatch):
    rows, source = (torch.randn(2, 3, tokens, 8, dtype=torch.bfloat16) for tokens in (4, 5))
    product = attention._Factor.of(source).times(rows, slice(1, 4))
    assert product.shape == (2, 3, 4, 3)
    bmm = torch.bmm
    monkeypatch.setattr(torch, "bmm", lambda one, other, out_dtype: bmm(one.to(out_dtype), other.to(out_dtype)))
    torch.testing.assert_close(attention._Factor(source, None).times(rows, slice(1, 4)), product)


@pytest.mark.parametrize("fresh", [True, False])
def test_silent_rows_are_passed_over_before_the_first_layer_alone(monkeypatch, fresh):
    monkeypatch.setattr(attention, "_CPU_TILE_BYTES", 1)  # a row each
    query, key, value, grad = torch.randn(4, 2, 3, 6, 8)
    grad[:, :, [0, 1, 4]] = 0
    call = attention.Call(nn.Module(), None, 0.5, None, causal=True, groups=1)
    sweep = attention._Sweep(query, key, value, grad, call, wanted=False)
    seen = []
    row = mock.Mock(fresh=fresh, by_head=False, read=lambda like: torch.ones(2, 6))
    row.advance = lambda row, flow, total: seen.append(flow.shape[-1] - 1) or torch.zeros(2, flow.shape[-1])
    sweep.run(row)
    assert seen == ([2, 3, 5] if fresh else list(range(6)))


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("rows", [2, 3, 7, 11])
def test_no_tile_sees_the_future(rows, softcap):
    """Tiles of several query rows, the first, those between and the last: each hides its own later tokens."""
    generator = torch.Generator().manual_seed(rows)
    shape = (2, 4, 11, 3)
    leaves = [torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(3)]
    weight = torch.randn(*shape, generator=generator, dtype=torch.float64)
    call = {"mask": None, "causal": True, "softcap": softcap, "scaling": None}
    expected, probabilities = plain(call, *leaves)
    *expected_grads, slopes = torch.autograd.grad((expected * weight).sum(), [*leaves, probabilities])
    start = torch.rand(2, 11, generator=generator, dtype=torch.float64)
    expected_update = torch.einsum("bi,bhij->bj", start, (probabilities * slopes).clamp(min=0)) / 4
    row = Row(start, fresh=False)
    with mock.patch.object(attention, "_CPU_TILE_BYTES", 4 * 2 * 4 * 11 * rows), recording(row):
        assert len(list(attention._tiles(leaves[0], 11, causal=True))) == -(-11 // rows)
        output, _ = attention.attend(Layer(), *leaves, None, softcap=softcap)
        found = output.transpose(1, 2)
        grads = torch.autograd.grad((found * weight).sum(), leaves)
    torch.testing.assert_close(found, expected)
    for grad, expected_grad in zip(grads, expected_grads, strict=True):
        torch.testing.assert_close(grad, expected_grad)
    torch.testing.assert_close(row.updates[0], expected_update)


def test_without_a_flag_the_module_says_whether_it_is_causal():
    values = torch.randn(1, 2, 5, 4, generator=torch.Generator().manual_seed(0))
    causal, _ = attention.attend(Layer(is_causal=True), values, values, values, None)
    open_, _ = attention.attend(Layer(is_causal=False), values, values, values, None)
    torch.testing.assert_close(causal[:, 0], values[:, :, 0])  # the first token sees itself alone
    assert (open_[:, 0] - values[:, :, 0]).abs().max() > 0.1
    torch.testing.assert_close(causal[:, -1], open_[:, -1])


def test_gradients_pass_through_a_layer_that_advances_no_row():
    call = {"mask": None, "causal": True, "softcap": None, "scaling": None}
    leaves = [torch.randn(1, 2, 4, 3, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    expected = torch.autograd.grad(plain(call, *leaves)[0].square().sum(), leaves)
    with recording(None) as tape:
        output, _ = attention.attend(Layer(), *leaves, None)
        found = torch.autograd.grad(output.square().sum(), leaves)
        below, _ = attention.attend(Layer(), *(leaf.detach() for leaf in leaves), None)
    for grad, expected_grad in zip(found, expected, strict=True):
        torch.testing.assert_close(grad, expected_grad)
    assert not below.requires_grad, "below the first layer of interest no graph is kept"
    torch.testing.assert_close(below, output.detach())
    assert not tape.roots


class BlockMask:
    """Stands for flex attention's mask, which is no tensor."""


@pytest.mark.parametrize(
    ("mask", "options", "said"),
    [
        (BlockMask(), {}, "Layer uses a mask of type BlockMask"),
        (torch.ones(2, 2, dtype=torch.bool), {}, "Layer uses a mask of type Tensor; only 4-D"),
        (None, {"dropout": 0.1}, r"Layer drops attention at random \(p=0.1\); call model.eval"),
        (None, {"s_aux": torch.zeros(2)}, "Layer passes s_aux to its attention"),
    ],
)
def test_what_would_change_the_probabilities_is_refused_by_name(mask, options, said):
    values = torch.randn(1, 1, 2, 2)
    with pytest.raises(RelevancyError, match=said):
        attention.attend(Layer(), values, values, values, mask, **options)


def test_tensors_without_effect_are_taken():
    values = torch.randn(1, 1, 2, 2)
    places = torch.arange(2)
    attention.attend(Layer(), values, values, values, None, position_ids=places, cache_position=places)


def test_a_filled_cache_is_refused_while_recording():
    values = torch.randn(1, 1, 3, 2)
    with recording(Row(torch.zeros(1, 3))), pytest.raises(RelevancyError, match="1 new and 3 known tokens"):
        attention.attend(Layer(), values[:, :, -1:], values, values, None)


def test_a_decoder_that_hides_later_tokens_by_its_mask_alone_needs_one():
    values, layer = torch.randn(1, 1, 3, 2), Layer(is_causal=False)
    layer.is_decoder = True
    with recording(Row(torch.zeros(1, 3))):
        with pytest.raises(RelevancyError, match="hides later tokens by a mask alone"):
            attention.attend(layer, values, values, values, None)
        mask = torch.ones(1, 1, 3, 3, dtype=torch.bool).tril()
        output, _ = attention.attend(layer, values, values, values, mask)
    torch.testing.assert_close(output[:, 0], values[:, :, 0])


@pytest.mark.parametrize("queries", [6, 4, 2])  # of six tokens, those before them known
@pytest.mark.parametrize("kind", [None, "bool", "float"])
@pytest.mark.parametrize("causal", [True, False])
def test_knocked_out_keys_are_hidden_from_a_place_on(queries, kind, causal):
    draw = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, 1, 6, 3, generator=draw) for _ in range(3))
    query = query[:, :, -queries:]
    keys = torch.tensor([[False, True, False], [True, False, True]])  # of the first three tokens
    seen = torch.ones(2, 1, 6, 6, dtype=torch.bool)
    seen = seen.tril() if causal or kind else seen
    bias = torch.zeros(2, 1, 6, 6).masked_fill(~seen, float("-inf"))
    mask = {None: None, "bool": seen[:, :, -queries:].clone(), "float": bias[:, :, -queries:]}[kind]
    seen[:, :, 4:, :3] &= ~keys[:, None, None]
    scores = (query @ key.mT * 3**-0.5).masked_fill(~seen[:, :, -queries:], float("-inf"))
    token = attention.knockout.set(attention.Knockout(keys, 4))
    try:
        found, _ = attention.attend(Layer(is_causal=causal), query, key, value, mask)
    finally:
        attention.knockout.reset(token)
    torch.testing.assert_close(found.transpose(1, 2), scores.softmax(-1) @ value)
