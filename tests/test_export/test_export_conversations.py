"""Rows of several pictures and of several turns: results as `explain` gives them, however often interrupted."""

import json
from pathlib import Path

import numpy as np
import pictured
import pytest
import tiny
from PIL import Image

from relevancy.checking.rows import read_rows
from relevancy.data.columns import Columns
from relevancy.errors import RelevancyError
from relevancy.explanations.explain import ExplainConfig, explain
from relevancy.explanations.explanation import Explanation
from relevancy.export.results import open_export
from relevancy.export.run import Request, export
from relevancy.report.measures import measure
from relevancy.report.source import open_source

ASK = "what color is the ball ?"
PICTURES = {
    "a.png": tiny.picture(80, 60),
    "b.png": tiny.picture(33, 150, seed=1),
    "c.png": tiny.picture(57, 57, seed=2),
}
PLACE = {"type": "image"}
CHAT = [
    {"role": "user", "content": [{"type": "text", "text": "how many"}, PLACE, {"type": "text", "text": "?"}]},
    {"role": "assistant", "content": [{"type": "text", "text": "two ( a )"}]},
    {"role": "user", "content": [{"type": "text", "text": "is the duck"}, PLACE, {"type": "text", "text": ASK}]},
]
LATER = [{"role": "user", "content": [PLACE, {"type": "text", "text": "how many"}]}, CHAT[1],
         {"role": "user", "content": [{"type": "text", "text": ASK}]}]  # fmt: skip
QUESTIONS = [
    {"id": "two", "images": ["a.png", "b.png"], "question": ASK},
    {"id": "one", "images": ["a.png"], "question": ASK},
    {"id": "three", "images": ["c.png", "a.png", "b.png"], "question": ASK, "answer": "red"},
    {"id": "gone", "images": ["a.png", "none.png"], "question": ASK},
]
CHATS = [
    {"id": "chat", "images": ["b.png", "c.png"], "messages": CHAT},
    {"id": "turns", "images": ["a.png"], "messages": LATER},
    {"id": "places", "images": ["a.png"], "messages": CHAT},
]


def write(place: Path, rows: list[dict]) -> Path:
    place.mkdir(exist_ok=True)
    for name, picture in PICTURES.items():
        picture.save(place / name)
    (place / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return place / "rows.jsonl"


def exported(rows: Path, out: Path, **changes) -> Path:
    wish = ExplainConfig(max_new_tokens=1)
    export(Request([pictured.model_of("qwen2_vl")], str(rows), out, columns=Columns(), wish=wish, batch=4, **changes))
    return out


def by_hand(row: dict) -> Explanation:
    shown = [PICTURES[name] for name in row["images"]]
    (result,) = explain(
        pictured.model_of("qwen2_vl"), [shown], [row.get("messages") or row["question"]], max_new_tokens=1
    )
    return result


@pytest.fixture(scope="module")
def asked(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("questions")
    return exported(write(place, QUESTIONS), place / "out", overlays="all")


@pytest.fixture(scope="module")
def talked(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("chats")
    return exported(write(place, CHATS), place / "out")


@pytest.mark.parametrize("row", [*QUESTIONS[:3], *CHATS[:2]], ids=lambda row: row["id"])
def test_a_result_is_as_explain_gives_it(asked, talked, row):
    result = open_export(talked if "messages" in row else asked).explanation(row["id"], "qwen2_vl")
    expected = by_hand(row)
    assert result.tokens == expected.tokens
    assert result.conversation == expected.conversation
    assert result.question == expected.question
    np.testing.assert_allclose(result.relevance, expected.relevance, rtol=1e-3, atol=1e-5)
    assert len(result.pictures) == len(row["images"])
    for one, other, name in zip(result.pictures, expected.pictures, row["images"], strict=True):
        assert np.array_equal(np.array(one.image), np.array(PICTURES[name]))
        np.testing.assert_allclose(one.image_map, other.image_map, rtol=1e-3, atol=1e-5)
        assert one.share == pytest.approx(other.share, rel=1e-3)
    assert result.evidence.without == pytest.approx(expected.evidence.without, abs=1e-4)
    assert result.evidence.without_tv == pytest.approx(expected.evidence.without_tv, abs=1e-4)
    assert [turn.role for turn in result.turns()] == [turn.role for turn in expected.turns()]


def test_faults_name_what_is_wrong(asked, talked):
    (gone,), (places,) = (open_export(folder).errors()["error"].to_pylist() for folder in (asked, talked))
    assert gone.endswith("none.png: no such file")
    assert places == "the dialogue has places for 2 pictures, and the row has 1"


def test_columns_tell_each_picture(asked, talked):
    lines = {line["id"]: line for line in open_export(asked).table().to_pylist()}
    assert lines["one"]["pictures"] is None
    assert [one["picture"] for one in lines["three"]["pictures"]] == ["c.png", "a.png", "b.png"]
    assert lines["three"]["picture"] == "c.png"
    assert sum(one["share"] for one in lines["two"]["pictures"]) == pytest.approx(lines["two"]["share_image"])
    assert lines["two"]["pictures"][0]["picture_hash"] == lines["two"]["picture_hash"] == lines["one"]["picture_hash"]
    told = {line["id"]: line["messages"] for line in open_export(talked).table().to_pylist()}
    assert json.loads(told["chat"]) == CHAT
    drawn = {file.name: Image.open(file).size for file in (asked / "overlays").iterdir()}
    assert drawn["00000002-qwen2_vl.webp"] == PICTURES["c.png"].size
    assert drawn["00000002-qwen2_vl-3.webp"] == PICTURES["b.png"].size
    assert len(drawn) == 2 + 1 + 3


def test_interrupted_it_says_the_same(asked, tmp_path):
    rows = write(tmp_path, QUESTIONS)
    for limit in (1, 2, None):
        exported(rows, tmp_path / "out", limit=limit, part_rows=1)
    again, whole = open_export(tmp_path / "out"), open_export(asked)
    assert again.table(["id", "answer"]) == whole.table(["id", "answer"])
    for one, other in zip(again, whole, strict=True):
        np.testing.assert_allclose(one.relevance, other.relevance, rtol=1e-3, atol=1e-5)
        assert len(one.pictures) == len(other.pictures)


def test_maps_in_half_precision(tmp_path):
    (result,) = open_export(exported(write(tmp_path, QUESTIONS[:1]), tmp_path / "out", map_dtype="float16"))
    for one, other in zip(result.pictures, by_hand(QUESTIONS[0]).pictures, strict=True):
        np.testing.assert_allclose(one.image_map, other.image_map, rtol=5e-3, atol=1e-4)


def test_a_picture_that_has_changed_is_told(tmp_path):
    out = exported(write(tmp_path, QUESTIONS[:1]), tmp_path / "out")
    Image.new("RGB", PICTURES["b.png"].size).save(tmp_path / "b.png")
    assert "its file has changed" in open_export(out)[0].notes[-1]


def test_answers_without_maps(tmp_path):
    out = exported(write(tmp_path, [*QUESTIONS[:2]]), tmp_path / "out", maps="none")
    lines = open_export(out).table().to_pylist()
    assert [line["answer"] for line in lines] == [by_hand(row).answer for row in QUESTIONS[:2]]


def test_a_report_and_a_check_refuse_several_pictures_in_a_line(asked):
    with pytest.raises(RelevancyError, match="2 results are of several pictures or videos, which a report does not"):
        measure([open_source(asked)])
    with pytest.raises(RelevancyError, match="Row 0: a check asks one question about one picture"):
        read_rows(asked.parent / "rows.jsonl")[0].picture()
