"""Several tokens of an answer explained together: rows, numbers, and what is kept of them."""

import json

import numpy as np
import pytest
import tiny
import torch
from reference import reference

import relevancy
from relevancy.core.tape import record
from relevancy.core.targets import Choice
from relevancy.errors import RelevancyError
from relevancy.explanations import map_batch
from relevancy.explanations.evidence import NUMBERS
from relevancy.explanations.explain import explain
from relevancy.methods.perturbation import Subject
from relevancy.metrics.confirmation import evidence_of
from relevancy.metrics.teacher_forcing import GivenAnswer, TeacherForcing
from relevancy.models import generation
from relevancy.models.model import Model, wrap

QUESTION, ANSWER = "Is the duck floating?", "Yes, the duck is floating on the water."
OTHERS = ["What color is the ball?", "Duck?"]


def doubled(name: str) -> Model:
    hf_model, processor = tiny.FAMILIES[name]()
    return wrap(hf_model.double(), processor)


def expected_of(model: Model, picture, first: int, stop: int, **options):
    """The slow reference of answer tokens first to stop - 1, and the inputs that it read."""
    ids = generation.encoded(model, ANSWER)
    inputs = model.prepare([picture], [QUESTION], [ids[: stop - 1]])
    return reference(model.model, dict(inputs), span=ids[first:stop], **options), ids


def without_units(row: torch.Tensor, count: int) -> np.ndarray:
    row = row.clone()
    row[len(row) - count :] -= 1
    return row.numpy()


@pytest.mark.parametrize("name", ["gemma-clip", "gemma2-clip", "qwen2-clip", "paligemma"])
@pytest.mark.parametrize(("first", "stop"), [(0, 3), (2, 5), (3, 4)])
def test_a_span_is_the_sum_of_log_probabilities_and_of_rows(name, first, stop):
    model, picture = doubled(name), tiny.picture()
    result = explain(model, picture, QUESTION, target=f"{first}:{stop}", answer=ANSWER, evidence=False)
    expected, ids = expected_of(model, picture, first, stop)
    row = without_units(expected.language[0], stop - first)
    np.testing.assert_allclose(result.relevance, row, rtol=1e-5, atol=1e-7)
    assert result.target.positions == range(first, stop)
    assert result.target.token == model.tokenizer.decode(ids[first:stop], clean_up_tokenization_spaces=False)
    assert result.target.id == ids[first]
    with torch.no_grad():
        logits = model.model(**model.prepare([picture], [QUESTION], [ids])).logits[0, -len(ids) - 1 : -1]
    said = logits.log_softmax(-1)[range(first, stop), list(ids[first:stop])]
    assert result.target.log_probability == pytest.approx(float(said.sum()), rel=1e-6)
    assert result.target.probability == pytest.approx(float(said.sum().exp()), rel=1e-6)
    assert result.target.logit == pytest.approx(float(logits[first, ids[first]]), rel=1e-6)


@pytest.mark.parametrize("method", ["relevancy", "relevancy-magnitude"])
def test_a_span_goes_on_through_the_tower(method):
    model, picture = doubled("gemma-clip"), tiny.picture()
    result = explain(model, picture, QUESTION, target="1:4", answer=ANSWER, scope="full", method=method, evidence=False)
    rule = "clamp" if method == "relevancy" else "magnitude"
    expected, _ = expected_of(model, picture, 1, 4, full=True, rule=rule)
    np.testing.assert_allclose(result.image_map.ravel(), expected.vision[0, 1:].detach(), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(result.relevance, without_units(expected.language[0], 3), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("fewest", [0, 10**9])
def test_spans_of_unequal_length_in_one_batch_are_those_of_single_calls(fewest, monkeypatch):
    """Read together with padding, and with the picture read once for all."""
    model, picture = doubled("gemma-clip"), tiny.picture()
    answers = [ANSWER, "red", "The ball is green."]
    asked = [QUESTION, *OTHERS]
    single = [
        explain(model, picture, question, target="answer", answer=answer, evidence=False)
        for question, answer in zip(asked, answers, strict=True)
    ]
    monkeypatch.setattr(map_batch, "_LONG", fewest)
    together = explain(model, picture, asked, target="answer", answer=answers, evidence=False)
    for one, other in zip(single, together, strict=True):
        np.testing.assert_allclose(other.relevance, one.relevance, rtol=1e-6, atol=1e-8)
        assert other.target.log_probability == pytest.approx(one.target.log_probability, rel=1e-9)
        assert other.target.positions == one.target.positions == range(len(one.answer_tokens))


def test_each_token_of_a_span_is_explained_as_by_itself():
    model, picture = wrap(*tiny.gemma_clip()), tiny.picture()
    whole = explain(model, picture, QUESTION, target="all", answer=ANSWER)
    some = explain(model, picture, QUESTION, target="each:2:5", answer=ANSWER)
    assert [one.target.position for one in some] == [2, 3, 4]
    for one, other in zip(some, whole[2:5], strict=True):
        alone = explain(model, picture, QUESTION, target=one.target.position, answer=ANSWER)
        for same in (other, alone):
            np.testing.assert_allclose(one.relevance, same.relevance, rtol=1e-4, atol=1e-6)
            assert one.target.id == same.target.id
            assert one.target.logit == pytest.approx(same.target.logit, rel=1e-4)
            assert one.evidence.blind == pytest.approx(same.evidence.blind, rel=1e-3)


def test_a_span_of_a_models_own_answer():
    model, picture = wrap(*tiny.gemma_clip()), tiny.picture()
    own = explain(model, picture, QUESTION, max_new_tokens=4, target="answer")
    each = explain(model, picture, QUESTION, max_new_tokens=4, target="all")
    assert own.target.length == len(own.answer_tokens) == 4
    assert own.evidence.probability == pytest.approx(own.target.probability, rel=1e-4)
    assert own.evidence.blind_tv >= each[0].evidence.blind_tv - 1e-6  # a longer span can only raise it
    assert own.tokens == each[-1].tokens
    assert own.target.probability == pytest.approx(np.prod([one.target.probability for one in each]), rel=1e-4)


def test_a_position_named_twice_counts_once():
    model = doubled("gemma-clip")
    inputs = model.prepare([tiny.picture()], [QUESTION])
    with record(model.model) as tape:
        logits = model.model(**inputs, logits_to_keep=2).logits[0]
        target = logits[:, 7].sum()[None]
        once = tape.relevance(target, torch.tensor([[-2, -1]]), retain_graph=True).language
        twice = tape.relevance(target, torch.tensor([[-2, -1, -1]]), retain_graph=True).language
        last = tape.relevance(target, torch.tensor([[-1]]), retain_graph=True).language
        plain = tape.relevance(target).language
    torch.testing.assert_close(once, twice, rtol=0, atol=0)
    torch.testing.assert_close(last, plain, rtol=0, atol=0)
    assert not torch.equal(once, last)


@pytest.mark.parametrize("method", ["rollout", "attention", "tam"])
def test_methods_without_a_gradient_give_a_spans_mean(method):
    model, picture = wrap(*tiny.gemma_clip()), tiny.picture()
    asked = {"answer": ANSWER, "method": method, "evidence": False}
    span = explain(model, picture, QUESTION, target="1:4", **asked)
    each = explain(model, picture, QUESTION, target="each:1:4", **asked)
    mean = np.mean([one.image_map for one in each], 0)
    np.testing.assert_allclose(span.image_map, mean, rtol=1e-4, atol=1e-7)


def test_occlusion_follows_a_spans_log_probability():
    """A picture hidden as a whole loses what `hidden - untouched` says, in each of its patches."""
    model = doubled("gemma-clip")
    ids = generation.encoded(model, ANSWER)
    inputs = dict(model.prepare([tiny.picture()], [QUESTION], [ids[:3]]))
    pixels = inputs.pop("pixel_values")
    subject = Subject(model, Choice.spanning(1, ids[1:4]), inputs, pixels, torch.zeros_like(pixels), None)
    with torch.no_grad():
        found = subject.score(torch.cat([pixels, torch.zeros_like(pixels)]))
        for value, seen in zip(found, (pixels, torch.zeros_like(pixels)), strict=True):
            logits = model.model(**inputs, pixel_values=seen).logits[0, -3:].log_softmax(-1)
            assert float(value) == pytest.approx(float(logits[range(3), list(ids[1:4])].sum()), rel=1e-5)


def test_a_span_comes_back_from_a_folder(tmp_path):
    result = explain(wrap(*tiny.gemma_clip()), tiny.picture(), QUESTION, target="1:4", answer=ANSWER, evidence=False)
    result.save(tmp_path / "span")
    assert relevancy.Explanation.load(tmp_path / "span").target == result.target
    stored = json.loads((tmp_path / "span" / "explanation.json").read_text())["target"]
    assert (stored["length"], stored["log_probability"]) == (3, result.target.log_probability)


@pytest.mark.parametrize("target", ["all", "each:1:3"])
def test_where_one_map_is_made_of_each_answer_several_are_refused(target):
    models = [wrap(*tiny.gemma_clip(), name=name) for name in "ab"]
    with pytest.raises(RelevancyError, match="one map of each answer"):
        relevancy.compare(models, tiny.picture(), QUESTION, target=target)


def test_a_curve_of_a_span_follows_the_probability_of_all_its_tokens():
    model, picture = doubled("gemma-clip"), tiny.picture()
    result = explain(model, picture, QUESTION, target="1:4", answer=ANSWER)
    said = GivenAnswer.of(result, model)
    assert said == GivenAnswer.words(model, ANSWER, "1:4")
    sight = TeacherForcing(model, picture, QUESTION, said)
    masks = np.zeros((2, sight.patches), bool)
    masks[1, :5] = True
    found = sight.hiding(masks).probability
    assert found[0] == pytest.approx(result.target.probability, rel=1e-4)
    each = explain(model, picture, QUESTION, target="each:1:4", answer=ANSWER, evidence=False)
    single = [TeacherForcing(model, picture, QUESTION, GivenAnswer.of(one, model)).hiding(masks) for one in each]
    np.testing.assert_allclose(found, np.prod([one.probability for one in single], 0), rtol=1e-4)
    (judged,) = evidence_of(model, picture, QUESTION, said, [result.image_map])
    assert judged.verdict == result.evidence.verdict
    for part in NUMBERS:
        assert getattr(judged, part) == pytest.approx(getattr(result.evidence, part), abs=1e-5)
