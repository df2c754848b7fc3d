"""Probabilities on changed pictures: those of single forward passes, one after the other."""

import numpy as np
import pytest
import tiny
import torch

from relevancy import explain
from relevancy.errors import RelevancyError
from relevancy.explanations.counterfactual import REPLACEMENTS, Region, hidden
from relevancy.metrics.answer_flip import answer_flips
from relevancy.metrics.deletion_insertion import curves
from relevancy.metrics.patch_order import order
from relevancy.metrics.teacher_forcing import GivenAnswer, TeacherForcing
from relevancy.metrics.token_perturbation import perturbation
from relevancy.models.model import Model, wrap
from relevancy.models.vision_cache import unused_tower_layers_skipped

QUESTION = "Is the duck floating? (a) Yes (b) No"
ANSWER = "Yes duck"


@pytest.fixture
def model(pair: tiny.Built) -> Model:
    return wrap(*pair, name="tiny")


@pytest.fixture
def sight(model: Model, picture) -> TeacherForcing:
    return TeacherForcing(model, picture, QUESTION, GivenAnswer.words(model, ANSWER, "duck"))


def single(sight: TeacherForcing, pixels: torch.Tensor) -> tuple[float, bool]:
    """The explained token's probability and whether the answer stays, by a plain forward pass."""
    said = sight.said
    with torch.no_grad():
        logits = sight.model.model(**sight._inputs, pixel_values=pixels[None]).logits[0, -len(said.ids) - 1 :]
    best = logits.argmax(-1).tolist()
    kept = tuple(best[:-1]) == said.ids and best[-1] in sight.model.stop_token_ids
    return float(logits[said.position].softmax(-1)[said.token]), kept


@pytest.mark.parametrize("replacement", REPLACEMENTS)
def test_a_batch_is_single_passes(sight, replacement):
    hidden = np.random.default_rng(0).random((11, sight.patches)) < 0.4
    found = sight.hiding(hidden, replacement)
    expected = [single(sight, pixels) for pixels in sight.replaced(hidden, replacement)]
    np.testing.assert_allclose(found.probability, [one for one, _ in expected], rtol=1e-4)
    assert found.kept.tolist() == [kept for _, kept in expected]


def test_the_untouched_picture_is_explains_own(model, picture):
    result = explain(model, picture, QUESTION, answer=ANSWER, target=1)
    sight = TeacherForcing(model, picture, QUESTION, GivenAnswer.of(result, model))
    assert sight.said == GivenAnswer.words(model, ANSWER, 1)
    found = sight.hiding(np.zeros((1, sight.patches), bool))
    assert found.probability[0] == pytest.approx(result.target.probability, rel=1e-4)


def test_only_hidden_patches_change(sight):
    hidden = np.zeros((1, 16), bool)
    hidden[0, 6] = True
    changed = (sight.replaced(hidden)[0] != sight.pixels).any(0)
    expected = torch.zeros(56, 56, dtype=torch.bool)
    expected[14:28, 28:42] = True
    assert torch.equal(changed, expected)


def test_what_stands_in_a_patchs_place(sight):
    processor = sight.model.processor.image_processor
    mean, spread = (torch.tensor(values)[:, None, None] for values in (processor.image_mean, processor.image_std))
    everything = np.ones((1, 16), bool)
    colors = {name: sight.replaced(everything, name)[0].float() * spread + mean for name in REPLACEMENTS}
    assert torch.allclose(colors["grey"], torch.tensor(128 / 255), atol=1e-5)
    assert torch.allclose(colors["black"], torch.zeros(()), atol=1e-5)
    own = sight.pixels * spread + mean
    assert torch.allclose(colors["blur"].mean((1, 2)), own.mean((1, 2)), atol=0.05)
    assert (colors["blur"].std((1, 2)) < own.std((1, 2))).all()
    with pytest.raises(RelevancyError, match="Unknown replacement"):
        sight.replaced(everything, "pink")


def test_a_mean_is_the_same_wherever_something_is_hidden(sight, picture):
    """The picture's own mean color, in metrics and in counterfactuals."""
    processor = sight.model.processor.image_processor
    mean, spread = (torch.tensor(values)[:, None, None] for values in (processor.image_mean, processor.image_std))
    here = sight.replaced(np.ones((1, 16), bool), "mean")[0].float() * spread + mean
    there = hidden(picture, sight.grid, Region(patches=range(16)), "mean")
    expected = [round(float(channel.mean())) / 255 for channel in np.asarray(picture, float).transpose(2, 0, 1)]
    assert torch.allclose(here, torch.tensor(expected)[:, None, None], atol=1e-5)
    np.testing.assert_allclose(np.asarray(there)[30, 40] / 255, expected)


def test_skipping_the_towers_last_layer_changes_no_bit(sight):
    model = sight.model
    with torch.no_grad():
        before = model.model(**sight._inputs, pixel_values=sight.pixels[None]).logits
        with unused_tower_layers_skipped(model):
            within = model.model(**sight._inputs, pixel_values=sight.pixels[None]).logits
        after = model.model(**sight._inputs, pixel_values=sight.pixels[None]).logits
    assert torch.equal(before, within)
    assert torch.equal(before, after)
    tower = model.model.get_encoder(modality="image")
    assert not [part for part in tower.modules() if getattr(part.forward, "__name__", "") == "_passed_on"]


def test_curves_by_single_passes(sight):
    ordered = order(np.random.default_rng(2).random(16), sight.seen)
    (found,) = curves(sight, [ordered], steps=4)
    hidden = np.zeros((5, 16), bool)
    for step in range(5):
        hidden[step, ordered[: 4 * step]] = True
    down = [single(sight, pixels)[0] for pixels in sight.replaced(hidden)]
    up = [single(sight, pixels)[0] for pixels in sight.replaced(~hidden)]
    np.testing.assert_allclose(found.deletion, down, rtol=1e-4)
    np.testing.assert_allclose(found.insertion, up, rtol=1e-4)
    assert found.deletion_auc == pytest.approx((down[0] / 2 + sum(down[1:4]) + down[4] / 2) / 4, rel=1e-4)
    reversed_ = curves(sight, [ordered, ordered[::-1]], steps=4)[1]
    np.testing.assert_allclose(reversed_.deletion, found.insertion[::-1], rtol=1e-4)


def test_more_steps_than_patches(sight):
    (found,) = curves(sight, [order(np.arange(16), sight.seen)], steps=64)
    assert len(found.shares) == len(found.deletion) == len(found.insertion) == 17


def test_flips(model, picture):
    own = explain(model, picture, QUESTION, max_new_tokens=3)
    sight = TeacherForcing(model, picture, QUESTION, GivenAnswer.of(own, model))
    ordered = order(np.arange(16), sight.seen)
    hidden = np.zeros((2, 16), bool)
    hidden[1, ordered[:8]] = True
    kept = [single(sight, pixels)[1] for pixels in sight.replaced(hidden)]
    (flip,) = answer_flips(sight, [ordered], share=0.5)
    assert np.isnan(flip) if not kept[0] else flip == (not kept[1])


def test_an_answer_that_is_not_the_models_cannot_flip(sight):
    assert np.isnan(answer_flips(sight, [np.arange(16)])).all()


def test_removed_tokens_are_gone(sight):
    """The same as a sequence without them, in which the others keep their places."""
    removed = np.random.default_rng(3).random((1, 16)) < 0.5
    ids = sight._inputs["input_ids"]
    places = (ids[0] == sight.model.image_token_id).nonzero()[:, 0]
    stays = torch.ones(ids.shape[1], dtype=torch.bool)
    stays[places[torch.from_numpy(removed[0])]] = False
    with torch.no_grad():
        logits = sight.model.model(
            inputs_embeds=sight._embedded()[:, stays],
            position_ids=torch.arange(ids.shape[1])[None, stays],
            attention_mask=torch.ones(1, int(stays.sum()), dtype=torch.long),
        ).logits[0, -len(sight.said.ids) - 1 :]
    expected = float(logits[sight.said.position].softmax(-1)[sight.said.token])
    if sight.model.model.config.text_config.model_type == "gemma2":
        pytest.skip("a sliding window counts places in the sequence, which leaving tokens out changes")
    assert sight.without(removed).probability[0] == pytest.approx(expected, rel=1e-4)


def test_removed_tokens_may_as_well_be_masked(sight, picture, monkeypatch):
    removed = np.random.default_rng(6).random((9, 16)) < np.linspace(0, 1, 9)[:, None]
    removed[8] = True
    found = sight.without(removed).probability
    monkeypatch.setattr("relevancy.metrics.teacher_forcing._has_windows", lambda _: True)
    masked = TeacherForcing(sight.model, picture, QUESTION, sight.said).without(removed).probability
    np.testing.assert_allclose(found, masked, rtol=1e-4)


def test_each_version_gets_its_own_number_whatever_the_others_are(sight, picture):
    """Versions are read in order of their length: more, less and more again come back where they were."""
    counts = [8, 2, 14, 5, 0, 11, 5]
    removed = np.zeros((len(counts), 16), bool)
    for row, count in enumerate(counts):
        removed[row, np.random.default_rng(row).permutation(16)[:count]] = True
    found = sight.without(removed)
    alone = [TeacherForcing(sight.model, picture, QUESTION, sight.said).without(mask[None]) for mask in removed]
    np.testing.assert_allclose(found.probability, [one.probability[0] for one in alone], rtol=1e-4)
    assert found.kept.tolist() == [bool(one.kept[0]) for one in alone]
    assert len(np.unique(np.round(found.probability, 12))) == len(counts)


def test_nothing_is_read_twice(sight, monkeypatch):
    hidden = np.random.default_rng(5).random((6, 16)) < 0.4
    first = sight.hiding(hidden)
    monkeypatch.setattr(sight, "read", lambda _: pytest.fail("read before"))
    again = sight.hiding(hidden[::-1])
    assert again.probability.tolist() == first.probability.tolist()[::-1]
    with pytest.raises(pytest.fail.Exception, match="read before"):
        sight.hiding(hidden, "mean")


def test_perturbation_removes_from_both_ends(sight):
    ordered = order(np.random.default_rng(4).random(16), sight.seen)
    (found,) = perturbation(sight, [ordered], shares=(0, 0.5, 1))
    half = np.zeros((2, 16), bool)
    half[0, ordered[:8]] = half[1, ordered[8:]] = True
    expected = sight.without(half).probability
    assert (found.positive[1], found.negative[1]) == pytest.approx(tuple(expected), rel=1e-4)
    assert found.positive[0] == pytest.approx(found.negative[0], rel=1e-5)
    assert found.positive[2] == pytest.approx(found.negative[2], rel=1e-5)
    assert found.positive_auc == pytest.approx((found.positive[0] / 2 + found.positive[1] + found.positive[2] / 2) / 2)
