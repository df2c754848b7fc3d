"""Several pictures, earlier turns and a system prompt: what the page says of them is what the package says."""

import io
import json
import sqlite3
from contextlib import closing
from dataclasses import replace
from html import unescape
from types import SimpleNamespace

import numpy as np
import pictured
import pytest
import tiny
from relevancy_app import actions, asking, downloads, pictures, views
from relevancy_app.asking import PLACE, Ask, Display
from relevancy_app.board import board
from relevancy_app.examples import examples
from relevancy_app.head_grid import HeadGrid
from relevancy_app.history import opened
from relevancy_app.library import library
from relevancy_app.pictures import taken
from relevancy_app.run_pair import RunPair
from relevancy_app.session import Controls, Session
from relevancy_app.settings import MOST_EXCHANGES, MOST_PICTURES, Settings
from relevancy_app.wiring import Handlers
from test_app_board import Page

import relevancy
from relevancy import RelevancyError
from relevancy.images import open_picture

LIMITS = Settings()
NOBODY = SimpleNamespace(username=None)
PICTURES = (tiny.picture(80, 60), tiny.picture(50, 90, seed=2))
ASKED, ANSWERED, QUESTION = "how many ?", "two", f"{PLACE} what color ?"


def silent(stage, share):
    pass


def image():
    return {"type": "image"}


def words(text):
    return {"type": "text", "text": text}


BY_HAND = [
    {"role": "user", "content": [image(), words(ASKED)]},
    {"role": "assistant", "content": [words(ANSWERED)]},
    {"role": "user", "content": [image(), words("what color ?")]},
]


@pytest.fixture(scope="module")
def pair():
    return library([pictured.model_of("qwen2_vl"), pictured.model_of("idefics3")])


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The pictures' files, each in a folder of its own, as uploads are."""
    found = []
    for picture in PICTURES:
        found.append(str(tmp_path_factory.mktemp("upload") / "picture.png"))
        picture.save(found[-1])
    return found


@pytest.fixture(scope="module")
def sources(files):
    return tuple(open(file, "rb").read() for file in files)  # noqa: PTH123


def page_values(models=("qwen2_vl", "idefics3"), question=QUESTION, system="", video=False, earlier=(ASKED, ANSWERED)):
    """What the page sends with Explain."""
    blank = [""] * (2 * MOST_EXCHANGES - len(earlier))
    return question, list(models), "first", "language", "relevancy", 0, 1, system, video, *earlier, *blank


@pytest.fixture(scope="module")
def whole(pair, files):
    handlers = Handlers(pair, LIMITS, (), "")
    *_, last = handlers.explain(Controls(), files[0], files[1:], NOBODY, lambda share, desc: None, *page_values())
    return last[0]


# -- what is said


@pytest.mark.parametrize(
    ("ask", "pictures", "said"),
    [
        (Ask("a ?", ()), 1, "a ?"),
        (Ask("a ?", ()), 3, "a ?"),
        (Ask(f"a {PLACE} b", ()), 1, [("user", ["a", None, "b"])]),
        (Ask(f"{PLACE} b", ()), 3, [("user", [None, None, None, "b"])]),
        (Ask(f"a {PLACE}{PLACE}", ()), 2, [("user", ["a", None, None])]),
        (Ask("b", (), system="be brief"), 1, [("system", ["be brief"]), ("user", [None, "b"])]),
        (Ask("b", (), earlier=("a", "c")), 2, [("user", [None, None, "a"]), ("assistant", ["c"]), ("user", ["b"])]),
        (
            Ask(f"b {PLACE}", (), earlier=("a", f"c {PLACE}")), 3,
            [("user", [None, "a"]), ("assistant", ["c", None]), ("user", ["b", None])],
        ),
    ],
)  # fmt: skip
def test_pictures_come_first_or_where_they_are_placed(ask, pictures, said):
    found = ask.said(range(pictures))
    if isinstance(said, str):
        assert found == said
        return
    assert found == [
        {"role": role, "content": [image() if part is None else words(part) for part in parts]} for role, parts in said
    ]


def test_more_places_than_pictures_are_refused():
    with pytest.raises(RelevancyError, match=r"stands in the text 2 times, and there is 1 picture:"):
        Ask(f"{PLACE} a {PLACE}", ()).said([1])
    with pytest.raises(RelevancyError, match=r"stands in the text 2 times, and there is one video:"):
        Ask(f"{PLACE} a {PLACE}", (), video=True).said([1, 2])


@pytest.mark.parametrize(
    ("earlier", "message"),
    [
        (["a", ""], "Exchange 1 lacks what the model answered"),
        (["a", "b", " ", "c"], "Exchange 2 lacks what the user asked"),
        (["x" * 51, "b"], "51 characters, and 50"),
        (["a", "b"] * (MOST_EXCHANGES + 1), "at most 6 exchanges"),
        (["a"], "at most 6 exchanges"),
    ],
)
def test_half_an_exchange_and_too_much_are_refused(shelf, earlier, message):
    told = ("first", "language", "relevancy", 0, 2, "", False)
    with pytest.raises(RelevancyError, match=message):
        asking.ask(shelf, Settings(question_characters=50), "Is it?", ["deep"], *told, *earlier)


def test_empty_exchanges_are_left_out_and_a_place_alone_is_no_question(shelf):
    told = ("first", "language", "relevancy", 0, 2, " be brief ", False)
    found = asking.ask(shelf, LIMITS, "Is it?", ["deep"], *told, "", " ", " a", "b ", None, "")
    assert (found.system, found.earlier, found.exchanges) == ("be brief", ("a", "b"), 1)
    assert found.made.endswith("after 1 exchange · with a system prompt")
    with pytest.raises(RelevancyError, match="No question yet"):
        asking.ask(shelf, LIMITS, f" {PLACE}", ["deep"])


# -- results


def same(one, other):
    """Whether two results are the same map of the same token, on all of their pictures."""
    assert one.target == other.target
    assert one.conversation == other.conversation
    np.testing.assert_array_equal(one.relevance, other.relevance)
    for mine, theirs in zip(one.pictures, other.pictures, strict=True):
        np.testing.assert_array_equal(mine.image_map, theirs.image_map)
        assert mine.share == theirs.share
    return True


def test_the_page_explains_what_the_package_explains(pair, whole):
    assert whole.whole
    assert [len(result.pictures) for result in whole.first] == [2, 2]
    for model, result in zip(pair.models.values(), whole.first, strict=True):
        (alone,) = relevancy.explain(model, [list(PICTURES)], [BY_HAND])
        assert same(result, alone)
    assert whole.comparison.agreement[0].rank_correlation == whole.comparison.agreement[0].rank_correlation


def test_every_other_way_goes_on_from_the_same_conversation(pair, whole):
    model = pair.models["qwen2_vl"]
    picked = actions.picked(pair, whole, (0, 1, None), silent)
    (alone,) = relevancy.explain(model, [list(PICTURES)], [BY_HAND], target=1)
    assert same(picked.results[0], alone)
    every = actions.every_token(pair, whole, 0, silent)
    (tokens,) = relevancy.explain(model, [list(PICTURES)], [BY_HAND], target="all")
    assert len(every.tokens_of(0)) == len(tokens)
    np.testing.assert_allclose(every.picked[0, 1, None].relevance, tokens[1].relevance, rtol=1e-4, atol=1e-6)
    asked = replace(whole.ask, models=("qwen2_vl",))
    varied = actions.varied(pair, whole, asked, [QUESTION, f"is there {PLACE} one ?"], silent)
    assert [len(result.pictures) for result in varied.results] == [2, 2]
    assert [result.conversation[-1].parts for result in varied.results] == [
        (None, "what color ?"),
        ("is there", None, "one ?"),
    ]
    (_, magnitude) = actions.by_method(pair, whole, "qwen2_vl", ["relevancy-magnitude"], silent).results
    (alone,) = relevancy.explain(model, [list(PICTURES)], [BY_HAND], method="relevancy-magnitude", target=0)
    assert same(magnitude, alone)
    heads = actions.by_head(pair, whole, "qwen2_vl", silent)
    shown = whole.results[0]
    for number in range(2):
        summed = sum(one.picture(number).image_map for one in heads)
        np.testing.assert_allclose(summed, shown.picture(number).image_map, rtol=1e-4, atol=1e-7)
    drawn = HeadGrid(heads)
    assert sum(drawn.shares.values()) == pytest.approx(1)
    assert drawn.board().count('data-picture="1"') == sum(one.head[0] == drawn.shown_layer for one in heads)
    region = relevancy.Region(box=(10.0, 10.0, 40.0, 40.0))
    hidden, _ = actions.hidden(pair, whole, actions.DRAWN, region, "grey", silent)
    alone = relevancy.counterfactual(model, PICTURES, BY_HAND, region)
    assert hidden.after == pytest.approx(alone.after.per_token, rel=1e-5)
    heads = actions.by_head(pair, whole, "qwen2_vl", silent)
    alone = relevancy.explain_heads(model, list(PICTURES), BY_HAND)
    assert all(same(*each) for each in zip(heads, alone, strict=True))


def test_a_model_that_takes_no_system_prompt_says_so_in_one_line(source):
    bare = relevancy.wrap(*tiny.gemma_clip(), name="bare")
    bare.processor.chat_template = bare.tokenizer.chat_template = None
    shelf = library([bare])
    begun = Session(replace(asking.ask(shelf, LIMITS, "Is it?", ["bare"]), system="be brief"), source)
    with pytest.raises(RelevancyError, match="no system message"):
        list(actions.explained(shelf, LIMITS, begun, silent))


def test_what_cannot_be_followed_to_several_pictures_is_one_line(pair, sources):
    ask = replace(asking.ask(pair, LIMITS, "how many ?", ["qwen2_vl"]), scope="full")
    with pytest.raises(RelevancyError, match="With several pictures, scope language"):
        list(actions.explained(pair, LIMITS, Session(ask, sources[0], others=sources[1:]), silent))


def test_too_many_pictures_are_refused_before_any_is_read(pair):
    handlers = Handlers(pair, LIMITS, (), "")
    steps = handlers.explain(
        Controls(), "gone", ["gone"] * MOST_PICTURES, NOBODY, lambda *_, **__: None, *page_values()
    )
    with pytest.raises(RelevancyError, match=f"At most {MOST_PICTURES} pictures"):
        list(steps)


def test_pictures_share_what_one_may_have(files, monkeypatch):
    (one, noted), (two, notes) = taken(files, Settings(max_pixels=2 * 50 * 90))
    assert (len(noted), notes) == (1, ())
    assert max(open_picture(one).size) < 80
    assert open_picture(two).size == (50, 90)
    monkeypatch.setattr(pictures, "_TOGETHER", 0)
    with pytest.raises(RelevancyError, match="more than 0 MB together"):
        taken(files, LIMITS)


# -- a video


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """Three frames' files."""
    found = []
    for number in range(3):
        found.append(str(tmp_path_factory.mktemp("upload") / "frame.png"))
        tiny.picture(80, 60, seed=number).save(found[-1])
    return found


def frames_of(film):
    return [{"type": "video", "video": list(film)}]


def test_frames_of_a_video_are_the_packages(pair, film, tmp_path):
    model, handlers = pair.models["qwen2_vl"], Handlers(pair, LIMITS, (), str(tmp_path))
    values = page_values(["qwen2_vl"], "how many ?", video=True)
    ((session, *_),) = handlers.explain(Controls(), film[0], film[1:], NOBODY, lambda share, desc: None, *values)
    messages = [
        {"role": "user", "content": [*frames_of(film), words(ASKED)]},
        {"role": "assistant", "content": ANSWERED},
        {"role": "user", "content": "how many ?"},
    ]
    assert same(session.first[0], relevancy.explain(model, None, messages))
    assert [one.video for one in session.first[0].pictures] == [0] * 3
    picked = actions.picked(pair, session, (0, 1, None), silent)
    assert same(picked.results[0], relevancy.explain(model, None, messages, target=1))
    drawn = Page(board(session.screen))
    heads = [one["text"] for one in drawn.found if one["tag"] == "h3"]
    assert [head.split(" · ")[0] for head in heads[:3]] == ["Frame 1", "Frame 2", "Frame 3"]
    assert "3 frames of a video" in views.status(session, 1)
    history = opened(tmp_path / "history.sqlite3", 100)
    again = history.run(history.keep(session, "").kept, "")
    assert again.ask.video
    assert same(again.first[0], session.first[0])
    with pytest.raises(RelevancyError, match="video cannot be hidden"):
        actions.hidden(pair, session, actions.MOST, None, "grey", silent)


def test_a_model_that_takes_no_videos_says_so_in_one_line(pair, film, tmp_path):
    handlers = Handlers(pair, LIMITS, (), str(tmp_path))
    values = page_values(["idefics3"], "how many ?", video=True, earlier=())
    with pytest.raises(RelevancyError, match="idefics3") as caught:
        list(handlers.explain(Controls(), film[0], film[1:], NOBODY, lambda share, desc: None, *values))
    assert "\n" not in str(caught.value)


# -- the board


def test_the_board_has_a_map_for_each_picture_and_words_by_turn(whole):
    page = Page(board(whole.screen))
    maps = page.of("rv-map")
    assert [one["data-picture"] for one in maps] == ["0", "1"] * 2
    for drawn, picture in zip(maps, [one for result in whole.screen for one in result.pictures], strict=True):
        np.testing.assert_allclose(json.loads(drawn["data-values"]), picture.image_map.ravel(), rtol=1e-3)
        width, height = picture.image.size
        assert drawn["style"] == f"--rv-aspect:{width / height:.5g}"
    assert len(page.of("rv-plain")) == 2
    heads = [one["text"] for one in page.found if one["tag"] == "h3" and one["text"].startswith("Picture")]
    assert [head.split(" ")[1] for head in heads] == ["1", "2"] * 2
    for result, offset in zip(whole.screen, (0, 3), strict=True):
        said = [one["text"] for one in page.of("rv-speaker")[offset : offset + 3]]
        assert [text.split(" · ")[0] for text in said] == ["User", "Model", "User"]
        assert [text.split(" · ")[1] for text in said] == [views.told(turn.share) for turn in result.turns()]
    assert len(page.of("rv-word")) == sum(len(result.words()) for result in whole.screen)


def test_words_stand_with_the_one_who_said_them(whole):
    drawn = unescape(board(whole.screen[:1]))
    _, first, model, last = drawn.split('<span class="rv-speaker">')
    for part, own, others in (
        (first, "many", ("two", "color")),
        (model, "two", ("many", "color")),
        (last, "color", ("many", "two")),
    ):
        assert f">{own}</button>" in part
        assert not any(f">{other}</button>" in part for other in others)
    assert [part.count("rv-patches") for part in (first, model, last)] == [1, 0, 1]


def test_a_picture_behind_its_words_stands_with_them(pair, sources):
    ask = replace(asking.ask(pair, LIMITS, "what color ?", ["qwen2_vl"]), earlier=(f"how many {PLACE}", "two"))
    (session,) = actions.explained(pair, LIMITS, Session(ask, sources[0]), silent)
    _, first, model, last = board(session.screen).split('<span class="rv-speaker">')
    assert [part.count("rv-patches") for part in (first, model, last)] == [1, 0, 0]


def test_one_picture_and_one_turn_look_as_ever(shelf, source):
    (session,) = actions.explained(
        shelf, LIMITS, Session(asking.ask(shelf, LIMITS, "Is it?", ["flat"]), source), silent
    )
    page = Page(board(session.screen))
    assert not page.of("rv-speaker")
    assert not [one for one in page.found if one["tag"] == "h3" and one["text"].startswith("Picture")]
    assert not page.of("rv-which")


# -- the page


def test_pictures_are_added_moved_and_removed(pair, files):
    handlers = Handlers(pair, LIMITS, (), "")
    others, strip = handlers.add([], files[1:])
    assert others == files[1:]
    assert Page(strip).of("rv-strip")
    others, strip = handlers.add(others, files[:1])
    assert strip.count("<li") == 2
    moved = handlers.arrange(files[0], others, SimpleNamespace(move="earlier", number=0))
    assert moved[:2] == (files[1], [files[0], files[0]])
    assert handlers.arrange(files[0], others, SimpleNamespace(move="later", number=0))[1] == [files[0], files[1]]
    assert handlers.arrange(files[0], others, SimpleNamespace(move="remove", number=0))[:2] == (files[0], [files[0]])
    assert handlers.arrange(None, files[1:], SimpleNamespace(move="earlier", number=0)) == (files[1], [], "")
    with pytest.raises(RelevancyError, match=f"At most {MOST_PICTURES}"):
        handlers.add(files * MOST_PICTURES, [])
    for event in ({}, {"move": "up", "number": 0}, {"move": "remove", "number": 9}, {"move": "remove", "number": "0"}):
        with pytest.raises(RelevancyError, match="no such picture"):
            handlers.arrange(files[0], others, SimpleNamespace(**event))


def test_what_is_no_picture_is_told_when_it_is_added(pair, tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"<svg/>")
    with pytest.raises(RelevancyError, match="is not a picture"):
        Handlers(pair, LIMITS, (), "").add([], [str(bad)])


def texts(updates):
    return [one["value"] if isinstance(one, dict) else one for one in updates]


def test_asking_further_goes_on_from_one_models_answer(pair, whole):
    handlers = Handlers(pair, LIMITS, (), "")
    question, system, video, *turns, panel = handlers.further(whole, SimpleNamespace(model=1))
    said = texts(turns)
    assert (question, system, video, panel["open"]) == ("", "", False, True)
    assert said[:4] == [ASKED, ANSWERED, QUESTION, whole.first[1].answer]
    assert [one["visible"] for one in turns] == [True] * 4 + [False] * (2 * MOST_EXCHANGES - 4)
    full = replace(whole, ask=replace(whole.ask, earlier=(ASKED, ANSWERED) * MOST_EXCHANGES))
    with pytest.raises(RelevancyError, match="At most 6 exchanges"):
        handlers.further(full, SimpleNamespace(model=1))
    for session, event in ((None, {"model": 0}), (whole, {"model": 2}), (whole, {}), (whole, {"model": True})):
        with pytest.raises(RelevancyError, match="not on the screen"):
            handlers.further(session, SimpleNamespace(**event))


def test_an_example_begins_anew(pair, tmp_path):
    handlers = Handlers(pair, LIMITS, examples()[:1], str(tmp_path))
    _, others, strip, _, _, system, video, *turns = handlers.example(0)
    assert (others, strip, system, video, set(texts(turns))) == ([], "", "", False, {""})
    assert [one["visible"] for one in turns[:3]] == [True, True, False]


def test_many_pictures_take_a_question_alone(pair, files, tmp_path):
    from relevancy_app.batch_panel import BatchHandlers

    handlers = BatchHandlers(Handlers(pair, LIMITS, (), str(tmp_path)), tmp_path)
    with pytest.raises(RelevancyError, match="clear the conversation"):
        next(handlers.run(Controls(), files, NOBODY, lambda *_, **__: None, *page_values()))


# -- kept


def test_a_conversation_comes_back_from_the_history(pair, whole, tmp_path):
    history = opened(tmp_path / "history.sqlite3", 100)
    kept = history.keep(whole, "")
    again = history.run(kept.kept, "")
    assert (again.ask, again.sources) == (whole.ask, whole.sources)
    assert all(same(*results) for results in zip(again.first, whole.first, strict=True))
    assert again.asked[1] == whole.asked[1]
    picked = history.keep(actions.picked(pair, again, (0, 1, None), silent), "")
    assert same(history.run(kept.kept, "").results[0], picked.results[0])
    assert RunPair(again, whole).same_picture
    swapped = replace(whole, source=whole.others[0], others=(whole.source,))
    history.keep(replace(swapped, kept=""), "")
    with closing(sqlite3.connect(history.path)) as db:
        assert db.execute("SELECT count(*) FROM pictures").fetchone() == (2,)
    history.delete(kept.kept, "")
    with closing(sqlite3.connect(history.path)) as db:
        assert db.execute("SELECT count(*) FROM pictures").fetchone() == (2,)
        assert db.execute("SELECT count(*) FROM further").fetchone() == (1,)
    (last,) = history.runs("")[0]
    history.delete(last.id, "")
    with closing(sqlite3.connect(history.path)) as db:
        assert db.execute("SELECT count(*) FROM pictures").fetchone() == (0,)


def test_a_history_of_the_version_before_opens_and_goes_on(shelf, source, whole, tmp_path):
    path = tmp_path / "history.sqlite3"
    history = opened(path, 100)
    ask = asking.ask(shelf, LIMITS, "Is it?", ["flat"], "first")
    (one,) = actions.explained(shelf, LIMITS, Session(ask, source), silent)
    kept = history.keep(one, "").kept
    with closing(sqlite3.connect(path)) as db:  # as the version before wrote it
        db.execute("DROP TABLE further")
        stored = json.loads(db.execute("SELECT ask FROM runs").fetchone()[0])
        old = {name: value for name, value in stored.items() if name not in ("system", "earlier")}
        db.execute("UPDATE runs SET ask = ?", (json.dumps(old),))
        db.execute("PRAGMA user_version = 1")
        db.commit()
    again = opened(path, 100)
    assert again.run(kept, "").ask == ask
    assert same(again.run(kept, "").first[0], one.first[0])
    two = again.keep(whole, "").kept
    assert opened(path, 100).run(two, "").sources == whole.sources


def test_a_state_brings_the_conversation_back(pair, whole, tmp_path):
    shown = Display()
    path = downloads.written(whole, "State", shown, str(tmp_path))
    found = downloads.restored(path, pair, LIMITS)
    assert (found.ask, (found.source, *found.others)) == (whole.ask, whole.sources)
    handlers = Handlers(pair, LIMITS, (), str(tmp_path))
    _, others, strip, question, *rest = handlers.restore(path)
    assert (question, len(others), strip.count("<li")) == (QUESTION, 1, 1)
    assert texts(rest[8:10]) == [ASKED, ANSWERED]
    with pytest.raises(RelevancyError, match="too large together"):
        Handlers(pair, Settings(upload_megabytes=-1), (), str(tmp_path)).download(whole, "State")


def test_numbers_of_every_picture_are_in_the_file(whole, tmp_path):
    stored = np.load(io.BytesIO(open(downloads.written(whole, "NPZ", Display(), str(tmp_path)), "rb").read()))  # noqa: PTH123, SIM115
    assert stored["picture_sizes"].tolist() == [list(picture.size) for picture in PICTURES]
    for number, result in enumerate(whole.results):
        for end, picture in zip(("", "_2"), result.pictures, strict=True):
            np.testing.assert_array_equal(stored[f"{number}_image_map{end}"], picture.image_map)
            np.testing.assert_array_equal(stored[f"{number}_x_edges{end}"], picture.grid.x_edges)
        assert stored[f"{number}_picture_shares"].tolist() == [picture.share for picture in result.pictures]


@pytest.mark.parametrize("kind", ["PNG", "JSON"])
def test_figures_and_numbers_can_be_downloaded(whole, tmp_path, kind):
    assert downloads.written(whole, kind, Display(), str(tmp_path))


def test_the_status_holds_the_conversation(whole):
    asked = json.loads(Page(views.status(whole, 1)).of("rv-status")[0]["data-asked"])
    said = dict(zip(asked["names"], asked["values"], strict=True))
    assert said["conversation"] == ["", False, ASKED, ANSWERED]
    assert said["further pictures"] == list(whole.other_places)
    assert "2 pictures" in views.status(whole, 1)
