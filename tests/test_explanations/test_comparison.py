"""Comparisons that equal their parts: maps those of `explain`, answers read as they are read alone, models let go."""

import gc
import html
import json
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from itertools import combinations

import numpy as np
import pytest
import tiny
import torch
from observers import Runs
from PIL import Image

import relevancy
from relevancy.atomic_io import whole_files
from relevancy.errors import RelevancyError
from relevancy.explanations.agreement import agreement
from relevancy.explanations.comparison import Comparison, compare, compared, growing
from relevancy.models import generation, memory
from relevancy.plotting import figures
from relevancy.plotting import overlay as plotting_overlay

QUESTION = "Is the duck floating? (a) Yes (b) No"
NAMES = ("gemma-clip", "llama-clip", "gemma-dinov2")


@pytest.fixture(scope="module")
def models(built):
    return [relevancy.wrap(*built[name], name=name) for name in ("gemma-clip", "llama-clip")]


@pytest.fixture(scope="module")
def both(models):
    return compare(models, tiny.picture(), QUESTION, max_new_tokens=4)


def same(one: relevancy.Explanation, other: relevancy.Explanation) -> None:
    """Bit for bit."""
    assert one.to_json() == other.to_json()
    assert np.array_equal(one.relevance, other.relevance)
    assert np.array_equal(one.image_map, other.image_map)
    assert one.image.tobytes() == other.image.tobytes()


@pytest.mark.parametrize(
    "options",
    [{}, {"target": "first-relevant"}, {"target": -1, "scope": "full"}, {"answer": "No boats"}, {"layers": [0, 2]}],
    ids=str,
)
def test_every_map_equals_explain_alone(models, options):
    found = compare(models, tiny.picture(), QUESTION, max_new_tokens=4, **options)
    for model, result in zip(models, found.explanations, strict=True):
        same(result, relevancy.explain(model, tiny.picture(), QUESTION, max_new_tokens=4, **options))
    assert len(found.agreement) == 1
    assert found.agreement[0] == agreement(*found.explanations)


@pytest.mark.parametrize("target", ["first", "first-relevant", "No|Yes"])
@pytest.mark.parametrize("scope", ["language", "full"])
def test_one_tower_runs_once_and_changes_no_bit(scope, target):
    first, second, third = tiny.gemma_clip(), tiny.llama_clip(), tiny.gemma_clip(seed=7)
    second[0].get_encoder(modality="image").load_state_dict(first[0].get_encoder(modality="image").state_dict())
    models = [relevancy.wrap(*one, name=name) for one, name in zip((first, second, third), "abc", strict=True)]
    asked = {"target": target, "scope": scope, "max_new_tokens": 3}
    alone = [relevancy.explain(model, tiny.picture(), QUESTION, **asked) for model in models]
    runs = [Runs(model) for model in models]
    found = compare(models, tiny.picture(), QUESTION, **asked)
    for result, expected in zip(found.explanations, alone, strict=True):
        same(result, expected)
    if scope == "language":
        assert [one.count for one in runs] == [1, 0, 1]
    else:
        assert all(one.count >= 1 for one in runs)


def test_each_answer_is_read_by_each_model(models, both):
    """Own answers in the tokens that were generated, others' in words, as they are read without a comparison."""
    for number, model in enumerate(models):
        prompt = tiny.read(model, [tiny.picture()], [QUESTION])
        (own,) = generation.answers(model, prompt.branch(), 4)
        said = [result.answer for result in both.explanations]
        ((expected),) = generation.likelihoods(
            model, prompt, [own if i == number else words for i, words in enumerate(said)]
        )
        for found, other in zip(both.likelihoods[number], expected, strict=True):
            assert found.tokens == other.tokens
            assert list(asdict(found).values()) == pytest.approx(list(asdict(other).values()), rel=1e-4, abs=0)
        assert both.likelihoods[number][number].first == pytest.approx(both.explanations[number].target.probability)


def test_a_given_answer_is_read_by_all(models):
    found = compare(models, tiny.picture(), QUESTION, answer="No boats")
    for model, row in zip(models, found.likelihoods, strict=True):
        prompt = tiny.read(model, [tiny.picture()], [QUESTION])
        ((expected,),) = generation.likelihoods(model, prompt, [generation.encoded(model, "No boats")])
        own = row[models.index(model)]
        assert own.tokens == expected.tokens
        assert own.whole == pytest.approx(expected.whole, rel=1e-4, abs=0)
        assert all(one is not None for one in row)


class Loader:
    """Builds tiny models by name; knows how often, and how many are alive."""

    def __init__(self) -> None:
        self.loaded: list[str] = []
        self.alive: list[weakref.ref] = []
        self.most = 0

    def __call__(self, name: str) -> relevancy.Model:
        if name not in tiny.BUILDERS:
            raise RelevancyError(f"unknown model {name!r}")
        self.loaded.append(name)
        model = relevancy.wrap(*tiny.BUILDERS[name](), name=name)
        self.alive.append(weakref.ref(model))
        self.most = max(self.most, sum(one() is not None for one in self.alive))
        return model


@pytest.fixture(scope="module")
def three(built):
    listed = [relevancy.wrap(*built[name], name=name) for name in NAMES]
    return compare(listed, tiny.picture(), QUESTION, max_new_tokens=2)


def near(one, other) -> None:
    for row, expected in zip(one.likelihoods, other.likelihoods, strict=True):
        for found, wanted in zip(row, expected, strict=True):
            assert list(asdict(found).values()) == pytest.approx(list(asdict(wanted).values()), rel=1e-4, abs=0)


@pytest.mark.parametrize(
    ("keep", "ample", "order", "most"),
    [
        (False, True, [*NAMES, NAMES[1], NAMES[0]], 1),
        (None, False, [*NAMES, NAMES[1], NAMES[0]], 1),
        (None, True, list(NAMES), 3),
        (True, False, list(NAMES), 3),
    ],
)
def test_names_are_loaded_one_at_a_time_unless_memory_is_ample(three, monkeypatch, keep, ample, order, most):
    monkeypatch.setattr(memory, "may_stay", lambda _: ample)
    loader = Loader()
    found = compare(NAMES, tiny.picture(), QUESTION, keep=keep, loader=loader, max_new_tokens=2)
    assert loader.loaded == order
    assert loader.most == most
    assert all(reference() is None for reference in loader.alive)
    for result, expected in zip(found.explanations, three.explanations, strict=True):
        same(result, expected)
    near(found, three)


def test_where_loading_fails_models_that_stayed_make_room(three):
    loader = Loader()

    def tight(name: str) -> relevancy.Model:
        if name == NAMES[2] and sum(one() is not None for one in loader.alive) > 0:
            raise RelevancyError("not enough memory to load it")
        return loader(name)

    found = compare(NAMES, tiny.picture(), QUESTION, keep=True, loader=tight, max_new_tokens=2)
    assert loader.loaded == [*NAMES, NAMES[1], NAMES[0]]
    near(found, three)
    with pytest.raises(RelevancyError, match="unknown model 'nonsense'"):
        compare([NAMES[0], "nonsense"], tiny.picture(), QUESTION, keep=True, loader=loader, max_new_tokens=2)


def test_of_an_iterators_models_only_one_is_held(three):
    alive: list[weakref.ref] = []

    def loading():
        for name in NAMES:
            assert all(reference() is None for reference in alive)
            model = relevancy.wrap(*tiny.BUILDERS[name](), name=name)
            alive.append(weakref.ref(model))
            yield model
            del model

    gc.disable()  # what goes must go by itself
    try:
        found = compare(loading(), tiny.picture(), QUESTION, max_new_tokens=2)
    finally:
        gc.enable()
    assert len(found.agreement) == 3
    for row, (result, expected) in enumerate(zip(found.explanations, three.explanations, strict=True)):
        same(result, expected)
        assert [one is not None for one in found.likelihoods[row]] == [column <= row for column in range(3)]


def test_each_explanation_is_handed_out_before_the_next_model_runs(models):
    calls: list[str] = []
    hooks = [model.model.register_forward_hook(lambda *_, name=model.name: calls.append(name)) for model in models]
    told: list[str] = []
    steps = growing(models, tiny.picture(), QUESTION, max_new_tokens=4, progress=lambda stage, _: told.append(stage))
    assert calls == told == []
    first = next(steps)
    assert set(calls) == {"gemma-clip"}
    second = next(steps)
    assert told == ["gemma-clip explains its answer", "llama-clip explains its answer"]
    whole, *more = steps
    assert more == []
    for hook in hooks:
        hook.remove()
    expected = compare(models, tiny.picture(), QUESTION, max_new_tokens=4)
    assert whole.to_json() == expected.to_json()
    for step, count in ((first, 1), (second, 2), (whole, 2)):
        assert len(step.explanations) == count
        for result, alone in zip(step.explanations, expected.explanations, strict=False):
            same(result, alone)
    assert (first.agreement, second.agreement) == ((), ())
    assert (first.likelihoods, second.likelihoods) == ((), ())
    low, high = first.scale()
    assert first.overlays()[0].tobytes() == first.explanations[0].overlay(vmin=low, vmax=high).tobytes()


def test_between_two_steps_models_are_free_and_may_be_left(models):
    alone = relevancy.explain(models[0], tiny.picture(), QUESTION, max_new_tokens=2)
    steps = growing(models, tiny.picture(), QUESTION, max_new_tokens=2)
    for _ in range(2):
        next(steps)
        with ThreadPoolExecutor(1) as pool:  # another thread would wait for a lock that is held
            asked = pool.submit(relevancy.explain, models[0], tiny.picture(), QUESTION, max_new_tokens=2)
            same(asked.result(timeout=60), alone)
    steps.close()
    for model in models:
        assert "forward" not in vars(model.model.get_encoder(modality="image"))
        assert model.model.config._attn_implementation == "sdpa"
        assert all(parameter.requires_grad for parameter in model.model.parameters())


def test_while_maps_are_handed_out_no_model_is_held_that_is_not_to_stay():
    loader = Loader()
    held = []
    for _ in growing(NAMES, tiny.picture(), QUESTION, keep=False, loader=loader, max_new_tokens=2):
        gc.collect()
        held.append([NAMES.index(name) for name, alive in zip(loader.loaded, loader.alive, strict=True) if alive()])
    assert held == [[], [], [2], []]  # the last one reads answers next


def test_progress_names_each_stage_and_reaches_one(models):
    told: list[tuple[str, float]] = []
    loader = {"one": models[0], "two": models[1]}.__getitem__
    compare(["one", models[1]], tiny.picture(), QUESTION, loader=loader, keep=True, max_new_tokens=2,
            progress=lambda *step: told.append(step))  # fmt: skip
    assert told == [
        ("loading one", 0.0),
        ("gemma-clip explains its answer", 0.0),
        ("llama-clip explains its answer", 0.2),
        ("llama-clip reads all answers", 0.4),
        ("gemma-clip reads all answers", 0.6),
        ("comparing the maps", 0.8),
        ("done", 1.0),
    ]
    told.clear()
    compare(iter(models), tiny.picture(), QUESTION, max_new_tokens=2, progress=lambda *step: told.append(step))
    shares = [share for _, share in told]
    assert shares == sorted(shares)
    assert shares[-1] == 1
    assert all(0 <= share < 1 for share in shares[:-1])


def test_threads_that_compare_at_once_get_what_each_gets_alone(models):
    questions = [QUESTION, "What color is the ball?", "red"]
    expected = [compare(models, tiny.picture(), question, max_new_tokens=3) for question in questions]
    with ThreadPoolExecutor(3) as pool:
        asked = [pool.submit(compare, models, tiny.picture(), question, max_new_tokens=3) for question in questions * 3]
        found = [one.result() for one in asked]
    for one, other in zip(found, expected * 3, strict=True):
        assert one.to_json() == other.to_json()
        for result, alone in zip(one.explanations, other.explanations, strict=True):
            same(result, alone)


@pytest.mark.parametrize("stage", ["explains", "reads", "comparing"])
def test_stopped_at_any_stage_models_are_as_before(models, stage):
    class StoppedError(Exception):
        """What a caller raises."""

    def stop(what: str, _: float) -> None:
        if stage in what:
            raise StoppedError

    with pytest.raises(StoppedError):
        compare(models, tiny.picture(), QUESTION, max_new_tokens=2, progress=stop)
    for model in models:
        tower = model.model.get_encoder(modality="image")
        assert "forward" not in vars(tower)
        assert model.model.config._attn_implementation == "sdpa"
        assert all(parameter.requires_grad for parameter in model.model.parameters())


def test_overlays_share_one_scale_and_need_no_model(both):
    low, high = both.scale()
    maps = [result.heatmap() for result in both.explanations]
    assert low == 0
    assert high == max(float(np.nanmax(heatmap)) for heatmap in maps)
    drawn = both.overlays(colormap="viridis", opacity=0.5)
    for overlay, result in zip(drawn, both.explanations, strict=True):
        expected = result.overlay(vmin=low, vmax=high, colormap="viridis", opacity=0.5)
        assert overlay.tobytes() == expected.tobytes()
    own = both.overlays(shared_scale=False, smooth=False)
    for overlay, result in zip(own, both.explanations, strict=True):
        assert overlay.tobytes() == plotting_overlay.overlay(result.image, result.heatmap(smooth=False)).tobytes()
    assert any(one.tobytes() != other.tobytes() for one, other in zip(both.overlays(smooth=False), own, strict=True))
    low, high = both.word_scale()
    words = [one for result in both.explanations for one in result.words(whole=True)]
    plain = [value for word, value in words if not word.startswith("<")]
    assert (low, high) == (0, max(plain))


def test_reduced_keeps_numbers(both):
    small = both.reduced(20)
    assert [result.image.size for result in small.explanations] == [(20, 15)] * 2
    assert small.agreement == both.agreement
    assert small.likelihoods == both.likelihoods
    for one, other in zip(small.explanations, both.explanations, strict=True):
        assert np.array_equal(one.image_map, other.image_map)


def test_a_comparison_of_what_is_there(models):
    every = [relevancy.explain(model, tiny.picture(), QUESTION, target="all", answer="No boats") for model in models]
    found = compared([results[-1] for results in every])
    assert found.agreement == (agreement(every[0][-1], every[1][-1]),)
    assert found.likelihoods == ()
    assert found.to_json()["probabilities"] == []
    found.figure()


def words_in(figure) -> str:
    return " ".join(text.get_text() for text in figure.texts)


def test_the_figure_shows_what_each_would_say(both, three):
    answered = [replace(result, answer=f"answer {number}") for number, result in enumerate(three.explanations)]
    drawn = words_in(compared(answered, three.likelihoods).figure())
    for pair in three.agreement:
        assert pair.models[0] in drawn
        assert f"correlation {pair.rank_correlation:.2f}" in drawn
    for row in three.likelihoods:
        for likelihood in row:
            assert f"{likelihood.per_token:.3f}" in drawn
    assert drawn.count("Probability of saying") == 3
    bare = both.figure(notes=())
    assert "correlation" not in words_in(bare)
    assert bare.get_size_inches()[1] < both.figure().get_size_inches()[1]


@pytest.mark.parametrize(("times", "dark"), [(0.299, True), (0.301, False), (0.0, False)])
def test_a_map_that_one_scale_would_leave_dark_is_named(both, times, dark):
    first = both.explanations[0]
    peak = np.nanmax(first.heatmap())
    low = replace(tiny.redrawn(first, image_map=(first.image_map * times).astype(np.float32)), model="low")
    pair = compared([first, low])
    assert peak > 0
    for given, start in (
        (None, "Each map has a scale of its own; on one, some would be dark (low's 29.9% of the highest peak)."),
        (True, "low's map is dark on the one scale: its peak is 29.9% of the highest."),
    ):
        assert [line for line in pair.findings(shared_scale=given) if "dark" in line] == [start] * dark
    drawn = words_in(pair.figure()).count("(raw)")
    assert drawn == words_in(pair.figure(shared_scale=not dark)).count("(raw)")


def test_each_on_a_scale_of_its_own_no_map_is_dark(both, tmp_path):
    first = both.explanations[0]
    faint = tiny.redrawn(first, image_map=(first.image_map * 0.01).astype(np.float32))
    pair = compared([first, replace(faint, model="low")])
    assert not any("dark" in line for line in pair.findings(shared_scale=False))
    one, own, chosen = pair.figure(shared_scale=True), pair.figure(shared_scale=False), pair.figure()
    assert "dark" in words_in(one)
    assert "dark" not in words_in(own)
    assert words_in(own).count("(raw)") == words_in(chosen).count("(raw)") == 2 * words_in(one).count("(raw)")
    assert [each.tobytes() for each in pair.overlays()] == [
        each.tobytes() for each in pair.overlays(shared_scale=False)
    ]
    pair.save(tmp_path, shared_scale=False)
    assert Image.open(tmp_path / "side-by-side.png").size == tuple(
        round(inches * own.dpi) for inches in own.get_size_inches()
    )


def test_a_notebook_shows_the_figure_and_each_models_notes(both):
    first, second = both.explanations
    page = replace(both, explanations=(replace(first, notes=("a < b",)), second))._repr_html_()
    assert page.count("data:image/png;base64,") == 1
    assert f"<li>{first.model}: a &lt; b</li>" in page
    for result in both.explanations:
        assert html.escape(result.summary()) in page


def test_answers_that_are_the_same_stand_once_and_unread_ones_have_no_number(both):
    first = both.explanations[0]
    panels = [
        first.panel(),
        figures.Panel("t", "s", first.image, first.heatmap(), first.words(), first.shares, [("“水”", float("nan"))]),
    ]
    assert "–" in words_in(figures.figure(panels, question="?"))
    likelihood = both.likelihoods[0][0]
    doubled = compared([first, first], [[likelihood, None], [None, likelihood]])
    assert words_in(doubled.figure()).count(f"{likelihood.per_token:.3f}") == 2


def test_saved_comparison(both, tmp_path):
    both.save(tmp_path)
    stored = json.loads((tmp_path / "comparison.json").read_text(encoding="utf-8"))
    assert [one["model"] for one in stored["models"]] == ["gemma-clip", "llama-clip"]
    assert stored["agreement"][0]["rank_correlation"] == both.agreement[0].rank_correlation
    assert stored["agreement"][0]["image_shares"] == [result.shares["image"] for result in both.explanations]
    read = {(one["model"], one["answer_of"]): one for one in stored["probabilities"]}
    assert len(read) == 4
    assert read["gemma-clip", "llama-clip"]["per_token"] == both.likelihoods[0][1].per_token
    assert read["gemma-clip", "llama-clip"]["answer"] == both.explanations[1].answer
    assert (tmp_path / "side-by-side.pdf").read_bytes().startswith(b"%PDF")
    assert (tmp_path / "side-by-side.png").stat().st_size > 10_000
    again = relevancy.Explanation.load(tmp_path / "1-llama-clip")
    assert np.array_equal(again.image_map, both.explanations[1].image_map)


def test_a_comparison_takes_the_place_of_the_one_before(both, tmp_path):
    both.save(tmp_path)
    (tmp_path / "1-llama-clip" / "mine.txt").write_text("kept")
    (tmp_path / "2-notes").mkdir()
    compared(both.explanations[:1], [both.likelihoods[0][:1]]).save(tmp_path)
    assert [place.name for place in sorted(tmp_path.glob("*-*/*")) if place.suffix == ".txt"] == ["mine.txt"]
    assert {place.parent.name for place in tmp_path.glob("*/explanation.json")} == {"0-gemma-clip"}
    assert (tmp_path / "2-notes").is_dir()


def test_what_an_earlier_result_left_goes_and_nothing_else(both, tmp_path):
    both.save(tmp_path / "03-side")
    (tmp_path / "note.txt").write_text("kept")
    with whole_files(tmp_path, Comparison.saved_in(tmp_path / "03-side")) as part:
        (part / "new.txt").write_text("new")
    assert sorted(place.name for place in tmp_path.iterdir()) == ["new.txt", "note.txt"]


def test_what_is_not_a_number_is_null_in_the_json(models, tmp_path):
    broken = relevancy.wrap(*tiny.gemma_clip(), name="broken")
    with torch.no_grad():
        broken.model.get_decoder().layers[1].mlp.down_proj.weight[0, 0] = float("nan")
    found = compare([broken, models[1]], tiny.picture(), QUESTION, max_new_tokens=2)
    found.save(tmp_path)
    stored = json.loads((tmp_path / "comparison.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert stored["agreement"][0]["rank_correlation"] is None
    assert stored["probabilities"][0]["per_token"] is None
    assert stored["models"][0]["target"]["probability"] is None


def test_every_two_of_many_are_compared(three):
    assert [pair.models for pair in three.agreement] == list(combinations(NAMES, 2))


def test_the_embedded_pair_is_loaded_by_name_and_sees_through_one_tower(monkeypatch):
    loaded = {name: relevancy.load(name) for name in ("demo-small", "demo-large")}
    picture = tiny.picture(400, 300)
    alone = [relevancy.explain(model, picture, "Is the duck floating?") for model in loaded.values()]
    runs = [Runs(model) for model in loaded.values()]
    found = compare(list(loaded), picture, "Is the duck floating?", loader=loaded.__getitem__)
    for result, expected in zip(found.explanations, alone, strict=True):
        same(result, expected)
    assert [one.count for one in runs] == [1, 0]
    assert all(0 <= one.per_token <= 1 for row in found.likelihoods for one in row)


def test_refusals(models):
    with pytest.raises(RelevancyError, match="two models"):
        compare(models[:1], tiny.picture(), QUESTION)
    with pytest.raises(RelevancyError, match="two models"):
        compare(iter(models[:1]), tiny.picture(), QUESTION, max_new_tokens=1)
    with pytest.raises(RelevancyError, match="two models"):
        compare("demo-small", tiny.picture(), QUESTION)
    with pytest.raises(RelevancyError, match="one map"):
        compare(models, tiny.picture(), QUESTION, target="all")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"scope": "vision"}, "Unknown scope"),
        ({"method": "guess"}, "Unknown method"),
        ({"image": "none.png"}, "no such"),
    ],
)
def test_mistakes_are_told_before_any_model_is_loaded(changes, said):
    loader = Loader()
    asked = {"image": tiny.picture(), "question": QUESTION} | changes
    with pytest.raises(RelevancyError, match=said):
        compare(NAMES, loader=loader, **asked)
    assert loader.loaded == []
