"""The lean loss equals the full one, packed equals padded, and an all-text rank keeps step with the others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional
from training_data import PATCHES, SIZE, small_llava

from relevancy.train.collate import Collate
from relevancy.train.losses import lean_loss, supervised_loss
from relevancy.train.template import IGNORED, IMAGE, dialogue, encode


def full(hidden, labels, head, count=None):
    """All logits at once, as the model's own loss has them."""
    logits = head(hidden).float() if hidden.dtype == torch.float32 else head(hidden)
    flat = logits[:, :-1].reshape(-1, logits.shape[-1]), labels[:, 1:].reshape(-1)
    if count is None:
        return functional.cross_entropy(*flat, ignore_index=IGNORED)
    return functional.cross_entropy(*flat, ignore_index=IGNORED, reduction="sum") / count


@pytest.mark.parametrize("chunk", [1, 7, 1000])
@pytest.mark.parametrize("count", [None, 50, torch.tensor(33)])
def test_chunked_equals_full(chunk, count):
    torch.manual_seed(0)
    head, hidden = nn.Linear(24, 300, bias=False), torch.randn(3, 17, 24, requires_grad=True)
    labels = torch.randint(0, 300, (3, 17)).masked_fill(torch.rand(3, 17) < 0.4, IGNORED)

    def gradients(loss):
        return loss, *torch.autograd.grad(loss, [hidden, head.weight])

    expected = gradients(full(hidden, labels, head, count))
    found = gradients(supervised_loss(hidden, labels, head, chunk, count))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


def test_logits_are_made_where_there_is_a_label_and_a_few_at_a_time():
    sizes = []

    def head(states):
        sizes.append(len(states))
        return states @ torch.ones(4, 9)

    labels = torch.full((2, 50), IGNORED)
    labels[0, 10:17], labels[1, 0], labels[1, 40:46] = 1, 1, 2  # the first position is told by none
    supervised_loss(torch.randn(2, 50, 4), labels, head, 5)
    assert sizes == [5, 5, 3]


@pytest.mark.parametrize("length", [1, 6])
def test_without_a_label_there_is_nothing_to_learn(length):
    head, hidden = nn.Linear(4, 9), torch.randn(2, length, 4, requires_grad=True)
    loss = supervised_loss(hidden, torch.full((2, length), IGNORED), head)
    loss.backward()
    assert loss == 0
    assert not hidden.grad.any()
    assert not head.weight.grad.any()  # yet it is there: other processes wait for it


def batch_of(tokenizer, pictured=(True, True, False, True), packed=False):
    examples = []
    for number, has in enumerate(pictured):
        mark = IMAGE if has else ""
        turns = dialogue(
            f"{mark}Is there a red duck{'?' * number}", "Yes", "Where?", "Left of the cube"[: 4 + 4 * number]
        )
        encoded = encode(turns, tokenizer, PATCHES)
        pixels = torch.randn(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(number))
        examples.append({"input_ids": encoded.ids, "labels": encoded.labels, "pixel_values": pixels if has else None})
    return Collate(tokenizer.pad_token_id, packed)(examples)


def trained(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}


def assert_same(found, expected, rtol=1e-4, atol=1e-6):
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=rtol, atol=atol, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("count", [None, 17])
def test_the_lean_model_learns_what_the_full_one_does(model, tokenizer, count):
    batch = batch_of(tokenizer) | ({} if count is None else {"num_items_in_batch": count})
    outputs = model(**batch)
    expected = trained(model, outputs.loss)
    with lean_loss(model, chunk=3):
        lean = model(**batch)
        found = trained(model, lean.loss)
    assert lean.logits is None
    torch.testing.assert_close(lean.loss, outputs.loss, rtol=1e-6, atol=0)
    assert_same(found, expected)
    batch.pop("labels")
    with lean_loss(model):
        assert model(**{k: v for k, v in batch.items() if k != "num_items_in_batch"}).logits is not None
    assert "forward" not in vars(model)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_packed_equals_padded(model, tokenizer, attention):
    """The same loss, the same gradients, and for every token the same logits."""
    model.set_attn_implementation(attention)
    padded, packed = batch_of(tokenizer), batch_of(tokenizer, packed=True)
    assert packed["input_ids"].shape == packed["position_ids"].shape == (1, int(padded["attention_mask"].sum()))
    assert "attention_mask" not in packed
    assert packed["use_cache"] is False  # with a cache, transformers would let each example see those before it
    one, other = model(**padded), model(**packed)
    kept = padded["attention_mask"].bool()
    torch.testing.assert_close(other.logits[0], one.logits[kept], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(other.loss, one.loss, rtol=1e-6, atol=0)
    assert_same(trained(model, other.loss), trained(model, one.loss))


def test_a_packed_examples_first_token_has_no_label():
    examples = [{"input_ids": [5, 6, 7], "labels": [5, 6, 7]}, {"input_ids": [8, 9], "labels": [8, 9]}]
    batch = Collate(0, packed=True)(examples)
    assert batch["labels"].tolist() == [[IGNORED, 6, 7, IGNORED, 9]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 1]]


def test_packed_and_lean_equals_padded_and_full(model, tokenizer):
    full_loss = model(**batch_of(tokenizer)).loss
    expected = trained(model, full_loss)
    with lean_loss(model, chunk=4):
        loss = model(**batch_of(tokenizer, packed=True)).loss
        found = trained(model, loss)
    torch.testing.assert_close(loss, full_loss, rtol=1e-6, atol=0)
    assert_same(found, expected)


@pytest.mark.parametrize("idle_tower", [False, True])
def test_the_connector_stays_in_an_all_text_batch(model, tokenizer, idle_tower):
    batch = batch_of(tokenizer, [False, False])
    model.requires_grad_(False)
    for part in (model.model.multi_modal_projector, model.model.language_model):
        part.requires_grad_(True)
    plain = model(**batch).loss
    before = trained(model, plain)
    looked = []
    model.model.vision_tower.register_forward_hook(lambda *_: looked.append(True))
    with lean_loss(model, idle_tower=idle_tower):
        loss = model(**batch).loss
        found = trained(model, loss)
    torch.testing.assert_close(loss, plain, rtol=1e-6, atol=0)
    connector = {name for name in found if "multi_modal_projector" in name}
    assert len(connector) == 4
    assert not any(found[name].any() for name in connector)
    assert_same({name: one for name, one in found.items() if name not in connector}, before)
    assert bool(looked) == idle_tower


def test_a_rank_of_text_alone_keeps_step(tokenizer, tmp_path):
    """Two processes, one with pictures and one without: the gradients of one process with both."""
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    worker = Path(__file__).with_name("two_ranks.py")
    found = os.environ | {"PYTHONPATH": str(worker.parents[1])}  # for what the tests share
    ranks = [subprocess.Popen([sys.executable, worker, tmp_path, str(rank)], env=found) for rank in range(2)]
    try:
        assert [rank.wait(timeout=300) for rank in ranks] == [0, 0]
    finally:
        for rank in ranks:
            rank.kill()
    model = small_llava(tokenizer)
    model.model.vision_tower.requires_grad_(False)
    batch = batch_of(tokenizer, [True, True, False, False])
    with lean_loss(model):
        loss = model(**batch).loss
        expected = trained(model, loss)
    for rank in range(2):
        assert_same(torch.load(tmp_path / f"gradients-{rank}.pt"), expected)
        assert json.loads((tmp_path / f"loss-{rank}.json").read_text()) == pytest.approx(loss.item(), rel=1e-5)
