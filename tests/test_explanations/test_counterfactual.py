"""What is hidden, pixel by pixel, and what the answer's probability becomes."""

from dataclasses import asdict, replace
from math import exp

import numpy as np
import pytest
import tiny
from PIL import Image
from reference import at_once

import relevancy
from relevancy.errors import RelevancyError
from relevancy.explanations.counterfactual import Region, counterfactual, elsewhere, hidden
from relevancy.geometry import Grid
from relevancy.models.generation import spellings
from relevancy.models.model import Model, wrap
from relevancy.models.session import Session

QUESTION = "Is the duck floating? (a) Yes (b) No"
GRID = Grid(40, 30, np.linspace(-10, 50, 7), np.linspace(0, 30, 4))  # 3 rows, 6 columns, the outer ones padding


@pytest.fixture
def model(pair: tiny.Built) -> Model:
    return wrap(*pair, name="tiny")


def changed(picture: Image.Image, edited: Image.Image) -> np.ndarray:
    return (np.asarray(picture) != np.asarray(edited)).any(-1)


@pytest.mark.parametrize(
    ("region", "rows", "cols"),
    [
        (Region(box=(5, 10, 15, 20)), slice(10, 20), slice(5, 15)),
        (Region(box=(-100, 25, 3, 900)), slice(25, 30), slice(0, 3)),
        (Region(box=(5.4, 10.6, 14.6, 19.5)), slice(11, 20), slice(5, 15)),
        (Region(box=(7.2, 8.1, 7.3, 8.2)), slice(8, 9), slice(7, 8)),
        (Region(box=(39.9, 29.9, 40, 30)), slice(29, 30), slice(39, 40)),
        (Region(patches=(1,)), slice(0, 10), slice(0, 10)),
        (Region(patches=(8, 9, 0)), slice(10, 20), slice(10, 30)),
        (Region(box=(0, 0, 10, 10), patches=[2]), slice(0, 10), slice(0, 20)),
        (
            Region(patches=(3,), grid=Grid(40, 30, np.array([0, 4, 40]), np.array([0, 9, 30]))),
            slice(9, 30),
            slice(4, 40),
        ),
    ],
)
def test_only_the_regions_pixels_change(region, rows, cols):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 100, (30, 40, 3), dtype=np.uint8))
    expected = np.zeros((30, 40), dtype=bool)
    expected[rows, cols] = True
    edited = hidden(picture, GRID, region, "grey")
    assert (changed(picture, edited) == expected).all()
    assert (np.asarray(edited)[expected] == 128).all()


def test_what_stands_in_the_regions_place():
    picture = tiny.picture(40, 30)
    whole = Region(box=(0, 0, 40, 30))
    mean = np.asarray(picture, dtype=float).mean((0, 1))
    assert np.abs(np.asarray(hidden(picture, GRID, whole, "mean"), dtype=float) - mean).max() <= 0.5
    blurred = np.asarray(hidden(picture, GRID, whole, "blur"), dtype=float)
    assert np.abs(blurred.mean((0, 1)) - mean).max() < 6
    assert (blurred.std((0, 1)) < 0.8 * np.asarray(picture, dtype=float).std((0, 1))).all()


def test_the_picture_itself_stays(picture):
    before = picture.tobytes()
    hidden(picture, Grid(80, 60, np.linspace(0, 80, 5), np.linspace(0, 60, 5)), Region(patches=(0, 5)), "blur")
    assert picture.tobytes() == before


@pytest.mark.parametrize("replacement", ["grey", "mean", "blur"])
def test_probabilities_are_those_of_each_picture_alone(model, picture, replacement):
    regions = [Region(box=(0, 0, 40, 60)), Region(patches=(5, 6, 9, 10))]
    found = counterfactual(model, picture, QUESTION, regions, replacement=replacement, answer=" No boats ")
    grid = model.grid(*picture.size)
    ids = max(spellings(model, "No boats"), key=lambda said: sum(at_once(model, QUESTION, [picture], said)[0]))
    (before,) = at_once(model, QUESTION, [picture], ids)
    for one, region in zip(found, regions, strict=True):
        edited = hidden(picture, grid, region, replacement)
        (after,) = at_once(model, QUESTION, [edited], ids)
        assert (one.answer, one.region, one.replacement) == ("No boats", region, replacement)
        assert one.image.tobytes() == edited.tobytes()
        assert (one.before.tokens, one.after.tokens) == (len(ids), len(ids))
        assert one.before.first == pytest.approx(exp(before[0]), rel=1e-4, abs=0)
        assert one.before.whole == pytest.approx(exp(sum(before)), rel=1e-4, abs=0)
        assert one.after.whole == pytest.approx(exp(sum(after)), rel=1e-4, abs=0)
        assert one.after.whole != pytest.approx(one.before.whole, rel=1e-3, abs=0)


def test_by_default_the_answer_is_the_models_own(model, picture):
    result = relevancy.explain(model, picture, QUESTION, max_new_tokens=4)
    found = relevancy.counterfactual(model, picture, QUESTION, relevancy.Region(patches=(0,)), max_new_tokens=4)
    assert found.answer == result.answer
    assert found.before.tokens == len(result.answer_tokens)
    assert found.before.first == pytest.approx(result.target.probability, rel=1e-4, abs=0)


def test_new_answers_are_those_of_the_changed_pictures(model, picture):
    regions = [Region(box=(0, 0, 40, 60)), Region(patches=(5, 6, 9, 10))]
    found = counterfactual(model, picture, QUESTION, regions, answers=True, max_new_tokens=4)
    for one in found:
        alone = relevancy.explain(model, one.image, QUESTION, evidence=False, max_new_tokens=4)
        assert one.new_answer == alone.answer
    assert counterfactual(model, picture, QUESTION, regions[0], max_new_tokens=4).new_answer is None


@pytest.mark.parametrize(
    ("region", "rows", "cols"),
    [
        (Region(box=(2, 3, 12, 9)), slice(3, 9), slice(28, 38)),
        (Region(box=(0, 0, 40, 10)), slice(20, 30), slice(0, 40)),  # as wide as the picture: up and down
        (Region(box=(14, 2, 24, 8)), slice(22, 28), slice(14, 24)),
        (Region(patches=(1, 7)), slice(0, 20), slice(30, 40)),
        (Region(box=(2, 3, 12, 9), patches=[1]), slice(0, 10), slice(28, 40)),
    ],
)
def test_a_part_elsewhere_is_as_large_and_as_far_from_the_borders(region, rows, cols):
    picture = Image.fromarray(np.zeros((30, 40, 3), np.uint8))
    masks = [changed(picture, hidden(picture, GRID, one, "grey")) for one in (region, elsewhere(region, GRID))]
    assert masks[0].sum() == masks[1].sum()
    assert not (masks[0] & masks[1]).any()
    assert masks[1][rows, cols].sum() == masks[1].sum()


def test_what_fills_the_middle_has_no_part_elsewhere():
    assert elsewhere(Region(box=(5, 5, 35, 25)), GRID) is None
    assert elsewhere(Region(box=(0, 0, 40, 30)), GRID) is None


def test_the_picture_is_read_once_and_all_its_variants_as_one_batch(built, picture, monkeypatch):
    model = wrap(*built["gemma-clip"])
    sizes = []
    plain = Session.prefill

    def prefill(session, prepared):
        sizes.append(len(prepared.ids))
        return plain(session, prepared)

    monkeypatch.setattr(Session, "prefill", prefill)
    regions = [Region(patches=(number,)) for number in range(16)]
    together = counterfactual(model, picture, QUESTION, regions, answer="No")
    assert sizes == [1, 16]
    counterfactual(model, picture, QUESTION, regions[:2], max_new_tokens=2)
    assert sizes[2:] == [1, 2]
    alone = counterfactual(model, picture, QUESTION, regions[3], answer="No")
    assert list(asdict(alone.after).values()) == pytest.approx(
        list(asdict(together[3].after).values()), rel=1e-4, abs=0
    )


def test_hiding_what_the_model_never_saw_changes_nothing(built):
    """The tiny model's processor crops the center: the picture's margin is out of its sight."""
    model = wrap(*built["gemma-clip"])
    found = counterfactual(model, tiny.picture(200, 60), QUESTION, Region(box=(0, 0, 60, 60)), answer="No boats")
    assert found.after.whole == pytest.approx(found.before.whole, rel=1e-5, abs=0)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"regions": Region()}, "holds nothing"),
        ({"regions": Region(box=(90, 0, 99, 10))}, "holds nothing"),
        ({"regions": Region(box=(10, 10, 5, 20))}, "holds nothing"),
        ({"regions": Region(box=(float("nan"), 0, 9, 9))}, "holds nothing"),
        ({"regions": Region(patches=(16,))}, "0 to 15: there is no 16"),
        ({"regions": Region(patches=(-1,))}, "there is no -1"),
        ({"regions": []}, "no region"),
        ({"regions": None}, "no region"),
        ({"regions": (0, 0, 3, 3)}, "no region"),
        ({"regions": 5}, "no region"),
        ({"picture": "1"}, "no picture '1'"),
        ({"picture": True}, "no picture True"),
        ({"picture": [0, 1]}, "no picture"),
        ({"replacement": "red"}, "grey, black, mean, blur"),
        ({"answer": " "}, "answer is empty"),
        ({"answer": "duck " * 500}, "too long"),
        ({"question": ""}, "question is empty"),
        ({"image": "none.png"}, "no such file"),
    ],
)
def test_refusals(built, changes, said):
    model = wrap(*built["gemma-clip"])
    asked = {"image": tiny.picture(), "question": QUESTION, "regions": Region(patches=(0,)), "answer": "No"} | changes
    with pytest.raises(RelevancyError, match=said) as caught:
        counterfactual(model, **asked)
    assert "\n" not in str(caught.value)
    assert replace(Region(), patches=(1,)) == Region(patches=(1,))


@pytest.mark.parametrize(
    "wrong",
    [
        {"box": (1, 2, 3)},
        {"box": (1, 2, 3, "x")},
        {"box": 5},
        {"patches": 3},
        {"patches": [1.5]},
        {"patches": ["a"]},
        {"patches": [True]},
        {"patches": [0], "grid": (2, 2)},
    ],
)
def test_a_region_of_other_things_than_numbers_is_refused(wrong):
    with pytest.raises(RelevancyError, match="left, upper, right, lower"):
        Region(**wrong)
