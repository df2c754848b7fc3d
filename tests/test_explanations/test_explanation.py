"""A result keeps its numbers: to a folder and back, in JSON, in pixels; and files come all together or not at all."""

import base64
import errno
import json
import re
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

import relevancy
from relevancy.core.targets import Alternative, Target
from relevancy.errors import RelevancyError
from relevancy.explanations.explanation import Explanation
from relevancy.explanations.picture_map import PictureMap
from relevancy.geometry import Grid
from relevancy.plotting.overlay import FLOOR, labelled, percent

FILES = {"explanation.json", "overlay.png", "figure.png", "heatmap.npy", "picture.png"}


def explanation(**changes) -> Explanation:
    """Five tokens, of which two are a picture's: one row of two patches that see its middle."""
    shares = changes.pop("shares", {"image": 0.4, "text": 0.25, "first_token": 0.35})
    picture = PictureMap(
        changes.pop("image", tiny.picture(40, 30)),
        changes.pop("grid", Grid(40, 30, np.array([5.0, 20.0, 35.0]), np.array([0.0, 30.0]))),
        np.asarray(changes.pop("image_map", [[0.1, 1 / 3]]), np.float32),
        shares["image"],
    )
    result = Explanation(
        model="tiny",
        method="relevancy",
        scope="language",
        question="Is it a duck? 水 😀",
        answer="(b) No",
        target=Target("No", 7, 2, 0.75, 3.1, "Yes", 8, -0.3, alternatives=(Alternative("Yes", 8, 0.2),)),
        pictures=(picture,),
        tokens=("<bos>", "<image>", "<image>", "▁duck", "?"),
        is_image=np.array([False, True, True, False, False]),
        relevance=np.array([0.5, 0.1, 1 / 3, 1e-9, 0.2], dtype=np.float32),
        shares=shares,
        layers=(0, 2),
        notes=("first of 3 frames used",),
        versions={"torch": "2"},
        answer_tokens=("(", "b", ")", "▁No"),
    )
    return replace(result, **changes)


def same(one: Explanation, other: Explanation) -> None:
    for name in ("model", "method", "scope", "question", "answer", "tokens", "layers", "notes", "answer_tokens"):
        assert getattr(one, name) == getattr(other, name), name
    assert one.target.alternatives == other.target.alternatives
    assert (one.shares, one.versions) == (other.shares, other.versions)
    for name in ("is_image", "relevance", "image_map"):
        found, expected = getattr(one, name), getattr(other, name)
        np.testing.assert_array_equal(found, expected)
        assert found.dtype == expected.dtype, name
    for name in ("x_edges", "y_edges", "width", "height"):
        np.testing.assert_array_equal(getattr(one.grid, name), getattr(other.grid, name))
    assert one.image.mode == other.image.mode == "RGB"
    assert one.image.tobytes() == other.image.tobytes()


@pytest.mark.parametrize("target", [explanation().target, Target("No", 7, 0, 0.1, 2.0)])
@pytest.mark.parametrize("layers", [None, (0, 2)])
def test_save_and_load_give_back_what_was_there(tmp_path, target, layers):
    before = explanation(target=target, layers=layers)
    folder = before.save(tmp_path / "new" / "folder")
    assert {file.name for file in folder.iterdir()} == FILES
    after = Explanation.load(folder)
    same(after, before)
    assert after.target == before.target
    np.testing.assert_array_equal(np.load(folder / "heatmap.npy"), before.heatmap())
    overlay = Image.open(folder / "overlay.png")
    assert overlay.size == before.image.size
    assert overlay.convert("RGB").tobytes() == before.overlay().convert("RGB").tobytes()
    Image.open(folder / "figure.png").verify()


def test_json_and_picture_give_back_what_was_there():
    before = explanation()
    same(Explanation.from_json(json.loads(json.dumps(before.to_json())), [before.image]), before)


@pytest.mark.parametrize(
    ("layers", "told"),
    [(None, "all layers"), ((0, 2), "layers 0, 2"), ((3, 1, 2), "layers 1 to 3"), ((0, 2, 3), "layers 0, 2 to 3")],
)
def test_a_result_says_how_it_was_made(layers, told):
    made = explanation(layers=layers, scope="full", versions={"relevancy": "1.2"})
    assert made.how == f"tiny: token 2 “No” rather than “Yes”, method relevancy, scope full, {told}, relevancy 1.2"
    texts = [text.get_text() for text in made.figure().texts]
    assert made.how in texts


def test_a_result_holds_the_python_that_makes_it_again(built, tmp_path, monkeypatch):
    model = relevancy.wrap(*built["gemma-clip"], name="it's")
    picture = tiny.picture()
    picture.save(tmp_path / "picture.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(relevancy, "load", {"it's": model}.__getitem__)
    for options in (
        {"target": "1:3", "scope": "full", "layers": [0, 2]},
        {"target": "contrast", "method": "relevancy-magnitude"},
    ):
        made = relevancy.explain(model, picture, 'Is it "red"?', **options)
        scope: dict[str, relevancy.Explanation] = {}
        exec(made.code, {}, scope)
        same(scope["result"], replace(made, pictures=scope["result"].pictures))
        np.testing.assert_array_equal(scope["result"].image_map, made.image_map)
        assert (tmp_path / "map.png").stat().st_size > 10_000


@given(arrays.arrays(np.float32, (2, 3), elements=st.floats(width=32)))
@settings(max_examples=50)
def test_json_holds_every_number_exactly(values):
    grid = Grid(9, 6, np.linspace(0, 9, 4), np.linspace(0, 6, 3))
    result = explanation(grid=grid, image_map=values, relevance=values.ravel()[:5])
    stored = json.loads(json.dumps(result.to_json(), allow_nan=False))
    back = np.array(stored["image_map"], dtype=np.float32)
    finite = np.isfinite(values)
    np.testing.assert_array_equal(back[finite], values[finite])
    assert np.isnan(back[~finite]).all()
    assert result.empty == (not finite.all() or not values.any())


def test_json_has_the_pinned_keys():
    stored = explanation().to_json()
    pinned = {"model", "method", "scope", "question", "answer", "target", "image", "shares", "tokens", "relevance",
              "image_map", "versions"}  # fmt: skip
    assert pinned <= stored.keys()
    assert {"token", "id", "position", "probability", "logit"} <= stored["target"].keys()
    assert {"width": 40, "height": 30, "rows": 1, "cols": 2}.items() <= stored["image"].items()
    assert stored["shares"].keys() == {"image", "text", "first_token"}
    assert len(stored["tokens"]) == len(stored["relevance"]) == len(stored["is_image"])


def test_results_saved_before_answers_had_tokens_still_load(tmp_path):
    explanation().save(tmp_path)
    file = tmp_path / "explanation.json"
    stored = json.loads(file.read_text(encoding="utf-8"))
    del stored["answer_tokens"]
    file.write_text(json.dumps(stored), encoding="utf-8")
    assert Explanation.load(tmp_path).answer_tokens == ()


def test_what_is_not_a_number_becomes_null_and_comes_back(tmp_path):
    nothing = np.full((1, 2), np.nan, dtype=np.float32)
    target = Target("No", 7, 0, float("nan"), float("nan"), "Yes", 8, float("nan"))
    before = explanation(image_map=nothing, relevance=np.full(5, np.nan, dtype=np.float32), target=target)
    before.save(tmp_path)
    stored = json.loads((tmp_path / "explanation.json").read_text(), parse_constant=pytest.fail)
    assert stored["image_map"] == [[None, None]]
    assert stored["target"]["probability"] is stored["target"]["contrast_logit"] is None
    after = Explanation.load(tmp_path)
    same(after, before)
    assert after.empty
    assert all(np.isnan([after.target.probability, after.target.logit, after.target.contrast_logit]))


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_an_empty_map_is_not_drawn_as_one(value):
    result = explanation(image_map=np.full((1, 2), value, dtype=np.float32))
    seen = np.asarray(result.overlay().convert("RGB"), dtype=int)
    lively = np.asarray(explanation().overlay().convert("RGB"), dtype=int)
    assert np.abs(lively - seen)[:, 5:35].max() > 20
    other = np.asarray(explanation(image_map=result.image_map * 2).overlay().convert("RGB"), dtype=int)
    assert (seen == other).all()
    result.figure()


FAINT = {"image": 2e-6, "text": 0.9, "first_token": 0.099998}


@pytest.mark.parametrize(
    ("share", "said"), [(0, "0.0%"), (1.7e-8, "under 0.0001%"), (2e-6, "0.0002%"), (9e-4, "0.09%"), (0.2, "20.0%")]
)
def test_a_share_is_said_in_digits_that_can_be_read(share, said):
    assert percent(share) == said


def test_a_map_of_next_to_nothing_is_drawn_as_empty_and_says_why(tmp_path):
    faint, plain = explanation(shares=FAINT), explanation()
    assert not faint.empty
    heatmap, why = faint.shown()
    assert why == "map not drawn: 0.0002% of the relevance is on the picture, less than 0.1%"
    np.testing.assert_array_equal(np.isnan(heatmap), np.isnan(faint.heatmap()))
    assert not np.nan_to_num(heatmap).any()
    for floor, result in ((0, faint), (FLOOR, plain)):
        assert result.shown(floor=floor)[1] == ""
        np.testing.assert_array_equal(result.shown(floor=floor)[0], plain.heatmap())
        assert result.overlay(floor=floor).tobytes() == plain.overlay().tobytes()
    assert faint.overlay().size == faint.image.size
    assert faint.overlay().tobytes() not in (plain.overlay().tobytes(), faint.image.tobytes())
    said = [text.get_text() for axes in faint.figure().axes for text in axes.texts]
    assert why in [" ".join(text.split()) for text in said]
    assert "no scale: no map is drawn" in said
    assert "0.0002%" in faint.summary()
    with Image.open(faint.save(tmp_path / "empty") / "overlay.png") as stored:
        assert stored.tobytes() == faint.overlay().tobytes()
    with Image.open(faint.save(tmp_path / "drawn", floor=0) / "overlay.png") as stored:
        assert stored.tobytes() == plain.overlay().tobytes()
    np.testing.assert_array_equal(np.load(tmp_path / "empty" / "heatmap.npy"), faint.heatmap())
    np.testing.assert_array_equal(Explanation.load(tmp_path / "empty").image_map, faint.image_map)


@pytest.mark.parametrize("share", [FLOOR, 0.02, 1.0])
def test_a_map_from_the_floor_on_is_drawn(share):
    assert explanation(shares=FAINT | {"image": share}).shown()[1] == ""


@pytest.mark.parametrize("size", [(3, 2), (40, 30), (400, 60), (60, 400), (1500, 1000)])
def test_the_reason_fits_any_picture(size):
    plain = Image.new("RGB", size, "black")
    drawn = np.asarray(labelled(plain, "map not drawn: 0.0002% of the relevance is on the picture, less than 0.1%"))
    assert drawn.shape == (size[1], size[0], 3)
    assert drawn.any()
    if min(size) > 100:
        assert not drawn[[0, -1]].any()
        assert not drawn[:, [0, -1]].any()


def test_the_heatmap_is_the_map_in_the_pictures_pixels():
    result = explanation()
    heat = result.heatmap(smooth=False)
    assert (heat.shape, heat.dtype) == ((30, 40), np.float32)
    assert np.isnan(heat[:, :5]).all()
    assert np.isnan(heat[:, 35:]).all()
    assert set(np.unique(heat[:, 5:35])) == {np.float32(0.1), np.float32(1 / 3)}
    smooth = result.heatmap()
    assert len(np.unique(smooth[0, 5:35])) > 10


def test_words_are_the_tokens_that_are_no_picture():
    assert explanation().words() == [("<bos>", 0.5), ("▁duck", float(np.float32(1e-9))), ("?", float(np.float32(0.2)))]


def test_a_smaller_picture_has_the_same_patches():
    before = explanation(
        image=tiny.picture(400, 300), grid=Grid(400, 300, np.array([50.0, 200, 350]), np.array([0.0, 300]))
    )
    after = before.reduced(80)
    assert (after.image.size, after.image.mode) == ((80, 60), "RGB")
    assert (after.grid.width, after.grid.height) == (80, 60)
    np.testing.assert_allclose(after.grid.x_edges, [10, 40, 70])
    np.testing.assert_allclose(after.grid.y_edges, [0, 60])
    small, large = after.heatmap(smooth=False), before.heatmap(smooth=False)
    np.testing.assert_array_equal(small, large[2::5, 2::5])
    assert after.to_json() | {"image": None} == before.to_json() | {"image": None}
    assert before.reduced(400) is before
    assert explanation(image=tiny.picture(400, 3)).reduced(10).image.size == (10, 1)


@pytest.mark.parametrize("grid", [explanation().grid, Grid(40, 30, np.linspace(-20, 60, 9), np.linspace(0, 30, 4))])
def test_the_patch_at_a_pixel_is_the_one_whose_value_it_shows(grid):
    values = np.arange(grid.rows * grid.cols, dtype=np.float32).reshape(grid.rows, grid.cols)
    result = explanation(grid=grid, image_map=values)
    shown = result.heatmap(smooth=False)
    for y in range(30):
        for x in range(40):
            place = result.patch_at(x, y)
            assert (place is None) == np.isnan(shown[y, x])
            assert place is None or values[place] == shown[y, x]
    for outside in ((-1, 5), (40, 5), (5, -1), (5, 30)):
        assert result.patch_at(*outside) is None


def test_a_notebook_shows_the_figure_and_the_notes():
    page = explanation(answer="<b>No</b>", notes=("a < b",))._repr_html_()
    encoded = re.search(r"data:image/png;base64,([^\"]+)", page).group(1)
    assert Image.open(BytesIO(base64.b64decode(encoded))).format == "PNG"
    assert "a &lt; b" in page
    assert "<b>" not in page


def test_the_summary_says_answer_token_and_shares():
    assert explanation().summary() == (
        "tiny answers '(b) No'; explained: token 'No' rather than 'Yes', probability 0.750\n"
        "relevance: image 40.0%, text 25.0%, first token 35.0%"
    )


def test_a_new_result_replaces_the_old_one_in_its_folder(tmp_path):
    (tmp_path / "mine.txt").write_text("stays")
    explanation().save(tmp_path)
    explanation(answer="Yes").save(tmp_path)
    assert Explanation.load(tmp_path).answer == "Yes"
    assert {file.name for file in tmp_path.iterdir()} == FILES | {"mine.txt"}


def full(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    "step", ["pathlib.Path.write_text", "PIL.Image.Image.save", "matplotlib.figure.Figure.savefig", "numpy.save"]
)
def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch, step):
    explanation().save(tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    monkeypatch.setattr(step, full)
    with pytest.raises(RelevancyError, match=r"Cannot write to .*No space left on device\. Free room, or another"):
        explanation(answer="Yes").save(tmp_path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_a_failure_of_another_kind_leaves_nothing_either(tmp_path, monkeypatch):
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        explanation().save(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_folders_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("mine")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(RelevancyError, match="Cannot write to"):
            explanation().save(place)
    assert (tmp_path / "file").read_text() == "mine"

    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("tempfile.mkdtemp", refuse)
    with pytest.raises(RelevancyError, match=r"Permission denied\. Choose another --out"):
        explanation().save(tmp_path)


@pytest.mark.parametrize("harm", ["empty", "no json", "other json", "no picture", "no folder"])
def test_folders_that_hold_no_explanation(tmp_path, harm):
    if harm != "empty":
        explanation().save(tmp_path)
    spoil = {
        "empty": lambda: None,
        "no json": lambda: (tmp_path / "explanation.json").write_text("{"),
        "other json": lambda: (tmp_path / "explanation.json").write_text('{"model": 1}'),
        "no picture": lambda: (tmp_path / "picture.png").unlink(),
        "no folder": lambda: None,
    }
    spoil[harm]()
    with pytest.raises(RelevancyError):
        Explanation.load(Path(tmp_path, "none") if harm == "no folder" else tmp_path)
