"""Files: they open, they hold the results' own numbers, and a state file brings back what it was written from."""

import base64
import io
import json

import numpy as np
import pytest
import tiny
from PIL import Image
from relevancy_app import actions, asking, downloads
from relevancy_app.asking import Display
from relevancy_app.session import Session
from relevancy_app.settings import Settings

from relevancy import RelevancyError
from relevancy.geometry import Grid

LIMITS = Settings()
SHOWN = Display(0.5, "viridis", smooth=False, one_scale=False)


@pytest.fixture(scope="module")
def session(shelf, source):
    ask = asking.ask(shelf, LIMITS, "Is the duck floating?", ["deep", "flat"], "first", "full", "relevancy", 1, 2)
    *_, whole = actions.explained(shelf, LIMITS, Session(ask, source), lambda *_: None)
    return whole


def written(session, kind, folder):
    with open(downloads.written(session, kind, SHOWN, str(folder)), "rb") as file:  # noqa: PTH123
        return file.read()


@pytest.mark.parametrize("kind", downloads.KINDS)
def test_each_file_lies_inside_the_folder(session, tmp_path, kind):
    path = downloads.written(session, kind, SHOWN, str(tmp_path))
    assert path.startswith(f"{tmp_path}/")
    assert path.endswith(f"/relevancy_deep_flat_relevancy_first_full_layers-1-last{downloads.KINDS[kind][0]}")


def test_png_and_pdf_open(session, tmp_path):
    assert Image.open(io.BytesIO(written(session, "PNG", tmp_path))).size[0] > 800
    drawn = written(session, "PDF", tmp_path)
    assert drawn.startswith(b"%PDF-")
    assert b"/Type3" not in drawn
    assert b"/TrueType" in drawn or b"/CIDFontType2" in drawn


def test_json_holds_comparison_and_explanations(session, tmp_path):
    stored = json.loads(written(session, "JSON", tmp_path))
    assert stored["explanations"] == json.loads(json.dumps([result.to_json() for result in session.results]))
    assert stored["comparison"]["agreement"]


def test_npz_holds_the_arrays_unpickled(session, tmp_path):
    stored = np.load(io.BytesIO(written(session, "NPZ", tmp_path)), allow_pickle=False)
    assert stored["models"].tolist() == ["deep", "flat"]
    for number, result in enumerate(session.results):
        np.testing.assert_array_equal(stored[f"{number}_image_map"], result.image_map)
        edges = stored[f"{number}_x_edges"], stored[f"{number}_y_edges"]
        heatmap = Grid(*stored["picture_size"], *edges).heatmap(stored[f"{number}_image_map"])
        np.testing.assert_array_equal(heatmap, result.heatmap())
        np.testing.assert_array_equal(stored[f"{number}_relevance"], result.relevance)
        assert stored[f"{number}_tokens"].tolist() == list(result.tokens)
    made = json.loads(str(stored["settings"]))
    assert (made["method"], made["scope"], made["first_layer"], made["target"]) == ("relevancy", "full", 1, "first")
    assert made["made"] == [result.how for result in session.results]
    assert made["targets"][0]["token"] == session.results[0].target.token


def test_a_picked_token_is_what_is_written(shelf, session, tmp_path):
    picked = actions.picked(shelf, session, (1, 3, None), lambda *_: None)
    stored = json.loads(written(picked, "JSON", tmp_path))
    assert [one["target"]["position"] for one in stored["explanations"]] == [0, 3]


@pytest.mark.parametrize("kind", downloads.KINDS)
def test_one_model_can_be_downloaded_too(shelf, source, tmp_path, kind):
    begun = Session(asking.ask(shelf, LIMITS, "Is it?", ["flat"]), source)
    (alone,) = actions.explained(shelf, LIMITS, begun, lambda *_: None)
    assert written(alone, kind, tmp_path)


def test_nothing_to_download_yet(tmp_path):
    with pytest.raises(RelevancyError, match="press Explain first"):
        downloads.written(None, "PNG", SHOWN, str(tmp_path))
    assert not list(tmp_path.iterdir())


def test_a_state_brings_everything_back(shelf, session, tmp_path):
    path = downloads.written(session, "State", SHOWN, str(tmp_path))
    found = downloads.restored(path, shelf, LIMITS)
    assert (found.ask, found.display, found.source) == (session.ask, SHOWN, session.source)
    *_, again = actions.explained(shelf, LIMITS, Session(found.ask, found.source), lambda *_: None)
    for one, other in zip(again.first, session.first, strict=True):
        np.testing.assert_array_equal(one.image_map, other.image_map)


def test_its_picture_is_placed_as_it_was(session, tmp_path):
    path = downloads.placed(session.source, str(tmp_path))
    assert path.endswith("/picture.png")
    with open(path, "rb") as file:  # noqa: PTH123
        assert file.read() == session.source


def state(**changes):
    picture = io.BytesIO()
    tiny.picture().save(picture, "PNG")
    content = {
        "format": downloads.FORMAT,
        "version": 1,
        "ask": {"question": "Is it?", "models": ["deep"]},
        "display": {},
        "picture": base64.b64encode(picture.getvalue()).decode(),
    }
    return json.dumps(content | changes)


HOSTILE = {
    "empty": "",
    "no JSON": "{",
    "a list": "[]",
    "a number": "7",
    "another format": state(format="other"),
    "another version": state(version=3),
    "no picture": state(picture=None),
    "a picture that is none": state(picture=base64.b64encode(b"<svg/>").decode()),
    "no base64": state(picture="%%%"),
    "a model from elsewhere": state(ask={"question": "Is it?", "models": ["owner/model"]}),
    "a path for a model": state(ask={"question": "Is it?", "models": ["/etc/passwd"]}),
    "no question": state(ask={"models": ["deep"]}),
    "a list for a question": state(ask={"question": ["Is it?"], "models": ["deep"]}),
    "a long question": state(ask={"question": "x" * 5000, "models": ["deep"]}),
    "an unknown option": state(ask={"question": "Is it?", "models": ["deep"], "library": 1}),
    "an unknown scope": state(ask={"question": "Is it?", "models": ["deep"], "scope": "x"}),
    "infinite layers": state(ask={"question": "Is it?", "models": ["deep"], "first_layer": float("inf")}),
    "an unknown color map": state(display={"colormap": "jet"}),
    "no opacity": state(display={"opacity": "thick"}),
    "deep nesting": "[" * 100_000,
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_state_is_refused_in_one_line(shelf, tmp_path, content):
    path = tmp_path / "state.json"
    path.write_text(content)
    with pytest.raises(RelevancyError) as caught:
        downloads.restored(str(path), shelf, LIMITS)
    assert str(tmp_path) not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_state_of_the_first_version_counts_layers_from_one(shelf, tmp_path):
    path = tmp_path / "state.json"
    for last, found in ((2, 1), (None, None)):
        asked = {"question": "Is it?", "models": ["deep"], "first_layer": 2, "last_layer": last}
        path.write_text(state(ask=asked))
        restored = downloads.restored(str(path), shelf, LIMITS).ask
        assert (restored.first_layer, restored.last_layer) == (1, found)


def test_a_sound_state_is_not(shelf, tmp_path):
    path = tmp_path / "state.json"
    path.write_text(state())
    assert downloads.restored(str(path), shelf, LIMITS).ask.models == ("deep",)


def test_a_state_beyond_the_limit(shelf, tmp_path):
    path = tmp_path / "state.json"
    path.write_bytes(bytes(Settings(upload_megabytes=1).file_bytes + 1))
    with pytest.raises(RelevancyError, match="larger than"):
        downloads.restored(str(path), shelf, Settings(upload_megabytes=1))
