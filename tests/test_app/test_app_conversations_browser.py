"""Several pictures and turns in a real browser: added, arranged, asked further, drawn, kept."""

import pytest
from relevancy_app.examples import examples
from test_app_browser import CUT, NAMELESS, NARROW, WIDE, screen, sources, until
from test_app_browser import visit as visit


@pytest.fixture(scope="module")
def served(served_and_kept):
    return served_and_kept


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Two files of the visitor's own."""
    folder = tmp_path_factory.mktemp("own")
    for number, example in enumerate(examples()[1:3]):
        example.image.save(folder / f"{number}.png")
    return [folder / "0.png", folder / "1.png"]


def turn(page, place):
    return page.locator(f"#rv-turn-{place} textarea")


def strip(page):
    return page.locator("#rv-strip li")


@pytest.mark.parametrize(("size", "theme"), [(WIDE, "light"), (NARROW, "dark")], ids=["1280", "390"])
def test_from_two_pictures_to_the_next_question(visit, photographs, size, theme):
    page, name = visit(size, theme), f"{size[0]}-{theme}-talk"
    page.set_input_files("#rv-ask input[type=file][multiple]", photographs)
    until(page, lambda: strip(page).count() == 2, "both are in the strip")
    second = strip(page).nth(1).get_attribute("data-place")
    page.click("#rv-strip [data-number='1'][data-move=earlier]")
    until(page, lambda: strip(page).nth(0).get_attribute("data-place") == second, "one place earlier")
    page.click("#rv-strip [data-number='1'][data-move=remove]")
    until(page, lambda: strip(page).count() == 1, "one less")
    before, first = page.get_attribute("#rv-picture img", "src"), strip(page).nth(0).get_attribute("data-place")
    page.click("#rv-strip [data-number='0'][data-move=earlier]")
    until(page, lambda: first in page.get_attribute("#rv-picture img", "src"), "it is the first picture now")
    assert strip(page).nth(0).get_attribute("data-place") in before
    page.click("#rv-talk > button")
    turn(page, 0).fill("What color is the car?")
    turn(page, 1).fill("red")
    page.click("#rv-more-turns")
    turn(page, 3).wait_for()
    screen(page, f"{name}-1-asking")
    page.fill("#rv-question textarea", "[picture] Is the duck floating?")
    page.click("#rv-explain")
    page.wait_for_selector("#rv-board:not(:has(.rv-place)) [data-drawn] .rv-map")
    page.wait_for_selector("#rv-details")
    assert page.locator("#rv-board .rv-map").count() == 4
    assert page.locator(".rv-stale").count() == 0
    assert page.locator("#rv-board .rv-speaker").count() == 6
    screen(page, f"{name}-2-results")
    maps = sources(page)
    assert not {maps[0], maps[2]} & {maps[1], maps[3]}

    # the cursor is of one picture, in all of its maps
    cells = "#rv-board .rv-map[data-picture='{}'] .rv-cell"
    page.locator("#rv-board .rv-map[data-picture='1']").first.focus()
    page.keyboard.press("ArrowRight")
    assert page.eval_on_selector_all(cells.format(1), "all => all.every((one) => one.style.display === 'block')")
    assert page.eval_on_selector_all(cells.format(0), "all => all.every((one) => one.style.display !== 'block')")

    # the slider is over one of them
    page.click("#rv-board [data-view=slide]")
    page.select_option("#rv-board .rv-which", index=1)
    slid = page.eval_on_selector_all("#rv-board .rv-stage canvas", "all => all.map(one => one.toDataURL())")
    maps = sources(page)
    assert set(slid) == {maps[1], maps[3]}
    page.click("#rv-board [data-view=side]")

    # the next question goes on from the answer
    said = page.inner_text("#rv-board .rv-card:nth-child(2) .rv-chip[aria-pressed=true]")
    page.click("#rv-board [data-further='1']")
    until(page, lambda: turn(page, 3).input_value() == said, "the answer is one of the turns")
    assert turn(page, 2).input_value() == "[picture] Is the duck floating?"
    until(page, lambda: page.locator("#rv-question textarea:focus").count() == 1, "the next question can be typed")
    until(page, lambda: "question, conversation changed" in page.inner_text("#rv-status"), "it is out of date")
    page.fill("#rv-question textarea", "What color is the duck?")
    page.click("#rv-explain")
    until(page, lambda: "after 2 exchanges" in page.inner_text("#rv-status"), "the next answer")
    page.wait_for_selector("#rv-board:not(:has(.rv-place)) [data-drawn] .rv-map")
    page.wait_for_selector("#rv-details")
    assert page.locator("#rv-board .rv-speaker").count() == 10
    screen(page, f"{name}-3-further")
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
    assert page.evaluate(CUT) == []
    assert page.evaluate(NAMELESS) == []

    # and all of it is there after a reload
    until(page, lambda: "run=" in page.url, "the address names the run")
    maps = sources(page)
    page.reload()
    page.wait_for_selector("#rv-board:not(:has(.rv-place)) [data-drawn] .rv-map")
    assert sources(page) == maps
    assert strip(page).count() == 1
    page.click("#rv-talk > button")
    until(page, lambda: turn(page, 3).input_value() == said, "what was said before")
    page.wait_for_timeout(500)
    assert page.locator(".rv-stale").count() == 0
    page.click("#rv-clear-talk")
    until(page, lambda: turn(page, 0).input_value() == "", "it is cleared")
    until(page, lambda: page.locator(".rv-turn textarea").count() == 2, "one exchange is left")
