"""The app in a real browser: Debian's chromium, headless, driven by Playwright. Screens are kept as artefacts."""

import base64
import io
import json
import re
import sys
import time
from itertools import pairwise
from statistics import median

import numpy as np
import pytest
import tiny
from PIL import Image
from relevancy_app.examples import examples
from screens import KEPT

import relevancy

SCREENS = KEPT / "app"
WIDE, NARROW = (1280, 900), (390, 844)
PATIENCE = 30_000  # milliseconds; the machine may be busy
# Nothing may be cut off or stick out: elements whose content is wider than themselves.
# #rv-file is never seen: the page clicks it.
CUT = """() => Array.from(document.querySelectorAll('[class*="rv-"], [id^="rv-"]:not(#rv-file)'))
  .filter((one) => one.offsetParent && !one.closest('.rv-map, .rv-canvas, .rv-stage, .rv-scroll'))
  .filter((one) => getComputedStyle(one).display !== 'inline' && one.scrollWidth > one.clientWidth + 1)
  .map((one) => one.id || one.className)"""

# Buttons of which a screen reader would say nothing.
NAMELESS = """() => Array.from(document.querySelectorAll('button'))
  .filter((one) => one.offsetParent && !(one.innerText || one.ariaLabel || one.title || one.querySelector('img[alt]')))
  .map((one) => one.outerHTML.slice(0, 200))"""

# When the first map of a click can be seen, and when both.
WATCH = """() => {
  let began = 0, last = '';
  window.waited = [];
  document.querySelector('#rv-explain').addEventListener('click', () => {
    began = performance.now(); window.waited = [];
  }, true);
  new MutationObserver(() => {
    const maps = Array.from(document.querySelectorAll("#rv-board .rv-map"));
    const drawn = document.querySelector("#rv-board [data-drawn]");
    if (!began || !maps.length || !drawn || maps[0].dataset.values === last) return;
    window.waited[maps.length - 1] ??= performance.now() - began;
    if (maps.length === 2) { began = 0; last = maps[0].dataset.values; }
  }).observe(document.querySelector('#rv-board'), {subtree: true, childList: true, attributes: true});
}"""


# What Gradio says when a page is left while it asks for something.
BROKEN_OFF = ("AbortError", "Unexpected error Connection errored out.")


@pytest.fixture
def visit(browser, served):
    """Opens the app: `visit()` gives a page; afterwards nothing foreign may have been asked for, nothing logged."""
    contexts, foreign, errors = [], [], []

    def opened(size=WIDE, theme="light", leaves=False):
        """leaves: whether the page goes elsewhere, which breaks off what it is just asking for."""
        context = browser.new_context(
            viewport={"width": size[0], "height": size[1]}, color_scheme=theme, has_touch=size == NARROW,
            accept_downloads=True,
        )  # fmt: skip
        context.set_default_timeout(PATIENCE)
        contexts.append(context)
        page = context.new_page()
        own = (served.url, "data:", "blob:")
        page.on("request", lambda asked: None if asked.url.startswith(own) else foreign.append(asked.url))

        def told(what):
            if not (leaves and what.startswith(BROKEN_OFF)):
                errors.append(what)

        page.on("pageerror", lambda error: told(str(error)))
        page.on("console", lambda said: told(said.text) if said.type == "error" else None)
        page.goto(served.url)
        page.wait_for_selector("#rv-explain")
        page.wait_for_selector("#rv-picture img")
        page.wait_for_timeout(500)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert foreign == []
    assert errors == []


@pytest.fixture(scope="module")
def photograph(tmp_path_factory):
    """A file of the visitor's own."""
    path = tmp_path_factory.mktemp("own") / "own.png"
    tiny.picture(300, 200, seed=3).save(path)
    return path


def screen(page, name):
    """Keep the whole page as a picture."""
    SCREENS.mkdir(parents=True, exist_ok=True)
    page.wait_for_timeout(400)
    page.screenshot(path=SCREENS / f"{name}.png", full_page=True)


def explained(page):
    """Press Explain and wait for both maps."""
    page.click("#rv-explain")
    page.wait_for_selector("#rv-board:not(:has(.rv-place)) [data-drawn] .rv-map")
    page.wait_for_selector("#rv-details")


def sources(page):
    """What the maps look like."""
    return page.eval_on_selector_all("#rv-board .rv-map canvas", "all => all.map(one => one.toDataURL())")


def until(page, condition, what):
    deadline = time.monotonic() + PATIENCE / 1000
    while not condition():
        assert time.monotonic() < deadline, what
        page.wait_for_timeout(50)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("size", [WIDE, NARROW], ids=["1280", "390"])
def test_every_screen_at_every_width(visit, size, theme):
    page, name = visit(size, theme), f"{size[0]}-{theme}"
    assert page.locator(".rv-welcome li").count() == 3
    assert not page.is_visible("#rv-details")
    assert not page.is_enabled("#rv-cancel")
    screen(page, f"{name}-1-first-visit")
    explained(page)
    assert page.locator("#rv-board .rv-card").count() == 2
    screen(page, f"{name}-2-results")
    page.click("#rv-board [data-view=slide]")
    screen(page, f"{name}-3-slide")
    page.click("#rv-board [data-view=side]")
    page.fill("#rv-questions textarea", "Is the duck floating?\nWhat color is the house?\nIs there a boat?")
    page.click("#rv-vary")
    page.wait_for_selector("#rv-variations .rv-card:nth-child(3)")
    screen(page, f"{name}-4-questions")
    page.get_by_role("tab", name="What if?").click()
    page.click("[data-part=most]")
    page.wait_for_selector(".rv-change")
    screen(page, f"{name}-5-what-if")
    page.get_by_text("What to explain, and how").click()
    page.wait_for_selector("#rv-scope", state="visible")
    screen(page, f"{name}-6-options")
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
    assert page.evaluate(CUT) == []
    assert page.evaluate(NAMELESS) == []
    levels = page.eval_on_selector_all("h1, h2, h3, h4", "all => all.map((one) => Number(one.tagName[1]))")
    assert levels[0] == 1
    assert all(later <= earlier + 1 for earlier, later in pairwise(levels))


def test_own_picture_from_upload_to_download(visit, served, photograph, tmp_path, passes):
    page = visit()
    before = page.get_attribute("#rv-picture img", "src")
    page.click("#rv-picture [aria-label='Remove Image']")
    page.set_input_files("#rv-picture input[type=file]", photograph)
    until(page, lambda: page.locator("#rv-picture img").count() == 1, "the upload is shown")
    assert page.get_attribute("#rv-picture img", "src") != before
    page.fill("#rv-question textarea", "What color is the duck?")
    explained(page)
    assert "300 × 200" in page.inner_text("#rv-status")
    maps = sources(page)
    assert len(set(maps)) == 2

    # a token of the answer, by its chip
    chips = page.locator("#rv-board .rv-card:nth-child(2) .rv-chip")
    other = page.locator("#rv-board .rv-card:nth-child(2) .rv-chip[aria-pressed=false]")
    if chips.count() > 1:  # what the models answer is theirs
        other.last.click()
        until(page, lambda: sources(page)[1] != maps[1], "the other token's map")
    assert page.locator("#rv-board .rv-card:nth-child(2) .rv-chip[aria-pressed=true]").count() == 1

    # drawn anew, no model called
    count = passes(*served.models)
    maps = sources(page)
    page.locator("#rv-opacity input[type=range]").fill("0.3")
    until(page, lambda: sources(page) != maps, "less opaque")
    maps = sources(page)
    page.uncheck("#rv-smooth input")
    until(page, lambda: sources(page) != maps, "patches")
    maps = sources(page)
    page.click("#rv-colormap input")
    page.get_by_role("option", name="viridis").click()
    until(page, lambda: sources(page) != maps, "other colors")
    maps = sources(page)
    assert page.locator("#rv-board .rv-card .rv-scale:visible").count() == 4
    page.check("#rv-one-scale input")
    until(page, lambda: page.locator("#rv-board .rv-card .rv-scale:visible").count() < 4, "one scale for all")
    assert count == []

    # the slider between the two maps
    page.click("#rv-board [data-view=slide]")
    page.locator("#rv-board .rv-range").fill("20")
    assert "80%" in page.eval_on_selector("#rv-board .rv-over", "one => one.style.clipPath")
    shown = page.eval_on_selector_all("#rv-board .rv-stage canvas", "all => all.map(one => one.toDataURL())")
    assert set(shown) == set(sources(page))
    page.select_option("#rv-board .rv-left", "0")
    plain = page.eval_on_selector("#rv-board .rv-over", "one => one.toDataURL()")
    assert plain not in shown

    # every file
    for kind, start in (("png", b"\x89PNG"), ("pdf", b"%PDF"), ("json", b"{"), ("npz", b"PK"), ("state", b"{")):
        with page.expect_download() as waiting:
            page.click(f"#rv-download-{kind}")
        path = tmp_path / waiting.value.suggested_filename
        waiting.value.save_as(path)
        assert path.read_bytes().startswith(start)
    state = tmp_path / "relevancy_demo-small_demo-large_relevancy-state.json"
    assert json.loads(state.read_text())["display"]["colormap"] == "viridis"
    assert count == []

    # the state on a new page
    again = visit()
    again.set_input_files("#rv-ask input[accept='.json']", state)
    again.wait_for_selector("#rv-board [data-drawn] .rv-map")
    assert again.is_visible("#rv-scope")  # the options are unfolded
    assert "300 × 200" in again.inner_text("#rv-status")
    assert again.input_value("#rv-colormap input") == "viridis"
    assert not again.is_checked("#rv-smooth input")


def test_numbers_by_pointer_and_by_keyboard(visit, served):
    page = visit()
    explained(page)
    first = page.locator("#rv-board .rv-map").first
    read = page.locator("#rv-board .rv-map + .rv-read").first
    first.hover(position={"x": 5, "y": 5})
    assert read.inner_text().startswith("Row 0, column 0: ")
    values = json.loads(first.get_attribute("data-values"))
    first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    said = read.inner_text()
    assert said.startswith("Row 1, column 1: ")
    number = float(said.split(": ")[1].split(",")[0])
    cols = int(first.get_attribute("data-cols"))
    assert number == pytest.approx(values[cols + 1], rel=0.01)
    word = page.locator("#rv-board .rv-word").first
    word.focus()
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.classList.contains('rv-word')")
    told = page.locator("#rv-board .rv-prompt .rv-read").first.inner_text()
    assert "of all" in told


def test_without_a_mouse(visit, served):
    page = visit()
    page.focus("#rv-question textarea")
    page.keyboard.press("Enter")
    page.wait_for_selector("#rv-board [data-drawn] .rv-map")
    reached = set()
    for _ in range(120):
        page.keyboard.press("Tab")
        reached.add(
            page.evaluate("""() => { const one = document.activeElement, near = one.closest('[id^="rv-"]');
            return (near ? near.id : '') + '|' + one.className.toString().split(' ')[0]; }""")
        )
    places = {one.split("|")[0] for one in reached}
    assert {"rv-explain", "rv-models", "rv-opacity", "rv-smooth", "rv-colormap", "rv-download-png"} <= places
    assert {"rv-board|rv-chip", "rv-board|rv-map", "rv-board|rv-word"} <= reached
    chip = page.locator("#rv-board .rv-chip").last
    chip.focus()
    page.keyboard.press("Enter")
    until(page, lambda: chip.get_attribute("aria-pressed") == "true", "the token is chosen")


def test_a_bad_file_is_told_in_one_line(visit, served, tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"<svg onload=alert(1)>")
    page = visit(NARROW)
    page.click("#rv-picture [aria-label='Remove Image']")
    page.set_input_files("#rv-picture input[type=file]", bad)
    page.wait_for_selector("#rv-picture img", state="attached")
    page.click("#rv-explain")
    toast = page.locator(".toast-body, [data-testid=toast-body]").first
    toast.wait_for()
    said = toast.inner_text()
    assert "is not a picture" in said
    assert str(served.folder) not in said
    screen(page, "390-light-7-bad-file")
    assert page.locator("#rv-board .rv-map").count() == 0
    until(page, lambda: not page.is_enabled("#rv-cancel"), "nothing runs any more")


def test_cancel_stops_and_the_next_run_works(visit, served):
    page = visit()
    with served.models[0].lock:
        page.click("#rv-explain")
        until(page, lambda: page.is_enabled("#rv-cancel"), "it can be stopped")
        page.wait_for_timeout(500)
        screen(page, "1280-light-8-running")
        page.click("#rv-cancel")
        until(page, lambda: "Stopped" in page.inner_text("#rv-status"), "it says that it stopped")
        assert not page.is_enabled("#rv-cancel")
    page.wait_for_timeout(500)
    assert page.locator("#rv-board .rv-map").count() == 0
    explained(page)
    assert page.locator("#rv-board .rv-map").count() == 2


def test_cancel_keeps_the_map_that_is_there(visit, served, tmp_path):
    page = visit()
    with served.models[1].lock:
        page.click("#rv-explain")
        page.wait_for_selector("#rv-board .rv-place")
        page.click("#rv-cancel")
        until(page, lambda: "Stopped" in page.inner_text("#rv-status"), "it says that it stopped")
        until(page, lambda: page.locator("#rv-board .rv-place").count() == 0, "no map is promised any more")
    assert page.locator("#rv-board .rv-map").count() == 1
    maps = sources(page)
    page.locator("#rv-opacity input[type=range]").fill("0.3")
    until(page, lambda: sources(page) != maps, "less opaque")
    with page.expect_download() as waiting:
        page.click("#rv-download-json")
    waiting.value.save_as(tmp_path / "one.json")
    assert [one["model"] for one in json.loads((tmp_path / "one.json").read_text())["explanations"]] == ["demo-small"]
    page.click("#rv-explain")
    until(page, lambda: page.locator("#rv-board .rv-map").count() == 2, "the next run")


@pytest.mark.parametrize(("size", "theme"), [(WIDE, "light"), (NARROW, "dark")], ids=["1280", "390"])
def test_the_first_map_can_be_read_while_the_second_model_runs(visit, served, size, theme):
    page = visit(size, theme)
    explained(page)
    page.fill("#rv-question textarea", "What color is the car?")
    card = page.locator("#rv-board .rv-card").first
    with served.models[1].lock:
        page.click("#rv-explain")
        page.wait_for_selector("#rv-board .rv-place")
        until(page, lambda: "color is the car" in page.inner_text("#rv-status"), "what the map is about")
        assert page.locator("#rv-board .rv-map").count() == 1
        page.wait_for_selector("#rv-board [data-drawn]")
        page.wait_for_timeout(1000)
        screen(page, f"{size[0]}-{theme}-9-first-map")
        assert page.evaluate(CUT) == []
        page.click("#rv-board [data-view=slide]")  # with the picture until the other map is there
        assert page.eval_on_selector("#rv-board .rv-under", "one => one.width") > 300
        page.click("#rv-board [data-view=side]")
        maps = sources(page)
        page.locator("#rv-opacity input[type=range]").fill("0.3")
        until(page, lambda: sources(page) != maps, "less opaque")
        assert page.locator("#rv-board .rv-place").count() == 1

        # the reader's place: a patch, a word that has the focus, and where the map stands
        card.locator(".rv-map").focus()
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowDown")
        card.locator(".rv-word").nth(2).click()
        read = card.locator(".rv-read")
        patch, word = read.all_inner_texts()
        assert patch.startswith("Row 1, column 0: ")
        assert "of all" in word
        place = card.locator(".rv-word").nth(2).bounding_box()
    until(page, lambda: page.locator("#rv-board .rv-map").count() == 2, "the second map")
    page.wait_for_selector("#rv-status .rv-status:not([aria-busy])")
    assert read.all_inner_texts() == [patch, word]
    assert page.evaluate("document.activeElement.classList.contains('rv-word')")
    assert card.locator(".rv-word").nth(2).bounding_box()["y"] == pytest.approx(place["y"], abs=2)
    assert card.locator(".rv-cell").is_visible()


def test_a_folded_prompt_stays_folded(visit, served):
    page = visit()
    explained(page)
    page.locator("#rv-board .rv-prompt summary").first.click()
    maps = sources(page)
    page.locator("#rv-opacity input[type=range]").fill("0.3")
    until(page, lambda: sources(page) != maps, "less opaque")
    assert page.eval_on_selector_all("#rv-board .rv-prompt", "all => all.map(one => one.open)") == [False, True]


def test_a_rectangle_is_hidden(visit, served):
    page = visit()
    explained(page)
    page.get_by_role("tab", name="What if?").click()
    canvas = page.locator(".rv-canvas")
    canvas.scroll_into_view_if_needed()
    place = canvas.bounding_box()
    page.mouse.move(place["x"] + place["width"] * 0.25, place["y"] + place["height"] * 0.25)
    page.mouse.down()
    page.mouse.move(place["x"] + place["width"] * 0.75, place["y"] + place["height"] * 0.5, steps=3)
    page.mouse.up()
    sides = [float(page.input_value(f"[data-side={side}]")) for side in ("left", "top", "right", "bottom")]
    assert sides == pytest.approx([25, 25, 75, 50], abs=1.5)
    page.fill("[data-side=bottom]", "90")
    page.click("[data-part=drawn]")
    page.wait_for_selector(".rv-change")
    assert page.locator(".rv-change").count() == 2
    assert page.locator(".rv-moved").first.inner_text().endswith("points")
    assert "as much elsewhere" not in page.inner_text("#rv-changes")  # there is no room for it
    page.click("[data-part=most]")
    page.wait_for_selector(".rv-change figure:nth-child(2)")
    assert page.locator(".rv-change figure").count() == 4
    assert page.locator(".rv-now").first.inner_text().startswith(("Now it says", "It still says"))


def test_patches_are_hidden(visit, served):
    page = visit()
    explained(page)
    page.get_by_role("tab", name="What if?").click()
    page.get_by_role("button", name="Patches", exact=True).click()
    hide = page.get_by_role("button", name="Hide the marked patches")
    assert hide.is_disabled()
    canvas = page.locator(".rv-canvas")
    canvas.scroll_into_view_if_needed()
    place = canvas.bounding_box()
    grid = json.loads(page.get_attribute(".rv-marker", "data-grids"))[0]
    cols, rows = len(grid["x"]) - 1, len(grid["y"]) - 1

    def at(row, col):
        x, y = (grid["x"][col] + grid["x"][col + 1]) / 200, (grid["y"][row] + grid["y"][row + 1]) / 200
        return place["x"] + x * place["width"], place["y"] + y * place["height"]

    def told(count):
        until(page, lambda: page.inner_text("[data-count]") == f"{count} of {rows * cols} patches marked.", str(count))

    page.mouse.click(*at(1, 1))
    told(1)
    page.mouse.move(*at(1, 2))  # a stroke marks what it passes
    page.mouse.down()
    page.mouse.move(*at(1, 4), steps=12)
    page.mouse.up()
    told(4)
    page.mouse.click(*at(1, 3))  # and a press on a marked one takes it off
    told(3)
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Space")
    told(4)
    with page.expect_request(lambda one: "queue/join" in one.url and '"patches"' in (one.post_data or "")) as sent:
        hide.click()
    event = json.loads(sent.value.post_data)["event_data"]
    assert sorted(event["patches"]) == sorted([cols + 1, cols + 2, cols + 4, 2 * cols + 3])
    page.wait_for_selector(".rv-change figure:nth-child(2)")
    assert page.locator(".rv-change").count() == 2
    page.click("[data-unmark]")
    told(0)
    assert hide.is_disabled()


def test_an_example_and_a_preset_fill_in_the_question(visit, served):
    page = visit()
    before = page.get_attribute("#rv-picture img", "src")
    page.locator("#rv-examples button").nth(2).click()
    until(page, lambda: page.get_attribute("#rv-picture img", "src") != before, "another picture")
    preset = page.locator("#rv-presets button").last
    text = preset.inner_text().strip()
    preset.click()
    until(page, lambda: page.input_value("#rv-question textarea") == text, "the preset is asked")


def test_a_contrast_and_layers(visit, served):
    page = visit()
    page.get_by_text("What to explain, and how").click()
    page.fill("#rv-target input", "Yes|No")
    page.keyboard.press("Tab")
    page.locator("#rv-first-layer input[type=range]").fill("1")
    explained(page)
    assert "“Yes” rather than “No”" in page.locator("#rv-board .rv-why").first.inner_text()
    assert "layers 1 to the last" in page.inner_text("#rv-status")


def test_closing_the_page_drops_what_was_kept(visit, served):
    held = served.blocks.state_holder.session_data
    before = set(held)
    page = visit()
    explained(page)
    (own,) = set(held) - before
    page.close()
    deadline = time.monotonic() + 40
    while own in held and time.monotonic() < deadline:
        time.sleep(0.2)
    assert own not in held


STANDARD = {
    "opacity": 0.85, "colormap": "inferno", "smooth": True, "one_scale": False, "log": False, "threshold": 0.0,
}  # fmt: skip


def pixels(page, number=0):
    """A map as the browser draws it, (height, width, 3)."""
    stored = page.locator("#rv-board .rv-map canvas").nth(number).evaluate("one => one.toDataURL()")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(stored.partition(",")[2]))).convert("RGB")).astype(int)


@pytest.mark.parametrize("size", [(800, 600), (600, 800)])
def test_the_maps_are_the_packages_overlays_in_every_drawing(visit, served, size, tmp_path):
    """And no drawing asks the server for anything."""
    tiny.picture(*size, seed=5).save(tmp_path / "own.png")
    page = visit()
    page.click("#rv-picture [aria-label='Remove Image']")
    page.set_input_files("#rv-picture input[type=file]", tmp_path / "own.png")
    until(page, lambda: page.locator("#rv-picture img").count() == 1, "the upload is shown")
    explained(page)
    picture = Image.open(tmp_path / "own.png")
    shown = relevancy.compare(
        served.models, picture, page.input_value("#rv-question textarea"), target="first-relevant",
    )  # fmt: skip
    requests = []
    page.on("request", lambda asked: requests.append(asked.url))
    drawings = [
        {}, {"smooth": False}, {"opacity": 0.4, "colormap": "cividis"}, {"one_scale": True}, {"log": True},
        {"threshold": 0.3}, {"log": True, "threshold": 0.05, "one_scale": True},
    ]  # fmt: skip
    for drawing in drawings:
        display = STANDARD | drawing
        before = int(page.get_attribute("#rv-board .rv-board", "data-drawn"))
        page.evaluate(
            "(display) => { window.rvDisplay = display; window.dispatchEvent(new Event('rv-display')); }", display
        )
        until(page, lambda: int(page.get_attribute("#rv-board .rv-board", "data-drawn")) > before, "drawn anew")  # noqa: B023
        wanted = shown.overlays(
            smooth=display["smooth"], shared_scale=display["one_scale"], colormap=display["colormap"],
            opacity=display["opacity"], log=display["log"], threshold=display["threshold"],
        )  # fmt: skip
        for number, overlay in enumerate(wanted):
            if shown.explanations[number].shown()[1]:
                continue  # words stand on the package's picture, and over the page's
            difference = np.abs(pixels(page, number) - np.asarray(overlay).astype(int))
            assert difference.mean() < 3, (drawing, number)  # the picture came as JPEG
            assert np.percentile(difference, 99) < 30, (drawing, number)
    assert requests == []


def test_maps_fit_the_window_and_explain_is_in_reach(visit, served, tmp_path):
    for width, height in ((1366, 768), (1920, 1080), NARROW):
        page = visit((width, height))
        assert page.locator("#rv-explain").bounding_box()["y"] + 30 < height
        explained(page)
        for place in page.locator("#rv-board .rv-map").all():
            assert place.bounding_box()["height"] <= 0.7 * height + 1
        dock, status = (page.locator(one).bounding_box() for one in ("#rv-dock", "#rv-status"))
        if (width, height) == NARROW:  # the page went to the results, and the dock hides none of their first line
            assert dock["y"] + dock["height"] <= status["y"] < 0.3 * height
        page.evaluate("window.scrollTo(0, document.body.scrollHeight)")
        page.wait_for_timeout(300)
        for reached in ("#rv-explain", "#rv-question textarea"):
            place = page.locator(reached).bounding_box()
            assert -1 <= place["y"] <= height + 1 - place["height"]


def test_a_sliver_does_not_make_a_tall_page(visit, served, tmp_path):
    Image.effect_noise((10, 427), 50).convert("RGB").save(tmp_path / "sliver.png")
    page = visit()
    page.click("#rv-picture [aria-label='Remove Image']")
    page.set_input_files("#rv-picture input[type=file]", tmp_path / "sliver.png")
    until(page, lambda: page.locator("#rv-picture img").count() == 1, "the upload is shown")
    explained(page)
    assert page.evaluate("document.documentElement.scrollHeight") < 4 * WIDE[1]


def test_results_say_when_they_are_out_of_date(visit, served):
    page = visit()
    explained(page)
    stale = page.locator("#rv-results.rv-stale")
    told = page.locator("#rv-status .rv-outdated")
    assert stale.count() == 0
    question = page.input_value("#rv-question textarea")
    page.fill("#rv-question textarea", "What color is the house?")
    until(page, lambda: stale.count() == 1, "another question")
    assert told.inner_text() == "Out of date: question changed since. Press Explain for new results."
    page.fill("#rv-question textarea", f" {question} ")
    until(page, lambda: stale.count() == 0, "the same question again")
    page.uncheck("#rv-models input >> nth=0")
    until(page, lambda: "models" in told.inner_text(), "another model")
    page.locator("#rv-examples button").nth(2).click()
    until(page, lambda: "picture, question, models" in told.inner_text(), "another picture")
    page.get_by_text("What to explain, and how").click()

    def another_option():
        page.locator("#rv-first-layer input[type=range]").fill("1")  # what has only just opened may miss a first one
        return "models, first layer changed" in told.inner_text()

    until(page, another_option, "another option")
    with served.models[1].lock:
        page.click("#rv-explain")
        until(page, lambda: page.is_enabled("#rv-cancel"), "it can be stopped")
        page.click("#rv-cancel")
        until(page, lambda: "Stopped" in page.inner_text("#rv-status"), "it says that it stopped")
    until(page, lambda: stale.count() == 1, "what is there is of the old picture")
    explained(page)
    until(page, lambda: stale.count() == 0, "new results")


def test_explain_soon_after_cancel_and_a_second_token_are_not_dropped(visit, served):
    page = visit()
    page.fill("#rv-question textarea", "Is the duck floating? (a) Yes (b) No")
    with served.models[0].lock:
        page.click("#rv-explain")
        until(page, lambda: page.is_enabled("#rv-cancel"), "it can be stopped")
        page.wait_for_timeout(300)
        page.click("#rv-cancel")
        page.click("#rv-explain")
        page.wait_for_timeout(300)
    until(page, lambda: page.locator("#rv-board .rv-map").count() == 2, "the run that was asked for")
    until(page, lambda: page.locator("#rv-board .rv-place").count() == 0, "it is whole")
    page.wait_for_selector("#rv-details")
    chips = [page.locator(f"#rv-board .rv-card:nth-child({card}) .rv-chip") for card in (1, 2)]
    last = [chip.last for chip in chips]
    assert all(chip.count() > 1 for chip in chips)
    with served.models[0].lock:
        last[0].click()
        page.wait_for_timeout(300)
        last[1].click()
        page.wait_for_timeout(300)
    for chip in last:
        until(page, lambda: chip.get_attribute("aria-pressed") == "true", "both tokens")  # noqa: B023


def given(page, path):
    """Put a file in the picture's place."""
    page.click("#rv-picture [aria-label='Remove Image']")
    page.set_input_files("#rv-picture input[type=file]", path)
    until(page, lambda: page.locator("#rv-picture img").count() == 1, "the upload is shown")


def drawn_anew(page, display):
    """Draw the maps as these settings say."""
    before = int(page.get_attribute("#rv-board .rv-board", "data-drawn"))
    page.evaluate("(it) => { window.rvDisplay = it; window.dispatchEvent(new Event('rv-display')); }", display)
    until(page, lambda: int(page.get_attribute("#rv-board .rv-board", "data-drawn")) > before, "drawn anew")


def test_every_card_says_how_it_was_made_and_what_to_believe_of_it(visit, served):
    page = visit()
    page.fill("#rv-question textarea", "(a) Yes (b) No")
    explained(page)
    cards = page.locator("#rv-board .rv-card")

    def told(position):
        for card, model in zip(cards.all(), ("demo-small", "demo-large"), strict=True):
            how = card.locator(".rv-how").inner_text()
            assert how.startswith(f"{model}: token {position} “")
            assert how.endswith(f"method relevancy, scope language, all layers, relevancy {relevancy.__version__}")
            assert card.locator(".rv-evidence").inner_text().endswith(".")
            assert "knocked out of attention" in card.locator(".rv-areas").inner_text()

    told(0)
    # almost nothing of the first map is on the picture: it does not glow, and says why
    assert cards.first.locator(".rv-empty").inner_text().endswith("less than 0.1%")
    assert "of different tokens (demo-small “(a)”, demo-large “(b)”)" in page.inner_text("#rv-agreement")
    # what is dark beside another map says so, and only on one scale
    drawn_anew(page, STANDARD | {"one_scale": True})
    values = json.loads(cards.last.locator(".rv-map").get_attribute("data-values"))
    faint = json.dumps([value / 50 for value in values])
    cards.first.locator(".rv-empty").evaluate_all("all => all.forEach((one) => one.remove())")
    cards.first.locator(".rv-map").evaluate("(one, values) => { one.dataset.values = values; }", faint)
    drawn_anew(page, STANDARD | {"one_scale": True})
    assert cards.first.locator(".rv-dim").inner_text().startswith("Dark beside the others: its peak is 2% of")
    assert not cards.last.locator(".rv-dim").is_visible()
    drawn_anew(page, STANDARD)
    assert not cards.first.locator(".rv-dim").is_visible()
    for card in (1, 2):
        chip = page.locator(f"#rv-board .rv-card:nth-child({card}) .rv-chip").last
        chip.click()
        until(page, lambda: chip.get_attribute("aria-pressed") == "true", "the last token")  # noqa: B023
    told(1)


def inside(outline):
    """How many patches of the pair's 10 x 10 lie within an outline: by its upright lines, those crossed on the way."""
    upright = re.findall(r"M([\d.]+) ([\d.]+)V", outline.get_attribute("d"))
    lines = {(round(float(x) / 10), round(float(y) / 10)) for x, y in upright}
    return sum(sum((line, row) in lines for line in range(col + 1)) % 2 for row in range(10) for col in range(10))


def test_evidence_is_outlined_on_the_map(visit, served):
    page = visit()
    explained(page)
    card = page.locator("#rv-board .rv-card").last
    areas = card.locator(".rv-area")
    assert areas.count() == 4
    until(page, lambda: areas.last.locator("canvas").evaluate("one => one.width") == 160, "the pictures")
    cells = [len(json.loads(one.get_attribute("data-cells"))) for one in areas.all()]
    assert cells[0] > cells[1] > cells[2] > 1
    gray = (
        areas.nth(1)
        .locator("canvas")
        .evaluate("""one => {
      const { data } = one.getContext("2d").getImageData(0, 0, one.width, one.height);
      return data.filter((_, i) => i % 4 === 0 && data[i] === 112 && data[i + 1] === 112 && data[i + 2] === 120).length
        / (one.width * one.height);
    }""")
    )
    assert gray == pytest.approx(cells[1] / cells[0], abs=0.02)
    areas.nth(2).focus()
    page.keyboard.press("Enter")
    outline = card.locator(".rv-map path")
    until(page, lambda: outline.get_attribute("d"), "the square at the peak")
    assert inside(outline) == cells[2]
    areas.nth(1).click()
    assert inside(outline) == cells[1]
    assert [one.get_attribute("aria-pressed") for one in areas.all()] == ["false", "true", "false", "false"]
    areas.nth(1).click()
    assert outline.get_attribute("d") == ""


def test_pictures_and_python_can_be_copied(visit, served):
    page = visit()
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    explained(page)
    card = page.locator("#rv-board .rv-card:nth-child(2)")
    python, picture = (card.locator(f"[data-copy={kind}]") for kind in ("python", "picture"))
    python.click()
    until(page, lambda: python.inner_text() == "Copied", "the words")
    copied = page.evaluate("navigator.clipboard.readText()")
    asked = examples()[0]
    result = relevancy.explain(served.models[1], asked.image, asked.questions[0], target="first-relevant")
    assert copied == result.code
    picture.click()
    until(page, lambda: picture.inner_text() == "Copied", "the picture")
    copied = page.evaluate("""async () => {
      const [item] = await navigator.clipboard.read(), blob = await item.getType("image/png");
      const drawn = await createImageBitmap(blob);
      return [drawn.width, drawn.height];
    }""")
    assert copied == card.locator(".rv-map canvas").evaluate("one => [one.width, one.height]")


def test_other_questions_are_about_the_picture_that_was_explained(visit, served):
    page = visit()
    explained(page)
    source = page.get_attribute("#rv-board .rv-plain", "src")
    before = page.get_attribute("#rv-picture img", "src")
    page.locator("#rv-examples button").nth(2).click()
    until(page, lambda: page.get_attribute("#rv-picture img", "src") != before, "another picture in the box")
    page.fill("#rv-questions textarea", "Is the duck floating?\nWhat color is the house?")
    page.click("#rv-vary")
    page.wait_for_selector("#rv-variations .rv-card:nth-child(2)")
    assert page.get_attribute("#rv-variations .rv-plain", "src") == source
    assert all(
        how.startswith("demo-large: token 0 “") for how in page.locator("#rv-variations .rv-how").all_inner_texts()
    )
    explained(page)
    until(page, lambda: page.locator("#rv-variations .rv-card").count() == 0, "they were another picture's")


def test_methods_and_layers_side_by_side(visit, served):
    page = visit()
    explained(page)
    page.check("#rv-one-scale input")
    page.get_by_role("tab", name="Methods").click()
    costs = page.locator("#rv-methods label").all_inner_texts()
    assert "relevancy (1 forward, 1 backward)" in [cost.strip() for cost in costs]
    page.click("#rv-compare-methods")
    page.wait_for_selector("#rv-ways .rv-card:nth-child(5)")
    cards = page.locator("#rv-ways .rv-card")
    titles = page.locator("#rv-ways h2").all_inner_texts()
    assert titles == ["relevancy", "relevancy-magnitude", "attnlrp", "tam", "rollout"]
    # numbers of different kinds: each map has a scale of its own, whatever the switch says
    until(page, lambda: page.locator("#rv-ways .rv-card .rv-scale[data-scale=map]:visible").count() == 5, "own scales")
    assert "rank correlation with the first map" in cards.nth(1).inner_text()
    page.click("#rv-compare-layers")
    until(page, lambda: page.locator("#rv-ways h2").first.inner_text() == "as shown", "the layers")
    parts = page.locator("#rv-ways h2").all_inner_texts()[1:]
    assert parts[0].startswith("layers 0 to ")
    assert len(parts) == min(5, served.models[1].model.config.get_text_config().num_hidden_layers)
    assert page.locator("#rv-ways .rv-how").nth(1).inner_text().count("layers 0") == 1
    until(page, lambda: page.locator("#rv-ways .rv-card .rv-scale[data-scale=map]:visible").count() == 0, "one scale")


def test_a_grid_of_heads_and_the_maps_of_one_layer(visit, served):
    page = visit()
    explained(page)
    page.get_by_role("tab", name="Methods").click()
    assert "1 forward, 1 backward" in page.inner_text("#rv-compare-heads")
    page.click("#rv-compare-heads")
    page.wait_for_selector("#rv-ways .rv-grid")
    text = served.models[1].model.config.get_text_config()
    cells = page.locator("#rv-ways .rv-grid button")
    assert cells.count() == text.num_hidden_layers * text.num_attention_heads
    assert page.locator("#rv-ways .rv-card").count() == text.num_attention_heads
    page.locator("#rv-ways .rv-grid button[tabindex='0']").focus()
    focused = "document.activeElement.dataset.layer + '-' + document.activeElement.dataset.head"
    layer, head = map(int, page.evaluate(focused).split("-"))
    page.keyboard.press("ArrowUp" if layer else "ArrowDown")
    page.keyboard.press("ArrowLeft" if head else "ArrowRight")
    layer, head = layer + (-1 if layer else 1), head + (-1 if head else 1)
    assert page.evaluate(focused) == f"{layer}-{head}"
    page.keyboard.press("Enter")
    until(page, lambda: f"layer {layer}." in page.inner_text("#rv-ways .rv-quiet"), "another layer's heads")
    assert page.inner_text("#rv-ways .rv-grid [aria-current] th") == f"layer {layer}"
    until(page, lambda: page.evaluate(focused) == f"{layer}-{head}", "the same head is reached on the new board")
    until(page, lambda: page.get_attribute("#rv-ways .rv-board", "data-drawn"), "their maps")
    page.locator("#rv-ways .rv-map").first.hover()
    said = page.locator("#rv-ways .rv-card .rv-read").all_inner_texts()
    assert len({line.split(":")[0] for line in said}) == 1  # one place on all of them


def test_signed_words_stand_on_zero_and_long_questions_keep_their_place(visit, served, tmp_path):
    Image.effect_noise((900, 200), 50).convert("RGB").save(tmp_path / "wide.png")
    page = visit()
    given(page, tmp_path / "wide.png")
    page.fill("#rv-question textarea", "What color is it? " * 55)
    page.get_by_text("What to explain, and how").click()
    page.click("#rv-method input")
    page.get_by_role("option", name="input-gradient").click()
    explained(page)
    zero = page.evaluate("""() => {
      const table = atob(JSON.parse(document.getElementById("rv-tables").dataset.tables).signed);
      const at = 3 * Math.round(0.5 * (table.length / 3 - 1));
      return `rgb(${[0, 1, 2].map((part) => table.charCodeAt(at + part)).join(", ")})`;
    }""")
    grounds = page.eval_on_selector_all("#rv-board .rv-words", "all => all.map((one) => one.style.background)")
    assert grounds == [zero] * 2
    assert page.locator("#rv-board .rv-scale .rv-end").first.inner_text().startswith("-")
    assert page.evaluate("document.documentElement.scrollHeight") < 3 * WIDE[1]
    # the model saw the middle of it: the rest is hatched, says so, and hiding it is told to change nothing
    assert "never seen" in page.locator("#rv-board .rv-legend").first.inner_text()
    page.get_by_role("tab", name="What if?").click()
    for side, value in (("left", 0), ("top", 0), ("right", 10), ("bottom", 100)):
        page.fill(f"[data-side={side}]", str(value))
    page.click("[data-part=drawn]")
    page.wait_for_selector(".rv-change")
    assert page.locator(".rv-moved").all_inner_texts() == ["+0.0 points"] * 2
    assert all("never saw this part" in text for text in page.locator(".rv-change").all_inner_texts())


def test_of_two_examples_pressed_at_once_the_last_counts(visit, served):
    page = visit()
    page.evaluate("document.querySelectorAll('#rv-examples button').forEach((one, i) => i && i < 3 && one.click())")
    wanted = list(examples()[2].questions)
    until(page, lambda: page.locator("#rv-presets button").all_inner_texts() == wanted, "the second one's questions")
    assert page.input_value("#rv-question textarea") == wanted[0]


def test_mistakes_are_told_at_once_and_leave_nothing_behind(visit, served, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (1900, 1900, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "heavy.png", compress_level=0)
    (tmp_path / "cut.png").write_bytes((tmp_path / "heavy.png").read_bytes()[:50_000])
    page = visit()
    toast = page.locator("[data-testid=toast-body]").first
    given(page, tmp_path / "heavy.png")
    until(page, lambda: "larger than 10 MB" in toast.inner_text(), "told before Explain is pressed")
    given(page, tmp_path / "cut.png")
    page.click("#rv-explain")
    until(page, lambda: "The picture is damaged or cut short" in toast.inner_text(), "in plain words")
    before = page.get_attribute("#rv-picture img", "src")
    page.locator("#rv-examples button").first.click()
    until(page, lambda: page.get_attribute("#rv-picture img", "src") != before, "another picture")
    explained(page)
    page.fill("#rv-questions textarea", "only one")
    page.click("#rv-vary")
    until(page, lambda: "at least two questions" in toast.inner_text(), "told")
    page.get_by_role("tab", name="What if?").click()
    for side in ("left", "right"):
        page.fill(f"[data-side={side}]", "5")
    page.click("[data-part=drawn]")
    until(page, lambda: "rectangle is empty" in toast.inner_text(), "told")
    assert "--" not in toast.inner_text()  # no option of a command line
    marks = page.locator("[id^=rv-] .error")
    until(page, lambda: not any(mark.is_visible() for mark in marks.all()), "nothing stays on the page")


def test_each_tokens_map_at_once_and_a_next_best_token_as_the_contrast(visit, served, passes):
    page = visit()
    page.fill("#rv-question textarea", "Is the duck floating? (a) Yes (b) No")
    explained(page)
    card = page.locator("#rv-board .rv-card:nth-child(2)")
    why, chips = card.locator(".rv-why"), card.locator(".rv-chip")
    first, maps = why.inner_text(), sources(page)
    chips.last.hover()
    until(page, lambda: why.inner_text().startswith("Why “Yes”"), "the other token, while the pointer is on it")
    until(page, lambda: sources(page)[1] != maps[1], "its map")
    assert chips.first.get_attribute("aria-pressed") == "true"
    count, requests = passes(*served.models), []
    page.on("request", lambda asked: requests.append(asked.url))
    page.mouse.move(2, 2)
    until(page, lambda: why.inner_text() == first, "the token that is pressed")
    until(page, lambda: sources(page) == maps, "its map")
    chips.first.focus()
    page.keyboard.press("ArrowRight")
    until(page, lambda: why.inner_text().startswith("Why “Yes”"), "by keyboard")
    page.keyboard.press("ArrowLeft")
    until(page, lambda: why.inner_text() == first, "and back")
    assert (count, requests) == ([], [])  # all were made in one go

    others = card.locator(".rv-other")
    assert others.count() == 5
    other = others.first.inner_text().split()[0]
    others.first.click()
    until(page, lambda: f"rather than “{other}”" in why.inner_text(), "the contrast")
    assert card.locator(".rv-other[aria-pressed=true]").count() == 1
    assert f"rather than “{other}”" in card.locator(".rv-how").inner_text()
    others.first.click()
    until(page, lambda: why.inner_text() == first, "pressed again: without the contrast")


def test_eight_tabs_of_one_browser(browser, served):
    context = browser.new_context()
    context.set_default_timeout(PATIENCE)
    try:
        tabs = [context.new_page() for _ in range(8)]
        for tab in tabs:
            tab.goto(served.url)
            tab.wait_for_selector("#rv-picture img")
        for tab in tabs:
            tab.click("#rv-explain")
        for tab in tabs:
            tab.wait_for_selector("#rv-board:not(:has(.rv-place)) .rv-map")
    finally:
        context.close()


def test_zoom_and_the_cursor_are_one_for_all_maps(visit, served):
    page = visit()
    explained(page)
    maps = page.locator("#rv-board .rv-map")
    maps.first.focus()
    page.keyboard.press("p")
    values = json.loads(maps.first.get_attribute("data-values"))
    row, col = divmod(values.index(max(values)), int(maps.first.get_attribute("data-cols")))
    reads = page.locator("#rv-board .rv-map ~ .rv-read")
    assert reads.first.inner_text().startswith(f"Row {row}, column {col}: ")
    assert reads.first.inner_text().endswith(f"rank 1 of {len(values)}")
    maps.first.hover(position={"x": 5, "y": 5})
    assert [one.split(":")[0] for one in reads.all_inner_texts()] == ["Row 0, column 0"] * 2
    page.click("#rv-board [data-tool=in]")
    forms = page.eval_on_selector_all("#rv-board .rv-layer", "all => all.map(one => one.style.transform)")
    assert len(set(forms)) == 1
    assert "scale(2)" in forms[0]
    maps.last.focus()
    page.keyboard.press("0")
    assert "scale(1)" in page.eval_on_selector("#rv-board .rv-layer", "one => one.style.transform")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_no_serious_fault_for_readers_with_other_needs(visit, served, theme):
    """By axe-core's rules, on the first visit and with everything unfolded."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()

    def faults(page):
        page.wait_for_selector("#rv-cancel[disabled]")
        page.wait_for_timeout(500)  # what showed the progress has faded
        found = axe.run(page).response["violations"]
        return [
            (one["id"], [node["html"][:150] for node in one["nodes"]])
            for one in found
            if one["impact"] in ("critical", "serious")
        ]

    page = visit(theme=theme)
    assert faults(page) == []
    explained(page)
    page.get_by_text("What to explain, and how").click()
    page.wait_for_selector("#rv-scope", state="visible")
    page.fill("#rv-questions textarea", "Is the duck floating?\nWhat color is the house?")
    page.click("#rv-vary")
    page.wait_for_selector("#rv-variations .rv-card:nth-child(2)")
    page.locator("#rv-board .rv-area").nth(1).click()
    assert faults(page) == []
    page.get_by_role("tab", name="Methods").click()
    page.click("#rv-compare-heads")
    page.wait_for_selector("#rv-ways .rv-grid")
    assert faults(page) == []
    page.get_by_role("tab", name="What if?").click()
    page.click("[data-part=most]")
    page.wait_for_selector(".rv-change")
    page.click("[data-mode=patches]")
    page.click("#rv-board [data-view=slide]")
    assert faults(page) == []


@pytest.mark.slow
def test_time_from_click_to_the_maps(visit, served):
    """Beside two bare calls of explain, taken in turns with the clicks; `pytest -m slow -s` prints it."""
    page, picture = visit(), examples()[0].image  # the picture that the page begins with
    page.evaluate(WATCH)
    firsts, boths, bare = [], [], []
    for turn in range(14):
        question = ("Is the duck floating? (a) Yes (b) No", "What color is the house?")[turn % 2]
        page.fill("#rv-question textarea", question)
        page.click("#rv-explain")
        page.wait_for_function("window.waited[1]")
        first, both = page.evaluate("window.waited")
        firsts.append(first or both)  # the browser may take two steps as one
        boths.append(both)
        page.wait_for_selector("#rv-cancel[disabled]")
        page.wait_for_timeout(300)
        began = time.perf_counter()
        for model in served.models:
            relevancy.explain(model, picture, question, target="first-relevant")
        bare.append(1000 * (time.perf_counter() - began))
    base, *waits = (median(times[2:]) for times in (bare, firsts, boths))
    lines = (
        f"click to {name}: {wait:.0f} ms, {wait / base:.2f}x"
        for name, wait in zip(("first picture", "both maps"), waits, strict=True)
    )
    sys.stdout.write(f"\ntwo bare explain calls: {base:.0f} ms; {'; '.join(lines)}\n")
    assert waits[0] <= waits[1] < 5 * base
