"""Which column means what, and what is wrong with a row."""

import base64
import json
import math

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from making import encoded, write_lines

from relevancy.data.answer_match import correct
from relevancy.data.boxes import in_pixels
from relevancy.data.columns import Columns, Itemizer, Survey
from relevancy.data.inputs import open_input
from relevancy.errors import RelevancyError
from relevancy.export.records import faulty
from relevancy.export.schema import schema, table_of

GOOD = {"id": "a", "image": "a.png", "question": "Is it?"}


def read(tmp_path, rows, **columns):
    reader = open_input(str(write_lines(tmp_path / "a.jsonl", rows)))
    found = Columns(**columns).found_in(reader.columns())
    survey = Survey.of(reader, found)
    return list(Itemizer(found, survey, reader.base).items(reader)), survey


def test_usual_names_are_found_and_named_ones_win():
    found = Columns(question="ask").found_in(["question_id", "image", "ask", "question", "label"])
    assert found == Columns("question_id", "image", "ask", "label")


@pytest.mark.parametrize(
    ("names", "asked", "why"),
    [
        (["a", "b"], {}, "No column holds pictures.*'a', 'b'"),
        (["image", "b"], {}, "No column holds questions.*'b', 'image'"),
        (["image", "b"], {"question": "c"}, "no column 'c'.*'b', 'image'"),
    ],
)
def test_a_missing_column_is_refused_with_those_there_are(names, asked, why):
    with pytest.raises(RelevancyError, match=why):
        Columns(**asked).found_in(names)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"question": ""}, "question is empty"), ({"question": "  \n"}, "question is empty"),
        ({"question": None}, "question is empty"), ({"question": math.nan}, "question is empty"),
        ({"question": 7}, "no text but int"), ({"question": "\ud800"}, "not valid text"),
        ({"id": math.nan}, "id in column 'id'"), ({"id": None}, "id in column 'id'"), ({"id": ""}, "id in column"),
        ({"image": None}, "no picture"), ({"image": ""}, "no picture"), ({"image": 3}, "no path and no bytes"),
        ({"image": [3]}, "no path"), ({"image": []}, "no picture"), ({"image": ["a.png", 3]}, "no path"),
        ({"image": '["a.png", ""]'}, "no picture"), ({"image": "data:image/png,a"}, "starts with data:image"),
        ({"image": "https://a/b.png"}, "web address"),
        ({"image": "a\0b"}, "not a path"), ({"image": "data:image/png;base64,%%%"}, "base64"),
        ({"image": {"bytes": None, "path": None}}, "no picture"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_row_is_its_fault(tmp_path, change, fault):
    (good, bad), _ = read(tmp_path, [GOOD, GOOD | {"id": "b"} | change])
    assert good.fault is None
    assert fault in bad.fault
    table_of([faulty(bad, "m", bad.fault)], schema({}))  # and it can be stored


@pytest.mark.parametrize("name", ["../../etc/passwd", "x" * 300, "日本/эй 🦆", "a\nb", 7, 1.5, True, [1], "\udcff"])
def test_any_other_id_is_kept_as_text(tmp_path, name):
    ((item,), _) = read(tmp_path, [GOOD | {"id": name}])
    assert item.fault is None
    assert item.id == (name if isinstance(name, str) and name.isprintable() else item.id)
    item.id.encode()


def test_ids_that_stand_twice_are_kept_and_noted(tmp_path):
    items, survey = read(tmp_path, [GOOD, GOOD | {"id": "b"}, GOOD])
    assert [(item.row, item.id, len(item.notes)) for item in items] == [(0, "a", 1), (1, "b", 0), (2, "a", 1)]
    assert len(survey.repeated) == 1


def test_a_data_url_is_bytes(tmp_path):
    data = encoded(0)
    ((item,), _) = read(tmp_path, [GOOD | {"image": "data:image/png;base64," + base64.b64encode(data).decode()}])
    assert item.picture.content == data


HUMAN, GPT = {"from": "human", "value": "<image>\nIs it?"}, {"from": "gpt", "value": "Yes."}
USER = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Is it?"}]}
ASSISTANT = {"role": "assistant", "content": "Yes."}


@pytest.mark.parametrize(
    ("row", "asked", "answer", "fault"),
    [
        ({"conversations": [HUMAN, GPT]}, "Is it?", "Yes.", None), ({"messages": [USER]}, "Is it?", None, None),
        ({"messages": [USER, ASSISTANT]}, "Is it?", "Yes.", None),
        ({"conversations": str([HUMAN, GPT])}, "Is it?", "Yes.", None),
        ({"conversations": [HUMAN, GPT], "answer": "No"}, "Is it?", "No", None),
        ({"conversations": [HUMAN, GPT, HUMAN, GPT]}, "Is it?", "Yes.", "places for 2 pictures, and the row has 1"),
        ({"conversations": [HUMAN, GPT, {"from": "human", "value": "Sure?"}]}, "Sure?", None, None),
        ({"messages": [USER | {"content": "<image><image>Same?"}]}, "Same?", None, "places for 2 pictures"),
        ({"messages": [USER | {"content": "<image><video>Same?"}]}, "Same?", None, "places for 1 video, and"),
        ({"messages": [{"role": "system", "content": "Be brief."}, USER]}, "Is it?", None, None),
        ({"messages": [USER | {"role": "robot"}, USER]}, "Is it?", None, "a turn of 'robot'"),
        ({"messages": [USER, {"role": "system", "content": "Hm."}]}, "Hm.", None, "not end with a question"),
        ({"messages": [ASSISTANT]}, None, "Yes.", "begins with an answer"),
        ({"conversations": [GPT, HUMAN]}, "Is it?", None, "begins with an answer"),
        ({"conversations": [HUMAN | {"value": "<image>"}]}, None, None, "question is empty"),
        ({"conversations": [{"value": "Is it?"}]}, None, None, "cannot be read"),
        ({"messages": "Is it?"}, None, None, "cannot be read"),
    ],
)  # fmt: skip
def test_dialogues_that_training_reads_are_rows(tmp_path, row, asked, answer, fault):
    ((item,), _) = read(tmp_path, [{"images": ["a.png"]} | row])
    assert (item.question, item.expected, item.picture.name) == (asked, answer, "a.png")
    assert (fault or "") in (item.fault or "")
    assert (item.fault is None) is (fault is None)


def test_a_row_of_another_shape_is_told_what_is_read(tmp_path):
    rows = [GOOD, {"id": "b", "image": "a.png", "messages": [USER]}, {"id": "c", "image": "a.png", "question": " "}]
    asked, *others = read(tmp_path, rows)[0]
    assert asked.fault is None
    assert [one.fault for one in others] == [
        "the question is empty: of this file question is read, not messages; give such rows in a file of their own",
        "the question is empty",
    ]


def test_a_conversation_keeps_its_turns_and_the_places_of_its_pictures(tmp_path):
    later = {"role": "user", "content": [{"type": "text", "text": "And"}, {"type": "image"}]}
    rows = [{"images": ["a.png", "b.png"], "messages": [USER, ASSISTANT, later]},
            {"images": ["a.png", "b.png"],
             "conversations": [HUMAN | {"value": "Same?"}, GPT, HUMAN | {"value": "Sure?"}]},
            {"images": ["a.png", "b.png"], "question": "Same?"}]  # fmt: skip
    marked, bare, plain = (read(tmp_path, [row])[0][0] for row in rows)
    assert [one.name for one in marked.pictures] == ["a.png", "b.png"]
    assert json.loads(marked.messages) == [
        {"role": "user", "content": USER["content"]},
        {"role": "assistant", "content": [{"type": "text", "text": "Yes."}]},
        {"role": "user", "content": [{"type": "text", "text": "And"}, {"type": "image"}]},
    ]
    assert [part["type"] for part in json.loads(bare.messages)[0]["content"]] == ["image", "image", "text"]
    assert (marked.question, bare.question, plain.question) == ("And", "Sure?", "Same?")
    assert (plain.messages, len(plain.pictures)) == (None, 2)


@pytest.mark.parametrize("pictures", [["a.png"], "a.png", '["a.png"]', "['a.png']", [{"bytes": None, "path": "a.png"}]])
def test_a_list_of_one_picture_is_that_picture(tmp_path, pictures):
    ((item,), _) = read(tmp_path, [{"images": pictures, "question": "Is it?"}])
    assert (item.picture.name, item.fault) == ("a.png", None)


@pytest.mark.parametrize(
    ("truth", "kept", "noted"),
    [
        (1.0, "1", 0), (False, "false", 0), ([{"answer": "no"}] * 10, "no", 0), (["a", "b"], '["a", "b"]', 0),
        (math.nan, None, 0), ([], None, 0), ({"confidence": 1}, None, 1), ("caf\udce9", None, 1), ("1.0", "1.0", 0),
    ],
)  # fmt: skip
def test_what_is_right_is_kept_as_text(tmp_path, truth, kept, noted):
    ((item,), _) = read(tmp_path, [GOOD | {"answer": truth}])
    assert (item.expected, len(item.notes), item.fault) == (kept, noted, None)


def test_no_message_prints_a_picture(tmp_path):
    url = "data:image/png;base64," + "A" * 10_001
    ((item,), _) = read(tmp_path, [GOOD | {"image": url}])
    assert len(faulty(item, "m", f"{url}: {item.fault}")["error"]) < 450
    with pytest.raises(RelevancyError, match="No column holds pictures") as caught:
        Columns().found_in([url, "question"])
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("layout", "box"),
    [("xyxy", [10, 20, 30, 60]), ("xywh", [10, 20, 20, 40]), ("cxcywh", [20, 40, 20, 40]), (None, [10, 20, 30, 60])],
)
def test_boxes_have_the_layout_that_is_named(tmp_path, layout, box):
    ((item,), _) = read(tmp_path, [GOOD | {"bbox": box}], layout=layout)
    assert item.boxes == ((10, 20, 30, 60),)


def test_boxes_that_are_mostly_no_corners_are_refused(tmp_path):
    rows = [GOOD | {"id": str(n), "bbox": [100 + n, 100, 20, 200]} for n in range(9)]
    with pytest.raises(RelevancyError, match="cannot be x0, y0, x1, y1 in 9 of 9 rows: say --box-layout xywh"):
        read(tmp_path, rows)
    items, _ = read(tmp_path, rows, layout="xywh")
    assert items[0].boxes == ((100, 100, 120, 300),)
    items, _ = read(tmp_path, rows, layout="xyxy")
    assert ["wrong way round" in item.notes[0] for item in items] == [True] * 9
    with pytest.raises(RelevancyError, match="no layout of boxes 'yolo'"):
        read(tmp_path, rows, layout="yolo")


@pytest.mark.parametrize(
    ("boxes", "kept", "said"),
    [
        ([[0.25, 0.5, 0.75, 1.0]], [[10, 10, 30, 20]], "taken as shares"), ([[0, 0, 1, 1]], [[0, 0, 40, 20]], "shares"),
        ([[1, 2, 3, 4]], [[1, 2, 3, 4]], None), ([[30, 10, 90, 15]], [[30, 10, 40, 15]], "reach beyond"),
        ([[50, 50, 60, 60]], [], "outside of the picture"), ([[0.1, 0.1, 0.2, 9]], [[0.1, 0.1, 0.2, 9]], None),
        ([], [], None),
    ],
)  # fmt: skip
def test_boxes_come_to_the_pictures_pixels(boxes, kept, said):
    found, notes = in_pixels(boxes, 40, 20)
    assert found == kept
    assert (said or "") in " ".join(notes)
    assert bool(notes) is (said is not None)


@pytest.mark.parametrize(
    ("given_boxes", "kept", "noted"),
    [
        ([[0, 1, 2, 3]], ((0, 1, 2, 3),), 0), ([0, 1, 2, 3], ((0, 1, 2, 3),), 0),
        ("[[0, 1, 2, 3]]", ((0, 1, 2, 3),), 0),
        (None, None, 0), ([], (), 0), ([[1, 2]], None, 1), ("no", None, 1), ([[0, 1, 2, math.inf]], None, 1),
        ({"x": 1}, None, 1), ([[0, 1, 2, 3], [9, 9, 1, 1]], None, 1),
    ],
)  # fmt: skip
def test_boxes(tmp_path, given_boxes, kept, noted):
    ((item,), _) = read(tmp_path, [GOOD | {"boxes": given_boxes}])
    assert (item.boxes, len(item.notes), item.fault) == (kept, noted, None)


VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(st.characters(), max_size=5),
    st.lists(st.integers(), max_size=2),
)  # fmt: skip


@given(st.lists(VALUES, min_size=1, max_size=6))
def test_further_columns_keep_their_type_or_become_json(tmp_path_factory, values):
    place = tmp_path_factory.mktemp("extras")
    items, survey = read(place, [GOOD | {"id": str(n), "more": value} for n, value in enumerate(values)])
    table = table_of([faulty(item, "m", "") for item in items], schema(survey.extras))
    stored = table["in_more"].to_pylist()
    kinds = {type(value) for value in values if value is not None}
    for value, kept in zip(values, stored, strict=True):
        if value is None:
            assert kept is None
        elif "more" in survey.as_json:
            assert json.loads(kept) == value
        else:
            assert kept == value
            assert len(kinds) == 1 or kinds == {int, float}


def test_a_csv_column_of_numbers_becomes_one(tmp_path):
    (tmp_path / "a.csv").write_text(
        "id,image,question,n,x,code\n1,a.png,Is it?,1,1.5,007\n2,a.png,Is it?,-2,2,012\n3,a.png,42,,,\n"
    )
    reader = open_input(str(tmp_path / "a.csv"))
    columns = Columns().found_in(reader.columns())
    survey = Survey.of(reader, columns)
    items = list(Itemizer(columns, survey, reader.base).items(reader))
    assert survey.extras == {"code": pa.string(), "n": pa.int64(), "x": pa.float64()}
    assert dict(items[0].extras) == {"in_code": "007", "in_n": 1, "in_x": 1.5}
    assert items[2].question == "42"


@pytest.mark.parametrize(
    ("answer", "expected", "right"),
    [
        ("Yes", None, None), ("Yes", "yes", True), ("Yes, it floats.", "Yes", True), ("No", "Yes", False),
        ("(b) Red", "red", True), ("(b) Red", "(b)", True), ("the duck", "a duck", True), ("Yesterday", "Yes", False),
        ("two", '["2", "two"]', True), ("three", '["2", "two"]', False), ("", "", True), ("Yes", "", False),
    ],
)  # fmt: skip
def test_right_and_wrong(answer, expected, right):
    assert correct(answer, expected) is right
