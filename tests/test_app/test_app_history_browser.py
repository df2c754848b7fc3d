"""Earlier runs in a real browser: after a reload and a restart, by a link, found, pinned, compared, deleted."""

import re
from dataclasses import replace

import pytest
from relevancy_app import actions, asking
from relevancy_app.examples import examples
from relevancy_app.history import opened
from relevancy_app.library import library
from relevancy_app.session import Session
from relevancy_app.settings import Settings
from test_app_browser import CUT, NAMELESS, NARROW, explained, screen, sources, until
from test_app_browser import visit as visit

LAPTOP = (1366, 768)


@pytest.fixture(scope="module")
def served(served_and_kept):
    return served_and_kept


@pytest.fixture(scope="module")
def settings(served):
    return served.settings


@pytest.fixture
def history(settings):
    """Empty at first."""
    found = opened(settings.history, settings.history_megabytes)
    for run in found.runs("")[0]:
        found.delete(run.id, "")
    return found


def unfolded(page):
    """The list, once it is there."""
    page.click("#rv-past > button")
    page.wait_for_selector("#rv-list .rv-runs-bar")
    return page.locator("#rv-list .rv-run")


def named(page):
    """The run in the address."""
    return re.search(r"run=([\w-]{22})", page.url)[1]


def test_the_run_is_there_after_a_reload(visit, served, history):
    page = visit(leaves=True)
    page.fill("#rv-question textarea", "What color is the car?")
    explained(page)
    until(page, lambda: "run=" in page.url, "the address names the run")
    maps = sources(page)
    page.reload()
    page.wait_for_selector("#rv-board:not(:has(.rv-place)) [data-drawn] .rv-map")
    assert sources(page) == maps
    assert page.input_value("#rv-question textarea") == "What color is the car?"
    page.wait_for_timeout(500)
    assert page.locator(".rv-stale").count() == 0
    assert history.runs("")[1] == 1
    page.get_by_role("tab", name="What if?").click()
    page.click("[data-part=most]")
    page.wait_for_selector(".rv-change")


def test_back_shows_the_run_before(visit, served, history):
    page = visit(leaves=True)
    explained(page)
    until(page, lambda: "run=" in page.url, "the address names the run")
    first = named(page)
    page.fill("#rv-question textarea", "What color is the car?")
    page.click("#rv-explain")
    until(page, lambda: named(page) != first, "another run")
    page.go_back()
    until(page, lambda: "color is the car" not in page.inner_text("#rv-status"), "the run before")
    assert page.input_value("#rv-question textarea") != "What color is the car?"
    page.go_forward()
    until(page, lambda: "color is the car" in page.inner_text("#rv-status"), "the run after it")
    page.goto("about:blank")
    page.go_back()
    page.wait_for_selector("#rv-board [data-drawn] .rv-map")


def test_the_link_opens_the_run_after_a_restart(
    visit, serve, pair_of_models, tmp_path, browser, settings, served, history
):
    page = visit()
    explained(page)
    until(page, lambda: "run=" in page.url, "the address names the run")
    maps, link = sources(page), named(page)
    with serve(pair_of_models, tmp_path / "again", settings) as again:
        other = browser.new_page()
        other.goto(f"{again.url}?run={link}")
        other.wait_for_selector("#rv-board [data-drawn] .rv-map")
        assert sources(other) == maps
        other.goto(f"{again.url}?run={link[:-1]}_")
        other.wait_for_selector(".toast-body, [data-testid=toast-body]")
        assert "no such run" in other.inner_text(".toast-body, [data-testid=toast-body]")
        other.close()


def test_runs_are_found_named_pinned_and_deleted(visit, served, history):
    page = visit()
    for question in ("Is the duck floating?", "What color is the car?"):
        page.fill("#rv-question textarea", question)
        page.click("#rv-explain")
        until(page, lambda: question in page.inner_text("#rv-status"), "the run")  # noqa: B023
        until(page, lambda: page.locator(".rv-place").count() == 0, "all of it")
    runs = unfolded(page)
    until(page, lambda: runs.count() == 2, "both")
    assert "color is the car" in runs.first.inner_text()
    until(page, lambda: runs.first.locator("img").evaluate("one => one.naturalWidth") > 50, "its thumbnail")
    runs.last.get_by_role("button", name="Pin").click()
    until(page, lambda: "duck" in runs.first.inner_text(), "the pinned one is first")
    assert page.evaluate("document.activeElement.dataset.act") == "pin"
    runs.last.get_by_role("button", name="Name").click()
    page.keyboard.type("My own")
    page.keyboard.press("Enter")
    until(page, lambda: "My own" in runs.last.inner_text(), "its name")
    page.fill("#rv-search textarea, #rv-search input", "own car")
    until(page, lambda: runs.count() == 1, "found")
    assert page.inner_text("#rv-list [role=status]") == "1 run."
    runs.get_by_role("button", name="Delete").click()
    runs.get_by_role("button", name="Delete").click()
    until(page, lambda: runs.count() == 0, "deleted")
    page.fill("#rv-search textarea, #rv-search input", "")
    until(page, lambda: runs.count() == 1, "the other one")
    assert [run.pinned for run in history.runs("")[0]] == [True]
    runs.locator("a").click()
    until(page, lambda: "duck" in page.inner_text("#rv-status"), "it is opened")


@pytest.mark.parametrize(("size", "theme"), [(LAPTOP, "light"), (LAPTOP, "dark"), (NARROW, "light"), (NARROW, "dark")])
def test_two_runs_are_compared(visit, served, history, pair_of_models, size, theme):
    kept = [kept_run(history, pair_of_models, number, question) for number, question in QUESTIONS]
    history.pin(kept[0], "", True)
    history.name(kept[1], "", "A name of my own")
    page, name = visit(size, theme), f"{size[0]}-{theme}"
    runs = unfolded(page)
    until(page, lambda: runs.count() == 3, "all")
    page.wait_for_timeout(500)
    screen(page, f"{name}-11-history")
    for run in kept[:2]:
        page.check(f"[data-run='{run}'] input")
    assert runs.locator("input:disabled").count() == 1
    page.click("[data-compare]")
    page.wait_for_selector("#rv-compared-first [data-drawn]")
    assert page.locator("#rv-compared-first .rv-map").count() == 4
    assert "They differ in question." in page.inner_text("#rv-compared")
    screen(page, f"{name}-12-compared")
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
    assert page.evaluate(CUT) == []
    assert page.evaluate(NAMELESS) == []
    page.uncheck(f"[data-run='{kept[1]}'] input")
    page.check(f"[data-run='{kept[2]}'] input")
    page.click("[data-compare]")
    page.wait_for_selector("#rv-compared-second [data-drawn] .rv-map")
    assert "different pictures" in page.inner_text("#rv-compared")
    screen(page, f"{name}-13-apart")
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
    page.click("[data-clear]")
    until(page, lambda: page.locator("#rv-pair .rv-board").count() == 0, "closed")


QUESTIONS = ((0, "Is the duck floating?"), (0, "What color is the house?"), (1, "Is there a boat?"))


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing_serious(visit, served, history, pair_of_models, theme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    kept = [kept_run(history, pair_of_models, number, question) for number, question in QUESTIONS[:2]]
    history.pin(kept[0], "", True)
    page = visit(LAPTOP, theme)
    runs = unfolded(page)
    until(page, lambda: runs.count() == 2, "both")
    for run in kept:
        page.check(f"[data-run='{run}'] input")
    page.click("[data-compare]")
    page.wait_for_selector("#rv-compared-first [data-drawn]")
    runs.last.get_by_role("button", name="Delete").click()
    runs.first.get_by_role("button", name="Name").click()
    page.wait_for_timeout(300)
    found = axe.run(page).response["violations"]
    assert [(one["id"], one["nodes"][0]["target"]) for one in found if one["impact"] in ("critical", "serious")] == []


def kept_run(history, models, number, question):
    """A run about an example's picture."""
    import io

    buffer, shelf = io.BytesIO(), library(models)
    examples()[number].image.save(buffer, "PNG")
    ask = asking.ask(shelf, Settings(), question, [model.name for model in models])
    *_, whole = actions.explained(shelf, Settings(), Session(ask, buffer.getvalue()), lambda *_: None)
    return history.keep(whole, "").kept


def test_with_a_password_each_user_sees_their_own(browser, serve, pair_of_models, tmp_path, outside):
    logins = (("eve", "one"), ("bob", "two"))
    settings = Settings(history=tmp_path / "history.sqlite3", logins=logins)
    with serve(pair_of_models, tmp_path / "served", settings) as running:
        history = opened(settings.history, 100)
        kept = kept_run(history, pair_of_models, *QUESTIONS[0])
        ours = history.keep(replace(history.run(kept, ""), kept=""), "eve").kept
        pages = {}
        for user, password in logins:
            page = pages[user] = browser.new_context().new_page()
            page.goto(running.url)
            page.fill("input[type=text], label:has-text('username') textarea", user)
            page.fill("input[type=password]", password)
            page.keyboard.press("Enter")
            page.wait_for_selector("#rv-explain")
            page.goto(f"{running.url}?run={ours}")
        pages["eve"].wait_for_selector("#rv-board [data-drawn] .rv-map")
        pages["bob"].wait_for_selector(".toast-body, [data-testid=toast-body]")
        counts = {}
        for user, page in pages.items():
            counts[user] = unfolded(page).count()
            status = page.evaluate(f"fetch('thumbnail?run={ours}').then((got) => got.status)")
            assert status == (200 if user == "eve" else 404)
            page.context.close()
        assert counts == {"eve": 1, "bob": 0}


def test_a_long_list_comes_as_it_is_scrolled(visit, served, history, pair_of_models):
    whole = replace(history.run(kept_run(history, pair_of_models, *QUESTIONS[0]), ""), kept="")
    for number in range(120):
        history.keep(replace(whole, ask=replace(whole.ask, question=f"{number}?")), "")
    page, asked = visit(LAPTOP), []
    page.on("request", lambda request: asked.append(request.url) if "thumbnail" in request.url else None)
    runs = unfolded(page)
    until(page, lambda: runs.count() == 100, "the first of them")
    page.wait_for_timeout(500)
    assert 0 < len(asked) < 60  # those in sight, and some below
    page.eval_on_selector("#rv-list .rv-runs", "list => list.scrollTo(0, list.scrollHeight)")
    until(page, lambda: runs.count() == 121, "all of them")
    assert page.eval_on_selector("#rv-list .rv-runs", "list => list.scrollTop") > 500
    runs.nth(80).get_by_role("button", name="Pin").click()
    until(page, lambda: history.runs("")[0][0].pinned, "pinned")
    until(page, lambda: runs.first.locator("[aria-pressed=true]").count() == 1, "first")
    assert runs.count() == 121
