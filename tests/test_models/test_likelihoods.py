"""How likely answers are: against whole forward passes, in any number, in other spellings."""

from math import exp, log

import pytest
import tiny
import torch
from bare import paligemma
from reference import at_once

from relevancy.errors import RelevancyError
from relevancy.models import generation
from relevancy.models.generation import Likelihood, Prefill, answers, encoded, likelihoods, spellings
from relevancy.models.model import Model, wrap
from relevancy.models.prepared import Prepared

QUESTION = "Is the duck floating? (a) Yes (b) No"


@pytest.fixture
def model(pair: tiny.Built) -> Model:
    return wrap(*pair, name="tiny")


@pytest.fixture
def gemma(built: dict[str, tiny.Built]) -> Model:
    return wrap(*built["gemma-clip"], name="tiny")


def test_likelihoods_are_those_of_whole_forward_passes(model, picture):
    said = [encoded(model, words) for words in ("Yes", "No boats in the picture", "The dog stands left.", "Yes No")]
    pictures = [picture, tiny.picture(50, 90, seed=2)]
    rows = likelihoods(model, tiny.read(model, pictures, [QUESTION] * 2), said)
    assert [len(row) for row in rows] == [4, 4]
    for number, ids in enumerate(said):
        for row, logs in zip(rows, at_once(model, QUESTION, pictures, ids), strict=True):
            found = row[number]
            assert found.tokens == len(ids)
            assert found.first == pytest.approx(exp(logs[0]), rel=1e-4, abs=0)
            assert log(found.whole) == pytest.approx(sum(logs), rel=1e-4, abs=0)
            assert found.per_token == pytest.approx(exp(sum(logs) / len(ids)), rel=1e-4, abs=0)


def test_an_answer_alone_is_as_likely_as_among_others(model, picture):
    prompt = tiny.read(model, [picture], [QUESTION])
    together = likelihoods(model, prompt, ["Yes", "The dog stands left.", "No boats"])[0]
    for words, expected in zip(["Yes", "The dog stands left.", "No boats"], together, strict=True):
        ((alone,),) = likelihoods(model, prompt, [words])
        assert alone.per_token == pytest.approx(expected.per_token, rel=1e-5, abs=0)


def test_a_prompt_may_be_used_again_after_an_answer_went_on_from_a_branch(model, picture):
    prompt = tiny.read(model, [picture], [QUESTION])
    before = likelihoods(model, prompt, ["No boats"])
    length = prompt.cache.get_seq_length()
    (own,) = answers(model, prompt.branch(), 5)
    assert prompt.cache.get_seq_length() == length
    assert likelihoods(model, prompt, ["No boats"]) == before
    assert answers(model, prompt.branch(), 5) == [own]
    answers(model, prompt, 5)
    assert prompt.cache.get_seq_length() > length  # without a branch the prompt's own cache grows


def test_the_models_own_answer_begins_with_its_likeliest_token(model, picture):
    prompt = tiny.read(model, [picture], [QUESTION])
    (own,) = answers(model, prompt.branch(), 5)
    ((found,),) = likelihoods(model, prompt, [own])
    assert found.first == pytest.approx(float(prompt.logits.softmax(-1).max()))


def test_words_are_read_in_the_likelier_spelling(gemma, picture):
    prompt = tiny.read(gemma, [picture], [QUESTION])
    for words in ("Yes", "duck", "red", "boats"):
        bare, spaced = spellings(gemma, words)
        assert gemma.tokenizer.decode(bare) == words
        assert gemma.tokenizer.decode(spaced) == f" {words}"
        ((found, one, other),) = likelihoods(gemma, prompt, [words, bare, spaced])
        assert found == max(one, other, key=lambda likelihood: likelihood.whole)
    assert spellings(gemma, " Yes ") == spellings(gemma, "Yes")


def test_an_empty_answer_is_ending_at_once(gemma, picture):
    prompt = tiny.read(gemma, [picture], [QUESTION])
    stopping = float(prompt.logits[0].softmax(-1)[list(gemma.stop_token_ids)].sum())
    ((empty, other, also),) = likelihoods(gemma, prompt, ["", "No boats", []])
    assert empty == also
    assert empty.tokens == 0
    assert (empty.first, empty.whole, empty.per_token) == pytest.approx((stopping,) * 3)
    assert other.tokens > 1


def test_an_answer_beyond_the_models_last_position_is_not_read(gemma, picture):
    prompt = tiny.read(gemma, [picture], [QUESTION])
    room = gemma.room - prompt.ids.shape[1]
    token = encoded(gemma, "duck")[0]
    ((fits, beyond),) = likelihoods(gemma, prompt, [[token] * room, [token] * (room + 1)])
    assert fits.tokens == room
    assert beyond is None
    assert likelihoods(gemma, prompt, [[token] * (room + 1)]) == ((None,),)


def test_probabilities_of_a_case_worked_by_hand():
    assert generation._likelihood((7, 8, 9), [log(0.5), log(0.25), log(1.0)]) == Likelihood(
        pytest.approx(0.5), pytest.approx(0.125), pytest.approx(0.5), 3
    )


def test_a_prefix_that_sees_itself_whole_goes_on_causally():
    """PaliGemma reads its prompt without a causal mask and counts positions from one."""
    hf_model, inputs = paligemma()
    model = Model(hf_model, None, "paligemma")
    vars(model)["stop_token_ids"] = (1,)
    with torch.no_grad():
        prompt = Prefill.of(Prepared(inputs, 0), hf_model(**inputs, logits_to_keep=1, use_cache=True))
        said = (13, 14, 15)
        tail = torch.tensor([said])
        whole = inputs | {
            "input_ids": torch.cat([inputs["input_ids"], tail], 1),
            "attention_mask": torch.ones(1, inputs["input_ids"].shape[1] + 3, dtype=torch.long),
            "token_type_ids": torch.cat([inputs["token_type_ids"], torch.ones_like(tail)], 1),
        }
        logits = hf_model(**whole).logits[0, -4:-1].log_softmax(-1)
    ((found,),) = likelihoods(model, prompt, [said])
    assert log(found.whole) == pytest.approx(
        float(sum(logits[place, token] for place, token in enumerate(said))), rel=1e-4
    )


def test_reading_leaves_the_model_in_its_mode(gemma, picture):
    gemma.model.train()
    try:
        prompt = tiny.read(gemma, [picture], [QUESTION])
        likelihoods(gemma, prompt, ["No boats"])
        assert all(module.training for module in gemma.model.modules())
    finally:
        gemma.model.eval()
    assert torch.equal(prompt.logits, tiny.read(gemma, [picture], [QUESTION]).logits)


def test_a_given_answer_must_hold_words(gemma):
    with pytest.raises(RelevancyError, match="given answer is empty"):
        encoded(gemma, " \n")
