"""Evidence: knockouts against a slow forward pass with a mask written out, the parts of a map, and the verdict."""

import math

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from relevancy.explanations import evidence
from relevancy.explanations.evidence import Areas, Evidence
from relevancy.models import generation, knockout, wrap

QUESTIONS = ["Is the duck floating?", "Duck?", "Is the ball red or is the duck floating on the water?"]


def reference(hf_model, inputs: dict, places: torch.Tensor, hidden: np.ndarray) -> torch.Tensor:
    """Logits of the last position by eager attention, every mask entry written out, in float64."""
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
            return hf_model(**{**inputs, "attention_mask": mask}).logits[0, -1]
    finally:
        hf_model.set_attn_implementation(before)


@pytest.mark.parametrize("name", ["gemma-clip", "llama-clip", "gemma-dinov2"])
def test_knockout_equals_a_mask_written_out(name):
    hf_model, processor = tiny.BUILDERS[name]()
    model = wrap(hf_model.double(), processor)
    picture = tiny.picture()
    prompt = generation.read(model, [picture] * len(QUESTIONS), QUESTIONS)
    rng = np.random.default_rng(0)
    patterns = [np.zeros(16, bool), np.ones(16, bool), rng.random(16) < 0.3]
    said = [(), (7,), (7, 9)]
    variants = [
        knockout.Variant(row, words, torch.from_numpy(hidden)) for row, words in enumerate(said) for hidden in patterns
    ]
    assert knockout.shares_prefix(model, prompt, prompt.ids.shape[1] + 2)
    found = knockout.logits_of(model, prompt, variants)
    cache = [layer.keys.shape for layer in prompt.cache.layers]
    for logits, variant in zip(found, variants, strict=True):
        inputs = dict(model.prepare([picture], [QUESTIONS[variant.row]], [variant.said]))
        places = (inputs["input_ids"][0] == model.image_token_id).nonzero()[:, 0]
        expected = reference(model.model, inputs, places, variant.hidden.numpy())
        torch.testing.assert_close(logits.double(), expected, rtol=1e-5, atol=1e-5)
        whole = knockout.logits_in_full(model, picture, QUESTIONS[variant.row], [variant])[0]
        torch.testing.assert_close(whole.double(), expected, rtol=1e-5, atol=1e-5)
    assert [layer.keys.shape for layer in prompt.cache.layers] == cache
    assert (found[1] - found[0]).abs().max() > 1e-3  # knocking out the picture is felt


def test_a_model_is_given_back_after_a_knockout():
    hf_model, processor = tiny.gemma_clip()
    model = wrap(hf_model, processor)
    before = hf_model.config.get_text_config()._attn_implementation
    plain = model.prepare([tiny.picture()], QUESTIONS[:1])
    expected = hf_model(**plain).logits
    prompt = generation.read(model, [tiny.picture()], QUESTIONS[:1])
    knockout.logits_of(model, prompt, [knockout.Variant(0, (), torch.ones(16, dtype=torch.bool))])
    assert hf_model.config.get_text_config()._attn_implementation == before
    torch.testing.assert_close(hf_model(**plain).logits, expected, rtol=0, atol=0)


maps = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 12), st.integers(1, 12)),
    elements=st.floats(0, 1, width=32),
)


@given(maps)
@settings(max_examples=200, deadline=None)
def test_the_parts_of_a_map(values):
    areas = Areas.of(values)
    assert areas.blind.all()
    if np.ptp(values) == 0:
        assert areas.best is areas.peak is None
        return
    assert areas.best.sum() == math.ceil(values.size / 8)
    assert values[areas.best].min() >= values[~areas.best].max() if not areas.best.all() else True
    rows, cols = evidence.side_of(values.shape)
    assert areas.peak.sum() == rows * cols
    assert values[areas.peak].max() == values.max()
    for other in areas.elsewhere:
        assert other.sum() == rows * cols
        assert not (other == areas.peak).all()


def test_squares_elsewhere_do_not_meet_the_peak_and_keep_its_distance_from_the_border():
    values = np.zeros((10, 10))
    values[0, 4] = 1  # the square is rows 0 to 2, columns 3 to 5, on the border
    areas = Areas.of(values)
    assert areas.peak[:3, 3:6].all()
    assert len(areas.elsewhere) == evidence.DRAWS
    for other in areas.elsewhere:
        assert not (other & areas.peak).any()
        rows, cols = np.nonzero(other)
        assert min(rows.min(), cols.min(), 9 - rows.max(), 9 - cols.max()) == 0
    assert not (areas.elsewhere[0] == areas.elsewhere[1]).all()
    again = Areas.of(values)
    assert all((one == other).all() for one, other in zip(areas.elsewhere, again.elsewhere, strict=True))


def told(**changes: float) -> Evidence:
    numbers = {
        "probability": 0.9, "blind": 0.2, "best": 0.3, "peak": 0.4, "elsewhere": 0.9,
        "blind_tv": 0.7, "best_tv": 0.6, "peak_tv": 0.5, "elsewhere_tv": 0.0,
    }  # fmt: skip
    return Evidence(**numbers | changes)


@pytest.mark.parametrize(
    ("changes", "verdict", "said"),
    [
        ({}, "confirmed", "Confirmed"),
        ({"blind_tv": 0.09}, "words alone", "Words alone"),
        ({"best_tv": 0.1, "peak_tv": 0.1}, "unconfirmed", "does not show where"),
        ({"elsewhere_tv": 0.4}, "unconfirmed", "does not show where"),
        (dict.fromkeys(("best", "peak", "elsewhere", "best_tv", "peak_tv", "elsewhere_tv"), math.nan),
         "unconfirmed", "does not show where"),
    ],
)  # fmt: skip
def test_the_verdict_follows_from_the_numbers(changes, verdict, said):
    found = told(**changes)
    assert found.verdict == verdict
    assert said in found.sentence
    assert "0.20" in found.sentence
    assert "nan" not in found.sentence
