"""The page of a benchmark: every number worked out once more by hand, and the page in a browser, wide and narrow."""

import json

import exports
import numpy as np
import pytest
from screens import KEPT

from relevancy.evaluate.runner import Evaluation
from relevancy.evaluate.scores import PERCENT, BenchmarkScore, Protocol
from relevancy.report.picture_use import picture_use
from relevancy.stats.clustered import Estimate

SCREENS = KEPT / "benchmark"
PROTOCOL = Protocol("VQAv2, val2014", "2", "<image>\n{question}", 128, "rules")
ROWS = 48


def category(row):
    """Most rows in which small needs the picture are in the one, most others in the other."""
    return "color" if (row % 2 == 0 and row % 16) or row % 8 == 1 else "count"


def changes(row, model):
    """Total variation without the picture, and whether the answer is right and begins the same without it."""
    needs = row % 2 == 0 if model == "small" else row % 3 != 0
    right = row % 4 != 1 if model == "small" else row % 4 != 3
    return (0.6 if needs else 0.02) + row / 1000, right, not needs or row % 8 == 0


def lines(folder, names=("small", "large"), **values):
    for row in range(ROWS):
        path = exports.picture_file(folder, row // 2)
        for model, name in zip(("small", "large"), names, strict=False):
            change, _, same = changes(row, model)
            own = {
                "picture": str(path), "picture_hash": None, "in_category": category(row),
                "evidence_blind_tv": change, "verdict": "unconfirmed", "evidence_blind_token": "▁A" if same else "▁No",
            }  # fmt: skip
            yield exports.line(row, name, **own | values)
    for name in names[:1]:  # an answer without a map
        yield exports.line(
            ROWS, name, image_map=None, cols=None, rows=None, in_category=values.get("in_category", "color")
        )


def score(model):
    rights = {f"item-{row}": float(changes(row, model)[1]) for row in range(ROWS)}
    estimates = {"all": {"accuracy": Estimate(0.75, 0.6, 0.9, ROWS, ROWS // 2)}}
    return BenchmarkScore("vqav2", PROTOCOL, PERCENT, ("all", "accuracy"), estimates, rights=rights)


def evaluation(folder, names=("small", "large"), **values):
    export = exports.write_export(folder / "export", lines(folder, names, **values))
    scores = dict(zip(names, map(score, ("small", "large")), strict=False))
    return Evaluation("vqav2", folder, export, scores, {name: folder / name for name in names})


def test_every_number_is_what_a_count_gives(tmp_path):
    found = picture_use(evaluation(tmp_path), gallery=2)
    assert found.questions == ROWS
    for one in found.models:
        known = [changes(row, one.name) for row in range(ROWS)]
        needs = [change >= 0.1 for change, _, _ in known]
        right = [value for _, value, _ in known]
        assert one.rows == ROWS
        assert one.needs.value == pytest.approx(np.mean(needs))
        assert one.change.value == pytest.approx(np.mean([change for change, _, _ in known]))
        assert one.right.value == pytest.approx(np.mean(right))
        halves = [np.mean([value for value, need in zip(right, needs, strict=True) if need == it]) for it in (1, 0)]
        assert one.right_needing.value == pytest.approx(halves[0])
        assert one.right_otherwise.value == pytest.approx(halves[1])
        assert one.gap.value == pytest.approx(halves[0] - halves[1])
        assert one.unseen.value == pytest.approx(np.mean([same for _, value, same in known if value]))
        same = np.mean([same for _, _, same in known])
        assert dict(one.openings) == pytest.approx({"▁A": same, "▁No": 1 - same})
        assert one.change.low < one.change.value < one.change.high
        assert one.needs.pictures == ROWS // 2
    (pair,) = found.pairs
    both = [[changes(row, name) for row in range(ROWS)] for name in ("small", "large")]
    assert (pair.first, pair.second, pair.rows) == ("small", "large", ROWS)
    differences = [np.array([float(row[at]) for row in both[0]]) - [float(row[at]) for row in both[1]] for at in (1, 0)]
    assert pair.right.value == pytest.approx(differences[0].mean())
    assert pair.change.value == pytest.approx(differences[1].mean())
    assert pair.needs.value == pytest.approx(found.models[0].needs.value - found.models[1].needs.value)
    assert sorted(group.rows for group in found.groups) == [21, 27]
    for group in found.groups:
        rows = [row for row in range(ROWS) if category(row) == group.value]
        assert group.right["small"].value == pytest.approx(np.mean([changes(row, "small")[1] for row in rows]))


def test_the_gap_within_categories_is_of_categories_alone(tmp_path):
    found = picture_use(evaluation(tmp_path), gallery=0)
    one = found.models[0]
    parts = []
    for name in ("color", "count"):
        rows = [row for row in range(ROWS) if category(row) == name]
        values = [[changes(row, "small")[1] for row in rows if (row % 2 == 0) == need] for need in (True, False)]
        weight = len(values[0]) * len(values[1]) / len(rows)
        parts.append((weight, np.mean(values[0]) - np.mean(values[1])))
    assert abs(one.gap_within.value - one.gap.value) > 0.01
    assert one.gap_within.value == pytest.approx(sum(w * gap for w, gap in parts) / sum(w for w, _ in parts))


def test_the_gallery_shows_what_it_says(tmp_path):
    found = picture_use(evaluation(tmp_path), gallery=3)
    shelves = {shelf.title: (shelf, cards) for shelf, cards in found.gallery}
    shelf, cards = shelves["small: right without looking"]
    known = {f"item-{row}": changes(row, "small") for row in range(ROWS)}
    fitting = sorted((change, own) for own, (change, right, same) in known.items() if right and same)
    assert shelf.candidates == len(fitting)
    assert cards[0].id == fitting[0][1]
    assert all(known[card.id][1] and known[card.id][2] for card in cards)
    _, cards = shelves["small: looked, and wrong"]
    assert cards[0].id == max((change, own) for own, (change, right, _) in known.items() if not right)[1]
    _, cards = shelves["small is right, large is not"]
    assert all(changes(int(card.id[5:]), "small")[1] and not changes(int(card.id[5:]), "large")[1] for card in cards)
    # Right and wrong are the benchmark's, not the export's own.
    assert {(seen.model, seen.correct) for seen in cards[0].seen} == {("small", True), ("large", False)}


def test_questions_without_categories_are_grouped_by_form(tmp_path):
    found = picture_use(evaluation(tmp_path, ("small",), in_category=""), gallery=0)
    assert found.grouped == "form of question"
    assert [group.value for group in found.groups] == ["what is"]
    assert found.pairs == ()


def test_answers_that_no_one_graded_have_no_right_and_wrong(tmp_path):
    done = evaluation(tmp_path)
    found = picture_use(Evaluation("mm-vet", tmp_path, done.export, {"small": None, "large": None}, done.folders))
    assert found.models[0].right.value is None
    assert found.models[0].needs.value is not None
    assert "not graded yet" in found.html()


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    long = ("organisation/a-very-long-model-name-without-a-place-to-break-it-2b", "x")
    made = {}
    for name, names, more in (
        ("full", ("small", "large"), {}),
        ("long", long, {"question": "Why? " * 60, "answer": "Because " * 40, "token": "▁" * 40}),
        ("one", ("small",), {}),
    ):
        (folder / name).mkdir()
        made[name] = picture_use(evaluation(folder / name, names, **more), gallery=2).save(folder / name / "report")
    return made


def test_a_page_needs_nothing_else_and_its_numbers_stand_beside_it(pages):
    text = pages["full"].read_text()
    assert "<script" not in text
    assert "http" not in text.replace("http-equiv", "")
    numbers = json.loads(pages["full"].with_suffix(".json").read_text())
    assert [one["name"] for one in numbers["models"]] == ["small", "large"]
    assert numbers["scores"]["small"]["headline"]["value"] == 0.75
    assert not (pages["full"].parent / "report.html").exists()


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("name", ["full", "long", "one"])
def test_a_page_can_be_read(browser, pages, name, width):
    from test_report_browser import CONTRAST, CUT, OVERLAPS

    SCREENS.mkdir(parents=True, exist_ok=True)
    for theme in ("light", "dark"):
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=theme)
        page.goto(pages[name].as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") == width
        assert page.evaluate(CUT) == []
        assert page.evaluate(OVERLAPS) == []
        ratio, where = page.evaluate(CONTRAST)
        assert ratio >= 4.5, where
        page.screenshot(path=SCREENS / f"{name}-{width}-{theme}.png", full_page=True)
        links = page.eval_on_selector_all("nav a", "all => all.map(one => one.getAttribute('href'))")
        assert all(page.query_selector(link) for link in links)
        page.close()
