"""What each head adds: parts of a map that sum to it, of every method that has them."""

import numpy as np
import pytest
import tiny
import torch

import relevancy
from relevancy.errors import RelevancyError
from relevancy.explanations import map_batch
from relevancy.explanations.explain import explain, explain_heads
from relevancy.explanations.explanation import Explanation
from relevancy.methods import registry
from relevancy.models.model import wrap

QUESTION = "Is the duck floating? (a) Yes (b) No"
METHODS = sorted(name for name, method in registry.METHODS.items() if method.by_head)


@pytest.fixture(scope="module")
def model():
    return wrap(*tiny.gemma_clip())


def summed(heads):
    return sum(one.relevance for one in heads), sum(one.image_map for one in heads)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", sorted(tiny.FAMILIES))
def test_heads_of_all_layers_add_up_to_the_map(name, method):
    one = wrap(*tiny.FAMILIES[name]())
    whole = explain(one, tiny.picture(), QUESTION, method=method, evidence=False)
    heads = explain_heads(one, tiny.picture(), QUESTION, method=method)
    text = one.model.config.get_text_config()
    assert [each.head for each in heads] == [
        (layer, head) for layer in range(text.num_hidden_layers) for head in range(text.num_attention_heads)
    ]
    row, shown = summed(heads)
    np.testing.assert_allclose(row, whole.relevance, rtol=0, atol=1e-5 * whole.relevance.max())
    np.testing.assert_allclose(shown, whole.image_map, rtol=0, atol=1e-5 * whole.image_map.max())
    assert {(each.answer, each.target, each.tokens) for each in heads} == {(whole.answer, whole.target, whole.tokens)}
    assert len({each.relevance.tobytes() for each in heads}) == len(heads)


@pytest.mark.parametrize(
    "options", [{"target": 1}, {"target": "answer"}, {"target": "contrast"}, {"answer": "red ball"}, {"layers": [0, 2]}]
)
def test_whatever_is_asked_of_explain(model, options):
    given = {"max_new_tokens": 3} | options
    whole = explain(model, tiny.picture(), QUESTION, evidence=False, **given)
    heads = explain_heads(model, tiny.picture(), QUESTION, **given)
    np.testing.assert_allclose(summed(heads)[0], whole.relevance, rtol=0, atol=1e-5 * whole.relevance.max())
    assert heads[0].layers == whole.layers
    assert heads[0].target == whole.target


def test_one_layers_heads_are_those_among_all(model):
    every = explain_heads(model, tiny.picture(), QUESTION)
    for layer in (0, 2, -1):
        own = explain_heads(model, tiny.picture(), QUESTION, layer=layer)
        same = [one for one in every if one.head[0] == layer % 3]
        assert [one.head for one in own] == [one.head for one in same]
        for one, other in zip(own, same, strict=True):
            np.testing.assert_allclose(one.relevance, other.relevance, rtol=1e-5, atol=1e-9)


def test_all_heads_cost_one_map(model, monkeypatch):
    passes, real = [], torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *args, **given: [passes.append("back"), real(*args, **given)][1])
    hook = model.model.get_decoder().register_forward_pre_hook(
        lambda *_: passes.append("forth") if torch.is_grad_enabled() else None
    )
    heads = explain_heads(model, tiny.picture(), QUESTION)
    hook.remove()
    assert len(heads) == 12
    assert passes == ["forth", "back"]


@pytest.mark.parametrize("scope", ["one question", "remembered"])
def test_a_beginning_that_was_read_before_gives_the_same(scope, monkeypatch):
    hf_model, processor = tiny.gemma_clip()
    model = wrap(hf_model.double(), processor)
    plain = explain_heads(model, tiny.picture(), QUESTION)
    monkeypatch.setattr(map_batch, "_LONG", 0)
    picture = tiny.picture()
    with model.remembering():
        if scope == "remembered":
            explain_heads(model, picture, "What color is the ball?")
            explain(model, picture, QUESTION, evidence=False)
        again = explain_heads(model, picture, QUESTION)
    for one, other in zip(plain, again, strict=True):
        peak = plain[0].relevance.max()
        np.testing.assert_allclose(other.relevance, one.relevance, rtol=0, atol=1e-5 * peak)


def test_each_is_saved_says_what_it_is_and_can_be_made_again(model, tmp_path, monkeypatch):
    *_, one = explain_heads(model, tiny.picture(), QUESTION, layer=1)
    again = Explanation.load(one.save(tmp_path / "head"))
    assert again.head == one.head == (1, 3)
    assert "head 3 of layer 1 among all layers" in again.how
    assert "what head 3 of layer 1 adds" in again.summary()
    assert again.evidence is None
    tiny.picture().save(tmp_path / "picture.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(relevancy, "load", lambda name: model, raising=False)
    known = {}
    exec(one.code, known)
    assert known["result"].head == one.head
    np.testing.assert_allclose(known["result"].relevance, one.relevance, rtol=1e-5)
    assert (tmp_path / "map.png").stat().st_size > 0


def test_a_layer_may_be_any_whole_number(model):
    last, same = (explain_heads(model, tiny.picture(), QUESTION, layer=layer) for layer in (-1, np.int64(2)))
    assert [one.head for one in last] == [one.head for one in same]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"method": "rollout"}, "does not say what each head adds: use relevancy, "),
        ({"target": "all"}, "name one token"),
        ({"layer": 9}, "0 to 2"),
        ({"layer": 1, "layers": [0, 2]}, "add it to layers"),
        ({"layer": "x"}, "not .x."),
        ({"layer": True}, "not True"),
    ],
)
def test_what_cannot_be_is_one_line(model, options, told):
    with pytest.raises(RelevancyError, match=told):
        relevancy.explain_heads(model, tiny.picture(), QUESTION, **options)
