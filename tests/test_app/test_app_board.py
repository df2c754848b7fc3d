"""What is shown: sound HTML, the results' own numbers, one scale, and nothing that anybody could slip in."""

import base64
import json
import math
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise

import numpy as np
import pytest
import tiny
from relevancy_app import actions, asking, views
from relevancy_app.board import board, tables, token_spoken, tokens_spoken, told
from relevancy_app.session import Session
from relevancy_app.settings import COLORMAPS, Settings

import relevancy
from relevancy.explanations import knockouts
from relevancy.explanations.agreement import MEANINGS
from relevancy.geometry import Grid
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
    *_, whole = actions.explained(shelf, Settings(), Session(ask, source), lambda *_: None)
    return whole


@pytest.fixture(scope="module")
def page(session):
    return Page(board(session.screen))


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
    assert [word["text"] for word in words[:2]] == [token_spoken(token) for token, _ in session.screen[0].words()[:2]]
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
    shown = Page(board(session.screen[:1], waiting=["flat", EVIL]))
    cards = shown.of("rv-card")
    assert [one["aria-label"] for one in cards] == ["deep", "flat", EVIL]
    assert ["rv-place" in one["class"] for one in cards] == [False, True, True]
    assert "running" in cards[1]["text"]
    assert "waiting" in cards[2]["text"]
    assert len(shown.of("rv-map")) == 1
    assert "--rv-columns:3" in shown.of("rv-cards")[0]["style"]
    width, height = session.picture.size
    assert {one["style"] for one in shown.of("rv-soon")} == {f"--rv-aspect:{width / height:.5g}"}
    assert {one["tag"] for one in shown.found}.isdisjoint({"script", "a"})
    assert not Page(board(session.screen)).of("rv-place")


def test_the_page_has_the_packages_color_tables():
    shown = json.loads(Page(tables()).found[0]["data-tables"])
    assert set(shown) == {*COLORMAPS, "signed"}
    for name, stored in shown.items():
        colors = np.frombuffer(base64.b64decode(stored), np.uint8).reshape(-1, 3)
        wanted = named_colormap(name)(np.linspace(0, 1, len(colors)), bytes=True)[:, :3]
        np.testing.assert_array_equal(colors, wanted)


@pytest.mark.parametrize("colormap", COLORMAPS)
def test_colors_grow_lighter_with_relevance(colormap):
    colors = np.frombuffer(base64.b64decode(json.loads(Page(tables()).found[0]["data-tables"])[colormap]), np.uint8)
    light = colors.reshape(-1, 3) @ [0.299, 0.587, 0.114]
    assert all(later >= earlier - 2.5 for earlier, later in pairwise(light))
    assert light[-1] - light[0] > 100


def test_control_tokens_do_not_set_the_words_scale(session):
    result = session.screen[0]
    loud = replace(result, relevance=np.where(np.array(result.tokens) == "<bos>", 100.0, result.relevance))
    (prompt,) = Page(board([loud])).of("rv-prompt")
    low, high = json.loads(prompt["data-ends"])
    assert low == 0
    assert 0 < high < 100


def test_every_card_says_how_its_map_was_made_and_what_the_evidence_is(session, page):
    assert [one["text"] for one in page.of("rv-how")] == [result.how for result in session.screen]
    assert [one["text"] for one in page.of("rv-evidence")] == [one.evidence.claim for one in session.screen]


def test_a_hatch_has_a_legend_where_there_is_one(session):
    result = session.screen[0]
    whole = tiny.redrawn(result, grid=Grid(80, 60, np.linspace(0, 80, 5), np.linspace(0, 60, 5)))
    cut = tiny.redrawn(result, grid=Grid(80, 60, np.linspace(10, 70, 5), np.linspace(0, 60, 5)))
    assert [len(Page(board([one])).of("rv-legend")) for one in (whole, cut)] == [0, 1]


def test_words_are_text_whatever_a_tokenizer_writes(session):
    result = session.screen[0]
    said = ("<bos>", "▁a", "▁c", "u", "p", "<0x2C>", "▁", "<0xE2>", "<0x82>", "<0xAC>", "?")
    spelled = replace(
        result, tokens=said, is_image=np.zeros(len(said), bool), relevance=np.arange(len(said), dtype=np.float32)
    )
    words = Page(board([spelled])).of("rv-word")
    assert [word["text"] for word in words] == ["<bos>", "a", "c", "u", "p", ",", "\xa0", "€", "?"]
    assert float(words[7]["data-value"]) == 7 + 8 + 9
    html = board([spelled])
    assert "> <button" in html.replace("</button> ", "> ")
    assert ">c</button><button" in html  # pieces of a word stand together
    assert tokens_spoken(["Ġred", "Ċ", "<0x0A>", "é"]) == ["red", "↵", "↵", "é"]


def test_evidence_is_shown_as_the_very_patches_that_were_knocked_out(shelf, monkeypatch):
    hidden, real = [], knockouts.knockout.logits_of

    def seen(model, prefill, variants):
        hidden.extend(np.flatnonzero(one.hidden.numpy()).tolist() for one in variants)
        return real(model, prefill, variants)

    monkeypatch.setattr(knockouts.knockout, "logits_of", seen)
    result = relevancy.explain(shelf.models["deep"], tiny.picture(), QUESTION)
    buttons = [one for one in Page(board([result])).found if "data-cells" in one]
    blind, best, peak, *elsewhere = hidden
    assert [json.loads(one["data-cells"]) for one in buttons] == [
        blind,
        best,
        peak,
        sorted({*elsewhere[0], *elsewhere[1]}),
    ]
    text = "".join(Page(board([result])).texts)
    for name in ("blind", "best", "peak", "elsewhere"):
        assert told(getattr(result.evidence, name)) in text
    assert "mean of 2" in text
    says = {**result.evidence.says, "best": "<b>", "peak": result.evidence.says["untouched"]}
    other = board([replace(result, evidence=replace(result.evidence, says=says))])
    assert "says “&lt;b&gt;”" in other
    empty = tiny.redrawn(result, image_map=np.zeros((4, 4), np.float32))
    assert len([one for one in Page(board([empty])).found if "data-cells" in one]) == 1
    twice = replace(result, pictures=result.pictures * 2)
    assert "data-cells" not in board([twice])


def test_nothing_that_is_said_becomes_markup(session):
    evil = [
        replace(
            result, model=EVIL, question=EVIL, answer=EVIL, notes=(EVIL,), answer_tokens=(EVIL, "<image>"),
            tokens=tuple(t if image else EVIL for t, image in zip(result.tokens, result.is_image, strict=True)),
            target=replace(result.target, token=EVIL, contrast=EVIL, position=0),
        )
        for result in session.screen
    ]  # fmt: skip
    html = board(evil, titles=[EVIL, EVIL], lines=[EVIL, EVIL]) + board(evil)
    shown = Page(html)
    assert {one["tag"] for one in shown.found}.isdisjoint({"script", "a", "iframe"})
    assert not [one for one in shown.found if any(name.startswith("on") for name in one)]
    assert "alert(1)" in "".join(shown.texts)
    assert all(one["src"].startswith("data:image/jpeg;base64,") for one in shown.found if one.get("src"))


def test_tables_and_status_hold_no_markup_either(session):
    evil = replace(session.comparison, explanations=tuple(replace(r, model=EVIL, answer=EVIL) for r in session.first))
    evil = replace(evil, agreement=tuple(replace(pair, models=(EVIL, EVIL)) for pair in evil.agreement))
    status = views.status(replace(session, ask=replace(session.ask, question=EVIL, target=EVIL), place=EVIL), 2)
    picture = session.picture
    hidden = actions.Hidden(EVIL, picture, EVIL, 0.5, 0.25, EVIL + EVIL, (picture, 0.4))
    change = views.changes([hidden], EVIL, 100)
    for html in (views.agreement(evil), status, change):
        shown = Page(html)
        assert {one["tag"] for one in shown.found}.isdisjoint({"script", "a"})
        assert "alert(1)" in "".join(shown.texts)


def test_a_map_without_relevance_says_so(session):
    empty = [tiny.redrawn(result, image_map=np.zeros_like(result.image_map)) for result in session.screen]
    shown = Page(board(empty))
    assert len(shown.of("rv-empty")) == 2
    assert {one["text"] for one in shown.of("rv-empty")} == {"no relevance"}


def test_what_is_not_a_number_is_no_json_nan(session):
    result = session.screen[0]
    broken = replace(
        tiny.redrawn(result, image_map=np.full_like(result.image_map, np.nan), share=0.0),
        relevance=np.full_like(result.relevance, np.nan),
        shares={"image": 0.0, "text": 0.0, "first_token": 0.0},
    )
    drawn = Page(board([broken])).of("rv-map")
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
            assert told(chance.per_token) in text
    assert "Choose two models" in views.agreement(None)


def test_agreement_says_when_the_maps_are_of_different_tokens(session):
    one, other = session.comparison.explanations
    for token, differs in ((one.target.token, False), ("zebra", True)):
        pair = (one, replace(other, target=replace(other.target, token=token)))
        told_so = "different tokens" in views.agreement(replace(session.comparison, explanations=pair))
        assert told_so is differs


def test_the_status_says_how_and_holds_what_was_asked(session):
    shown = Page(views.status(replace(session, place="abc"), 2))
    assert "method relevancy" in shown.texts[0]
    asked = json.loads(shown.of("rv-status")[0]["data-asked"])
    ask = ["abc", QUESTION, ["deep", "flat"], "first-relevant", "language", "relevancy", 0, 2, ["", False], []]
    assert asked["values"] == ask
    assert len(asked["names"]) == len(ask)
    assert "Stopped" in views.stopped(session, 2)
    assert json.loads(Page(views.stopped(session, 2)).of("rv-status")[0]["data-asked"])["values"][1] == QUESTION


def test_a_number_that_is_not_there_is_a_dash(session):
    nothing = replace(session.comparison.agreement[0], rank_correlation=math.nan, top_overlap=math.nan)
    text = "".join(Page(views.agreement(replace(session.comparison, agreement=(nothing,), likelihoods=()))).texts)
    assert text.count("–") >= 2
    assert "nan" not in text


def test_first_steps_and_the_marker_are_sound(session):
    assert len(Page(views.welcome()).found) > 4
    marker = Page(views.marker(session.first)).found
    (grid,) = json.loads(next(one["data-grids"] for one in marker if "data-grids" in one))
    assert (grid["of"], grid["names"]) == (0, [result.model for result in session.first])
    moved = replace(session.first[1].picture(), grid=Grid(80, 60, np.linspace(0, 80, 3), np.linspace(0, 60, 4)))
    both = views.marker([session.first[0], replace(session.first[1], pictures=(moved,))])
    first, second = json.loads(next(one["data-grids"] for one in Page(both).found if "data-grids" in one))
    assert (first, second["of"]) == (grid | {"names": [session.first[0].model]}, 1)
    assert second["y"] == pytest.approx([0, 100 / 3, 200 / 3, 100], abs=1e-3)
    assert "Patches of" in both
    fields = [one for one in marker if one["tag"] == "input"]
    assert [field["data-side"] for field in fields] == ["left", "top", "right", "bottom"]
    for html in (views.ready(), views.stopped(None, 2), views.no_marker()):
        Page(html)


@pytest.mark.parametrize(
    ("share", "text"), [(0, "0.0%"), (0.5, "50.0%"), (1e-5, "0.001%"), (math.nan, "–"), (0.9999, "100.0%")]
)
def test_small_shares_are_not_rounded_to_nothing(share, text):
    assert told(share) == text


@pytest.mark.parametrize(("token", "text"), [("▁duck", "duck"), ("\n", "↵"), (" a", "a"), ("▁", "␣"), ("", "␣")])
def test_tokens_as_a_reader_knows_them(token, text):
    assert token_spoken(token) == text
