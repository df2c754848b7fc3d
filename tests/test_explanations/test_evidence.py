"""Evidence: knockouts against a slow forward pass with a mask written out, the parts of a map, and the verdict."""

import math
from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from relevancy.core.targets import Choice
from relevancy.demo.evaluation import held_out
from relevancy.demo.liars import blinded
from relevancy.explanations import evidence, knockouts
from relevancy.explanations.evidence import Evidence
from relevancy.explanations.explain import explain
from relevancy.explanations.explanation import Explanation
from relevancy.explanations.knockouts import Areas
from relevancy.models import generation, knockout, load, wrap
from relevancy.models.generation import Prefill
from relevancy.models.knockout import Variant
from relevancy.models.prepared import Prepared

QUESTIONS = ["Is the duck floating?", "Duck?", "Is the ball red or is the duck floating on the water?"]


def reference(hf_model, inputs: dict, places: torch.Tensor, hidden: np.ndarray, count: int = 1) -> torch.Tensor:
    """Logits of the last positions by eager attention, every mask entry written out, in float64."""
    tokens = inputs["input_ids"].shape[1]
    mask = torch.full((1, 1, tokens, tokens), float("-inf"), dtype=torch.float64).triu(1)
    out = places[torch.from_numpy(hidden.ravel())]
    for query in range(int(places[-1]) + 1, tokens):
        mask[0, 0, query, out] = float("-inf")
    before = {part: getattr(hf_model.config, part)._attn_implementation for part in ("text_config", "vision_config")}
    before[""] = hf_model.config._attn_implementation
    hf_model.set_attn_implementation("eager")
    try:
        with torch.no_grad():
            return hf_model(**{**inputs, "attention_mask": mask}).logits[0, -count:]
    finally:
        hf_model.set_attn_implementation(before)


def prefilled(model, said):
    """The inputs of a padded batch with answers, and what a forward pass over it leaves behind."""
    inputs = model.prepare([tiny.picture(seed=number) for number in range(len(QUESTIONS))], QUESTIONS, said)
    with torch.no_grad():
        prepared = Prepared(inputs, model.image_token_id)
        return prepared, Prefill.of(prepared, model.model(**inputs, use_cache=True))


@pytest.mark.parametrize("name", sorted(tiny.FAMILIES))
def test_knockout_equals_a_mask_written_out(name):
    hf_model, processor = tiny.FAMILIES[name]()
    model = wrap(hf_model.double(), processor)
    prepared, prefill = prefilled(model, [(90, 91, 92), (), (90,)])
    rng = np.random.default_rng(0)
    patterns = [np.zeros(16, bool), np.ones(16, bool), rng.random(16) < 0.3]
    patterns[2][-1] = False  # the last image token stays in sight, and is as it was
    lengths = prefill.mask.sum(-1).tolist()
    asked = [(0, lengths[0]), (0, lengths[0] - 2), (1, lengths[1]), (2, lengths[2]), (2, lengths[1])]
    variants = [
        Variant(*one, torch.from_numpy(hidden), count) for one in asked for hidden in patterns for count in (1, 3)
    ]
    before = [layer.keys.shape for layer in prefill.cache.layers]
    whole = knockout.logits_in_full(model, prepared, variants)
    shared = generation.shares_prefix(model, max(lengths), prefill.cache)
    assert shared == (name not in ("paligemma", "paligemma2", "gemma2-clip"))  # prefix without mask, short windows
    found = knockout.logits_of(model, prefill, variants) if shared else whole
    for logits, other, variant in zip(found, whole, variants, strict=True):
        own = prepared.only(variant.row, variant.length).inputs
        places = (own["input_ids"][0] == model.image_token_id).nonzero()[:, 0]
        torch.testing.assert_close(logits, other, rtol=1e-5, atol=1e-5)
        if model.causal and name != "gemma2-clip":
            expected = reference(model.model, own, places, variant.hidden.numpy(), variant.count)
            torch.testing.assert_close(logits.double(), expected, rtol=1e-5, atol=1e-5)
        if not variant.hidden.any():
            with torch.no_grad():
                plain = model.model(**own).logits[0, -variant.count :]
            torch.testing.assert_close(logits.double(), plain, rtol=1e-5, atol=1e-5)
    assert [layer.keys.shape for layer in prefill.cache.layers] == before
    assert (found[2] - found[0]).abs().max() > 1e-3  # knocking out the picture is felt


@pytest.mark.parametrize(
    ("limits", "passes"),
    [({"_SPREAD": 99}, 1), ({"_SPREAD": 0}, 3), ({"_SPREAD": 99, "_TOGETHER": 4}, 2), ({"_LOGITS": 1}, 6)],
)
def test_knockouts_of_about_one_length_are_one_forward_pass(limits, passes, monkeypatch):
    """However many are read together, each is what it is alone, and a shorter one hears nothing of what fills it up."""
    hf_model, processor = tiny.gemma_clip()
    model = wrap(hf_model.double(), processor)
    prepared, prefill = prefilled(model, [(), (), ()])
    hidden = [torch.from_numpy(np.random.default_rng(seed).random(16) < 0.5) for seed in range(6)]
    lengths = prefill.mask.sum(-1).tolist()
    assert len(set(lengths)) == 3
    variants = [Variant(number % 3, lengths[number % 3], one) for number, one in enumerate(hidden)]
    expected = knockout.logits_in_full(model, prepared, variants)
    for name, value in limits.items():
        monkeypatch.setattr(knockout, name, value)
    calls = []
    counted = hf_model.register_forward_pre_hook(lambda *_: calls.append(1))
    found = knockout.logits_of(model, prefill, variants)
    counted.remove()
    assert len(calls) == passes
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_tokens_of_one_answer_share_the_pass_without_the_picture(monkeypatch):
    """As far as it fits beside the others, and each token has its own logits of it."""
    hf_model, processor = tiny.gemma_clip()
    model = wrap(hf_model.double(), processor)
    prepared, prefill = prefilled(model, [(90, 91, 92), (), ()])
    length = int(prefill.mask[0].sum())
    gone = torch.ones(16, dtype=torch.bool)
    others = [torch.from_numpy(np.random.default_rng(seed).random(16) < 0.5) for seed in range(3)]
    variants = [Variant(0, length - back, one) for back in range(3) for one in (gone, others[back])]
    expected = knockout.logits_in_full(model, prepared, variants)
    shapes = []
    real = knockout._read
    monkeypatch.setattr(knockout, "_read", lambda *asked: shapes.append(real(*asked).shape[:2]) or real(*asked))
    torch.testing.assert_close(knockout.logits_of(model, prefill, variants), expected, rtol=1e-6, atol=1e-6)
    assert shapes == [(4, 3)]  # the picture's absence once, three maps; the last three positions


def test_runs_that_differ_much_are_read_apart(monkeypatch):
    """Neither is a short one filled up, nor are logits kept of positions that most of them are not asked for."""
    model = wrap(*tiny.gemma_clip())
    _, prefill = prefilled(model, [(90, 91, 92), (), ()])
    length = int(prefill.mask[0].sum())
    first, gone, last = (torch.from_numpy(np.arange(16) < count) for count in (2, 16, 5))
    variants = [Variant(0, *one) for one in ((length, first), (length, gone), (length - 2, gone), (length - 2, last))]
    shapes = []
    real = knockout._read
    monkeypatch.setattr(knockout, "_read", lambda *asked: shapes.append(real(*asked).shape[:2]) or real(*asked))
    monkeypatch.setattr(knockout, "_SPREAD", 0)
    knockout.logits_of(model, prefill, variants)
    assert shapes == [(1, 1), (1, 3), (1, 1)]


def test_a_model_is_given_back_after_a_knockout():
    hf_model, processor = tiny.gemma_clip()
    model = wrap(hf_model, processor)
    before = hf_model.config.get_text_config()._attn_implementation
    _, prefill = prefilled(model, [(), (), ()])
    plain = model.prepare([tiny.picture()], QUESTIONS[:1])
    expected = hf_model(**plain).logits
    knockout.logits_of(model, prefill, [Variant(0, int(prefill.mask[0].sum()), torch.ones(16, dtype=torch.bool))])
    assert hf_model.config.get_text_config()._attn_implementation == before
    torch.testing.assert_close(hf_model(**plain).logits, expected, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["gemma-clip", "paligemma"])
@pytest.mark.parametrize("method", ["relevancy", "relevancy-magnitude", "rollout", "gradcam"])
def test_a_result_carries_its_evidence(name, method, tmp_path):
    model = wrap(*tiny.FAMILIES[name]())
    picture = tiny.picture()
    single = explain(model, picture, QUESTIONS[0], method=method, max_new_tokens=3)
    batch = explain(model, picture, QUESTIONS, method=method, max_new_tokens=3)
    tokens = explain(model, picture, QUESTIONS[0], method=method, target="all", max_new_tokens=3)
    for one in (single, batch[0], tokens[0]):
        found = one.evidence
        assert found.probability == pytest.approx(one.target.probability, abs=1e-5)
        assert found.shared == (name == "gemma-clip")
        for part in evidence.NUMBERS:
            assert getattr(found, part) == pytest.approx(getattr(single.evidence, part), abs=1e-4)
    for one in tokens:
        assert one.evidence.probability == pytest.approx(one.target.probability, abs=1e-5)
    own = Prepared(model.prepare([picture], QUESTIONS[:1]), model.image_token_id)
    blind = Variant(0, own.ids.shape[1], torch.ones(16, dtype=torch.bool))
    expected = knockout.logits_in_full(model, own, [blind])[0][0].softmax(-1)
    assert single.evidence.blind == pytest.approx(float(expected[single.target.id]), abs=1e-5)
    again = Explanation.load(single.save(tmp_path / "result")).evidence
    assert again == single.evidence
    assert explain(model, picture, QUESTIONS[0], method=method, evidence=False, max_new_tokens=1).evidence is None


def departures(logits: torch.Tensor, ids) -> dict[tuple[int, int], float]:
    """How likely a model is to leave the span at a place with another token, {(place, token)}, or to say all of it."""
    found, reached = {}, 1.0
    for place, (scores, token) in enumerate(zip(logits.double().softmax(-1).tolist(), ids, strict=True)):
        found |= {(place, other): reached * share for other, share in enumerate(scores) if other != token}
        reached *= scores[token]
    return found | {(len(ids), -1): reached}


def apart(one: dict, other: dict) -> float:
    return sum(abs(one[key] - other[key]) for key in one) / 2


def span_evidence(model, picture, question: str, answer: str, first: int, stop: int, image_map: np.ndarray) -> dict:
    """Numbers of a span's evidence by whole forward passes in float64, one for each variant."""
    ids = generation.encoded(model, answer)
    own = Prepared(model.prepare([picture], [question], [ids[: stop - 1]]), model.image_token_id)
    span, places = ids[first:stop], own.image_places(0)
    written_out = model.causal and model.model.config.text_config.model_type != "gemma2"  # which has short windows

    def left(hidden: np.ndarray) -> dict:
        if written_out:
            logits = reference(model.model, dict(own.inputs), places, hidden, len(span))
        else:
            count = own.ids.shape[1]
            (logits,) = knockout.logits_in_full(
                model, own, [Variant(0, count, torch.from_numpy(hidden.ravel()), len(span))]
            )
        return departures(logits, span)

    plain = left(np.zeros(image_map.shape, bool))
    numbers: dict[str, list[float]] = {"probability": [plain[len(span), -1]]}
    for name, area in Areas.of(image_map).named():
        changed = left(area)
        numbers.setdefault(name, []).append(changed[len(span), -1])
        numbers.setdefault(f"{name}_tv", []).append(apart(plain, changed))
    return {name: sum(values) / len(values) for name, values in numbers.items()}


ANSWER = "Yes, the duck is floating on the water."


@pytest.mark.parametrize("name", ["gemma-clip", "qwen2-clip", "gemma2-clip", "paligemma"])
@pytest.mark.parametrize("room", [1, 1 << 28])
def test_evidence_of_spans_equals_whole_passes(name, room, monkeypatch):
    """Of a span, of its tokens one by one, and of unequal spans in a padded batch; however few logits are held."""
    monkeypatch.setattr(knockouts, "_LOGITS_BYTES", room)
    hf_model, processor = tiny.FAMILIES[name]()
    model, picture = wrap(hf_model.double(), processor), tiny.picture()
    together = explain(model, picture, QUESTIONS, target="answer", answer=[ANSWER, "red duck", "The ball is green."])
    singly = explain(model, picture, QUESTIONS[0], target="each:2:5", answer=ANSWER)
    asked = [
        (explain(model, picture, QUESTIONS[0], target="2:5", answer=ANSWER), QUESTIONS[0], ANSWER),
        (explain(model, picture, QUESTIONS[1], target="answer", answer="red duck"), QUESTIONS[1], "red duck"),
        (together[0], QUESTIONS[0], ANSWER),
        (together[2], QUESTIONS[2], "The ball is green."),
        *((one, QUESTIONS[0], ANSWER) for one in singly),
    ]
    for result, question, answer in asked:
        places = result.target.positions
        expected = span_evidence(model, picture, question, answer, places.start, places.stop, result.image_map)
        assert len(expected) == len(evidence.NUMBERS)
        for part, value in expected.items():
            assert getattr(result.evidence, part) == pytest.approx(value, rel=1e-4, abs=1e-7), part
        assert result.evidence.probability == pytest.approx(result.target.probability, rel=1e-4)
        assert result.evidence.blind_tv > 1e-4


@given(st.integers(0, 10**6), st.integers(1, 3))
@settings(max_examples=60)
def test_the_distance_of_spans_is_that_of_where_they_are_left(seed, length):
    """Against all sequences of three words written out, told apart by where they leave the span."""
    drawn = np.random.default_rng(seed)
    ids = tuple(drawn.integers(0, 3, length).tolist())
    after: list[dict[tuple[int, ...], np.ndarray]] = [
        {said: drawn.dirichlet([0.5] * 3) for place in range(length) for said in np.ndindex(*[3] * place)}
        for _ in range(3)
    ]

    def left(model: dict) -> dict[tuple[int, ...], float]:
        found: dict[tuple[int, ...], float] = {}
        for said in np.ndindex(*[3] * length):
            chance = float(np.prod([model[said[:place]][said[place]] for place in range(length)]))
            same = next((place for place in range(length) if said[place] != ids[place]), length)
            found[said[: same + 1]] = found.get(said[: same + 1], 0.0) + chance
        return found

    logits = torch.tensor(np.array([[np.log(one[ids[:place]]) for place in range(length)] for one in after]))
    choice = Choice.spanning(0, ids)
    longer = knockouts.KnockoutReading.each(choice, logits)
    for one, told in zip(after, longer, strict=True):
        assert told.tv == pytest.approx(apart(left(after[0]), left(one)), abs=1e-12)
        assert told.probability == pytest.approx(left(one).get(ids, 0.0), abs=1e-12)
        assert told.says == tuple(int(one[ids[:place]].argmax()) for place in range(length))
    shorter = knockouts.KnockoutReading.each(Choice.spanning(0, ids[:1]), logits[:, :1])
    assert all(more.tv >= less.tv - 1e-12 for more, less in zip(longer, shorter, strict=True))


def test_a_contrast_has_the_lead_of_its_logits():
    model = wrap(*tiny.gemma_clip())
    result = explain(model, tiny.picture(), QUESTIONS[0], target="duck|ball", max_new_tokens=2)
    target = result.target
    assert result.evidence.lead["untouched"] == pytest.approx(target.logit - target.contrast_logit, abs=1e-4)
    assert set(result.evidence.lead) == {"untouched", "blind", "best", "peak", "elsewhere"}


@pytest.mark.parametrize("target", ["first", "ball|duck"])
def test_the_runner_up_is_the_likeliest_of_the_others(target):
    model = wrap(*tiny.gemma_clip())
    result = explain(model, tiny.picture(), QUESTIONS[0], target=target, max_new_tokens=1)
    with torch.no_grad():
        shares = model.model(**model.prepare([tiny.picture()], QUESTIONS[:1])).logits[0, -1].softmax(-1)
    others = shares.clone()
    others[result.target.id] = 0
    assert (result.target.id == int(shares.argmax())) == (target == "first")
    assert result.evidence.runner_up["untouched"] == pytest.approx(float(others.max()), abs=1e-6)
    assert result.evidence.says["untouched"] == model.tokenizer.decode([int(shares.argmax())])


maps = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 12), st.integers(1, 12)),
    elements=st.floats(0, 1, width=32),
)


@given(maps)
@settings(max_examples=200)
def test_the_parts_of_a_map(values):
    areas = Areas.of(values)
    assert areas.blind.all()
    slack = 1e-6 * values.max()
    if np.ptp(values) <= slack:
        assert areas.best is areas.peak is None
        return
    assert areas.best.sum() == math.ceil(values.size / 8)
    assert areas.best.all() or values[areas.best].min() >= values[~areas.best].max() - slack
    rows, cols = knockouts.side_of(values.shape)
    assert areas.peak.sum() == rows * cols
    assert values[areas.peak].max() >= values.max() - slack
    corners = (values.shape[0] - rows + 1) * (values.shape[1] - cols + 1)
    assert len(areas.elsewhere) == min(knockouts.DRAWS, corners - 1)
    for other in areas.elsewhere:
        assert other.sum() == rows * cols
        assert not (other == areas.peak).all()


def test_squares_elsewhere_do_not_meet_the_peak_and_keep_its_distance_from_the_border():
    values = np.zeros((10, 10))
    values[0, 4] = 1  # the square is rows 0 to 2, columns 3 to 5, on the border
    areas = Areas.of(values)
    assert areas.peak[:3, 3:6].all()
    assert len(areas.elsewhere) == knockouts.DRAWS
    for other in areas.elsewhere:
        assert not (other & areas.peak).any()
        rows, cols = np.nonzero(other)
        assert min(rows.min(), cols.min(), 9 - rows.max(), 9 - cols.max()) == 0
    assert not (areas.elsewhere[0] == areas.elsewhere[1]).all()
    again = Areas.of(values)
    assert all((one == other).all() for one, other in zip(areas.elsewhere, again.elsewhere, strict=True))


def unlikeness(corner, other):
    """How many of 3 x 3 cells of 10 x 10 two squares share, and by how much their distances from the border differ."""
    cells = [{(row + a, col + b) for a in range(3) for b in range(3)} for row, col in (corner, other)]
    border = [min(row, col, 7 - row, 7 - col) for row, col in (corner, other)]
    return len(cells[0] & cells[1]), abs(border[0] - border[1])


def test_squares_elsewhere_are_those_most_like_the_peaks_and_drawn_by_lot():
    corners = [(row, col) for row in range(8) for col in range(8)]
    seen = set()
    for corner in corners:
        others = [other for other in corners if other != corner]
        ranks = sorted(unlikeness(corner, other) for other in others)
        values = np.zeros((10, 10))
        values[corner[0] + 1, corner[1] + 1] = 1
        found = Areas.of(values).elsewhere
        drawn = [tuple(np.argwhere(area)[0]) for area in found]
        assert len(set(drawn)) == knockouts.DRAWS
        seen |= set(drawn)
        assert sorted(unlikeness(corner, other) for other in drawn) == ranks[: knockouts.DRAWS]
    assert len(seen) > 40  # each peak has lots of its own
    best = [other for other in corners if unlikeness((2, 2), other) == (0, 0)]
    values = np.zeros((10, 10))
    values[3, 3] = 1
    draws = 300
    often = dict.fromkeys(best, 0)
    for seed in range(draws):
        for area in Areas.of(values, seed=seed).elsewhere:
            often[tuple(np.argwhere(area)[0])] += 1
    chance = knockouts.DRAWS / len(best)
    assert max(abs(count / draws - chance) for count in often.values()) < 4.5 * math.sqrt(chance / draws)


@pytest.mark.parametrize("noise", [0.0, 1e-7])
def test_equal_patches_have_the_same_chance(noise):
    """Two high patches and ninety-eight equals: those that make up the best eighth lie anywhere, the peak on either."""
    rng = np.random.default_rng(0)
    often, peaks, first = np.zeros((10, 10)), 0, 0
    draws = 400
    for seed in range(draws):
        values = 0.25 + noise * np.arange(100.0, 0.0, -1.0).reshape(10, 10) / 100
        one, other = rng.choice(100, 2, replace=False)
        values.flat[[one, other]] = 1.0
        areas = Areas.of(values, seed=seed)
        assert areas.best.flat[one]
        assert areas.best.flat[other]
        assert areas.best.sum() == 13
        often += areas.best
        corners = [knockouts._around(np.unravel_index(place, (10, 10)), (10, 10)) for place in sorted((one, other))]
        drawn = tuple(np.argwhere(areas.peak)[0])
        if corners[0] != corners[1]:
            peaks, first = peaks + 1, first + (drawn == corners[0])
    assert abs(often / draws - 0.13).max() < 4.5 * math.sqrt(0.13 * 0.87 / draws)
    assert abs(first / peaks - 0.5) < 4.5 * math.sqrt(0.25 / peaks)


def test_a_peak_among_equals_is_one_of_the_best():
    for seed in range(50):
        values = np.zeros((10, 10))
        values.flat[np.random.default_rng(seed).choice(100, 40, replace=False)] = 1
        areas = Areas.of(values, seed=seed)
        corners = {knockouts._around(place, (10, 10)) for place in np.argwhere(areas.best)}
        assert tuple(np.argwhere(areas.peak)[0]) in corners


def test_which_of_equal_patches_does_not_hang_on_a_seed_alone():
    """Maps that differ in where their equals lie draw anew; the same map draws the same, rounded or not."""
    values = np.zeros((10, 10))
    values[4, 4] = 1
    moved = np.zeros((10, 10))
    moved[7, 1] = 1
    drawn = Areas.of(values).best
    assert (drawn == Areas.of(values * (1 + 1e-9)).best).all()
    assert (drawn & Areas.of(moved).best).sum() < 8


@pytest.mark.parametrize("noise", [0.0, 1e-8])
@pytest.mark.parametrize("level", [0.0, 1e-30, 0.3, -2.0])
def test_a_map_of_equals_is_an_empty_map(level, noise):
    values = level * (1 + noise * np.random.default_rng(0).random((10, 10)))
    areas = Areas.of(values)
    assert areas.best is areas.peak is None
    assert not areas.elsewhere


def told(**changes: float) -> Evidence:
    numbers = {
        "probability": 0.9, "blind": 0.2, "best": 0.3, "peak": 0.4, "elsewhere": 0.9,
        "blind_tv": 0.7, "best_tv": 0.6, "peak_tv": 0.5, "elsewhere_tv": 0.0,
    }  # fmt: skip
    return Evidence(**numbers | changes)


PERHAPS = "The picture may matter, but this map does not show where."


@pytest.mark.parametrize(
    ("changes", "verdict", "said"),
    [
        ({}, "confirmed", "Confirmed"),
        ({"blind_tv": 0.1}, "confirmed", "Confirmed"),
        ({"blind_tv": 0.09}, "words alone", "Words alone"),
        ({"best_tv": 0.25, "peak_tv": 0.05}, "confirmed", "Confirmed"),
        ({"best_tv": 0.25, "peak_tv": 0.04}, "unconfirmed", PERHAPS),
        ({"best_tv": 0.3, "peak_tv": 0.0}, "confirmed", "Confirmed"),
        ({"best_tv": 0.9, "peak_tv": 0.04, "elsewhere_tv": 0.05}, "unconfirmed", PERHAPS),
        ({"best_tv": 0.9, "peak_tv": 0.05, "elsewhere_tv": 0.05}, "confirmed", "Confirmed"),
        ({"elsewhere_tv": 0.41}, "unconfirmed", PERHAPS),
        ({"elsewhere_tv": 0.41, "blind_tv": 1.0}, "unconfirmed", PERHAPS),
        (dict.fromkeys(("best", "peak", "elsewhere", "best_tv", "peak_tv", "elsewhere_tv"), math.nan),
         "unconfirmed", PERHAPS),
    ],
)  # fmt: skip
def test_the_verdict_follows_from_the_numbers(changes, verdict, said):
    found = told(**changes)
    assert found.verdict == verdict
    assert said in found.sentence
    assert "0.20" in found.sentence
    assert "nan" not in found.sentence


def test_the_sentence_gives_the_numbers_that_decide():
    found = told(blind_tv=0.8, best_tv=0.9, peak_tv=0.0, elsewhere_tv=0.1)
    found = replace(found, without=(0.3, 0.4), without_tv=(0.5, 0.6))
    assert (
        "without all pictures 0.20, without picture 1 0.30, without picture 2 0.40, without the map's" in found.sentence
    )
    assert found.sentence.endswith(
        "Of the next token's distribution that moves 0.80, 0.50, 0.60, 0.90, 0.00 and 0.10.)"
    )


def test_of_a_model_that_sees_nothing_the_picture_is_not_said_to_matter():
    """Its answers move without the picture's tokens, as attention has fewer to go to; no map is confirmed."""
    pair = [blinded(load("demo-small")), blinded(load("demo-large"))]
    drawn = next(held_out(1, 31))
    questions = [question.text for question in drawn.questions]
    found = [
        result.evidence
        for model in pair
        for result in explain(model, [drawn.image] * len(questions), questions, method="attention", max_new_tokens=1)
    ]
    assert any(one.verdict == "unconfirmed" for one in found)
    for one in found:
        assert one.verdict in ("words alone", "unconfirmed")
        assert "The picture matters" not in one.sentence
