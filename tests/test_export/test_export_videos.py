"""Rows with videos, as folders, lists and parts of messages: frames in their order, results as `explain` gives them."""

import base64
import json
from pathlib import Path

import numpy as np
import pictured
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny
from PIL import Image
from typer.testing import CliRunner

import relevancy
from relevancy.checking.rows import read_rows
from relevancy.cli import app
from relevancy.errors import RelevancyError
from relevancy.explanations.explain import ExplainConfig, explain
from relevancy.explanations.explanation import Explanation
from relevancy.export.results import open_export
from relevancy.export.run import Request, export
from relevancy.report.build import make_report, save
from relevancy.report.measures import measure
from relevancy.report.source import open_source

ASK = "what color is the ball ?"
STILL = tiny.picture(33, 150, seed=9)
CLIPS = {
    "long": [tiny.picture(80, 60, seed=seed) for seed in range(5)],
    "short": [tiny.picture(57, 90, seed=seed) for seed in (7, 6)],
    "other": [tiny.picture(80, 60, seed=seed) for seed in (4, 3, 2)],
}
TEXT = {"type": "text", "text": ASK}


def frames(name: str) -> list[str]:
    return [f"{name}/{number}.png" for number in range(len(CLIPS[name]))]


def said(*content: dict) -> list[dict]:
    return [{"role": "user", "content": list(content)}]


def film(name: str, **more: object) -> dict:
    return {"type": "video", "video": name, **more}


ROWS = [
    {"id": "folder", "video": "long", "question": ASK},
    {"id": "frames", "video": frames("other")[::-1], "question": ASK},
    {"id": "still", "image": "still.png", "question": ASK},
    {"id": "two", "videos": ["short", "long"], "question": ASK},
    {"id": "part", "messages": said(film("short", fps=2), TEXT), "answer": "red"},
    {"id": "mixed", "messages": said(film("other"), {"type": "image", "image": "still.png"}, film("short"), TEXT)},
    {"id": "turns", "video": "short", "messages": [
        {"role": "user", "content": [{"type": "text", "text": "how many"}, {"type": "video"}]},
        {"role": "assistant", "content": "two"}, {"role": "user", "content": ASK}]},
    {"id": "marked", "video": "short", "conversations": [{"from": "human", "value": f"<video>\n{ASK}"},
                                                         {"from": "gpt", "value": "red"}]},
]  # fmt: skip
FILES = {"columns": ROWS[:3], "several": ROWS[3:4], "messages": ROWS[4:7], "dialogues": ROWS[7:]}
SHOWN = {
    "folder": said(film("long"), TEXT), "frames": said(film(frames("other")[::-1]), TEXT),
    "still": said({"type": "image", "image": "still.png"}, TEXT), "two": said(film("short"), film("long"), TEXT),
    "part": ROWS[4]["messages"], "mixed": ROWS[5]["messages"], "marked": said(film("short"), TEXT),
    "turns": [{"role": "user", "content": [{"type": "text", "text": "how many"}, film("short")]},
              *ROWS[6]["messages"][1:]],
}  # fmt: skip


def write(place: Path, rows: list[dict]) -> Path:
    place.mkdir(exist_ok=True)
    for name, clip in CLIPS.items():
        (place / name).mkdir(exist_ok=True)
        for number, frame in enumerate(clip):
            frame.save(place / name / f"{number}.png")
    STILL.save(place / "still.png")
    (place / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return place / "rows.jsonl"


def exported(rows: Path, out: Path, *families: str, **changes) -> Path:
    models = [pictured.model_of(family) for family in families or ("qwen2_vl",)]
    export(Request(models, str(rows), out, wish=ExplainConfig(max_new_tokens=1), batch=4, **changes))
    return out


def from_place(part: object, place: Path) -> object:
    """Messages with paths from a folder."""
    if isinstance(part, list):
        return [from_place(one, place) for one in part]
    if not isinstance(part, dict):
        return part
    seen = {key: from_place(value, place) for key, value in part.items()}
    for key in ("video", "image"):
        if isinstance(seen.get(key), str):
            seen[key] = str(place / seen[key])
        elif key in seen:
            seen[key] = [str(place / name) for name in seen[key]]
    return seen


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("videos")


@pytest.fixture(scope="module")
def shown(place) -> dict[str, Path]:
    """The export of each file of rows."""
    return {name: exported(write(place, rows), place / name, overlays="all") for name, rows in FILES.items()}


def line_of(shown: dict[str, Path], name: str) -> dict:
    (file,) = (file for file, rows in FILES.items() if name in {row["id"] for row in rows})
    return next(line for line in open_export(shown[file]).table().to_pylist() if line["id"] == name)


def same(result: Explanation, expected: Explanation) -> None:
    assert result.tokens == expected.tokens
    np.testing.assert_allclose(result.relevance, expected.relevance, rtol=1e-4, atol=1e-6)
    assert [one.video for one in result.pictures] == [one.video for one in expected.pictures]
    for one, other in zip(result.pictures, expected.pictures, strict=True):
        assert np.array_equal(np.array(one.image), np.array(other.image))
        np.testing.assert_allclose(one.image_map, other.image_map, rtol=1e-4, atol=1e-6)
        assert one.share == pytest.approx(other.share, rel=1e-4)
    assert result.evidence.without == pytest.approx(expected.evidence.without, abs=1e-4)
    assert result.evidence.without_tv == pytest.approx(expected.evidence.without_tv, abs=1e-4)


@pytest.mark.parametrize("name", SHOWN)
def test_a_result_is_as_explain_gives_it(shown, place, name):
    (file,) = (file for file, rows in FILES.items() if name in {row["id"] for row in rows})
    result = open_export(shown[file]).explanation(name, "qwen2_vl")
    expected = explain(pictured.model_of("qwen2_vl"), None, from_place(SHOWN[name], place), max_new_tokens=1)
    same(result, expected)
    if name in ("mixed", "turns", "part"):
        assert result.conversation == expected.conversation


@pytest.mark.parametrize("name", SHOWN)
def test_the_python_of_a_row_makes_it_again(shown, name, tmp_path, monkeypatch):
    (file,) = (file for file, rows in FILES.items() if name in {row["id"] for row in rows})
    result = open_export(shown[file]).explanation(name, "qwen2_vl")
    result.save(tmp_path)
    model = pictured.model_of("qwen2_vl")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(relevancy, "load", lambda _: model)
    known: dict = {}
    exec(result.code, known)
    again = known["result"]
    np.testing.assert_allclose(again.relevance, result.relevance, rtol=1e-4, atol=1e-6)
    assert [one.video for one in again.pictures] == [one.video for one in result.pictures]


def test_columns_tell_each_frame(shown):
    line, part, mixed = (line_of(shown, name) for name in ("folder", "part", "mixed"))
    assert [one["picture"] for one in line_of(shown, "frames")["pictures"]] == frames("other")[::-1]
    assert [one["video"] for one in mixed["pictures"]] == [0, 0, 0, None, 1, 1]
    assert line_of(shown, "still")["pictures"] is None
    assert sum(one["share"] for one in line["pictures"]) == pytest.approx(line["share_image"])
    np.testing.assert_allclose(line["image_map"], np.sum([one["image_map"] for one in line["pictures"]], 0), rtol=1e-5)
    assert part["picture_hash"] == line_of(shown, "marked")["picture_hash"] != line["picture_hash"]
    assert (part["expected"], part["correct"] is None) == ("red", False)
    drawn = {file.name for file in (shown["columns"] / "overlays").iterdir()}
    assert len(drawn) == 5 + 3 + 1
    assert {"00000000-qwen2_vl.webp", "00000000-qwen2_vl-5.webp"} <= drawn


@pytest.mark.parametrize("family", ["internvl", "llava_onevision"])
def test_other_families_read_the_same_frames(place, tmp_path, family):
    out = exported(write(place, ROWS[:2]), tmp_path / "out", family, "qwen2_vl")
    export_ = open_export(out)
    for name in ("folder", "frames"):
        expected = explain(pictured.model_of(family), None, from_place(SHOWN[name], place), max_new_tokens=1)
        same(export_.explanation(name, family), expected)
    assert len(export_) == 4


def test_interrupted_it_says_the_same(shown, tmp_path):
    rows = write(tmp_path, FILES["messages"])
    for limit in (1, 2, None):
        exported(rows, tmp_path / "out", limit=limit, part_rows=1)
    for one, other in zip(open_export(tmp_path / "out"), open_export(shown["messages"]), strict=True):
        np.testing.assert_allclose(one.relevance, other.relevance, rtol=1e-4, atol=1e-6)
        assert len(one.pictures) == len(other.pictures)


def test_frames_as_bytes_and_as_csv(place, tmp_path):
    write(tmp_path, ROWS)
    encoded = [(tmp_path / name).read_bytes() for name in frames("short")]
    pq.write_table(pa.table({"video": [encoded], "question": [ASK]}), tmp_path / "rows.parquet")
    (tmp_path / "rows.csv").write_text(
        f'video,question\nshort,{ASK}\n"{json.dumps(frames("short")).replace(chr(34), chr(34) * 2)}",{ASK}\n'
    )
    data = [f"data:image/png;base64,{base64.b64encode(one).decode()}" for one in encoded]
    (tmp_path / "data.jsonl").write_text(json.dumps({"video": data, "question": ASK}))
    expected = explain(pictured.model_of("qwen2_vl"), None, from_place(SHOWN["marked"], tmp_path), max_new_tokens=1)
    found = [
        result
        for name in ("rows.parquet", "rows.csv", "data.jsonl")
        for result in open_export(exported(tmp_path / name, tmp_path / f"out-{name}"))
    ]
    assert len(found) == 4
    for result in found:
        same(result, expected)


def test_faults_name_what_is_wrong(tmp_path):
    (tmp_path / "clip.mp4").write_bytes(b"0")
    (tmp_path / "none").mkdir()
    wrong = {
        "is no folder; a video is given as a folder of its frames: ffmpeg -i clip.mp4": {"video": "clip.mp4"},
        "no such folder": {"video": "gone"},
        "holds no pictures": {"video": "none"},
        "must be of one size, not 80 x 60 and 57 x 90": {"video": ["long/0.png", "short/0.png"]},
        "9.png: no such file": {"video": ["long/0.png", "long/9.png"]},
        "is a web address": {"video": "https://example.org/clip"},
        "a video is a list": {"video": 3},
        "there is no picture": {},
    }
    chats = {
        "places for 1 video, and the row has 0": {"messages": said({"type": "video"}, TEXT)},
        "fps is how many": {"messages": said(film("long", fps="two"), TEXT)},
        "other places for pictures and videos": {"video": "long", "messages": said(film("short"), TEXT)},
    }
    for number, (some, more) in enumerate(((wrong, {"question": ASK}), (chats, {}))):
        out = exported(write(tmp_path, [row | more for row in some.values()]), tmp_path / f"out{number}")
        told = open_export(out).errors()["error"].to_pylist()
        assert len(told) == len(some)
        for error, expected in zip(told, some, strict=True):
            assert expected in error


def test_a_family_without_videos_says_so_in_the_row(place, tmp_path):
    out = exported(write(place, ROWS[:3]), tmp_path / "out", "gemma3")
    told = open_export(out)
    assert len(told) == 1
    assert all("not known for gemma3" in error for error in told.errors()["error"].to_pylist())


def test_answers_without_maps(place, tmp_path):
    out = exported(write(place, ROWS[:2]), tmp_path / "out", maps="none")
    lines = open_export(out).table().to_pylist()
    expected = [
        explain(pictured.model_of("qwen2_vl"), None, from_place(SHOWN[row["id"]], place), max_new_tokens=1).answer
        for row in ROWS[:2]
    ]
    assert [line["answer"] for line in lines] == expected


def test_a_report_shows_frames_and_their_shares(tmp_path):
    out = exported(write(tmp_path, FILES["columns"]), tmp_path / "out", "qwen2_vl", "internvl")
    report = make_report(out)
    assert "by frame: " in save(report, tmp_path / "page").read_text()
    cards = {card.id: card for _, some in report.gallery for card in some}
    assert {len(seen.over_time) for seen in cards["folder"].seen} == {5}
    for name in cards:
        for seen in cards[name].seen:
            assert not seen.over_time or sum(seen.over_time) == pytest.approx(seen.image_share, rel=1e-6)
    assert cards["folder"].missing is None


def test_a_report_and_a_check_refuse_several_things_in_a_line(shown, tmp_path):
    with pytest.raises(RelevancyError, match="1 results are of several pictures or videos"):
        measure([open_source(shown["messages"])])
    with pytest.raises(RelevancyError, match=r"Row 0: a check asks one question about one picture, .* a video"):
        read_rows(write(tmp_path, ROWS[:1]))[0].picture()


def test_a_frame_that_has_changed_is_told(tmp_path):
    out = exported(write(tmp_path, ROWS[:1]), tmp_path / "out")
    Image.new("RGB", (80, 60)).save(tmp_path / "long" / "3.png")
    assert "its file has changed" in open_export(out)[0].notes[-1]


def test_the_command_names_the_column_of_videos(tmp_path):
    rows = write(tmp_path, [{"clip": "short", "question": ASK}])
    arguments = ["export", "--model", "demo-small", "--input", str(rows), "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, [*arguments, "--video-column", "clip", "--processes", "0"])
    assert done.exit_code, done.output
    assert "not known for llava, but for" in open_export(tmp_path / "out").errors()["error"][0].as_py()
