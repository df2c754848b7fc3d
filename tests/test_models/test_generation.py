"""Answers against transformers' own generation: greedy whatever a checkpoint's files say, and read as it reads them."""

import warnings
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from reference import passed_on, relative
from transformers import GenerationConfig
from transformers.utils import logging

from relevancy.errors import RelevancyError
from relevancy.explanations.comparison import compare
from relevancy.explanations.counterfactual import Region, counterfactual
from relevancy.explanations.explain import explain
from relevancy.explanations.explanation import Explanation
from relevancy.metrics.teacher_forcing import GivenAnswer, TeacherForcing
from relevancy.models import generation
from relevancy.models.model import Model, wrap

QUESTIONS = ["Is the duck floating? (a) Yes (b) No", "red?", "What color is the ball? It is red. How many boats?"]
TOKENS = 5
PICTURES = [tiny.picture(80, 60, seed=number) for number in range(len(QUESTIONS))]


@pytest.fixture(scope="module", params=sorted(tiny.FAMILIES))
def family(request: pytest.FixtureRequest) -> Model:
    return wrap(*tiny.FAMILIES[request.param](), name=request.param)


def generated(model: Model, pictures: list[Image.Image], questions: list[str]) -> tuple[list[list[int]], Any]:
    """Transformers' own greedy answers (ids) and the logits of each of their tokens, (tokens)(batch, vocabulary)."""
    inputs = model.prepare(pictures, questions)
    inputs.pop("position_ids", None)  # generation counts by itself
    settings = GenerationConfig(
        do_sample=False, num_beams=1, max_new_tokens=TOKENS, min_new_tokens=0, output_logits=True, use_cache=True,
        return_dict_in_generate=True, eos_token_id=list(model.stop_token_ids), pad_token_id=0,
    )  # fmt: skip
    with torch.no_grad():
        found = model.model.generate(**inputs, generation_config=settings)
    own = found.sequences[:, inputs["input_ids"].shape[1] :].tolist()
    return [generation._before_stop(ids, set(model.stop_token_ids)) for ids in own], found.logits


def ids_of(model: Model, result: Explanation) -> list[int]:
    return model.tokenizer.convert_tokens_to_ids(list(result.answer_tokens))


@pytest.mark.parametrize("rows", [[0], [0, 1, 2]], ids=["alone", "padded"])
def test_every_token_of_an_answer_is_read_as_generation_reads_it(family, rows):
    pictures, questions = [PICTURES[row] for row in rows], [QUESTIONS[row] for row in rows]
    said, logits = generated(family, pictures, questions)
    every = explain(family, pictures, questions, target="all", max_new_tokens=TOKENS)
    first = explain(family, pictures, questions, max_new_tokens=TOKENS)
    for row, (ids, results) in enumerate(zip(said, every, strict=True)):
        assert ids_of(family, results[0]) == ids
        for place, result in enumerate(results):
            own = logits[place][row].float()
            assert result.target.logit == pytest.approx(float(own[ids[place]]), rel=0, abs=1e-5)
            assert result.target.probability == pytest.approx(float(own.softmax(-1)[ids[place]]), rel=1e-4)
        assert results[0].target.logit == pytest.approx(first[row].target.logit, rel=0, abs=1e-5)
        assert relative(*(passed_on(torch.tensor(each.relevance)[None]) for each in (results[0], first[row]))) < 1e-5


def test_all_readers_of_a_given_answer_agree_with_generation(family):
    picture, question = PICTURES[0], QUESTIONS[0]
    (said,), logits = generated(family, [picture], [question])
    logs = [float(step[0].float().log_softmax(-1)[token]) for step, token in zip(logits, said, strict=False)]
    ((found,),) = generation.likelihoods(family, tiny.read(family, [picture], [question]), [said])
    assert found.whole == pytest.approx(np.exp(sum(logs)), rel=1e-4)
    sight = TeacherForcing(family, picture, question, GivenAnswer(tuple(said), len(said) - 1, said[-1]))
    untouched = np.zeros((1, sight.patches), dtype=bool)
    for reading in (sight.hiding(untouched), sight.without(untouched)):
        assert reading.probability[0] == pytest.approx(np.exp(logs[-1]), rel=1e-4)
    changed = counterfactual(family, picture, question, Region(patches=(5,)), max_new_tokens=TOKENS)
    assert changed.before.whole == pytest.approx(found.whole, rel=1e-4)


def test_answers_are_as_likely_in_a_padded_batch_as_alone(family):
    said = [generation.encoded(family, words) for words in ("Yes", "No boats in the picture")]
    together = generation.likelihoods(family, tiny.read(family, PICTURES, QUESTIONS), said)
    for picture, question, row in zip(PICTURES, QUESTIONS, together, strict=True):
        (alone,) = generation.likelihoods(family, tiny.read(family, [picture], [question]), said)
        assert [one.whole for one in row] == pytest.approx([one.whole for one in alone], rel=1e-4)


def test_what_comes_later_in_an_answer_changes_nothing_before_it(family):
    words = ["Yes No", "Yes The dog stands left of the tree"]
    short, long = (explain(family, PICTURES[0], QUESTIONS[0], target="all", answer=one) for one in words)
    for one, other in zip(short[:1], long[:1], strict=True):
        assert one.target.logit == pytest.approx(other.target.logit, rel=0, abs=1e-5)
        assert relative(*(passed_on(torch.tensor(each.relevance)[None]) for each in (one, other))) < 1e-5


def test_a_contrast_later_in_a_given_answer_is_read_after_what_comes_before_it(family):
    asked = PICTURES[:2], QUESTIONS[:2]
    results = explain(family, *asked, target="red|dog", answer="The ball is red")
    before = generation.encoded(family, "The ball is red")[: results[0].target.position]
    assert before
    with torch.no_grad():
        ids = torch.tensor([before] * 2)
        prompt, _ = tiny.read(family, *asked).further(family, ids)
    for result, logits in zip(results, prompt.logits, strict=True):
        for token, found in (
            (result.target.id, result.target.logit), (result.target.contrast_id, result.target.contrast_logit)
        ):  # fmt: skip
            assert found == pytest.approx(float(logits[token]), rel=0, abs=1e-5)


# A checkpoint's own settings

SETTINGS: dict[str, Any] = {
    "min_length": 200, "min_new_tokens": 6, "max_length": 1, "max_new_tokens": 1, "max_time": 0.0, "do_sample": True,
    "early_stopping": True, "stop_strings": ["e", "a"], "num_beams": 3, "use_cache": False, "temperature": 9.0,
    "cache_implementation": "static", "cache_config": {"backend": "quanto"}, "top_p": 0.1, "typical_p": 0.1,
    "repetition_penalty": 9.0, "no_repeat_ngram_size": 1, "bad_words_ids": [[number] for number in range(3, 300)],
    "suppress_tokens": list(range(3, 300)), "begin_suppress_tokens": list(range(3, 300)), "forced_eos_token_id": 300,
    "forced_bos_token_id": 300, "sequence_bias": [[[300], 90.0]], "exponential_decay_length_penalty": (1, 9.0),
    "guidance_scale": 3.0, "watermarking_config": {"greenlist_ratio": 0.1, "bias": 90.0}, "num_return_sequences": 2,
    "output_logits": True, "output_scores": True, "return_dict_in_generate": True, "pad_token_id": 300,
    "prompt_lookup_num_tokens": 2, "dola_layers": "high", "constraints": [1], "force_words_ids": [[300]],
    "compile_config": {"mode": "default"}, "encoder_no_repeat_ngram_size": 1, "decoder_start_token_id": 300,
}  # fmt: skip


def test_no_generation_setting_of_a_checkpoint_changes_an_answer(built, monkeypatch, caplog):
    hf, processor = built["llama-clip"]  # whose answers do not repeat one token
    prompt = tiny.read(wrap(hf, processor), PICTURES, QUESTIONS)
    plain = generation.answers(wrap(hf, processor), prompt.branch(), TOKENS)
    stop = plain[0][3]
    monkeypatch.setattr(hf, "generation_config", GenerationConfig(eos_token_id=stop))
    logging.get_logger("transformers").addHandler(caplog.handler)
    expected = [generation._before_stop(ids, {stop}) for ids in plain]
    assert expected != plain  # a stop token that the files name is heard
    for name in vars(GenerationConfig()):
        settings = GenerationConfig(eos_token_id=stop)
        if name != "eos_token_id":
            setattr(settings, name, SETTINGS.get(name, 2))
        monkeypatch.setattr(hf, "generation_config", settings)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert generation.answers(wrap(hf, processor), prompt.branch(), TOKENS) == expected, name
    logging.get_logger("transformers").removeHandler(caplog.handler)
    assert not caplog.records


def test_every_reader_hears_stop_tokens_and_no_other_setting(built, monkeypatch):
    hf, processor = built["llama-clip"]
    before = explain(wrap(hf, processor), PICTURES[0], QUESTIONS[0], max_new_tokens=TOKENS)
    settings = GenerationConfig(min_new_tokens=TOKENS, num_beams=3, repetition_penalty=9.0, do_sample=True)
    settings.eos_token_id = ids_of(wrap(hf, processor), before)[2]
    monkeypatch.setattr(hf, "generation_config", settings)
    model = wrap(hf, processor)
    after = explain(model, PICTURES[0], QUESTIONS[0], max_new_tokens=TOKENS)
    assert after.answer_tokens == before.answer_tokens[:2]
    assert after.target == before.target
    changed = counterfactual(model, PICTURES[0], QUESTIONS[0], Region(patches=(5,)), max_new_tokens=TOKENS)
    both = compare([model, model], PICTURES[0], QUESTIONS[0], max_new_tokens=TOKENS)
    assert {changed.answer, *(result.answer for result in both.explanations)} == {after.answer}


@pytest.mark.parametrize("wrong", [-1, 10**6])
def test_a_stop_token_that_is_no_token_is_none(built, monkeypatch, wrong):
    hf, processor = built["gemma-clip"]
    monkeypatch.setattr(hf, "generation_config", GenerationConfig(eos_token_id=[wrong]))
    model = wrap(hf, processor)
    assert wrong not in model.stop_token_ids
    ((found,),) = generation.likelihoods(model, tiny.read(model, PICTURES[:1], QUESTIONS[:1]), [""])
    assert found.tokens == 0


def test_an_answer_that_holds_a_pictures_token_is_refused_where_it_must_be_read_again(built):
    model = wrap(*built["gemma-clip"])
    with pytest.raises(RelevancyError, match="stands for a picture"):
        model.prepare(PICTURES[:1], QUESTIONS[:1], [[300, model.image_token_id, 301]])
