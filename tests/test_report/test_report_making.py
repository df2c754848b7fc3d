"""Whole reports: numbers recomputed from the rows as they were written, matching of rows, refusals, hostile text."""

import json
import math

import exports
import numpy as np
import pyarrow.parquet as pq
import pytest

from relevancy.errors import RelevancyError
from relevancy.export.schema import schema
from relevancy.report.build import make_report, save
from relevancy.report.claim import by_size
from relevancy.report.groups import Grouping
from relevancy.report.measures import form_of
from relevancy.report.page import page
from relevancy.report.source import NEEDED
from relevancy.report.words import MEASURES

QUICK = {"resamples": 200, "gallery": 2}


def rows_of(folder):
    """Every line, as written."""
    return [row for part in sorted(folder.glob("results/*.parquet")) for row in pq.read_table(part).to_pylist()]


def results_of(folder, model):
    return {row["row"]: row for row in rows_of(folder) if row["model"] == model and row["error"] is None}


def top_tenth(values):
    values = sorted(values, reverse=True)
    whole = len(values) // 10
    return (sum(values[:whole]) + values[whole] * (len(values) / 10 - whole)) / sum(values)


def test_columns_are_those_of_an_export():
    assert set(NEEDED) <= set(schema({}).names)
    assert set(exports.COLUMNS) <= set(schema({}).names)


def test_every_models_means_are_those_of_its_rows(two_models):
    stored = make_report(two_models, **QUICK).to_json()
    for model in stored["models"]:
        rows = results_of(two_models, model["name"]).values()
        expected = {
            "image_share": [row["share_image"] for row in rows],
            "text_share": [row["share_text"] for row in rows],
            "first_token_share": [row["share_first_token"] for row in rows],
            "probability": [row["probability"] for row in rows],
            "correct": [row["correct"] for row in rows],
            "top_mass": [top_tenth(row["image_map"]) for row in rows],
        }
        for measure, values in expected.items():
            found = model["means"][measure]
            assert found["value"] == pytest.approx(sum(values) / len(values), rel=1e-6)
            assert (found["rows"], found["pictures"]) == (30, 15)
            assert found["low"] < found["value"] < found["high"]
        assert sum(model["spread"]["image_share"]["counts"]) == 30
        assert model["errors"] == 1


def test_differences_are_paired_row_by_row(two_models):
    stored = make_report(two_models, **QUICK).to_json()
    (pair,) = stored["pairs"]
    small, large = (results_of(two_models, name) for name in ("small", "large"))
    assert (pair["first"], pair["second"], pair["rows"]) == ("small", "large", 30)
    differences = [small[row]["share_image"] - large[row]["share_image"] for row in small]
    found = pair["differences"]["image_share"]
    assert found["difference"]["value"] == pytest.approx(np.mean(differences))
    assert found["effect"]["value"] == pytest.approx(np.mean(differences) / np.std(differences, ddof=1))
    assert found["lower"] == pytest.approx(np.mean([difference < 0 for difference in differences]))
    assert found["p"] <= found["p_adjusted"] <= 1
    assert stored["tests"] == len(MEASURES)
    for outcome in pair["outcomes"]:
        chosen = [
            small[row]["share_image"] - large[row]["share_image"]
            for row in small
            if (small[row]["correct"], large[row]["correct"]) == (outcome["first_right"], outcome["second_right"])
        ]
        assert outcome["difference"]["rows"] == len(chosen)
        if chosen:
            assert outcome["difference"]["value"] == pytest.approx(np.mean(chosen))


def test_right_beside_wrong(two_models):
    stored = make_report(two_models, **QUICK).to_json()
    rows = results_of(two_models, "small").values()
    right = [row["share_image"] for row in rows if row["correct"]]
    wrong = [row["share_image"] for row in rows if not row["correct"]]
    found = stored["rightness"]["small"]["image_share"]
    assert found["gap"]["value"] == pytest.approx(np.mean(right) - np.mean(wrong))
    area = np.mean([(one > other) + (one == other) / 2 for one in right for other in wrong])
    assert found["area"]["value"] == pytest.approx(area)


@pytest.mark.parametrize(
    ("question", "form"),
    [
        ("What color is the duck?", "what color"),
        ("what  COLOR, is it (a) Red (b) Blue", "what color … with options"),
        ("Is it red?\nA. Yes\nB. No", "is it … with options"),
        ("Duck?", "duck"),
        ("", ""),
    ],
)
def test_forms_of_questions(question, form):
    assert form_of(question) == form


def test_what_goes_with_being_right_is_said_within_forms_of_questions(tmp_path):
    """Easy questions leave much relevance on the picture, hard ones little; within each, right and wrong are alike."""
    rng = np.random.default_rng(0)
    lines = []
    for row in range(160):
        easy = row % 2 == 0
        right = bool(rng.random() < (0.85 if easy else 0.15))
        share = (0.6 if easy else 0.2) + 0.05 * rng.normal()
        question = "What color is it?" if easy else "How many are there?"
        lines.append(exports.line(row, question=question, share_image=share, correct=right))
    report = make_report(exports.write_export(tmp_path / "forms", lines), **QUICK)
    (found,) = report.findings.rightness.values()
    image = found["image_share"]
    assert image.forms == 2
    assert image.area.low > 0.6
    assert image.gap.low > 0.1
    assert image.area_within.low < 0.5 < image.area_within.high
    assert image.gap_within.low < 0 < image.gap_within.high
    html = page(report)
    assert "Within each of 2 forms of questions, these rows do not decide whether the image share goes with" in html
    assert "goes with being right." not in html.replace("the image share goes with being right.", "")


def test_no_form_with_right_and_wrong_answers_says_nothing(tmp_path):
    lines = [
        exports.line(row, question="What color?" if row % 2 else "How many?", correct=bool(row % 2))
        for row in range(60)
    ]
    report = make_report(exports.write_export(tmp_path / "apart", lines), **QUICK)
    (found,) = report.findings.rightness.values()
    assert (found["image_share"].area_within.value, found["image_share"].forms) == (None, 0)
    assert "No form of question has both right and wrong answers" in page(report)


def test_medians_stand_beside_means(two_models):
    """Of shares over eight decades the mean is that of a few; the median is the middle row's."""
    report = make_report(two_models, **QUICK)
    stored = report.to_json()
    for model in stored["models"]:
        shares = [row["share_image"] for row in results_of(two_models, model["name"]).values()]
        found = model["medians"]["image_share"]
        assert found["value"] == pytest.approx(np.median(shares))
        assert found["low"] <= found["value"] <= found["high"]
        assert f"median {found['value']:.1%}" in page(report)
    small, large = (results_of(two_models, name) for name in ("small", "large"))
    differences = [small[row]["share_image"] - large[row]["share_image"] for row in small]
    (pair,) = stored["pairs"]
    assert pair["differences"]["image_share"]["median"]["value"] == pytest.approx(np.median(differences))


def test_shares_are_not_called_looking_and_effects_have_no_size(two_models):
    html = page(make_report(two_models, **QUICK))
    for word in ("nearly blind", "looked at", "attention to the picture", "negligible", "effect is", "Cohen"):
        assert word not in html, word
    assert "A small image share is no sign that the picture was not used" in html


def test_groups_of_a_column(two_models):
    stored = make_report(two_models, by=["type"], **QUICK).to_json()
    (split,) = stored["splits"]
    assert [group["value"] for group in split["groups"]] == ["color", "count", "rare"]
    for group in split["groups"]:
        rows = [row for row in results_of(two_models, "large").values() if row["in_type"] == group["value"]]
        found = group["means"]["large"]["image_share"]
        assert found["value"] == pytest.approx(np.mean([row["share_image"] for row in rows]))
        assert found["rows"] == len(rows) == group["rows"]
    rare = split["groups"][-1]
    assert rare["means"]["large"]["image_share"]["low"] is None  # six rows
    assert (rare["differences"][0]["p"], rare["differences"][0]["p_adjusted"]) == (None, None)


def test_groups_of_numbers_are_quarters_and_of_many_names_the_largest():
    quarters = Grouping.of([[float(value) for value in range(100)], [None]])
    places = quarters.places([0.0, 30.0, 60.0, 99.0, None])
    assert [quarters.names[place] for place in places] == [*quarters.names[:4], "(none)"]
    assert quarters.names[0] == "0 to 24.75"
    names = Grouping.of([[f"name {number}" for number in range(20) for _ in range(20 - number)]])
    assert (len(names.names), names.left_out, names.names[0]) == (12, 8, "name 0")
    assert names.places(["name 19"]).tolist() == [-1]
    mostly_zero = Grouping.of([[0] * 90 + list(range(20))])
    assert set(mostly_zero.places([0, 19]).tolist()) <= set(range(len(mostly_zero.names)))


def test_a_column_of_the_export_itself_makes_groups_too(two_models):
    stored = make_report(two_models, by=["expected", "scope"], **QUICK).to_json()
    assert [group["value"] for split in stored["splits"] for group in split["groups"]] == ["A duck.", "language"]


def test_the_claim_is_supported_opposed_and_left_open(tmp_path):
    def folder(name, shift, noise=0.05):
        rng = np.random.default_rng(4)
        rows = [(row, 0.4 + noise * rng.normal()) for row in range(60)]
        lines = [
            exports.line(row, model, share_image=share + (shift if model == "demo-small" else 0) * (1 + rng.normal()))
            for model in ("demo-large", "demo-small")
            for row, share in rows
        ]
        return exports.write_export(tmp_path / name, lines)

    for name, shift, verdict in (("less", -0.1, "supports"), ("more", 0.1, "against"), ("same", 0.0, "undecided")):
        reading = make_report(folder(name, shift), **QUICK).reading
        assert (reading.verdict, reading.smaller, reading.assumed) == (verdict, "demo-small", False)


def test_the_claim_is_left_open_with_few_pictures_and_not_asked_of_one_model(tmp_path):
    lines = [exports.line(row, model, picture_hash="one") for model in ("2b", "7b") for row in range(50)]
    reading = make_report(exports.write_export(tmp_path / "few", lines), **QUICK).reading
    assert (reading.verdict, reading.difference.p) == ("undecided", None)
    alone = exports.write_export(tmp_path / "alone", [exports.line(row) for row in range(12)])
    assert make_report(alone, **QUICK).reading.verdict == "not asked"


def test_the_claim_says_when_other_tokens_than_the_papers_were_explained(tmp_path):
    def said(target):
        lines = [exports.line(row, model) for model in ("2b", "7b") for row in range(12)]
        folder = exports.write_export(tmp_path / target, lines, configuration={"target": target})
        return " ".join(make_report(folder, **QUICK).reading.sentences)

    assert "here it was “first”" in said("first")
    assert "here it was" not in said("first-relevant")


@pytest.mark.parametrize(
    ("names", "order", "told"),
    [
        (["Intel/llava-gemma-7b", "Intel/llava-gemma-2b"], [1, 0], True),
        (["demo-large", "demo-small"], [1, 0], True),
        (["Qwen2.5-VL-72B", "Qwen2.5-VL-7B", "Qwen2.5-VL-3B"], [2, 1, 0], True),
        (["b", "a"], [0, 1], False),
        (["x-2b", "y-2b"], [0, 1], False),
    ],
)
def test_names_tell_sizes(names, order, told):
    assert by_size(names) == (order, told)


def test_the_smaller_model_may_be_named(two_models):
    named = make_report(two_models, smaller="large", **QUICK)
    assert [model.name for model in named.findings.models] == ["large", "small"]
    with pytest.raises(RelevancyError, match="--smaller medium: the models are small, large"):
        make_report(two_models, smaller="medium", **QUICK)


def test_two_exports_are_matched_by_id_question_and_picture(tmp_path):
    first = exports.write_export(tmp_path / "a", [exports.line(row, "small") for row in range(20)])
    lines = [exports.line(row, "small", row=19 - row, share_image=0.9) for row in range(20)]
    lines[3]["question"] = "Something else?"
    second = exports.write_export(tmp_path / "b", lines, configuration={"models": ["small"], "target": "all"})
    report = make_report(first, second, **QUICK)
    (pair,) = report.findings.pairs
    assert (pair.first, pair.second, pair.rows) == ("small (a)", "small (b)", 19)
    shares = [row["share_image"] for number, row in results_of(first, "small").items() if number != 3]
    assert pair.differences["image_share"].difference.value == pytest.approx(np.mean(shares) - 0.9)
    assert "target" in report.differing
    assert report.reading.verdict == "not asked"


def test_localisation_beside_chance(tmp_path):
    edges, lines = np.linspace(0, 40, 5).tolist(), []
    mask = exports.picture_file(tmp_path, 0)
    from PIL import Image

    pixels = np.zeros((40, 40), np.uint8)
    pixels[:10, :10] = 255
    Image.fromarray(pixels).save(mask)
    for row in range(24):
        values = np.full(16, 0.1)
        values[0 if row % 3 else 5] = 1.5  # two thirds of the peaks are on the upper left cell
        truth = {"boxes": [[0.0, 0.0, 10.0, 10.0]]} if row % 2 else {"mask": str(mask)}
        lines.append(exports.line(row, x_edges=edges, y_edges=edges, image_map=values.tolist(), **truth))
    lines += [exports.line(row, mask=str(tmp_path / "gone.png")) for row in (30, 31)]
    stored = make_report(exports.write_export(tmp_path / "x", lines), **QUICK).to_json()
    found = stored["localisation"]["small"]
    assert found["pointing"]["value"] == pytest.approx(2 / 3)
    assert found["pointing_chance"] == found["energy_chance"] == pytest.approx(1 / 16)
    assert found["energy"]["value"] == pytest.approx((2 * 1.5 / 3 + 0.1 / 3) / 3.0)
    assert found["pointing"]["rows"] == 24
    assert stored["unreadable_masks"] == 2


def test_the_gallery_holds_what_it_says(tmp_path):
    lines = []
    for row in range(14):
        path = exports.picture_file(tmp_path, row)
        shown = {"picture": str(path), "picture_hash": None, "correct": row % 2 == 0}
        lines += [exports.line(row, model, **shown) for model in ("small", "large")]
    folder = exports.write_export(tmp_path / "x", lines)
    (tmp_path / "3.png").unlink()
    exports.picture_file(tmp_path, 5, (50, 20))
    report = make_report(folder, gallery=14, resamples=100)
    apart, wrong, least = report.gallery
    values = [choice.value for choice in apart[0].choices]
    assert values == sorted(values, reverse=True)
    assert len(values) == 14
    sure = sorted((one["probability"] for one in lines if not one["correct"]), reverse=True)
    assert wrong[0].candidates == 14
    assert wrong[0].choices[0].value == pytest.approx(sure[0])
    assert least[0].choices[0].value == pytest.approx(min(one["share_image"] for one in lines))
    cards = {card.id: card for card in apart[1]}
    assert cards["item-3"].picture is None
    assert "no longer at" in cards["item-3"].missing
    assert "another picture is now at" in cards["item-5"].missing
    assert cards["item-4"].picture.startswith("data:image/webp;base64,")
    assert [seen.model for seen in cards["item-4"].seen] == ["small", "large"]


def test_maps_with_signs_have_a_color_scale_of_their_own(tmp_path):
    plain = [exports.line(row) for row in range(4)]
    signed = [exports.line(row, image_map=[-1.0, 1.0] * 8) for row in range(4, 8)]

    def scales(name, lines):
        told = page(make_report(exports.write_export(tmp_path / name, lines), gallery=8, resamples=100))
        return told.count("none<i"), told.count("speaks against the answer<i")

    assert scales("plain", plain) == (1, 0)
    assert scales("signed", signed) == (0, 1)
    assert scales("both", [*plain, *signed]) == (1, 1)


def test_no_picture_is_shown_twice_for_one_reason(tmp_path):
    lines = [exports.line(row, picture_hash=f"picture-{row % 3}") for row in range(30)]
    report = make_report(exports.write_export(tmp_path / "x", lines), gallery=20, resamples=100)
    assert [len(cards) for _, cards in report.gallery][-1] == 3


def test_the_same_input_gives_the_same_report_and_the_json_has_no_number_json_lacks(two_models, tmp_path):
    one, other = (make_report(two_models, by=["type"], **QUICK) for _ in range(2))
    for number, report in enumerate((one, other)):
        save(report, tmp_path / str(number))
    texts = [(tmp_path / str(number) / "report.json").read_text() for number in range(2)]
    assert texts[0] == texts[1]
    json.loads(texts[0], parse_constant=lambda name: pytest.fail(name))
    assert (tmp_path / "0" / "report.html").read_text() == (tmp_path / "1" / "report.html").read_text()
    assert sorted(path.name for path in (tmp_path / "0").iterdir()) == ["report.html", "report.json"]


def test_nothing_that_an_export_says_becomes_markup(tmp_path):
    evil = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&"
    lines = [
        exports.line(
            row, f"m{evil}{number}", question=evil, answer=evil, id=f"{evil}{row}", expected=evil, in_kind=evil
        )
        for number in range(2)
        for row in range(12)
    ]
    lines.append(exports.failed(12, f"m{evil}0", evil))
    folder = exports.write_export(tmp_path / "x", lines, versions={evil: evil}, created=evil)
    page = save(make_report(folder, by=["kind"], **QUICK), tmp_path / "out").read_text()
    assert "&lt;script&gt;" in page
    for tag in ("<script", "<img src=x", 'onerror=alert(2)>"'):
        assert tag not in page
    assert "http" not in page.replace("http-equiv", "")


def test_odd_maps_are_counted_and_do_no_harm(tmp_path):
    lines = [exports.line(row) for row in range(12)]
    lines[0]["image_map"] = [0.0] * 16
    lines[1]["image_map"] = [float("nan")] * 16
    lines[2]["image_map"] = [1.0] * 9  # does not fit its grid
    lines[3]["probability"] = None
    lines[4]["correct"] = None
    report = make_report(exports.write_export(tmp_path / "x", [*lines, lines[5]]), gallery=12, resamples=100)
    (model,) = report.findings.models
    assert (model.results, model.empty_maps, report.findings.repeated) == (12, 3, 1)
    assert (model.means["probability"].rows, model.means["correct"].rows) == (11, 11)
    assert save(report, tmp_path / "out").is_file()


def test_an_unfinished_export_says_so(tmp_path):
    folder = exports.write_export(tmp_path / "x", [exports.line(row) for row in range(4)], finished=False, rows=None)
    page = save(make_report(folder, **QUICK), tmp_path / "out").read_text()
    assert "is not finished" in page
    assert "fewer than 10" in page


@pytest.mark.parametrize("part", [1, 7, 64])
def test_parts_and_batches_of_any_size_give_the_same_numbers(tmp_path, part, monkeypatch):
    lines = [exports.line(row, model, in_type=str(row % 3)) for row in range(20) for model in ("small", "large")]
    whole = make_report(exports.write_export(tmp_path / "whole", lines), by=["type"], **QUICK).to_json()
    monkeypatch.setattr("relevancy.report.source.BATCH", 5)
    pieces = make_report(exports.write_export(tmp_path / "pieces", lines, part=part), by=["type"], **QUICK).to_json()
    assert whole["models"] == pieces["models"]
    assert whole["pairs"] == pieces["pairs"]
    assert whole["splits"] == pieces["splits"]


def test_half_precision_maps_are_read(tmp_path):
    lines = [exports.line(row) for row in range(12)]
    folder = exports.write_export(tmp_path / "x", lines)
    path = folder / "results" / "part-00000.parquet"
    table = pq.read_table(path)
    import pyarrow as pa

    place = table.schema.get_field_index("image_map")
    half = pa.array([np.array(one["image_map"], np.float16) for one in lines], pa.list_(pa.float16()))
    pq.write_table(table.set_column(place, "image_map", half), path)
    (model,) = make_report(folder, **QUICK).findings.models
    assert model.means["top_mass"].value == pytest.approx(
        np.mean([top_tenth(one["image_map"]) for one in lines]), abs=1e-3
    )
    assert not math.isnan(model.means["entropy"].value)


# -- refusals


def test_what_is_no_export_is_refused(tmp_path):
    with pytest.raises(RelevancyError, match="no such folder"):
        make_report(tmp_path / "nothing")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(RelevancyError, match="it has no manifest"):
        make_report(empty)
    for text in ("[]", "{", '{"format": 99}'):
        (empty / "manifest.json").write_text(text)
        with pytest.raises(RelevancyError, match="export"):
            make_report(empty)
    (empty / "manifest.json").write_text('{"format": 1}')
    with pytest.raises(RelevancyError, match="no results yet"):
        make_report(empty)


def test_an_export_without_a_single_result_is_refused(tmp_path):
    folder = exports.write_export(tmp_path / "x", [exports.failed(row) for row in range(3)])
    with pytest.raises(RelevancyError, match=r"not a single result, 3 lines are errors \(the first: no such file\)"):
        make_report(folder)


def test_a_damaged_part_and_a_part_of_something_else_are_refused(two_models):
    path = two_models / "results" / "part-00000.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RelevancyError, match=r"part-00000\.parquet: cannot be read"):
        make_report(two_models)
    path.write_bytes(whole)
    pq.write_table(pq.read_table(path).drop_columns(["image_map"]), path)
    with pytest.raises(RelevancyError, match="has no column image_map"):
        make_report(two_models)


def test_exports_without_a_row_in_common_are_refused(tmp_path):
    one = exports.write_export(tmp_path / "a", [exports.line(row) for row in range(12)])
    other = exports.write_export(tmp_path / "b", [exports.line(row, "large") for row in range(20, 32)])
    with pytest.raises(RelevancyError, match="no row in common"):
        make_report(one, other)
    with pytest.raises(RelevancyError, match="is the same export"):
        make_report(one, tmp_path / "b" / ".." / "a")


def test_columns_that_make_no_groups_are_refused(two_models):
    with pytest.raises(RelevancyError, match="no such column; its input had in_type"):
        make_report(two_models, by=["colour"])
    with pytest.raises(RelevancyError, match="this column holds lists"):
        make_report(two_models, by=["tokens"])
