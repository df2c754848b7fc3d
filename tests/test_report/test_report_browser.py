"""The page in a real browser, as a file: nothing asked for, nothing cut, legible wide and narrow, by day and night."""

import exports
import numpy as np
import pytest
from screens import KEPT

from relevancy.report.build import make_report, save

SCREENS = KEPT / "report"
WIDE, NARROW = (1280, 900), (390, 844)
# Elements whose text is wider than themselves, and labels of an axis that lie over each other.
CUT = """() => Array.from(document.querySelectorAll('main *, header *'))
  .filter((one) => one.offsetParent && getComputedStyle(one).display !== 'inline' && !one.closest('svg'))
  .filter((one) => one.scrollWidth > one.clientWidth + 1 && !one.closest('.spread, .whisker, .scale'))
  .map((one) => one.className || one.tagName)"""
OVERLAPS = """() => Array.from(document.querySelectorAll('.scale')).filter((scale) => {
  const boxes = Array.from(scale.children).map((one) => one.getBoundingClientRect());
  return boxes.some((box, n) => n && box.left < boxes[n - 1].right + 2);
}).map((scale) => scale.textContent)"""
# Contrast of every text to what lies behind it, by WCAG's relative luminance.
CONTRAST = """() => {
  const parse = (color) => color.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((c) => c / 255)
    .map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, n) => sum + c * [0.2126, 0.7152, 0.0722][n], 0);
  const behind = (one) => {
    for (; one; one = one.parentElement) {
      const color = parse(getComputedStyle(one).backgroundColor);
      if (color.length < 4 || color[3] > 0) return color;
    }
  };
  let least = [99, ''];
  for (const one of document.querySelectorAll('main *, header *')) {
    if (!one.offsetParent || !Array.from(one.childNodes).some((n) => n.nodeType === 3 && n.data.trim())) continue;
    const [a, b] = [light(parse(getComputedStyle(one).color)), light(behind(one))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < least[0]) least = [ratio, one.outerHTML.slice(0, 120)];
  }
  return least;
}"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """A full report, one with long names and three models, and one with next to nothing in it."""
    folder = tmp_path_factory.mktemp("pages")
    rng = np.random.default_rng(0)
    edges, lines = np.linspace(0, 64, 5).tolist(), []
    for number in range(40):
        path = exports.picture_file(folder, number, (64, 48))
        for model, share in (("demo-small", 0.3), ("demo-large", 0.36)):
            lines += [
                exports.line(
                    2 * number + question, model, picture=str(path), picture_hash=None, width=64, height=48,
                    x_edges=edges, y_edges=np.linspace(0, 48, 5).tolist(),
                    share_image=float(np.clip(share + 0.1 * rng.normal(), 0, 1)),
                    boxes=[[4.0, 4.0, 30.0, 30.0]], in_type=("color", "count")[question],
                )
                for question in range(2)
            ]  # fmt: skip
    lines.append(exports.failed(999, "demo-small"))
    (folder / "7.png").unlink()
    full = exports.write_export(folder / "full", lines)
    names = ["organisation/a-very-long-model-name-without-a-place-to-break-it-2b", "x", "third-model"]
    long = [
        exports.line(row, name, question="Why? " * 60, answer="Because " * 40, id="id" * 100)
        for name in names
        for row in range(24)
    ]
    few = [exports.line(row, correct=None) for row in range(3)]
    made = {
        "full": make_report(full, by=["type"], gallery=4, resamples=300),
        "long": make_report(exports.write_export(folder / "long", long), by=["question"], gallery=2, resamples=300),
        "few": make_report(
            exports.write_export(folder / "few", few, finished=False, rows=None), gallery=0, resamples=300
        ),
    }
    return {name: save(report, folder / "out" / name) for name, report in made.items()}


@pytest.mark.parametrize("size", [WIDE, NARROW])
@pytest.mark.parametrize("name", ["full", "long", "few"])
def test_a_page_can_be_read(browser, pages, name, size):
    SCREENS.mkdir(parents=True, exist_ok=True)
    asked, said = [], []
    for theme in ("light", "dark"):
        page = browser.new_page(viewport={"width": size[0], "height": size[1]}, color_scheme=theme)
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: said.append(message.text))
        page.goto(pages[name].as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") == size[0]
        assert page.evaluate(CUT) == []
        assert page.evaluate(OVERLAPS) == []
        ratio, where = page.evaluate(CONTRAST)
        assert ratio >= 4.5, where
        page.screenshot(path=SCREENS / f"{name}-{size[0]}-{theme}.png", full_page=True)
        page.close()
    assert {url for url in asked if not url.startswith("data:")} == {pages[name].as_uri()}
    assert said == []


def test_every_link_leads_to_a_section_and_every_picture_is_drawn(browser, pages):
    page = browser.new_page()
    page.goto(pages["full"].as_uri())
    links = page.eval_on_selector_all("nav a", "all => all.map(one => one.getAttribute('href'))")
    assert len(links) >= 8
    assert all(page.query_selector(link) for link in links)
    drawn = page.eval_on_selector_all("img", "all => all.map(one => one.complete && one.naturalWidth > 0)")
    assert len(drawn) >= 12
    assert all(drawn)
    page.close()
