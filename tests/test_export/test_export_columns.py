"""Which column means what, and what is wrong with a row."""

import base64
import json
import math

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from making import encoded, write_lines

from relevancy.data.columns import Columns, Itemizer, Survey
from relevancy.data.inputs import open_input
from relevancy.errors import RelevancyError
from relevancy.export.records import faulty
from relevancy.export.schema import schema, table_of
from relevancy.metrics.answer_match import correct

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
        ({"image": ["a.png"]}, "no path"), ({"image": "https://a/b.png"}, "web address"),
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
