"""Runs are kept before they are shown, come back as they were, and belong to their owner alone."""

import os
import pickle
import sqlite3
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from types import SimpleNamespace

import gradio as gr
import httpx
import numpy as np
import pytest
import tiny
from relevancy_app import actions, asking, history_panel, stored_runs
from relevancy_app import history as history_module
from relevancy_app.history import History, opened
from relevancy_app.run_pair import RunPair
from relevancy_app.session import Controls, Session
from relevancy_app.settings import MOST_EXCHANGES, Settings, history_path
from relevancy_app.wiring import Handlers

from relevancy import RelevancyError

LIMITS = Settings()
NOBODY = SimpleNamespace(username=None)


def explained(shelf, source, question="Is the duck floating?", models=("deep", "flat"), **options):
    """Every step of a run."""
    ask = asking.ask(shelf, LIMITS, question, list(models), **options)
    return list(actions.explained(shelf, LIMITS, Session(ask, source), lambda *_: None))


@pytest.fixture(scope="module")
def steps(shelf, source):
    return explained(shelf, source, target="first")


@pytest.fixture(scope="module")
def whole(steps):
    return steps[-1]


@pytest.fixture
def history(tmp_path):
    return opened(tmp_path / "folder" / "history.sqlite3", 100)


def same(one, other):
    """Whether two results are equal, and draw themselves alike."""
    assert one.to_json() == other.to_json()
    np.testing.assert_array_equal(np.asarray(one.image), np.asarray(other.image))
    np.testing.assert_array_equal(one.heatmap(), other.heatmap())
    return True


def test_a_run_comes_back_as_it_was(history, whole):
    kept = history.keep(whole, "")
    again = history.run(kept.kept, "")
    assert (again.ask, again.source, again.notes) == (whole.ask, whole.source, whole.notes)
    for name in ("first", "results", "screen"):
        assert all(same(*pair) for pair in zip(getattr(again, name), getattr(whole, name), strict=True))
    assert again.comparison.to_json() == whole.comparison.to_json()
    assert again.picked.keys() == whole.picked.keys()
    assert again.whole
    assert again.kept == kept.kept


def test_after_a_restart_it_is_there(history, whole):
    kept = history.keep(whole, "").kept
    other = opened(history.path, 100)
    assert [one.id for one in other.runs("")[0]] == [kept]


def test_each_map_is_kept_as_it_is_shown(history, steps):
    first, second, whole = steps
    kept = history.keep(first, "")
    (run,) = history.runs("")[0]
    assert (run.answers, run.models) == ((first.first[0].answer,), ("deep", "flat"))
    cut = history.run(kept.kept, "")
    assert cut.whole  # although the second model had not had its turn
    assert cut.ask.models == ("deep",)
    history.keep(replace(second, kept=kept.kept), "")
    assert history.run(kept.kept, "").comparison.agreement == whole.comparison.agreement
    history.keep(replace(whole, kept=kept.kept), "")
    assert history.run(kept.kept, "").comparison.likelihoods == whole.comparison.likelihoods
    assert history.runs("")[1] == 1


def test_a_picked_token_comes_back_as_it_is_shown(history, shelf, whole, passes):
    kept = history.keep(whole, "")
    picked = history.keep(actions.picked(shelf, kept, (1, 3, None), lambda *_: None), "")
    again = history.run(picked.kept, "")
    assert again.results[1].target.position == 3
    assert same(again.results[1], picked.results[1])
    assert same(again.first[1], whole.first[1])
    assert again.results[0] is again.first[0]
    count = passes(*shelf.models.values())
    back = actions.picked(shelf, again, (1, whole.first[1].target.position, None), lambda *_: None)
    assert back.results == back.first
    assert actions.picked(shelf, back, (1, 3, None), lambda *_: None).results[1] is again.results[1]
    assert count == []


def test_a_token_explained_against_another_comes_back_too(history, shelf, whole):
    kept = history.keep(whole, "")
    pick = (0, 2, whole.first[0].target.alternatives[0].id)
    against = history.keep(actions.picked(shelf, kept, pick, lambda *_: None), "")
    plain = history.keep(actions.picked(shelf, against, (0, 2, None), lambda *_: None), "")
    for session in (plain, against):
        history.keep(session, "")
        again = history.run(kept.kept, "")
        assert same(again.results[0], session.results[0])
        assert pick in again.picked


@pytest.mark.parametrize("options", [{"target": "Yes|No"}, {"scope": "full", "first_layer": 1}, {"models": ("flat",)}])
def test_every_kind_of_run(history, shelf, source, options):
    *_, run = explained(shelf, source, **options)
    again = history.run(history.keep(run, "").kept, "")
    assert again.ask == run.ask
    assert again.picked.keys() == run.picked.keys()
    assert all(same(*pair) for pair in zip(again.first, run.first, strict=True))


def test_a_run_that_was_deleted_while_it_went_on_stays_deleted(history, steps):
    kept = history.keep(steps[0], "")
    history.delete(kept.kept, "")
    history.keep(replace(steps[-1], kept=kept.kept), "")
    assert history.runs("") == ([], 0)
    with closing(sqlite3.connect(history.path)) as db:
        assert [db.execute(f"SELECT count(*) FROM {table}").fetchone() for table in ("results", "pictures")] == [
            (0,)
        ] * 2


def test_a_run_that_is_deleted_while_its_results_are_packed_changes_no_other(history, steps, monkeypatch):
    def packed(session, known, pack=stored_runs.results):
        if session is going:
            history.delete(kept.kept, "")
            others.append(history.keep(steps[0], "eve"))  # which gets the number
        return pack(session, known)

    kept, others = history.keep(steps[0], ""), []
    going = replace(steps[-1], kept=kept.kept)
    monkeypatch.setattr(stored_runs, "results", packed)
    history.keep(going, "")
    assert history.runs("") == ([], 0)
    (other,) = others
    assert history.run(other.kept, "eve").ask.models == ("deep",)
    assert history.runs("eve")[0][0].answers == (steps[0].first[0].answer,)


def test_a_run_that_is_deleted_while_it_is_read_shows_no_other(history, steps, whole, monkeypatch):
    def traced(path, connected=history_module._connected):
        def followed(statement):
            if statement.startswith("SELECT model, position") and not others:
                others.append(None)
                history.delete(kept, "")
                others.append(history.keep(steps[0], "eve"))  # which gets the number

        db = connected(path)
        db.set_trace_callback(followed)
        return db

    kept, others = history.keep(whole, "").kept, []
    monkeypatch.setattr(history_module, "_connected", traced)
    assert len(history.run(kept, "").first) == 2
    assert len(history.run(others[1].kept, "eve").first) == 1
    assert history.runs("") == ([], 0)


def asked(whole, question, **changes):
    return replace(whole, ask=replace(whole.ask, question=question, **changes))


def test_search(history, whole):
    runs = {
        question: history.keep(asked(whole, question), "").kept
        for question in ("Wie GROẞ ist das Haus?", "100% of it?", "What color_is it?", "É o pato?")
    }
    history.name(runs["100% of it?"], "", "  the odd\n one ")

    def found(words):
        return {run.question for run in history.runs("", words)[0]}

    assert found("gross") == {"Wie GROẞ ist das Haus?"}
    assert found("é PATO") == {"É o pato?"}
    assert found("0%") == {"100% of it?"}
    assert found("color_") == {"What color_is it?"}
    assert found("odd one") == {"100% of it?"}
    assert found("' OR 1=1 --") == set()
    assert found(f"deep relevancy {whole.first[0].answer[:4]}") == set(runs)
    assert found("deep missing") == set()
    assert history.runs("", "it", most=1)[1] == 2
    assert [run.name for run in history.runs("", "odd")[0]] == ["the odd one"]


def test_pinned_first_then_the_newest(history, whole):
    one, two, three = (history.keep(asked(whole, text), "").kept for text in ("1?", "2?", "3?"))
    history.pin(one, "", True)
    assert [run.id for run in history.runs("")[0]] == [one, three, two]
    assert [run.id for run in history.runs("", most=2)[0]] == [one, three]
    history.pin(one, "", False)
    assert [run.id for run in history.runs("")[0]] == [three, two, one]


def test_each_owner_sees_their_own(history, whole):
    ours, theirs = history.keep(whole, "eve").kept, history.keep(whole, "bob").kept
    assert [run.id for run in history.runs("eve")[0]] == [ours]
    assert history.thumbnail(ours, "eve").startswith(b"\xff\xd8")
    for owner in ("bob", ""):
        assert history.thumbnail(ours, owner) is None
        for call in (
            lambda: history.run(ours, owner),  # noqa: B023
            lambda: history.pin(ours, owner, True),  # noqa: B023
            lambda: history.name(ours, owner, "mine"),  # noqa: B023
            lambda: history.delete(ours, owner),  # noqa: B023
        ):
            with pytest.raises(RelevancyError, match="in your history"):
                call()
    history.keep(replace(whole, kept=ours, results=whole.first[:1], first=whole.first[:1]), "bob")
    assert len(history.run(ours, "eve").first) == 2
    history.delete(theirs, "bob")
    assert same(history.run(ours, "eve").first[0], whole.first[0])  # the picture of both is still there


def test_ids_cannot_be_guessed(history, whole):
    ids = [history.keep(whole, "").kept for _ in range(20)]
    assert len(set(ids)) == 20
    assert all(len(run) >= 22 for run in ids)


def noise(seed):
    """A picture that takes room."""
    return np.random.default_rng(seed).integers(0, 256, 300_000, dtype=np.uint8).tobytes()


def test_the_oldest_that_are_not_pinned_make_room(tmp_path, whole):
    history = opened(tmp_path / "history.sqlite3", 1)
    ids = []
    for number in range(8):
        ids.append(history.keep(replace(asked(whole, f"{number}?"), source=noise(number)), "").kept)
        if number == 0:
            history.pin(ids[0], "", True)
    left = [run.id for run in history.runs("")[0]]
    assert left == [ids[0], *reversed(ids[-len(left) + 1 :])]
    assert 2 <= len(left) <= 4
    assert history.path.stat().st_size <= 1 << 20
    for run in left[1:-1]:
        history.pin(run, "", True)
    with pytest.raises(RelevancyError, match="fill the history"):
        for _ in range(4):
            history.pin(history.keep(replace(whole, source=noise(99)), "").kept, "", True)


def test_who_has_the_most_makes_room(tmp_path, whole):
    history = opened(tmp_path / "history.sqlite3", 1)
    quiet = history.keep(replace(whole, source=noise(50)), "bob").kept
    for number in range(6):
        history.keep(replace(whole, source=noise(number)), "eve")
    assert [run.id for run in history.runs("bob")[0]] == [quiet]
    assert history.runs("eve")[1] < 6


def test_a_picture_is_decoded_once_for_all_results(history, whole, monkeypatch):
    kept, opened_ones = history.keep(whole, ""), []
    real = stored_runs.open_picture

    def counted(*arguments, **options):
        opened_ones.append(arguments)
        return real(*arguments, **options)

    monkeypatch.setattr(stored_runs, "open_picture", counted)
    again = history.run(kept.kept, "")
    assert len(again.first) == 2
    assert len(opened_ones) == 1


def test_one_picture_is_stored_once(history, whole):
    for number in range(5):
        history.keep(replace(asked(whole, f"{number}?"), source=noise(0)), "")
    assert history.path.stat().st_size < 700_000


def test_what_is_deleted_is_gone_from_the_disk(history, whole):
    secret = noise(7)
    history.delete(history.keep(replace(asked(whole, "a very private question"), source=secret), "").kept, "")
    stored = b"".join(file.read_bytes() for file in history.path.parent.iterdir())
    assert secret[:200] not in stored
    assert b"very private" not in stored


def test_nobody_else_can_read_the_file(history, whole):
    history.keep(whole, "")
    assert history.path.stat().st_mode & 0o777 == 0o600
    assert history.path.parent.stat().st_mode & 0o777 == 0o700


def broken(path, kind):
    if kind == "damaged":
        path.write_bytes(os.urandom(9000))
    elif kind == "a folder":
        path.mkdir()
    elif kind == "a text":
        path.write_text("not a database at all, but a text of some length\n" * 100)
    elif kind == "another program's":
        with closing(sqlite3.connect(path)) as db:
            db.execute("CREATE TABLE runs (id)")
    elif kind == "of a later version":
        opened(path, 1)
        with closing(sqlite3.connect(path)) as db:
            db.execute("PRAGMA user_version = 99")
    elif kind == "below a file":
        path.parent.joinpath("file").write_text("")
        return path.parent / "file" / "history.sqlite3"
    return path


KINDS = ("damaged", "a folder", "a text", "another program's", "of a later version", "below a file")


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_cannot_be_used_is_one_line(tmp_path, kind):
    path = broken(tmp_path / "history.sqlite3", kind)
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(RelevancyError, match="give another --history, or none") as caught:
        opened(path, 1)
    assert "\n" not in str(caught.value)
    assert (path.read_bytes() if path.is_file() else None) == before


def test_the_app_goes_on_without_a_history(tmp_path, shelf, serve, outside, capsys):
    path = broken(tmp_path / "history.sqlite3", "damaged")
    with serve(tuple(shelf.models.values()), tmp_path / "served", Settings(history=path)) as running:
        assert capsys.readouterr().err.startswith("no history: ")
        page = httpx.get(running.url).text
        assert httpx.get(f"{running.url}thumbnail?run=x").status_code == 404
    assert "No history: The history … cannot be used" in page
    assert str(path) not in page


def test_a_file_that_cannot_be_written_is_one_line(tmp_path, whole, monkeypatch):
    history = opened(tmp_path / "history.sqlite3", 1)
    kept = history.keep(whole, "").kept
    real = sqlite3.connect

    def read_only(database, **options):
        db = real(database, **options)
        db.execute("PRAGMA query_only = ON")  # as a folder without the right to write, which root always has
        return db

    monkeypatch.setattr(sqlite3, "connect", read_only)
    with pytest.raises(RelevancyError, match="readonly database"):
        opened(tmp_path / "history.sqlite3", 1)
    with pytest.raises(RelevancyError, match="readonly database"):
        history.keep(whole, "")
    assert history.run(kept, "").kept == kept


def test_a_file_that_its_owner_deleted_is_begun_anew(history, whole):
    history.keep(whole, "")
    history.path.unlink()
    assert history.runs("") == ([], 0)
    history.path.unlink()
    assert history.run(history.keep(whole, "").kept, "").whole


def test_a_damaged_run_leaves_the_others(history, whole):
    bad, good = history.keep(whole, "").kept, history.keep(whole, "").kept
    with closing(sqlite3.connect(history.path)) as db:
        db.execute("UPDATE results SET explanation = x'00' WHERE run = (SELECT number FROM runs WHERE id = ?)", (bad,))
        db.commit()
    with pytest.raises(RelevancyError, match="cannot be read: delete it"):
        history.run(bad, "")
    assert history.run(good, "").whole
    history.delete(bad, "")
    assert history.runs("")[1] == 1


def test_a_result_of_a_later_format_is_refused(history, whole, monkeypatch):
    kept = history.keep(whole, "").kept
    monkeypatch.setattr("relevancy.formats.EXPLANATION", 0)
    with pytest.raises(RelevancyError, match="install a newer one"):
        history.run(kept, "")


# In a process that has imported and nothing else: a fork of pytest's own, with the threads that a whole suite has left
# there, may wait for a lock for ever.
WRITERS = """
import os, pickle, signal, sys, time
from dataclasses import replace
from pathlib import Path
from relevancy_app.history import opened

path, folder = map(Path, sys.argv[1:])
session = pickle.loads((folder / "session").read_bytes())


def writing(shown, own):
    history, number = opened(path, 100), 0
    with shown.open("w") as file:
        while (own % 2 or number < 5) and os.getppid() == parent:
            owner = f"user{own % 3}"
            kept = history.keep(replace(session, source=session.source + b"%d %d" % (own, number)), owner)
            print(kept.kept, owner, file=file, flush=True)
            number += 1


def failed(child):
    ended = os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    return ended is not None and ended.si_status


notes, children, parent = [folder / f"shown-{own}" for own in range(20)], [], os.getpid()
for own, note in enumerate(notes):
    child = os.fork()
    if not child:
        writing(note, own)
        os._exit(0)
    children.append(child)
while not all(note.exists() and note.stat().st_size for note in notes):
    if any(map(failed, children)):
        sys.exit("a writer failed")
    time.sleep(0.02)
for child in children[1::2]:
    os.kill(child, signal.SIGKILL)
print(*[os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children])
"""


def test_many_open_a_new_history_at_the_same_time(tmp_path):
    many = 16
    for number in range(20):
        start = threading.Barrier(many)

        def opening(_, path=tmp_path / f"{number}.sqlite3", start=start):
            start.wait()
            return opened(path, 100)

        with ThreadPoolExecutor(many) as pool:
            assert len(list(pool.map(opening, range(many)))) == many


def test_no_run_that_was_shown_is_lost_when_writers_are_killed(tmp_path, whole):
    """Each of twenty processes notes what it would show: five runs, or, every other one, until it is killed."""
    path = tmp_path / "history.sqlite3"
    (tmp_path / "session").write_bytes(pickle.dumps(whole))
    command = [sys.executable, "-c", WRITERS, str(path), str(tmp_path)]
    search = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=search, timeout=300)
    assert done.stdout.split() == ["0", "-9"] * 10, done.stderr
    history = opened(path, 100)
    kept = {(run.id, owner) for owner in ("user0", "user1", "user2") for run in history.runs(owner, most=9999)[0]}
    shown = [
        tuple(line.split())
        for note in tmp_path.glob("shown-*")
        for line in note.read_text().splitlines(keepends=True)
        if "\n" in line
    ]
    assert len(shown) >= 10 * 5 + 10
    assert [run for run in shown if run not in kept] == []
    assert all(history.run(*run).whole for run in shown[:20])
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


# -- the panel


def handlers(shelf, history, folder):
    shown = Handlers(shelf, LIMITS, (), str(folder), history)
    return history_panel.PastHandlers(history, shown)


def test_the_page_shows_nothing_that_is_not_kept(shelf, picture_file, history, tmp_path):
    panel = handlers(shelf, history, tmp_path)
    ask = ("Is it?", ["deep", "flat"], "first", "language", "relevancy", 0, 2)
    kept = set()
    for number, (session, *_) in enumerate(
        panel.shown.explain(Controls(), picture_file, [], NOBODY, lambda *_, **__: None, *ask)
    ):
        kept.add(session.kept)
        again = history.run(session.kept, "")
        assert len(again.first) == min(number + 1, 2)
    assert len(kept) == 1
    assert history.runs("")[1] == 1


def test_a_run_that_cannot_be_kept_is_shown_all_the_same(shelf, picture_file, history, tmp_path, monkeypatch):
    panel = handlers(shelf, history, tmp_path)
    history.path.write_bytes(b"broken" * 1000)
    ask = ("Is it?", ["flat"], "first", "language", "relevancy", 0, 2)
    with pytest.warns(UserWarning, match="not kept") as caught:
        (((session, *_)),) = panel.shown.explain(Controls(), picture_file, [], NOBODY, lambda *_, **__: None, *ask)
    assert session.whole
    assert str(history.path) not in str(caught[0].message)


def test_a_run_is_opened_with_all_that_was_asked(shelf, history, whole, tmp_path):
    panel = handlers(shelf, history, tmp_path)
    kept = history.keep(whole, "").kept
    controls = Controls()
    check = controls.start()
    found = panel.open(controls, SimpleNamespace(run=kept), NOBODY)
    _, path, others, strip, question, models, target, scope, method, first, last, *rest = found
    session, status, drawn, *_ = rest[2 + 2 * MOST_EXCHANGES :]
    assert (others, strip) == ([], "")
    with open(path, "rb") as file:  # noqa: PTH123
        assert file.read() == whole.source
    assert (question, models, target, scope) == (whole.ask.question, ["deep", "flat"], "first", "language")
    assert (method, first, last) == ("relevancy", 0, 2)
    assert session.place in path
    assert f'data-run="{kept}"' in status
    assert drawn == panel.shown.drawn(session)
    with pytest.raises(RelevancyError, match="Stopped"):
        check()


def test_a_run_of_models_and_methods_that_are_gone_is_opened(shelf, history, whole, tmp_path):
    panel = handlers(shelf, history, tmp_path)
    gone = replace(whole.ask, models=("other", "flat"), method="mine", first_layer=7, last_layer=9)
    kept = history.keep(replace(whole, ask=gone), "").kept
    found = panel.open(Controls(), SimpleNamespace(run=kept), NOBODY)
    models, method, first, last, session = (found[place] for place in (5, 8, 9, 10, 13 + 2 * MOST_EXCHANGES))
    assert (models, method, first, last) == (["flat"], gr.skip(), 2, 2)
    assert session.whole


@pytest.mark.parametrize(
    "event", [{}, {"run": None}, {"run": 7}, {"run": ["x"]}, {"run": "x" * 5000}, {"run": "\ud800"}]
)
def test_what_is_no_run_is_refused(shelf, history, tmp_path, event):
    panel = handlers(shelf, history, tmp_path)
    for call in (
        lambda: panel.open(Controls(), SimpleNamespace(**event), NOBODY),
        lambda: panel.edit("", SimpleNamespace(**event, name="x"), NOBODY),
        lambda: panel.delete("", SimpleNamespace(**event), NOBODY),
        lambda: panel.compare(SimpleNamespace(runs=[event.get("run"), event.get("run")]), NOBODY),
        lambda: panel.compare(SimpleNamespace(runs=event.get("run")), NOBODY),
    ):
        with pytest.raises(RelevancyError):
            call()


def test_what_users_write_is_no_markup(history, whole, shelf, tmp_path):
    panel = handlers(shelf, history, tmp_path)
    assert "0 runs." in panel.listed("", gr.EventData(None, None), NOBODY)
    kept = history.keep(asked(whole, "<script>alert(1)</script>\"'"), "").kept
    shown = panel.edit("", SimpleNamespace(run=kept, name="<img src=x onerror=alert(2)>"), NOBODY)
    assert "<script" not in shown
    assert "<img src" not in shown
    assert shown.count("<img ") == 1
    assert "<script" not in RunPair(history.run(kept, ""), history.run(kept, "")).told()


def test_the_list_says_how_many_there_are(history, whole):
    for number in range(3):
        history.keep(asked(whole, f"{number}?"), "")
    assert "3 runs." in history_panel.runs(*history.runs(""))
    assert "data-more" not in history_panel.runs(*history.runs(""))
    part = history_panel.runs(*history.runs("", most=2))
    assert "3 runs." in part
    assert part.count("data-run") == 2
    assert 'data-more="4"' in part
    assert "1 run." in history_panel.runs(*history.runs("", "2?"))


def test_two_runs_on_one_picture_share_a_scale_and_are_compared(shelf, source, whole):
    *_, other = explained(shelf, source, "What color is the ball?", scope="full", target="first")
    pair = RunPair(whole, other)
    assert "They differ in question, scope." in pair.told()
    board, nothing = pair.boards()
    assert board.count('class="rv-map"') == 4
    assert nothing == ""
    numbers = pair.agreement()
    assert "A: deep – B: deep" in numbers
    assert "A: flat – B: flat" in numbers
    assert "A: deep – B: flat" not in numbers
    (alone,) = explained(shelf, source, models=["flat"])
    crossed = RunPair(explained(shelf, source, models=["deep"])[0], alone).agreement()
    assert "A: deep – B: flat" in crossed


def test_two_runs_on_different_pictures_stand_side_by_side(shelf, whole, tmp_path):
    tiny.picture(90, 70, seed=9).save(tmp_path / "other.png")
    *_, other = explained(shelf, (tmp_path / "other.png").read_bytes())
    pair = RunPair(whole, other)
    assert "about different pictures" in pair.told()
    assert [one.count('class="rv-map"') for one in pair.boards()] == [2, 2]
    assert pair.agreement() == ""


def test_where_the_history_lies(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert history_path({}) == tmp_path / ".cache" / "relevancy" / "history.sqlite3"
    assert history_path({"XDG_CACHE_HOME": "/elsewhere"}).as_posix() == "/elsewhere/relevancy/history.sqlite3"
    assert isinstance(History(history_path({}), 1), History)
