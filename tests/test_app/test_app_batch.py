"""Many pictures are an export underneath: its answers, its resumption, its report."""

import io
import os
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import pytest
import tiny
from relevancy_app import asking, batch, batch_panel
from relevancy_app.batch import Batch, table
from relevancy_app.safety import StoppedError
from relevancy_app.session import Controls
from relevancy_app.settings import Settings
from relevancy_app.wiring import Handlers

import relevancy
from relevancy import RelevancyError, open_export
from relevancy.atomic_io import locked

LIMITS = Settings()
QUESTION = "What color is the ball?"


def silent(stage, share):
    pass


def png(seed):
    buffer = io.BytesIO()
    tiny.picture(80 + seed, 60, seed=seed).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def pictures():
    return [(f"picture {seed}.PNG", png(seed)) for seed in range(10)]


@pytest.fixture(scope="module")
def ask(shelf):
    return asking.ask(shelf, LIMITS, QUESTION, ["deep", "flat"], "first")


def begun(pictures, ask, root, owner=""):
    return Batch.of(pictures, ask, owner, root, LIMITS.max_pixels)


def test_each_row_is_what_explain_says(shelf, pictures, ask, tmp_path):
    files = [*pictures[:9], ("bad.jpg", b"no picture")]
    made = begun(files, ask, tmp_path)
    assert {row.state for row in made.rows()} == {"waiting"}
    first, last = made.run(tuple(shelf.models[name] for name in ask.models), silent)
    assert [row.state for row in first] == ["done"] * 16 + ["waiting"] * 4
    assert [(row.picture, row.model) for row in last] == [(name, model) for name, _ in files for model in ask.models]
    for row, (name, model) in zip(last, [(name, model) for name, _ in files for model in ask.models], strict=True):
        if name == "bad.jpg":
            assert "is not a picture" in row.state
            continue
        assert row.state == "done"
        if name not in ("picture 0.PNG", "picture 8.PNG"):  # of each step one
            continue
        alone = relevancy.explain(shelf.models[model], dict(files)[name], QUESTION, target="first")
        assert row.answer == alone.answer
        assert row.share == pytest.approx(alone.shares["image"], rel=1e-3)
        assert row.verdict == alone.evidence.verdict
    assert len(open_export(made.folder / "maps")) == 18
    assert made.report(silent).read_text().startswith("<!doctype html>")


def test_it_goes_on_where_it_was_stopped(shelf, pictures, ask, tmp_path, passes):
    def stop(stage, share):
        if share > 0:
            raise StoppedError("enough")

    steps = begun(pictures, ask, tmp_path).run(tuple(shelf.models[name] for name in ask.models), stop)
    next(steps)
    with pytest.raises(StoppedError):
        next(steps)
    again = begun(pictures, ask, tmp_path)  # as after a restart
    assert [row.state for row in again.rows()] == ["done"] * 16 + ["waiting"] * 4
    models = tuple(shelf.models[name] for name in ask.models)
    (last,) = again.run(models, silent)  # one step was there
    assert {row.state for row in last} == {"done"}
    count = passes(*models)
    (once_more,) = begun(pictures, ask, tmp_path).run(models, silent)  # not each step again
    assert once_more == last
    assert count == []


def test_what_decides_the_results_decides_the_folder(shelf, pictures, ask, tmp_path):
    other = asking.ask(shelf, LIMITS, "Is it?", ["deep"], "first")
    folders = {
        begun(pictures, ask, tmp_path).folder,
        begun(pictures[:9], ask, tmp_path).folder,
        begun(pictures, other, tmp_path).folder,
        begun(pictures, ask, tmp_path, "eve").folder,
    }
    assert len(folders) == 4
    assert begun(pictures, ask, tmp_path).folder in folders


def test_the_oldest_folders_make_room(pictures, ask, tmp_path, monkeypatch):
    monkeypatch.setattr(batch, "_MOST_BATCHES", 3)
    folders = [begun(pictures[: number + 1], ask, tmp_path).folder for number in range(5)]
    assert sorted(one for one in tmp_path.iterdir() if one.is_dir()) == sorted(folders[-3:])


def test_what_is_at_work_or_was_used_last_makes_no_room(shelf, pictures, ask, tmp_path, monkeypatch):
    monkeypatch.setattr(batch, "_MOST_BATCHES", 4)
    made = [begun(pictures[: number + 1], ask, tmp_path) for number in range(4)]
    with locked(made[2].folder / "maps"):
        for number, one in enumerate(made):
            os.utime(one.folder, (number, number))
        begun(pictures[:1], ask, tmp_path)  # opened again
        next(made[1].run(tuple(shelf.models[name] for name in ask.models), silent))
        begun(pictures[:5], ask, tmp_path)
        begun(pictures[:6], ask, tmp_path)
    assert [one.folder.exists() for one in made] == [True, True, True, False]


def test_apps_that_share_the_folder_make_their_batches_in_turn(pictures, ask, tmp_path, monkeypatch):
    def room(root):
        with pytest.raises(RelevancyError, match="Another process"), locked(root):
            pass
        turns.append(root)

    turns = []
    monkeypatch.setattr(batch, "_make_room", room)
    begun(pictures, ask, tmp_path)
    assert turns == [tmp_path]


def test_none_and_too_many_are_refused_before_any_is_read(shelf, tmp_path):
    handlers = batch_panel.BatchHandlers(Handlers(shelf, LIMITS, (), str(tmp_path / "served")), tmp_path / "batches")
    asked = (QUESTION, ["flat"], "first", "language", "relevancy", 0, 2)
    for files, told in (([], "choose some files"), (["none.png"] * 501, "501 pictures are more than 500")):
        with pytest.raises(RelevancyError, match=told):
            list(handlers.run(Controls(), files, gr.Request(), lambda *_, **__: None, *asked))
    assert list(tmp_path.iterdir()) == []


def test_layers_that_mean_something_else_in_each_model_are_refused(shelf, pictures, tmp_path):
    ask = asking.ask(shelf, LIMITS, QUESTION, ["deep", "flat"], "first", first_layer=1)
    with pytest.raises(RelevancyError, match="choose one model, or all layers"):
        next(begun(pictures, ask, tmp_path).run(tuple(shelf.models[name] for name in ask.models), silent))


def test_the_page_gets_the_table_as_it_grows_and_the_report(shelf, pictures, tmp_path):
    (tmp_path / "served").mkdir()
    files = []
    for name, data in pictures:
        files.append(tmp_path / name)
        files[-1].write_bytes(data)
    handlers = batch_panel.BatchHandlers(Handlers(shelf, LIMITS, (), str(tmp_path / "served")), tmp_path / "batches")
    asked = (QUESTION, ["flat"], "first", "language", "relevancy", 0, 2)
    nobody = SimpleNamespace(username=None)
    begin, one, two, end = handlers.run(Controls(), files, nobody, lambda share, desc: None, *asked)
    assert ["0 of 10" in begin[0], "8 of 10" in one[0], "10 of 10" in two[0]] == [True] * 3
    assert not begin[1]["visible"]
    assert end[0] == gr.skip()
    report = Path(end[1]["value"])
    assert report.is_relative_to(tmp_path / "served")
    assert report.read_text().startswith("<!doctype html>")


def test_a_table_is_no_markup(ask, tmp_path, pictures):
    made = begun([("<b>.png", pictures[0][1])], ask, tmp_path)
    assert "<b>" not in table(made, made.rows())
    assert [one.name for one in (made.folder / "pictures").iterdir()] == ["0000--b-.png"]
