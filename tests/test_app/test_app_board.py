"""What is shown: sound HTML, the results' own numbers, one scale, and nothing that anybody could slip in."""

import base64
import io
import json
import math
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise

import numpy as np
import pytest
import tiny
from PIL import Image
from relevancy_app import actions, asking, views
from relevancy_app.asking import Display
from relevancy_app.board import Scale, board, ink, map_scale, percent, spoken, word_scale
from relevancy_app.settings import COLORMAPS, Settings

from relevancy.explanations.agreement import MEANINGS
from relevancy.plotting.overlay import named_colormap

QUESTION = "Is the duck floating? (a) Yes (b) No"
EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"
VOID = {"img", "input", "br"}


class Page(HTMLParser):
    """Elements with their attributes, checked to be opened and closed in order; text by the class around it."""

    def __init__(self, html):
        super().__init__()
        self.found, self.stack, self.texts = [], [], []
        self.feed(html)
        self.close()
        assert self.stack == []

    def handle_starttag(self, tag, attrs):
        element = dict(attrs) | {"tag": tag, "text": ""}
        self.found.append(element)
        if tag not in VOID:
            self.stack.append(element)

    def handle_endtag(self, tag):
        assert self.stack.pop()["tag"] == tag

    def handle_data(self, data):
        self.texts.append(data)
        for element in self.stack:
            element["text"] += data

    def of(self, name):
        return [one for one in self.found if name in (one.get("class") or "").split()]


@pytest.fixture(scope="module")
def session(shelf, source):
    ask = asking.ask(shelf, Settings(), QUESTION, ["deep", "flat"])
    *_, whole = actions.explained(shelf, Settings(), ask, source, lambda *_: None)
    return whole


@pytest.fixture(scope="module")
def page(session):
    return Page(board(session.screen, Display()))


def test_a_card_for_each_model_with_its_numbers(session, page):
    assert [one["aria-label"] for one in page.of("rv-card")] == ["deep", "flat"]
    for result, drawn in zip(session.screen, page.of("rv-map"), strict=True):
        np.testing.assert_allclose(json.loads(drawn["data-values"]), result.image_map.ravel(), rtol=1e-3)
        assert int(drawn["data-cols"]) == result.grid.cols
        np.testing.assert_allclose(
            json.loads(drawn["data-x"]), result.grid.x_edges / result.grid.width * 100, atol=1e-3
        )
        np.testing.assert_allclose(
            json.loads(drawn["data-y"]), result.grid.y_edges / result.grid.height * 100, atol=1e-3
        )
        assert drawn["tabindex"] == "0"


def test_every_text_token_is_a_word_with_its_number(session, page):
    words = page.of("rv-word")
    values = [value for result in session.screen for _, value in result.words()]
    np.testing.assert_allclose([float(word["data-value"]) for word in words], values, rtol=1e-3)
    assert [word["text"] for word in words[:2]] == [spoken(token) for token, _ in session.screen[0].words()[:2]]
    assert [word["tabindex"] for word in words].count("0") == 2  # one stop for the Tab key in each card


def test_shares_fill_the_bar(session, page):
    for result, bar in zip(session.screen, page.of("rv-stack"), strict=True):
        start = next(number for number, one in enumerate(page.found) if one is bar)
        parts = page.found[start + 1 : start + 4]
        widths = [float(part["style"].removeprefix("width:").removesuffix("%")) for part in parts]
        assert sum(widths) == pytest.approx(100, abs=0.05)
        assert widths[0] == pytest.approx(100 * result.shares["image"], abs=0.01)


def test_answer_tokens_are_buttons_and_one_is_pressed(session, page):
    chips = page.of("rv-chip")
    assert len(chips) == sum(len(result.answer_tokens) for result in session.screen)
    pressed = [(int(c["data-model"]), int(c["data-position"])) for c in chips if c["aria-pressed"] == "true"]
    assert pressed == [(number, result.target.position) for number, result in enumerate(session.screen)]
    assert all(chip["tag"] == "button" for chip in chips)


def test_places_are_kept_for_maps_that_are_still_to_come(session):
    shown = Page(board(session.screen[:1], Display(), waiting=["flat", EVIL]))
    cards = shown.of("rv-card")
    assert [one["aria-label"] for one in cards] == ["deep", "flat", EVIL]
    assert ["rv-place" in one["class"] for one in cards] == [False, True, True]
    assert "running" in cards[1]["text"]
    assert "waiting" in cards[2]["text"]
    assert len(shown.of("rv-map")) == 1
    assert "--rv-columns:3" in shown.of("rv-cards")[0]["style"]
    width, height = session.picture.size
    assert {one["style"] for one in shown.of("rv-soon")} == {f"aspect-ratio:{width}/{height}"}
    assert {one["tag"] for one in shown.found}.isdisjoint({"script", "a"})
    assert not Page(board(session.screen, Display())).of("rv-place")


def test_one_scale_or_one_each(session):
    both = map_scale(session.screen, Display())
    highest = max(np.nanmax(result.heatmap()) for result in session.screen)
    assert both.high == pytest.approx(highest)
    apart = Page(board(session.screen, Display(one_scale=False)))
    together = Page(board(session.screen, Display()))
    patch_scales = [one for one in together.of("rv-scale") if one["text"].startswith("Patch")]
    assert len(patch_scales) == 1
    assert len([one for one in apart.of("rv-scale") if one["text"].startswith("Patch")]) == 2


def test_the_maps_are_the_packages_overlays_on_the_shared_scale(session):
    display = Display(opacity=0.5, colormap="cividis", smooth=False)
    scale = map_scale(session.screen, display)
    drawn = [one for one in Page(board(session.screen, display)).found if one["tag"] == "img" and one.get("alt")]
    for result, element in zip(session.screen, drawn, strict=True):
        expected = result.overlay(smooth=False, vmin=scale.low, vmax=scale.high, colormap="cividis", opacity=0.5)
        data = base64.b64decode(element["src"].removeprefix("data:image/jpeg;base64,"))
        shown = np.asarray(Image.open(io.BytesIO(data))).astype(int)
        assert np.abs(shown - np.asarray(expected).astype(int)).mean() < 4  # JPEG


@pytest.mark.parametrize("colormap", COLORMAPS)
def test_colors_grow_lighter_with_relevance(colormap):
    scale = Scale(0.0, 1.0, colormap)
    light = [
        sum(int(color[i : i + 2], 16) * w for i, w in ((1, 0.299), (3, 0.587), (5, 0.114))) for color in scale.colors
    ]
    assert all(later >= earlier - 2.5 for earlier, later in pairwise(light))
    assert light[-1] - light[0] > 100
    low = tuple(int(255 * part) for part in named_colormap(colormap)(0.0)[:3])
    assert all(abs(int(scale.color(-5)[i : i + 2], 16) - part) <= 1 for i, part in zip((1, 3, 5), low, strict=True))
    assert scale.color(7) == scale.colors[-1]
    assert scale.color(float("nan")) == scale.colors[0]


def contrast(one, other):
    def luminance(color):
        parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("colormap", COLORMAPS)
def test_words_can_be_read_on_every_color(colormap):
    for color in Scale(0.0, 1.0, colormap).colors:
        assert contrast(color, {"#000": "#000000", "#fff": "#ffffff"}[ink(color)]) >= 4.5


def test_control_tokens_do_not_set_the_words_scale(session):
    result = session.screen[0]
    loud = replace(result, relevance=np.where(np.array(result.tokens) == "<bos>", 100.0, result.relevance))
    assert word_scale([loud], "inferno").high < 100


def test_nothing_that_is_said_becomes_markup(session):
    evil = [
        replace(
            result, model=EVIL, question=EVIL, answer=EVIL, notes=(EVIL,), answer_tokens=(EVIL, "<image>"),
            tokens=tuple(t if image else EVIL for t, image in zip(result.tokens, result.is_image, strict=True)),
            target=replace(result.target, token=EVIL, contrast=EVIL, position=0),
        )
        for result in session.screen
    ]  # fmt: skip
    html = board(evil, Display(), titles=[EVIL, EVIL], lines=[EVIL, EVIL]) + board(evil, Display())
    shown = Page(html)
    assert {one["tag"] for one in shown.found}.isdisjoint({"script", "a", "iframe"})
    assert not [one for one in shown.found if any(name.startswith("on") for name in one)]
    assert "alert(1)" in "".join(shown.texts)
    assert all(one["src"].startswith("data:image/jpeg;base64,") for one in shown.found if one.get("src"))


def test_tables_and_status_hold_no_markup_either(session):
    evil = replace(session.comparison, explanations=tuple(replace(r, model=EVIL, answer=EVIL) for r in session.first))
    evil = replace(evil, agreement=tuple(replace(pair, models=(EVIL, EVIL)) for pair in evil.agreement))
    status = views.status(replace(session, ask=replace(session.ask, question=EVIL)))
    change = views.changes([actions.Hidden(EVIL, session.picture, EVIL, 0.5, 0.25)], 100)
    for html in (views.agreement(evil), status, change):
        shown = Page(html)
        assert {one["tag"] for one in shown.found}.isdisjoint({"script", "a"})
        assert "alert(1)" in "".join(shown.texts)


def test_a_map_without_relevance_says_so(session):
    empty = [tiny.redrawn(result, image_map=np.zeros_like(result.image_map)) for result in session.screen]
    shown = Page(board(empty, Display()))
    assert len(shown.of("rv-empty")) == 2
    assert "nothing is relevant" in "".join(shown.texts)


def test_what_is_not_a_number_is_no_json_nan(session):
    result = session.screen[0]
    broken = replace(
        tiny.redrawn(result, image_map=np.full_like(result.image_map, np.nan), share=0.0),
        relevance=np.full_like(result.relevance, np.nan),
        shares={"image": 0.0, "text": 0.0, "first_token": 0.0},
    )
    drawn = Page(board([broken], Display())).of("rv-map")
    assert set(json.loads(drawn[0]["data-values"])) == {None}


def test_agreement_shows_each_number_with_what_it_means(session):
    pair = session.comparison.agreement[0]
    text = "".join(Page(views.agreement(session.comparison)).texts)
    assert f"{pair.rank_correlation:+.2f}" in text
    assert f"{pair.top_overlap:.0%}" in text
    for meaning in MEANINGS.values():
        assert meaning in text
    for row in session.comparison.likelihoods:
        for chance in row:
            assert percent(chance.per_token) in text
    assert "Choose two models" in views.agreement(None)


def test_a_number_that_is_not_there_is_a_dash(session):
    nothing = replace(session.comparison.agreement[0], rank_correlation=math.nan, top_overlap=math.nan)
    text = "".join(Page(views.agreement(replace(session.comparison, agreement=(nothing,), likelihoods=()))).texts)
    assert text.count("–") >= 2
    assert "nan" not in text


def test_first_steps_and_the_marker_are_sound(session):
    assert len(Page(views.welcome()).found) > 4
    fields = [one for one in Page(views.marker(session.picture)).found if one["tag"] == "input"]
    assert [field["data-side"] for field in fields] == ["left", "top", "right", "bottom"]
    for html in (views.ready(), views.stopped(), views.no_marker()):
        Page(html)


@pytest.mark.parametrize(
    ("share", "text"), [(0, "0.0%"), (0.5, "50.0%"), (1e-5, "1.0e-05"), (math.nan, "–"), (0.9999, "100.0%")]
)
def test_small_shares_are_not_rounded_to_nothing(share, text):
    assert percent(share) == text


@pytest.mark.parametrize(("token", "text"), [("▁duck", "duck"), ("\n", "↵"), ("<0x0A>", "↵"), ("▁", "␣"), ("", "␣")])
def test_tokens_as_a_reader_knows_them(token, text):
    assert spoken(token) == text
