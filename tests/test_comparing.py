"""Agreement of maps on cases worked by hand, and comparisons that equal their parts."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import tiny

import relevancy
from relevancy.comparing import _jensen_shannon, _ranks, _spearman, _top_overlap, agreement, compare
from relevancy.errors import RelevancyError

QUESTION = "Is the duck floating? (a) Yes (b) No"


@pytest.fixture(scope="module")
def models(built):
    return [relevancy.wrap(*built[name], name=name) for name in ("gemma-clip", "llama-clip")]


@pytest.fixture(scope="module")
def both(models):
    return compare(models, tiny.picture(), QUESTION)


def test_every_map_equals_explain_alone(models, both):
    for model, result in zip(models, both.explanations, strict=True):
        alone = relevancy.explain(model, tiny.picture(), QUESTION)
        assert np.array_equal(result.image_map, alone.image_map)
        assert np.array_equal(result.relevance, alone.relevance)
        assert result.answer == alone.answer


def test_a_map_agrees_with_itself_and_with_its_multiple(both):
    first = both.explanations[0]
    for other in (first, replace(first, image_map=3 * first.image_map)):
        found = agreement(first, other)
        assert found.rank_correlation == pytest.approx(1)
        assert found.top_overlap == 1
        assert found.divergence == pytest.approx(0, abs=1e-9)
        assert found.same_answer


def test_disjoint_maps_share_nothing():
    one, other = np.array([1.0, 3, 0, 0]), np.array([0.0, 0, 2, 2])
    assert _jensen_shannon(one, other) == pytest.approx(1)
    # (1, 0) against (1/2, 1/2): half of log2(4/3) and half of (log2(2/3) + log2 2) / 2
    expected = (math.log2(4 / 3) + (math.log2(2 / 3) + math.log2(2)) / 2) / 2
    assert _jensen_shannon(np.array([1.0, 0]), np.array([1.0, 1])) == pytest.approx(expected)


def test_ranks_share_ties():
    assert _ranks(np.array([5.0, 1, 5, 2])).tolist() == [2.5, 0, 2.5, 1]
    assert _spearman(np.array([1.0, 2, 3]), np.array([10.0, 5, 1])) == pytest.approx(-1)


def test_top_overlap_counts_the_most_relevant_tenth():
    one = np.arange(20.0)
    other = one.copy()
    other[[19, 0]] = other[[0, 19]]
    assert _top_overlap(one, other) == 0.5


def test_an_empty_map_agrees_with_nothing_and_says_so(both):
    first = both.explanations[0]
    found = agreement(first, replace(first, image_map=np.zeros_like(first.image_map)))
    assert math.isnan(found.rank_correlation)
    assert math.isnan(found.divergence)


def test_saved_comparison(both, tmp_path):
    both.save(tmp_path)
    stored = json.loads((tmp_path / "comparison.json").read_text())
    assert [one["model"] for one in stored["models"]] == ["gemma-clip", "llama-clip"]
    assert stored["agreement"][0]["rank_correlation"] == both.agreement[0].rank_correlation
    assert (tmp_path / "side-by-side.pdf").read_bytes().startswith(b"%PDF")
    assert (tmp_path / "side-by-side.png").stat().st_size > 10_000
    again = relevancy.Explanation.load(tmp_path / "1-llama-clip")
    assert np.array_equal(again.image_map, both.explanations[1].image_map)


def test_only_one_model_is_held_at_a_time(models):
    import weakref

    alive: list[weakref.ref] = []

    def loading():
        for name in ("gemma-clip", "llama-clip", "gemma-dinov2"):
            assert all(reference() is None for reference in alive)
            model = relevancy.wrap(*tiny.BUILDERS[name](), name=name)
            alive.append(weakref.ref(model))
            yield model
            del model

    assert len(compare(loading(), tiny.picture(), QUESTION, max_new_tokens=2).agreement) == 3


def test_refusals(models):
    with pytest.raises(RelevancyError, match="two models"):
        compare(models[:1], tiny.picture(), QUESTION)
    with pytest.raises(RelevancyError, match="one token"):
        compare(models, tiny.picture(), QUESTION, target="all")
