"""Results in the app are those of the package, bit for bit, and nothing is computed twice."""

import re
from dataclasses import replace
from types import SimpleNamespace

import gradio as gr
import numpy as np
import pytest
import tiny
from relevancy_app import actions, asking, views
from relevancy_app.board import board, told
from relevancy_app.head_grid import HeadGrid
from relevancy_app.pictures import fitted
from relevancy_app.safety import StoppedError
from relevancy_app.session import Controls, Session
from relevancy_app.settings import Settings
from relevancy_app.wiring import Handlers

import relevancy
from relevancy import RelevancyError
from relevancy.explanations.agreement import agreement
from relevancy.explanations.counterfactual import elsewhere
from relevancy.geometry import Grid
from relevancy.images import open_picture
from relevancy.methods import registry

QUESTION = "Is the duck floating? (a) Yes (b) No"
LIMITS = Settings()
NOBODY = SimpleNamespace(username=None)


def silent(stage, share):
    pass


def same(one, other):
    return (
        np.array_equal(one.image_map, other.image_map)
        and np.array_equal(one.relevance, other.relevance)
        and one.answer_tokens == other.answer_tokens
        and one.target == other.target
    )


def asked(shelf, models=("deep", "flat"), **options):
    return asking.ask(shelf, LIMITS, QUESTION, list(models), **options)


def explained(shelf, source, models=("deep", "flat"), progress=silent, limits=LIMITS, **options):
    """The whole, at the end."""
    *_, whole = actions.explained(shelf, limits, Session(asked(shelf, models, **options), source), progress)
    return whole


@pytest.fixture(scope="module")
def shown(shelf, source):
    return explained(shelf, source)


@pytest.mark.parametrize(
    "options", [{}, {"target": "first"}, {"scope": "full"}, {"first_layer": 1}, {"target": "Yes|No"}]
)
def test_both_maps_equal_separate_calls(shelf, source, options):
    found = explained(shelf, source, **options)
    for model, result in zip(shelf.models.values(), found.first, strict=True):
        alone = relevancy.explain(model, source, QUESTION, **asked(shelf, **options).options(model))
        assert same(result, alone)
    assert found.comparison is not None
    assert found.shown is found.comparison


def test_one_model_alone(shelf, source):
    (found,) = actions.explained(shelf, LIMITS, Session(asked(shelf, ["flat"]), source), silent)
    assert found.whole
    assert same(found.first[0], relevancy.explain(shelf.models["flat"], source, QUESTION, target="first-relevant"))
    assert found.comparison is None
    assert found.shown is None


@pytest.mark.parametrize("options", [{}, {"first_layer": 1}])
def test_each_map_is_there_before_the_next_model_runs(shelf, source, passes, options):
    count = passes(*shelf.models.values())
    steps = actions.explained(shelf, LIMITS, Session(asked(shelf, **options), source), silent)
    first = next(steps)
    assert set(count) == {"deep"}
    assert first.waiting == ("flat",)
    assert not first.whole
    second = next(steps)
    assert (second.waiting, second.whole) == ((), False)
    (whole,) = steps
    assert whole.whole
    assert first.first == whole.first[:1]
    assert second.first == whole.first
    assert second.screen == whole.screen
    assert second.shown.agreement == whole.comparison.agreement


def test_what_a_stopped_run_has_made_is_a_whole_of_its_own(shelf, source):
    first, second, _ = actions.explained(shelf, LIMITS, Session(asked(shelf), source), silent)
    ended = first.ended()
    assert ended.whole
    assert ended.ask == asked(shelf, ["deep"])
    assert (ended.results, ended.shown) == (first.results, None)
    assert second.ended().whole
    assert second.ended().ask == asked(shelf)
    assert second.ended().comparison.likelihoods == ()
    picked = actions.picked(shelf, ended, (0, ended.first[0].target.position, None), silent)
    assert picked.results == ended.results


def handed_out(shelf, path, controls):
    """What the page gets from a run, step by step."""
    handlers = Handlers(shelf, LIMITS, (), "")
    ask = (QUESTION, ["deep", "flat"], "first-relevant", "language", "relevancy", 0, 2)
    return handlers, handlers.explain(controls, path, [], NOBODY, lambda share, desc: None, *ask)


def test_the_page_gets_a_picture_with_each_map_and_then_the_numbers(shelf, picture_file):
    _, steps = handed_out(shelf, picture_file, Controls())
    (one, *early), (two, *later), (all_there, *numbers) = steps
    for session, (status, drawn, tools, *rest), places in ((one, early, 1), (two, later, 0)):
        assert 'aria-busy="true"' in status
        assert drawn == board(session.screen, waiting=session.waiting)
        assert drawn.count("rv-soon") == places
        assert tools["visible"]
        assert rest == [gr.skip()] * 6
    status, drawn, tools, agreed, marker, changes, *others, details = numbers
    assert "aria-busy" not in status
    assert drawn == gr.skip()  # as it stands there
    assert agreed == views.agreement(all_there.comparison)
    assert marker == views.marker(all_there.screen)
    assert (changes, others, details["visible"]) == ("", ["", ""], True)


def test_after_cancel_the_maps_that_were_there_stay(shelf, picture_file):
    controls = Controls()
    handlers, steps = handed_out(shelf, picture_file, controls)
    session, *_ = next(steps)
    button, ended, status, drawn, _, agreed, *_ = handlers.cancel(session, controls, NOBODY)
    assert not button["interactive"]
    assert ended.ask.models == ("deep",)
    assert status == views.stopped(ended, 2)
    assert drawn == board(session.screen)
    assert agreed == views.agreement(None)
    again, _, drawn_again, *_ = next(steps)  # whoever stopped it, the run ends with what there is
    assert (again.ask, drawn_again) == (ended.ask, drawn)
    with pytest.raises(StoppedError):
        next(steps)
    untouched = handlers.cancel(ended, controls, NOBODY)
    assert untouched[1:] == (gr.skip(), views.stopped(ended, 2), *[gr.skip()] * 8)


def test_stages_are_named_and_shares_grow(shelf, source):
    stages = []
    explained(shelf, source, progress=lambda *stage: stages.append(stage))
    assert any("deep" in name for name, _ in stages)
    assert any("flat" in name for name, _ in stages)
    shares = [share for _, share in stages]
    assert shares == sorted(shares)
    assert 0 <= shares[0] <= shares[-1] <= 1


def test_a_picked_token_is_explained_once(shelf, shown, passes):
    count = passes(*shelf.models.values())
    found = actions.picked(shelf, shown, (1, 5, None), silent)
    assert set(count) == {"flat"}
    alone = relevancy.explain(shelf.models["flat"], shown.picture, QUESTION, target=5)
    assert same(found.results[1], alone)
    assert found.results[0] is shown.results[0]
    assert found.shown.explanations == found.results
    count.clear()
    back = actions.picked(shelf, found, (1, shown.first[1].target.position, None), silent)
    again = actions.picked(shelf, back, (1, 5, None), silent)
    assert count == []
    assert back.results == shown.first
    assert again.results[1] is found.results[1]


@pytest.mark.parametrize("target", ["Yes|No", "contrast"])
def test_the_token_of_a_contrast_has_another_map_than_the_contrast(shelf, source, target):
    against = explained(shelf, source, target=target)
    position = against.first[1].target.position
    plain = actions.picked(shelf, against, (1, position, None), silent).results[1]
    assert plain.target.contrast is None
    assert not np.array_equal(plain.image_map, against.first[1].image_map)


def test_a_token_against_one_of_the_next_best(shelf, shown, passes):
    other = shown.first[1].target.alternatives[2]
    position = shown.first[1].target.position
    count = passes(*shelf.models.values())
    found = actions.picked(shelf, shown, (1, position, other.id), silent)
    assert set(count) == {"flat"}
    count.clear()
    target = found.results[1].target
    assert (target.position, target.contrast, target.contrast_id) == (position, other.token, other.id)
    assert found.results[1].how.startswith(f"flat: {target.place}, ")
    back = actions.picked(shelf, found, (1, position, None), silent)
    assert back.results == shown.first
    assert actions.picked(shelf, back, (1, position, other.id), silent).results == found.results
    assert count == []
    with pytest.raises(RelevancyError, match="no contrast with token 999999"):
        actions.picked(shelf, shown, (1, position, 999_999), silent)


def test_every_token_in_one_go_equals_each_alone(shelf, shown, passes):
    count = passes(shelf.models["flat"])
    every = actions.every_token(shelf, shown, 1, silent)
    assert count
    count.clear()
    assert actions.every_token(shelf, every, 1, silent) is every
    assert count == []
    assert every.results == shown.results
    maps = every.tokens_of(1)
    assert sorted(maps) == list(range(len(shown.first[1].answer_tokens)))
    assert not every.tokens_of(0).keys() - {shown.first[0].target.position}
    for position in (0, len(maps) - 1):
        alone = relevancy.explain(shelf.models["flat"], shown.picture, QUESTION, target=position)
        np.testing.assert_allclose(maps[position].relevance, alone.relevance, rtol=1e-3, atol=1e-7)
        assert (maps[position].target.id, maps[position].notes) == (alone.target.id, alone.notes)
        assert maps[position].image is shown.screen[1].image
    count.clear()
    assert actions.picked(shelf, every, (1, len(maps) - 1, None), silent).results[1].target.position == len(maps) - 1
    assert count == []
    with pytest.raises(RelevancyError, match="not on the screen"):
        actions.every_token(shelf, shown, 2, silent)
    with pytest.raises(RelevancyError, match="press Explain first"):
        actions.every_token(shelf, None, 0, silent)


@pytest.mark.parametrize(("number", "position"), [(2, 0), (-1, 0), (0, -1), (0, 1000)])
def test_no_token_that_is_not_there(shelf, shown, number, position):
    with pytest.raises(RelevancyError, match="not part of the answer"):
        actions.picked(shelf, shown, (number, position, None), silent)


def test_nothing_to_pick_or_hide_without_a_result(shelf):
    with pytest.raises(RelevancyError, match="press Explain first"):
        actions.picked(shelf, None, (0, 0, None), silent)
    with pytest.raises(RelevancyError, match="press Explain first"):
        actions.hidden(shelf, None, actions.MOST, None, "grey", silent)
    with pytest.raises(RelevancyError, match="press Explain first"):
        actions.varied(shelf, None, asked(shelf, ["flat"]), ["a?", "b?"], silent)


def test_other_methods_and_parts_of_the_layers_equal_single_calls(shelf, shown):
    token = shown.first[0].target.position
    names = ["relevancy", "attention", "tam"]
    found = actions.by_method(shelf, shown, "deep", names, silent)
    assert found.results[0] is shown.results[0]
    for name, result, pair in zip(names[1:], found.results[1:], found.agreement, strict=True):
        assert same(result, relevancy.explain(shelf.models["deep"], shown.picture, QUESTION, target=token, method=name))
        assert pair == agreement(shown.results[0], result)
    found = actions.by_layers(shelf, shown, "deep", silent)
    assert [result.layers for result in found.results] == [None, (0,), (1,), (2,)]
    alone = relevancy.explain(shelf.models["deep"], shown.picture, QUESTION, target=token, layers=[1])
    assert same(found.results[2], alone)
    with pytest.raises(RelevancyError, match="no map of flat on the screen"):
        actions.by_layers(shelf, replace(shown, ask=replace(shown.ask, models=("deep",))), "flat", silent)
    with pytest.raises(RelevancyError, match="does not offer"):
        actions.by_method(shelf, shown, "deeper", names, silent)


def test_what_does_not_go_by_layers_says_so(shelf, source):
    rolled = explained(shelf, source, ["flat"], method="tam")
    with pytest.raises(RelevancyError, match="does not go by layers"):
        actions.by_layers(shelf, rolled, "flat", silent)


def test_heads_are_a_grid_of_all_and_the_maps_of_one_layer(shelf, shown):
    heads = actions.by_head(shelf, shown, "deep", silent)
    alone = relevancy.explain_heads(
        shelf.models["deep"], shown.picture, QUESTION, target=shown.first[0].target.position
    )
    assert len(heads) == len(alone) == 12
    assert all(same(one, other) for one, other in zip(heads, alone, strict=True))
    added = np.array([one.image_map.sum() for one in heads]) / sum(one.image_map.sum() for one in heads)
    grid = HeadGrid(heads)
    assert list(grid.shares.values()) == pytest.approx(added.tolist())
    assert grid.shown_layer == int(np.argmax(added)) // 4
    text = HeadGrid(heads, 2).board()
    assert text.count('aria-label="Layer ') == 12
    assert re.findall("<h2>(.*?)</h2>", text) == [f"head {number}" for number in range(4)]
    assert f"adds {told(added[8])}" in text
    assert 'aria-current="true"><th scope="row">layer 2<' in text
    empty = tuple(replace(one, pictures=(replace(one.picture(), image_map=0 * one.image_map),)) for one in heads)
    assert set(HeadGrid(empty).shares.values()) == {0.0}
    assert HeadGrid(empty).board().count("no relevance") == 4


def test_a_method_without_heads_and_a_layer_that_is_not_there_say_so(shelf, shown, source, tmp_path):
    rolled = explained(shelf, source, ["flat"], method="tam")
    with pytest.raises(RelevancyError, match="does not say what each head adds"):
        actions.by_head(shelf, rolled, "flat", silent)
    handlers = Handlers(shelf, LIMITS, (), str(tmp_path))
    for layer in (9, "1", [], {"a": 1}):
        with pytest.raises(RelevancyError, match="no such layer"):
            handlers.heads(shown, Controls(), "deep", SimpleNamespace(layer=layer), lambda *_, **__: None)


def test_variations_equal_single_questions(shelf, shown, source):
    questions = [QUESTION, "What color is the ball?", "How many boats are in the picture?"]
    found = actions.varied(shelf, shown, asked(shelf, ["flat"]), questions, silent)
    for question, result in zip(questions, found.results, strict=True):
        alone = relevancy.explain(shelf.models["flat"], source, question, target="first-relevant")
        np.testing.assert_allclose(result.image_map, alone.image_map, rtol=1e-3, atol=1e-6)
        assert result.question == question
    assert found.agreement == tuple(agreement(found.results[0], other) for other in found.results[1:])


@pytest.mark.parametrize("part", [actions.DRAWN, actions.PATCHES, actions.MOST, actions.LEAST])
def test_hiding_equals_the_packages_counterfactual(shelf, shown, part):
    marked = {
        actions.DRAWN: relevancy.Region(box=(0.0, 0.0, 40.0, 60.0)),
        actions.PATCHES: asking.patches([5, 0, 1, 0], 1, [result.grid for result in shown.first]),
    }.get(part)
    found = actions.hidden(shelf, shown, part, marked, "grey", silent)
    assert [one.model for one in found] == ["deep", "flat"]
    for model, result, one in zip(shelf.models.values(), shown.first, found, strict=True):
        region = marked or relevancy.Region(patches=actions.tenth(result, part))
        if part == actions.PATCHES:
            assert (region.patches, region.grid) == ((5, 0, 1), shown.first[1].grid)
        other = elsewhere(region, result.grid)
        regions = [region, *([other] if other else [])]
        alone, *beside = relevancy.counterfactual(model, shown.picture, QUESTION, regions, replacement="grey")
        assert (one.before, one.after) == (alone.before.per_token, alone.after.per_token)
        assert np.array_equal(np.asarray(one.image), np.asarray(alone.image))
        assert one.new_answer == relevancy.explain(model, one.image, QUESTION, evidence=False).answer
        assert (one.elsewhere is None) == (other is None)
        if one.elsewhere:
            assert one.elsewhere[1] == beside[0].after.per_token
            assert np.array_equal(np.asarray(one.elsewhere[0]), np.asarray(beside[0].image))
        assert not np.array_equal(np.asarray(one.image), np.asarray(shown.picture))


def test_marked_patches_are_those_of_a_map_on_the_screen(shown):
    grids = [result.grid for result in shown.first]
    for of, patches, why in (
        (2, [0], "no map on the screen"), (None, [0], "no map"), (True, [0], "no map"), (0, [], "at least one"),
        (0, "01", "at least one"), (0, None, "at least one"), (0, [16], "no patch"), (0, [-1], "no patch"),
        (0, [0.0], "no patch"), (0, [True], "no patch"), (0, [[0]], "no patch"),
    ):  # fmt: skip
        with pytest.raises(RelevancyError, match=why):
            asking.patches(patches, of, grids)


def test_a_tenth_is_the_most_or_least_relevant_of_what_lies_on_the_picture(shown):
    result = tiny.redrawn(shown.first[0], image_map=np.arange(16, dtype=np.float32).reshape(4, 4))
    assert set(actions.tenth(result, actions.MOST)) == {14, 15}
    assert set(actions.tenth(result, actions.LEAST)) == {0, 1}


def test_a_tenth_of_equal_patches_is_not_the_last_rows(shown):
    spot = np.zeros((10, 10), np.float32)
    spot[0, 0] = 1
    edges = np.linspace(0, 100, 11)
    result = tiny.redrawn(shown.first[0], image_map=spot, grid=Grid(100, 100, edges, edges))
    most, least = (set(actions.tenth(result, part)) for part in (actions.MOST, actions.LEAST))
    assert 0 in most
    assert len({patch // 10 for patch in most}) > 3
    assert len({patch // 10 for patch in least}) > 3
    assert not most & least


def test_an_empty_map_has_no_most_relevant_tenth(shown):
    empty = tiny.redrawn(shown.first[0], image_map=np.zeros((4, 4), np.float32))
    with pytest.raises(RelevancyError, match="empty"):
        actions.tenth(empty, actions.MOST)


def test_stopping_gives_the_models_back(shelf, source):
    def stop(stage, share):
        if "flat" in stage:
            raise StoppedError("enough")

    before = relevancy.explain(shelf.models["flat"], source, QUESTION)
    with pytest.raises(StoppedError):
        explained(shelf, source, progress=stop)
    assert same(relevancy.explain(shelf.models["flat"], source, QUESTION), before)


def test_a_box_beside_all_that_the_model_saw_is_told_of(shelf, shown):
    x, width = shown.first[0].grid.x_edges, shown.picture.width
    for box, seen in (((0.0, 0.0, x[0], 60.0), x[0] <= 0), ((x[0], 0.0, width / 2, 60.0), True)):
        if box[2] > box[0]:
            found = actions.hidden(shelf, shown, actions.DRAWN, relevancy.Region(box=box), "grey", silent)
            assert [one.seen for one in found] == [seen] * 2
            assert ("never saw" in views.changes(found, QUESTION, 100)) is not seen


def test_a_large_photograph_is_shrunk_and_says_so(shelf, source):
    width, height = tiny.picture().size
    small = Settings(max_pixels=width * height // 2)
    data, notes = fitted(source, small)
    picture = open_picture(data, max_pixels=small.max_pixels).image
    assert picture.width / picture.height == pytest.approx(width / height, rel=0.05)
    assert notes == (f"picture of {width} x {height} pixels shrunk to {picture.width} x {picture.height}",)
    assert fitted(source, LIMITS) == (source, ())
    (found,) = actions.explained(shelf, small, Session(asked(shelf, ["flat"]), data, "", notes), silent)
    assert found.first[0].notes[0] == notes[0]
    with pytest.raises(RelevancyError, match="more than the limit"):
        fitted(source, Settings(max_pixels=width * height // 5))


def test_what_a_function_of_ones_own_draws_is_shown(shelf, picture_file):
    def brightest(request):
        """The last patch."""
        return np.stack([np.arange(16, dtype=np.float32).reshape(4, 4)] * len(request.inputs["input_ids"]))

    registry.register_method("brightest", brightest)
    try:
        ask = (QUESTION, ["deep", "flat"], "first-relevant", "language", "brightest", 0, 2)
        handlers = Handlers(shelf, LIMITS, (), "")
        *_, whole = handlers.explain(Controls(), picture_file, [], NOBODY, lambda share, desc: None, *ask)
        session, status, *_ = whole
        assert "brightest" in status
        assert [one.image_map[3, 3] for one in session.results] == [15, 15]
        drawn = board(session.screen)
        assert drawn.count("data-values='[0.0, 1.0, 2.0, ") == 2
        assert "method brightest" in drawn
    finally:
        registry.METHODS.remove("brightest")
