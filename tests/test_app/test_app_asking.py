"""What a browser may ask: sound values come through, anything else is one line that says what to do."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from relevancy_app import asking
from relevancy_app.asking import Ask, Display
from relevancy_app.settings import COLORMAPS, MOST_QUESTIONS, Settings

from relevancy import RelevancyError

LIMITS = Settings(question_characters=50)
VALUES = ("question", "models", "target", "scope", "method", "first_layer", "last_layer")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def test_what_the_page_sends_first(shelf):
    found = asking.ask(shelf, LIMITS, " Is it? ", ["deep", "flat"], "first-relevant", "language", "relevancy", 0, 2)
    assert found == Ask("Is it?", ("deep", "flat"))
    assert all(found.layers(model) is None for model in shelf.models.values())


def test_a_model_named_twice_is_asked_once(shelf):
    assert asking.ask(shelf, LIMITS, "Is it?", ["flat", "flat"]).models == ("flat",)


@pytest.mark.parametrize(
    ("first", "last", "deep", "flat"),
    [(0, 2, None, None), (1, 2, [1, 2], [1]), (0, 1, [0, 1], None), (1, 1, [1], [1]), (0, -1, None, None)],
)
def test_layers_count_from_zero_and_end_with_each_model(shelf, first, last, deep, flat):
    found = asking.ask(shelf, LIMITS, "Is it?", ["deep", "flat"], first_layer=first, last_layer=last)
    layers = [None if (chosen := found.layers(model)) is None else list(chosen) for model in shelf.models.values()]
    assert layers == [deep, flat]


def test_layers_that_a_model_does_not_have(shelf):
    found = asking.ask(shelf, LIMITS, "Is it?", ["flat"], first_layer=2, last_layer=2)
    with pytest.raises(RelevancyError, match="flat has layers 0 to 1"):
        found.layers(shelf.models["flat"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"question": "  "}, "No question yet"),
        ({"question": None}, "No question yet"),
        ({"question": ["Is it?"]}, "No question yet"),
        ({"question": "x" * 51}, "51 characters, and 50"),
        ({"models": []}, "No model is chosen"),
        ({"models": None}, "No model is chosen"),
        ({"models": ["gpt2"]}, "does not offer that model; it has deep, flat"),
        ({"models": ["../../etc"]}, "does not offer that model"),
        ({"models": {"deep": 1}}, "No model is chosen"),
        ({"target": ""}, "Say what to explain"),
        ({"target": "x" * 101}, "Say what to explain"),
        ({"target": "all"}, "press a token"),
        ({"scope": "everything"}, "no such scope"),
        ({"method": "magic"}, "no such method"),
        ({"first_layer": 2, "last_layer": 0}, "behind the last"),
        ({"first_layer": "many"}, "first_layer is a whole number from 0 to 2"),
        ({"first_layer": 1.5}, "first_layer is a whole number"),
        ({"first_layer": -1}, "first_layer is a whole number"),
        ({"first_layer": 3}, "first_layer is a whole number"),
        ({"first_layer": True}, "first_layer is a whole number"),
        ({"last_layer": -2}, "last_layer is a whole number from 0 to 2, or -1 for the last"),
        ({"last_layer": float("nan")}, "last_layer is a whole number"),
        ({"last_layer": float("inf")}, "last_layer is a whole number"),
    ],
)
def test_refusals_say_what_to_do(shelf, changes, message):
    given = {"question": "Is it?", "models": ["deep"]} | changes
    with pytest.raises(RelevancyError, match=message):
        asking.ask(shelf, LIMITS, **given)


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(VALUES, JSON)))
@settings(max_examples=200)
def test_any_json_is_an_ask_or_a_refusal(shelf, values):
    try:
        found = asking.ask(shelf, LIMITS, **({"question": "Is it?", "models": ["deep"]} | values))
    except RelevancyError:
        return
    assert found.question
    assert set(found.models) <= set(shelf.names)
    assert 0 <= found.first_layer <= (2 if found.last_layer is None else found.last_layer) <= shelf.depth - 1


@given(JSON, JSON, JSON, JSON)
@settings(max_examples=200)
def test_any_json_is_a_display_or_a_refusal(opacity, colormap, smooth, one_scale):
    try:
        found = asking.display(opacity, colormap, smooth, one_scale)
    except RelevancyError:
        return
    assert 0 <= found.opacity <= 1
    assert found.colormap in COLORMAPS


def test_the_default_display():
    assert asking.display() == Display()


def test_variations_are_lines_each_once():
    assert asking.variations("Is it?\n\n  Is it? \nWhat?\n", LIMITS) == ["Is it?", "What?"]


@pytest.mark.parametrize("text", ["", None, "Is it?", "a\na", "\n".join(map(str, range(MOST_QUESTIONS + 1)))])
def test_too_few_and_too_many_variations(text):
    with pytest.raises(RelevancyError):
        asking.variations(text, LIMITS)


def test_a_box_in_percent_is_one_in_pixels():
    assert asking.box([25, 50, 75, 100], 80, 60) == (20, 30, 60, 60)
    assert asking.box([-5, 0, 200, 50], 80, 60) == (0, 0, 80, 30)


@pytest.mark.parametrize(
    "sides", [None, [], "1234", [1, 2, 3], [50, 0, 50, 10], [60, 0, 40, 10], [0, 0, float("nan"), 1], [{}, 0, 1, 1]]
)
def test_no_box(sides):
    with pytest.raises(RelevancyError):
        asking.box(sides, 80, 60)
