"""Whole reports: numbers recomputed from the rows as they were written, matching of rows, refusals, hostile text."""

import json
import math
from pathlib import Path

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

NUMBERS = {
    "blind_tv": lambda row: row["evidence_blind_tv"],
    "blind_drop": lambda row: row["evidence_probability"] - row["evidence_blind"],
    "image_share": lambda row: row["share_image"],
}
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
            row
            for row in small
            if (small[row]["correct"], large[row]["correct"]) == (outcome["first_right"], outcome["second_right"])
        ]
        for measure, number in NUMBERS.items():
            found = outcome["differences"][measure]
            assert found["rows"] == len(chosen)
            if chosen:
                expected = np.mean([number(small[row]) - number(large[row]) for row in chosen])
                assert found["value"] == pytest.approx(expected)


def test_use_of_the_picture_is_compared_in_pairs_and_by_kind_of_question(tmp_path):
    questions = ("What color is it?", "Is it red? (a) Yes (b) No", "How many are there?")
    lines = [
        exports.line(row, model, picture_hash=f"picture-{row // 3}", question=questions[row % 3])
        for model in ("small", "large")
        for row in range(60)
    ]
    folder = exports.write_export(tmp_path / "x", lines)
    (pair,) = make_report(folder, **QUICK).to_json()["pairs"]
    small, large = (results_of(folder, name) for name in ("small", "large"))
    expected = {
        "open questions": (0, 2), "questions with options": (1,), "what color": (0,), "is it … with options": (1,),
        "how many": (2,),
    }  # fmt: skip
    found = {one["form"]: one["differences"] for one in pair["forms"]}
    assert set(found) == set(expected)
    for form, kept in expected.items():
        for measure, number in NUMBERS.items():
            values = [number(small[row]) - number(large[row]) for row in small if row % 3 in kept]
            assert found[form][measure]["value"] == pytest.approx(np.mean(values))
            assert (found[form][measure]["rows"], found[form][measure]["pictures"]) == (len(values), 20)
            assert found[form][measure]["low"] < np.mean(values) < found[form][measure]["high"]


def test_maps_are_counted_by_verdict_in_each_kind_of_answers(two_models):
    for model in make_report(two_models, **QUICK).to_json()["models"]:
        rows = list(results_of(two_models, model["name"]).values())
        parts = {part["name"]: part for part in model["evidence"]}
        assert list(parts) == ["all answers", "right answers", "wrong answers"]  # one form of questions alone
        for name, chosen in (
            ("all answers", rows),
            ("right answers", [row for row in rows if row["correct"]]),
            ("wrong answers", [row for row in rows if not row["correct"]]),
        ):
            for verdict in ("words alone", "confirmed", "unconfirmed"):
                found = parts[name]["verdicts"][verdict]
                assert found["value"] == pytest.approx(np.mean([row["verdict"] == verdict for row in chosen]))
                assert found["rows"] == len(chosen)
            assert parts[name]["means"]["blind_tv"]["value"] == pytest.approx(
                np.mean([row["evidence_blind_tv"] for row in chosen])
            )


def test_what_the_image_share_is_worth_is_measured_on_these_rows(tmp_path):
    scipy = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(1)
    lines = [
        exports.line(
            row, picture_hash=f"picture-{row // 2}", share_image=float(rng.choice([0.01, 0.02, 0.3, 0.6])),
            evidence_blind_tv=float(rng.uniform(0, 0.3)), evidence_blind=float(rng.uniform()),
        )
        for row in range(80)
    ]  # fmt: skip
    lines.append(exports.line(99, evidence_blind_tv=None))
    (model,) = make_report(exports.write_export(tmp_path / "x", lines), **QUICK).findings.models
    shares, moved = ([row[name] for row in lines[:-1]] for name in ("share_image", "evidence_blind_tv"))
    assert model.share_and_use.value == pytest.approx(scipy.spearmanr(shares, moved).statistic)
    assert (model.share_and_use.rows, model.share_and_use.pictures, model.judged) == (80, 40, 80)
    few = [row for row in lines[:-1] if row["share_image"] < 0.05]
    used = np.mean([row["evidence_blind_tv"] >= 0.1 for row in few])
    assert (model.small_but_used.value, model.small_but_used.rows) == (pytest.approx(used), len(few))


def test_maps_are_said_to_agree_apart_where_both_are_confirmed(tmp_path):
    """Confirmed maps are the same in both models, the others lie apart."""
    lines = []
    for row in range(36):
        sure = row % 3 != 0
        for model in ("small", "large"):
            values = np.zeros(16)
            values[5 if sure or model == "small" else 10] = 1.0
            verdicts = {"verdict": "confirmed" if sure or model == "small" else "unconfirmed"}
            lines.append(exports.line(row, model, image_map=values.tolist(), evidence_blind_tv=0.5, **verdicts))
    report = make_report(exports.write_export(tmp_path / "x", lines), **QUICK)
    (pair,) = report.findings.pairs
    assert (pair.divergence_confirmed.value, pair.divergence_confirmed.rows) == (pytest.approx(0, abs=1e-6), 24)
    assert (pair.divergence_others.value, pair.divergence_others.rows) == (pytest.approx(1, abs=1e-3), 12)
    assert "at least one of the two maps does not show what its answer needs" in page(report)


def test_without_evidence_a_report_says_what_is_missing_and_how_to_get_it(tmp_path):
    lines = [exports.line(row, model) for row in range(24) for model in ("demo-small", "demo-large")]
    report = make_report(exports.write_export(tmp_path / "x", lines, evidence=False), by=["question"], **QUICK)
    stored, html = report.to_json(), page(report)
    assert report.reading.verdict == "not measured"
    assert "There is no evidence of demo-small and demo-large" in html
    assert html.count("--no-evidence") >= 1
    assert report.findings.main == "image_share"
    assert [model["evidence"] for model in stored["models"]] == [[], []]
    assert stored["pairs"][0]["differences"]["image_share"]["difference"]["rows"] == 24
    assert stored["pairs"][0]["differences"]["blind_tv"]["difference"]["value"] is None
    assert "Most different maps" in [shelf.title.split(":")[0] for shelf, _ in report.gallery]
    assert "does the image share go with being right" in html.lower()


def test_an_export_of_the_first_version_still_gives_a_report():
    report = make_report(Path(__file__).parent.parent / "fixtures/v0.1.0/export", gallery=1, resamples=100)
    assert report.findings.models[0].judged == 0
    assert "There is no evidence of demo-small" in page(report)


def test_one_export_with_evidence_and_one_without_are_not_compared_by_it(tmp_path):
    first = exports.write_export(tmp_path / "a", [exports.line(row, "demo-small") for row in range(20)])
    lines = [exports.line(row, "demo-large") for row in range(20)]
    report = make_report(first, exports.write_export(tmp_path / "b", lines, evidence=False), **QUICK)
    assert (report.reading.verdict, report.findings.main) == ("not measured", "image_share")
    html = page(report)
    assert "There is no evidence of demo-large" in html
    assert "confirmed" in html


def test_right_beside_wrong(two_models):
    stored = make_report(two_models, **QUICK).to_json()
    rows = results_of(two_models, "small").values()
    right = [row["share_image"] for row in rows if row["correct"]]
    wrong = [row["share_image"] for row in rows if not row["correct"]]
    found = stored["rightness"]["small"]["image_share"]
    assert set(stored["rightness"]["small"]) == {"blind_tv", "image_share", "entropy", "top_mass", "probability"}
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
    """Easy questions need the picture much, hard ones little; within each, right and wrong are alike."""
    rng = np.random.default_rng(0)
    lines = []
    for row in range(160):
        easy = row % 2 == 0
        right = bool(rng.random() < (0.85 if easy else 0.15))
        moved = (0.6 if easy else 0.2) + 0.05 * rng.normal()
        question = "What color is it?" if easy else "How many are there?"
        lines.append(exports.line(row, question=question, evidence_blind_tv=moved, correct=right))
    report = make_report(exports.write_export(tmp_path / "forms", lines), **QUICK)
    (found,) = report.findings.rightness.values()
    use = found["blind_tv"]
    assert use.forms == 2
    assert use.area.low > 0.6
    assert use.gap.low > 0.1
    assert use.area_within.low < 0.5 < use.area_within.high
    assert use.gap_within.low < 0 < use.gap_within.high
    html = page(report)
    assert (
        "Within each of 2 forms of questions, these rows do not decide whether the use of the picture goes with" in html
    )
    assert "goes with being right." not in html.replace("the use of the picture goes with being right.", "")


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
    assert "a small image share is no sign that the picture was not used" in " ".join(html.split())


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


def claim_folder(folder, small, large, noise=0.02, **shares):
    """Use of the picture by two models about these means, the same pictures."""
    rng = np.random.default_rng(4)
    rows = [(row, noise * rng.normal()) for row in range(60)]
    lines = [
        exports.line(row, model, evidence_blind_tv=max(0.0, mean + shared + noise * rng.normal()), **shares)
        for model, mean in (("demo-large", large), ("demo-small", small))
        for row, shared in rows
    ]
    return exports.write_export(folder, lines)


@pytest.mark.parametrize(
    ("small", "large", "verdict"),
    [
        (0.03, 0.4, "supports"),
        (0.11, 0.4, "in part"),
        (0.3, 0.4, "in part"),
        (0.4, 0.3, "against"),
        (0.3, 0.3, "undecided"),
    ],
)
def test_the_claim_rests_on_what_knocking_out_the_picture_does(tmp_path, small, large, verdict):
    reading = make_report(claim_folder(tmp_path / "x", small, large), **QUICK).reading
    assert (reading.verdict, reading.smaller, reading.assumed) == (verdict, "demo-small", False)
    assert "picture" in reading.headline


def test_the_claim_is_supported_in_part_where_one_kind_of_question_needs_the_picture(tmp_path):
    lines = []
    for row in range(80):
        open_ = row % 4 == 0
        for model, moved in (("demo-small", 0.3 if open_ else 0.01), ("demo-large", 0.5)):
            question = "What color is it?" if open_ else "What color is it? (a) Red (b) Blue"
            lines.append(exports.line(row, model, question=question, evidence_blind_tv=moved + 0.001 * (row % 7)))
    report = make_report(exports.write_export(tmp_path / "x", lines), **QUICK)
    assert report.reading.verdict == "in part"
    assert "75.0% of its answers stand on words alone, but of “open questions” only 0.0%" in report.reading.headline
    assert any("it is 0.0% (“open questions”) to 100.0%" in sentence for sentence in report.reading.sentences)


def test_image_shares_do_not_move_the_reading_of_the_claim(tmp_path):
    said = {}
    for share in (0.001, 0.9):
        folder = claim_folder(tmp_path / str(share), 0.3, 0.3)
        lines = [row | {"share_image": share} if row["model"] == "demo-small" else row for row in rows_of(folder)]
        report = make_report(exports.write_export(tmp_path / f"{share}-changed", lines), **QUICK)
        assert report.findings.pairs[0].differences["image_share"].p < 0.01
        said[share] = (report.reading.verdict, report.reading.headline, report.reading.difference.difference)
    assert said[0.001] == said[0.9]
    assert said[0.9][0] == "undecided"


def test_a_loss_the_other_way_leaves_the_claim_open(tmp_path):
    """More of the distribution moves, and the explained token loses less: neither is use without the other."""
    lines = [
        exports.line(row, model, evidence_blind_tv=0.2 + shift, evidence_blind=0.5 + shift, probability=0.8)
        for row in range(40)
        for model, shift in (("demo-small", 0.002 * (row % 7)), ("demo-large", 0.1 + 0.002 * (row % 5)))
    ]
    report = make_report(exports.write_export(tmp_path / "x", lines), **QUICK)
    (pair,) = report.findings.pairs
    assert pair.differences["blind_tv"].difference.decided == -1
    assert pair.differences["blind_drop"].difference.decided == 1
    assert report.reading.verdict == "undecided"


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
    apart, lost, wrong, least = report.gallery
    values = [choice.value for choice in apart[0].choices]
    assert values == sorted(values, reverse=True)
    both = [row for row in range(14) if {one["verdict"] for one in lines if one["row"] == row} == {"confirmed"}]
    assert (apart[0].title, len(values)) == ("Confirmed and most different: small and large", len(both))
    assert {card.id for card in apart[1]} == {f"item-{row}" for row in both}
    assert {seen.verdict for card in apart[1] for seen in card.seen} == {"confirmed"}
    unclear = sorted((one["evidence_blind_tv"] for one in lines if one["verdict"] == "unconfirmed"), reverse=True)
    assert lost[0].candidates == len(unclear)
    assert lost[0].choices[0].value == pytest.approx(unclear[0])
    sure = sorted((one["probability"] for one in lines if not one["correct"]), reverse=True)
    assert wrong[0].candidates == 14
    assert wrong[0].choices[0].value == pytest.approx(sure[0])
    assert least[0].choices[0].value == pytest.approx(min(one["share_image"] for one in lines))
    cards = {card.id: card for card in least[1]}
    assert cards["item-3"].picture is None
    assert "no longer at" in cards["item-3"].missing
    assert "another picture is now at" in cards["item-5"].missing
    assert cards["item-4"].picture.startswith("data:image/webp;base64,")
    assert [seen.model for seen in cards["item-4"].seen] == ["small", "large"]


def test_a_faint_map_is_drawn_where_it_is_confirmed_and_has_its_own_scale(tmp_path):
    shown = {"share_image": 1e-6, "evidence_blind_tv": 0.5, "verdict": "confirmed"}
    lines = [exports.line(row, model, **shown) for row in range(3) for model in ("small", "large")]
    report = make_report(exports.write_export(tmp_path / "x", lines), gallery=3, resamples=100)
    by_id = [{card.id: card.seen[0].drawn for card in cards} for _, cards in report.gallery]
    for name in by_id[0].keys() & by_id[-1].keys():
        assert by_id[0][name] != by_id[-1][name]
    assert len(set(by_id[0].values())) == 3  # three maps
    assert len(set(by_id[-1].values())) == 1  # three times the same words: not drawn


def test_maps_that_are_compared_by_their_places_have_a_scale_each(tmp_path):
    """Of one map ten thousand times as strong as the other, both are seen where maps are compared, one elsewhere."""
    strong = np.arange(16.0).tolist()
    values = {"small": [value / 1e4 for value in strong], "large": strong}
    lines = [
        exports.line(row, model, image_map=values[model], evidence_blind_tv=0.5, verdict="confirmed")
        for row in range(2)
        for model in values
    ]
    report = make_report(exports.write_export(tmp_path / "x", lines), gallery=1, resamples=100)
    cards = {shelf.measure: shown[0] for shelf, shown in report.gallery if shown}
    small, large = (seen.drawn for seen in cards["divergence"].seen)
    assert small == large
    small, large = (seen.drawn for seen in cards["image_share"].seen)
    assert small != large


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
    lines[5] |= dict.fromkeys(exports.EVIDENCE)
    report = make_report(exports.write_export(tmp_path / "x", [*lines, lines[5]]), gallery=12, resamples=100)
    (model,) = report.findings.models
    assert (model.results, model.empty_maps, report.findings.repeated) == (12, 3, 1)
    assert (model.means["probability"].rows, model.means["correct"].rows, model.judged) == (11, 11, 11)
    assert {share.rows for share in model.evidence[0].verdicts.values()} == {11}
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
    for text in ("[]", "{", '{"format": 99}', '{"format": 1, "configuration": []}'):
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
