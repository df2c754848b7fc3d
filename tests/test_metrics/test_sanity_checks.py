"""Controls: what must change a map, and what must not; the model is given back as it was."""

import numpy as np
import pictured
import pytest
import tiny
import torch

from relevancy.errors import RelevancyError
from relevancy.metrics.explainers import explainer_of, random_maps
from relevancy.metrics.randomization import blocks, randomised, stages, usual_stages
from relevancy.metrics.sanity_checks import (
    Asked,
    answer_swap,
    noisy,
    picture_swap,
    question_swap,
    randomisation,
    similarities,
    similarity,
)
from relevancy.models.model import Model, wrap


@pytest.fixture(scope="module")
def model(built) -> Model:
    return wrap(*built["gemma-clip"], name="tiny")


@pytest.fixture(scope="module")
def asked() -> Asked:
    pictures = [tiny.picture(seed=seed) for seed in range(4)]
    questions = ["Is the duck floating?", "What color is the ball?", "Where is the dog?", "How many boats?"]
    return Asked(pictures, questions, ["Yes", "red", "left", "two"])


def test_similarity_by_hand():
    one = np.array([[1.0, 2], [3, 4]])
    assert similarity(one, one**3) == pytest.approx(1)
    assert similarity(one, -one) == pytest.approx(-1)
    assert similarity(one, np.array([[2.0, 1], [4, 3]])) == pytest.approx(1 - 6 * 4 / (4 * 15))
    assert similarities([one], [-one], signs=False)[0] == pytest.approx(1)
    assert similarity(np.ones((2, 2)), np.zeros((2, 2))) == 1
    assert similarity(np.ones((2, 2)), one) == 0
    assert np.isnan(similarity(one, one * np.nan))


def test_partners():
    asked = Asked(["p", "p", "q"], ["one", "two", "ONE "], ["a", "b", "A"])
    assert question_swap(asked, asked.images).questions == ["two", "one", "two"]
    assert question_swap(asked).answers is None
    assert picture_swap(asked, asked.images).images == ["q", "q", "p"]
    assert answer_swap(asked).answers == ["b", "A", "b"]
    same = Asked(["p", "p"], ["one", "one"], ["a", "a"])
    for swap in (question_swap, answer_swap, lambda rows: picture_swap(rows, rows.images)):
        with pytest.raises(RelevancyError, match="same"):
            swap(same)


def test_a_question_about_the_same_picture_goes_first():
    asked = Asked(["p", "q", "p"], ["one", "two", "three"], None)
    assert question_swap(asked, asked.images).questions == ["three", "three", "one"]


def test_noise_is_small_and_the_same_again(asked):
    first, again = noisy(asked, 5), noisy(asked, 5)
    for picture, one, other in zip(asked.images, first.images, again.images, strict=True):
        assert (one == other).all()
        difference = one.astype(float) - np.asarray(picture, float)
        assert 2 < difference.std() < 5


def test_stages(model):
    every = list(blocks(model))
    assert every == ["decoder 2", "decoder 1", "decoder 0", "connector", "tower"]
    assert {name: len(parts) for name, parts in stages(model).items()} == dict(zip(every, range(1, 6), strict=True))
    assert all(len(parts) == 1 for parts in stages(model, "independent").values())
    assert usual_stages(model) == ["decoder 2", "decoder 0", "tower"]
    with pytest.raises(RelevancyError, match="no block 'head'"):
        stages(model, names=["head"])


def test_weights_are_random_for_a_while_and_come_back(model):
    before = {name: weight.clone() for name, weight in model.model.state_dict().items()}
    parts = stages(model)["decoder 1"]
    inside = {id(weight) for part in parts for weight in part.parameters()}
    with pytest.raises(KeyError), randomised(model, parts):
        for name, weight in model.model.named_parameters():
            assert torch.equal(weight, before[name]) == (id(weight) not in inside), name
        raise KeyError
    assert all(torch.equal(weight, before[name]) for name, weight in model.model.state_dict().items())


def test_a_map_of_the_model_does_not_survive_random_weights(model, asked):
    explainer = explainer_of()
    maps = asked.maps(explainer, model)
    found = dict(randomisation(explainer, model, asked, maps))
    assert set(found) == set(blocks(model))
    assert np.abs(found["tower"]).mean() < 0.8
    again = asked.maps(explainer, model)
    assert similarities(maps, again) == pytest.approx(1)


def test_a_map_that_asks_no_model_survives(model, asked):
    def blob(model, images, questions, answers, /):
        made = random_maps()(model, images, questions, answers)
        for result in made:
            result.image_map[:] = np.exp(-((np.indices((4, 4)) - 1.6) ** 2).sum(0))
        return made

    maps = asked.maps(blob, model)
    for way in ("cascading", "independent"):
        for _, found in randomisation(blob, model, asked, maps, way=way):
            assert found == pytest.approx(1)


def test_random_maps_are_new_each_time_and_the_same_from_one_seed(model, asked):
    explainer = random_maps(3)
    first, second = asked.maps(explainer, model), asked.maps(explainer, model)
    assert np.abs(similarities(first, second)).max() < 0.9
    assert similarities(first, asked.maps(random_maps(3), model)) == pytest.approx(1)


def test_explainers_explain_the_given_answer(model, asked):
    results = explainer_of(target="first", batch=3)(model, asked.images, asked.questions, asked.answers)
    assert [result.answer for result in results] == list(asked.answers)


@pytest.mark.parametrize(
    ("family", "between"),
    [("qwen2_vl", ("merger",)), ("qwen3_vl", ("merger",)), ("idefics3", ("connector", "post_layernorm"))],
)
def test_a_cascade_takes_what_merges_patches_as_the_connector(family, between):
    """It has no name of its own in these families: it lies in the tower, or beside it."""
    model = pictured.model_of(family)
    found = blocks(model)
    assert list(found)[-2:] == ["connector", "tower"]
    owned = {id(weight) for part in found["connector"] for weight in part.parameters()}
    names = {name for name, weight in model.model.named_parameters() if id(weight) in owned}
    assert names == {name for name, _ in model.model.named_parameters() if any(part in name for part in between)}
