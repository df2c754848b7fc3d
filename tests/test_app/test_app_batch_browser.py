"""Many pictures in a real browser: a table that grows, a report to take away, and going on after Cancel."""

import pytest
import tiny
from test_app_browser import NAMELESS, NARROW, screen, until
from test_app_browser import visit as visit
from test_app_history_browser import LAPTOP


@pytest.fixture(scope="module")
def served(served_and_kept):
    return served_and_kept


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("pictures")
    for number in range(11):
        tiny.picture(200 + number, 150, seed=number).save(path / f"picture {number}.png")
    (path / "picture 3.png").write_bytes(b"not a picture")
    return path


@pytest.mark.parametrize(("size", "theme"), [(LAPTOP, "light"), (NARROW, "dark")])
def test_files_are_explained_and_reported(visit, served, folder, size, theme, tmp_path):
    page = visit(size, theme)
    page.fill("#rv-question textarea", f"Is there a ball {size[0]}?")
    page.click("#rv-many > button")
    page.set_input_files("#rv-many input:not([webkitdirectory])", sorted(folder.iterdir()))
    until(page, lambda: "11 pictures chosen." in page.inner_text("#rv-table"), "they are there")
    page.click("#rv-batch")
    until(page, lambda: "22 of 22 ended" in page.inner_text("#rv-table"), "all of them")
    states = page.locator("#rv-table tbody tr td:last-child").all_inner_texts()
    assert states.count("done") == 20
    assert [state for state in states if "not a picture" in state] == [state for state in states if state != "done"]
    until(page, lambda: page.is_visible("#rv-report"), "the report")
    with page.expect_download() as waiting:
        page.click("#rv-report")
    waiting.value.save_as(tmp_path / "report.html")
    assert "demo-large" in (tmp_path / "report.html").read_text()
    screen(page, f"{size[0]}-{theme}-14-many")
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
    assert page.evaluate(NAMELESS) == []
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    found = axe.run(page).response["violations"]
    assert [(one["id"], one["nodes"][0]["target"]) for one in found if one["impact"] in ("critical", "serious")] == []


def test_a_folder_is_stopped_and_goes_on(visit, served, folder):
    page = visit()
    page.click("#rv-many > button")
    page.set_input_files("#rv-many input[webkitdirectory]", folder)
    until(page, lambda: "11 pictures chosen." in page.inner_text("#rv-table"), "they are there")
    with served.models[1].lock:
        page.click("#rv-batch")
        until(page, lambda: "0 of 22 ended" in page.inner_text("#rv-table"), "it has begun")
        page.click("#rv-cancel")
        until(page, lambda: not page.is_enabled("#rv-cancel"), "stopped")
    page.context.close()
    page = visit()
    page.click("#rv-many > button")
    page.set_input_files("#rv-many input[webkitdirectory]", folder)
    until(page, lambda: "11 pictures chosen." in page.inner_text("#rv-table"), "they are there")
    page.click("#rv-batch")
    until(page, lambda: "22 of 22 ended" in page.inner_text("#rv-table"), "all of them")
