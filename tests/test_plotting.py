import subprocess
import sys
import warnings
from dataclasses import replace
from io import BytesIO
from itertools import pairwise

import matplotlib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from relevancy.errors import RelevancyError
from relevancy.plotting.figures import Panel, _FigureLayout, figure
from relevancy.plotting.overlay import SIGNED, named_colormap, overlay, value_range
from relevancy.token_text import readable

WORDS = [
    ("<bos>", 9.0),
    ("▁Is", 0.1),
    ("▁the", 0.2),
    ("▁duck", 0.5),
    ("▁float", 0.3),
    ("ing", 0.3),
    ("?", 0.0),
    ("\n", 0.1),
]
SHARES = {"image": 0.5, "text": 0.3, "first_token": 0.2}


def photograph(width=40, height=30, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def spot(width=40, height=30, peak=2.0):
    heatmap = np.zeros((height, width), np.float32)
    heatmap[height // 3 : height // 2, width // 3 : width // 2] = peak
    return heatmap


def panel(title="model", heatmap=None, words=WORDS, image=None, shares=SHARES):
    image = image or photograph()
    return Panel(title, "answers “(a)”", image, spot(*image.size) if heatmap is None else heatmap, words, shares)


def saved(drawn):
    stream = BytesIO()
    drawn.savefig(stream, dpi=40)
    return np.asarray(Image.open(stream).convert("RGB"))


def texts(drawn):
    labels = [text.get_text() for axes in drawn.axes for text in (*axes.texts, axes.xaxis.label)]
    return [label for label in (*(text.get_text() for text in drawn.texts), *labels) if label]


def ticks(drawn):
    drawn.canvas.draw()
    bars = [axes for axes in drawn.axes if axes.get_xlabel()]
    return [[label.get_text() for label in bar.get_xticklabels()] for bar in bars]


def test_overlay_colors_the_relevant_and_keeps_the_size():
    gray = Image.new("RGB", (40, 30), (100, 100, 100))
    drawn = np.asarray(overlay(gray, spot(), opacity=1.0)).astype(int)
    assert drawn.shape == (30, 40, 3)
    hottest = np.array(matplotlib.colormaps["inferno"](1.0)[:3]) * 255
    np.testing.assert_allclose(drawn[12, 15], hottest, atol=1)
    assert (drawn[0, 0] == drawn[0, 0, 0]).all()
    assert 60 < drawn[0, 0, 0] < 100


def test_overlay_uses_raw_values_on_the_given_scale():
    image = photograph()
    alone = overlay(image, spot(peak=1.0))
    np.testing.assert_array_equal(overlay(image, spot(peak=7.0)), alone)
    np.testing.assert_array_equal(overlay(image, spot(peak=1.0), vmin=0, vmax=1), alone)
    assert not np.array_equal(overlay(image, spot(peak=1.0), vmin=0, vmax=7), alone)
    np.testing.assert_array_equal(overlay(image, spot(peak=9.0), vmin=0, vmax=1), alone)


@pytest.mark.parametrize("opacity", [-1, 2, float("nan"), "x", None])
def test_an_opacity_that_is_none_is_refused(opacity):
    with pytest.raises(RelevancyError, match=r"opacity is a number from 0 .* to 1"):
        overlay(photograph(), spot(), opacity=opacity)
    with pytest.raises(RelevancyError, match=r"opacity is a number from 0 .* to 1"):
        figure([panel()], question="?", opacity=opacity)


def test_more_relevance_is_drawn_lighter():
    ramp = np.linspace(0, 1, 64, dtype=np.float32)[None].repeat(4, axis=0)
    drawn = np.asarray(overlay(Image.new("RGB", (64, 4), (50, 50, 50)), ramp)).astype(float) @ [0.3, 0.6, 0.1]
    assert drawn[0, -1] > 2.5 * drawn[0, 0]
    assert (np.diff(drawn[0, 8:]) > 0).all()


def test_unseen_pixels_have_no_color_and_are_hatched():
    heatmap = spot()
    heatmap[:, 28:] = np.nan
    drawn = np.asarray(overlay(photograph(), heatmap)).astype(int)
    unseen = drawn[:, 28:]
    assert (np.ptp(unseen, axis=2) == 0).all()
    assert unseen.mean() > drawn[20:, :28].mean() + 40
    plain = np.asarray(overlay(Image.new("RGB", (40, 30)), np.full((30, 40), np.nan)))
    assert len(np.unique(plain)) == 2


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_an_empty_map_is_not_drawn_as_one(value):
    image = photograph()
    empty = np.full((30, 40), value, np.float32)
    if value == 0:
        np.testing.assert_array_equal(overlay(image, empty), image)
        np.testing.assert_array_equal(overlay(image, empty, vmin=0, vmax=3), image)
    drawn = figure([panel(heatmap=empty, image=image)], question="?")
    assert "no relevance" in texts(drawn)
    assert ticks(drawn) == []
    assert "no relevance" not in texts(figure([panel()], question="?"))


def test_an_empty_map_beside_a_full_one_stays_empty():
    drawn = figure([panel(heatmap=np.zeros((30, 40), np.float32)), panel()], question="?")
    assert texts(drawn).count("no relevance") == 1
    assert len(ticks(drawn)) == 1


def test_large_pictures_are_drawn_in_bands_without_seams(monkeypatch):
    heatmap = spot(90, 70)
    heatmap[:, 60:] = np.nan
    image = photograph(90, 70)
    whole = np.asarray(overlay(image, heatmap))
    monkeypatch.setattr("relevancy.plotting.overlay._BAND_PIXELS", 500)
    np.testing.assert_array_equal(overlay(image, heatmap), whole)


def test_value_range():
    assert value_range([np.array([0.5, np.nan]), np.array([2.0])]) == (0, 2)
    assert value_range([np.array([-1.0, 0.5])]) == (-1, 1)
    assert value_range([np.array([-1.0, 0.5]), np.array([4.0])]) == (-4, 4)
    assert value_range([np.array([-1e-6, 0.5])]) == (0, 0.5)
    assert value_range([np.array([-3.0, -1.0])]) == (-3, 3)
    assert value_range([np.array([np.nan]), np.zeros(3)]) == (0, 0)


def test_signed_maps_have_two_colors_and_none_at_zero():
    image = Image.new("RGB", (40, 30), (100, 100, 100))
    heatmap = spot(peak=1.0)
    heatmap[20:, 30:] = -1.0
    heatmap[:5, :5] = -0.5
    drawn = np.asarray(overlay(image, heatmap, opacity=1.0)).astype(int)
    zero, for_it, against, half = drawn[0, 20], drawn[12, 15], drawn[25, 35], drawn[2, 2]
    np.testing.assert_array_equal(zero, np.asarray(overlay(image, spot()))[0, 0])
    assert for_it[0] > for_it[2] + 60  # yellow
    assert against[2] > against[0] + 60  # blue
    assert abs(half - against).sum() > 40
    np.testing.assert_array_equal(drawn, overlay(image, heatmap, opacity=1.0, vmin=-0.2, vmax=1.0))


# Machado, Oliveira and Fernandes 2009, severity 1, in linear RGB: red-, green- and blue-blind.
BLIND = (
    [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
)


@pytest.mark.parametrize("matrix", BLIND)
def test_signed_colors_stay_apart_for_color_blind_eyes(matrix):
    table = named_colormap(SIGNED)(np.linspace(0, 1, 101))[:, :3]
    seen = np.clip((table**2.2) @ np.array(matrix).T, 0, 1) ** (1 / 2.2)
    distance = np.linalg.norm(seen[:50] - seen[:50:-1], axis=1)  # of +v and -v
    assert (distance[:40] > 0.2).all()
    lightness = seen @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(lightness[:50]) < 0).all()
    assert (np.diff(lightness[50:]) > 0).all()


def test_a_figure_of_signed_numbers_says_so():
    heatmap = spot()
    heatmap[:4] = -1
    drawn = figure([panel(heatmap=heatmap, words=[*WORDS, ("no", -0.4)])], question="?")
    assert any("against the token" in text for text in texts(drawn))
    assert {"−2", "2"} <= set(ticks(drawn)[0]) or {"-2", "2"} <= set(ticks(drawn)[0])
    assert not any("against" in text for text in texts(figure([panel()], question="?")))


def test_bad_arguments():
    with pytest.raises(RelevancyError, match="30 x 40"):
        overlay(photograph(), np.zeros((40, 30)))
    with pytest.raises(RelevancyError, match="inferno"):
        overlay(photograph(), spot(), colormap="no such map")
    with pytest.raises(RelevancyError, match="inferno"):
        figure([panel()], question="?", colormap="no such map")
    with pytest.raises(RelevancyError, match="at least one"):
        figure([], question="?")


def test_figure_says_everything_there_is_to_say():
    drawn = figure([panel("demo-large")], question="Is the duck floating? (a) Yes (b) No")
    said = texts(drawn)
    for part in (
        "Is the duck floating? (a) Yes (b) No", "demo-large", "answers “(a)”", "40 × 30", "duck", "ing", "↵", "<bos>",
        "image 50.0%", "text 30.0%", "first token 20.0%", "relevance of an image patch (raw)",
    ):  # fmt: skip
        assert part in said
    assert not any("▁" in text for text in said)
    assert ticks(drawn)[0][-1] == "2"
    assert "≥ 0.5" in said  # the control token lies beyond the words' own scale


def test_panels_share_one_scale_or_have_their_own():
    strong, weak = panel("strong"), panel("weak", heatmap=spot(peak=0.02))
    assert len(ticks(figure([strong, weak], question="?"))) == 1
    own = ticks(figure([strong, weak], question="?", shared_scale=False))
    assert [labels[-1] for labels in own] == ["2", "0.02"]


def test_common_picture_is_shown_once():
    same = [panel(), panel()]
    different = [panel(), panel(image=photograph(seed=1))]
    assert "Picture" in texts(figure(same, question="?"))
    assert "Picture" not in texts(figure(different, question="?"))


def test_hatching_is_explained_only_where_it_occurs():
    cropped = spot()
    cropped[:5] = np.nan
    key = "hatched: never seen by the model"
    assert key in texts(figure([panel(heatmap=cropped)], question="?"))
    assert key in texts(figure([panel(heatmap=cropped), panel(image=photograph(seed=1))], question="?"))
    assert key not in texts(figure([panel()], question="?"))


def placed_words(drawn):
    renderer = drawn.canvas.get_renderer()
    axes = drawn.axes[-1] if drawn.axes[-1].texts else next(a for a in reversed(drawn.axes) if len(a.texts) > 1)
    return axes.get_window_extent(renderer), [text.get_window_extent(renderer) for text in axes.texts]


@settings(max_examples=15)
@given(
    words=st.lists(
        st.tuples(
            st.sampled_from(
                ["▁duck", "ing", "▁", "\n", "<start_of_turn>", "▁a", "$x_1$", "▁" + "w" * 30, "▁鸭", "\x07"]
            ),
            st.floats(0, 1) | st.just(float("nan")),
        ),
        min_size=2,
        max_size=120,
    )
)
def test_words_stay_in_their_place_and_never_overlap(words):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawn = figure([panel(words=[*words, ("▁end", 0.5), ("▁end", 0.5)])], question="?")
        drawn.canvas.draw()
    frame, boxes = placed_words(drawn)
    assert len(boxes) == len(words) + 2
    slack = 2  # pixels of antialiasing
    for box in boxes:
        assert frame.x0 - slack <= box.x0 <= box.x1 <= frame.x1 + slack
        assert frame.y0 - slack <= box.y0 <= box.y1 <= frame.y1 + slack
    for left, right in pairwise(boxes):
        same_line = abs(left.y0 - right.y0) < 12
        assert not same_line or left.x1 <= right.x0 + slack


def test_very_long_prompts_lose_their_middle_and_say_so():
    words = [(f"▁{number}", 0.1) for number in range(1801)]
    said = texts(figure([panel(words=words)], question="word " * 200))
    assert "0" in said
    assert "1800" in said
    assert "900" not in said
    assert any("301 tokens not drawn" in text for text in said)
    assert any(text.endswith("…") and text.startswith("word") for text in said)


def test_text_too_long_is_cut_where_one_letter_more_would_not_fit():
    layout = _FigureLayout([panel()], "", True, {}, ())
    long = "".join(f"word {number}, " for number in range(15))
    for text in ("short", "a b …", long, long.replace(" ", ""), "i" * 200, "W" * 80, f"fit{' ' * 70}ting {long}"):
        for width in (0.05, 0.6, 3.0):
            if layout.measure(text, 8.5) <= width:
                assert layout.fit(text, width, 8.5) == text
                continue
            whole, kept = text.rstrip(" …"), layout.fit(text, width, 8.5).removesuffix("…")
            assert whole.startswith(kept)
            assert not kept or layout.measure(f"{kept}…", 8.5) <= width
            assert kept == whole or layout.measure(f"{whole[: len(kept) + 1]}…", 8.5) > width


def test_long_answers_and_questions_are_measured_no_further_than_they_are_drawn(monkeypatch):
    measured = []
    measure = _FigureLayout.measure
    monkeypatch.setattr(
        _FigureLayout,
        "measure",
        lambda self, text, *how, **more: measured.append(text) or measure(self, text, *how, **more),
    )
    short = panel("model", words=())
    figure([replace(short, subtitle="answers", answers=[("a", 0.5)])], question="what", notes=["note"])
    usual = len(measured)
    measured.clear()
    words = "word " * 5_000
    long = replace(short, title=words, subtitle=words, answers=[(words, 0.5)])
    drawn = figure([long], question=words, notes=[words])
    assert len(measured) < usual + 300
    assert max(map(len, measured)) < 300
    assert sum(text.endswith("…") for text in texts(drawn)) == 5


@pytest.mark.parametrize("size", [(1, 1), (8, 96), (96, 8), (1500, 1000)])
def test_pictures_of_any_size_can_be_drawn(size):
    image = photograph(*size)
    heatmap = np.ones((size[1], size[0]), np.float32)
    assert saved(figure([panel(image=image, heatmap=heatmap)], question="?")).std() > 0


def test_no_words_and_unknown_shares():
    drawn = figure([panel(words=[], shares={})], question="")
    assert "image –" in texts(drawn)
    saved(drawn)


def test_the_swatch_of_the_hatching_is_hatched():
    heatmap = spot()
    heatmap[:5] = np.nan
    images = [photograph(seed=seed) for seed in range(2)]  # different ones: the key stands at the foot
    for own in (images, [images[0]] * 2):
        drawn = figure([panel(heatmap=heatmap, image=image) for image in own], question="?")
        drawn.canvas.draw()
        pixels = np.asarray(drawn.canvas.buffer_rgba())[::-1, :, 0].astype(int)
        boxes = [axes.get_window_extent() for axes in drawn.axes if axes.images]
        key = min(boxes, key=lambda box: box.width * box.height)
        inside = pixels[round(key.y0) + 2 : round(key.y1) - 2, round(key.x0) + 2 : round(key.x1) - 2]
        assert inside.max() - inside.min() > 30
        assert 2 <= (np.diff(inside[len(inside) // 2]) < -30).sum() <= 4


def test_drawing_leaves_matplotlib_as_it_was():
    code = (
        "import sys, matplotlib, numpy as np; from PIL import Image; before = matplotlib.rcParams.copy();"
        "from relevancy.plotting.figures import Panel, figure;"
        "panel = Panel('m', 's', Image.new('RGB', (8, 8)), np.ones((8, 8)), [('a', 1.0)], {});"
        "figure([panel], question='?').canvas.draw();"
        "assert 'matplotlib.pyplot' not in sys.modules; assert matplotlib.rcParams.copy() == before"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("tokens", "texts"),
    [
        (["▁a", "▁c", "u", "p"], [" a", " c", "u", "p"]),
        (["<0x2C>", "<0x0A>"], [",", "\n"]),
        (["▁", "<0xE2>", "<0x82>", "<0xAC>", "!"], [" ", "€", "!"]),
        (["<0xE2>", "<0x82>", "a"], ["\ufffd", "a"]),  # a character that was never finished
        (["a", "<0xF0>", "<0x9F>"], ["a", "\ufffd"]),
        (["<0xC3>", "<0xA9>", "<0xC3>", "<0xA8>"], ["é", "è"]),
        (
            ["<|im_start|>", "user", "Ċ", "Is", "Ġit", "Ġred", "?"],
            ["<|im_start|>", "user", "\n", "Is", " it", " red", "?"],
        ),
        (["Ġcaf", "Ã©", "ĠâĤ", "¬"], [" caf", "é", " €"]),
        (["é", "Ã"], ["é", "Ã"]),  # no byte-level tokenizer's: these letters are meant
        ([], []),
    ],
)
def test_tokens_are_read_as_text(tokens, texts):
    found = readable([(token, 1.0) for token in tokens])
    assert [text for text, _ in found] == texts
    assert sum(value for _, value in found) == len(tokens)


def test_a_logarithmic_scale_shows_three_decades_and_a_threshold_hides_what_is_small():
    gray = Image.new("RGB", (5, 1), (128, 128, 128))
    values = np.array([[0, 1e-3, 1e-2, 0.1, 1]], np.float32)
    dimmed = np.asarray(overlay(gray, values, opacity=0.0)).astype(float)[0]
    heat = np.asarray(overlay(gray, values, colormap="gray", opacity=1.0, log=True)).astype(float)[0, :, 0]
    place = np.log1p(999 * values[0]) / np.log1p(999)  # by hand: 0, 0.1003, 0.3462, 0.6680, 1
    alpha = place * (2 - place)
    np.testing.assert_allclose(heat, dimmed[:, 0] + alpha * (255 * place - dimmed[:, 0]), atol=1.5)
    signed = np.concatenate([-values[:, :0:-1], values], 1)
    wide = Image.new("RGB", (9, 1), (128, 128, 128))
    drawn = np.asarray(overlay(wide, signed, log=True)).astype(int)[0]
    assert np.array_equal(drawn[4], dimmed[0].astype(int))
    assert (np.abs(drawn[[3, 5]] - dimmed[0]).max(1) > 5).all()  # a thousandth can be seen, of either sign
    for log in (False, True):
        hidden = np.asarray(overlay(gray, values, threshold=0.05, log=log)).astype(int)[0]
        whole = np.asarray(overlay(gray, values, log=log)).astype(int)[0]
        np.testing.assert_array_equal(hidden[:3], dimmed[:3].astype(int))
        np.testing.assert_array_equal(hidden[3:], whole[3:])


@pytest.mark.parametrize("lowest", [0.0, -1.0])
def test_a_figures_scale_is_logarithmic_where_its_maps_are(lowest):
    heatmap = np.linspace(lowest, 1, 48, dtype=np.float32).reshape(6, 8)
    panel = Panel("one", "", Image.new("RGB", (8, 6)), heatmap, [("a", 1.0)], {"image": 1.0})
    drawn = figure([panel], question="Is it?", log=True)
    bar = next(one for one in drawn.axes if one.get_xlabel().startswith("relevance of an image patch"))
    ticks = [tick for tick in bar.get_xticks() if lowest <= tick <= 1]
    np.testing.assert_allclose(sorted(ticks), sorted({0, 0.01, 0.1, 1, *([-0.01, -0.1, -1] if lowest else [])}))
    places = bar.transData.transform([(value, 0) for value in (0, 0.01, 0.1, 1)])[:, 0]
    shares = (places - places[0]) / (places[-1] - places[0])
    np.testing.assert_allclose(shares, np.log1p(999 * np.array([0, 0.01, 0.1, 1])) / np.log1p(999), atol=1e-6)


@pytest.mark.parametrize("kind", ["pdf", "ps"])
def test_figures_hold_their_letters_as_truetype(kind):
    heatmap = np.linspace(0, 1, 48, dtype=np.float32).reshape(6, 8)
    panel = Panel("one", "", Image.new("RGB", (8, 6)), heatmap, [("a", 1.0)], {"image": 1.0})
    before, stream = matplotlib.rcParams["pdf.fonttype"], BytesIO()
    figure([panel], question="Is it?").savefig(stream, format=kind)
    assert b"Type3" not in stream.getvalue()
    assert b"FontType 3" not in stream.getvalue()
    assert matplotlib.rcParams["pdf.fonttype"] == before
