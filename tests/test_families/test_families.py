"""Every family alike: rows against the equations, places by rule against measured ones, explained end to end.

What a test finds goes into its properties, of which `tests/families_table.py` makes docs/models.md.
"""

import re
from functools import cache
from pathlib import Path

import kindred
import numpy as np
import pictured
import pytest
import relatives
import shrunken
import tiny
import torch
from reference import EXACT, ROUNDED, doubled, of_family, passed_on, relative
from torch import Tensor
from transformers import PreTrainedModel

from relevancy.core.tape import Rows, record
from relevancy.errors import RelevancyError
from relevancy.explanations.explain import explain
from relevancy.models.model import Model, wrap
from relevancy.models.survey import AGREES, SIZES, survey

BUILDERS = tiny.FAMILIES | pictured.BUILDERS | relatives.BUILDERS | kindred.BUILDERS
QUESTIONS = ["is the duck floating ?", "what color ?"]
UNMEASURED = {("gemma4_unified", (9, 7))}  # blown up to more tokens than pixels, of which no two can be told apart
WITHOUT_FULL = {
    "gemma4_unified": "has no vision tower to follow",
    "got_ocr2": "GotOcr2VisionEncoder does not let its attention be replaced",
    "step3p7": "attends more than once in layer",
    "minicpm": "tokens in different layers",
    "molmo2": "not exact for molmo2: Molmo2VisionAttention attends outside",
}
MIXES = "mixes positions in {} as well as by attention"
CROSS = "attends to another sequence than its own|attends to an encoder"
DECODERS: dict[str, tuple[dict, str]] = {
    "blip": ({}, "does not let its attention be replaced"),
    "diffusion_gemma": (
        {"text_config": {"num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 16}},
        "was called with 256 new and 265 known tokens",
    ),
    "evolla": ({}, CROSS),
    "git": ({}, "Only 0 of 2 layers of GitModel went through"),
    "glm5_next": ({"text_config": {"num_key_value_heads": 4}}, MIXES.format("Glm5NextTextLinearAttention")),
    "idefics": ({}, CROSS),
    "inkling2": ({}, MIXES.format("Inkling2ShortConvolution")),
    "lfm3_vl": ({}, MIXES.format("Lfm3ShortConv")),
    "minicpm_ocr": ({}, MIXES.format("Qwen3_5GatedDeltaNet")),
    "minicpmv4_7": ({}, MIXES.format("Qwen3_5GatedDeltaNet")),
    "mistral_large4": ({"text_config": {"num_key_value_heads": 4}}, "passes indices to its attention"),
    "nemotron_h_omni": ({}, MIXES.format("NemotronHMamba2Mixer")),
    "pi0": ({}, "PI0Model does not say how many layers it has"),
    "pix2struct": ({}, CROSS),
    "pp_formulanet": ({}, CROSS),
    "qwen3_5_moe": ({}, MIXES.format("Qwen3_5MoeGatedDeltaNet")),
    "qwen4_exp": (
        {"text_config": {"layer_types": ["linear_attention", "linear_attention"], "ngram_vocab_size_base": 1000}},
        MIXES.format("Qwen4ExpTextGatedDeltaNet"),
    ),
    "udop": ({}, CROSS),
    "vision-encoder-decoder": (
        {
            "encoder": shrunken.PART | {"model_type": "vit", "image_size": 56, "patch_size": 14},
            "decoder": shrunken.PART | {"model_type": "bert", "vocab_size": shrunken.VOCABULARY},
        },
        CROSS,
    ),
}  # of each: changes of its shrunken config, and why its rows are refused, whatever it is shown
ALIKE = {"perception_lm"}  # whose processor takes pictures together only where they have as many tiles


@cache
def model_of(family: str) -> Model:
    try:
        return wrap(*BUILDERS[family](), name=family)
    except ImportError as error:
        pytest.skip(str(error).strip().splitlines()[0])


@pytest.fixture(params=BUILDERS)
def model(request: pytest.FixtureRequest, record_property) -> Model:
    record_property("set-up", request.param)
    built = model_of(request.param)
    record_property("family", built.model.config.model_type)
    return built


def pictures() -> list:
    """Of different shapes, so that one row of their batch is padded where a family's tokens follow the shape."""
    return [tiny.picture(80, 60), tiny.picture(33, 150, seed=1)]


def rows_of(model: PreTrainedModel, inputs: dict, scope: str = "language") -> tuple[Rows, Tensor]:
    """The rows of the most probable next tokens, and the logits they are of."""
    with record(model, scope) as tape:
        logits = model(**inputs, logits_to_keep=1).logits[:, -1]
        return tape.relevance(logits.max(-1).values), logits


@pytest.mark.parametrize(("precision", "bound"), [("float64", EXACT), ("float32", ROUNDED)])
def test_rows_equal_the_equations(model, precision, bound, record_property):
    shown = pictures()
    if model.name in ALIKE:
        shown[1] = tiny.picture(*shown[0].size, seed=1)
    given = dict(model.prepare(shown, QUESTIONS))
    expected = of_family(model.model, given, model.image_token_id)
    asked, inputs = doubled(model.model, given) if precision == "float64" else (model.model, given)
    rows, logits = rows_of(asked, inputs)
    assert relative(logits, expected.logits) < bound
    found = {"language": relative(passed_on(rows.language), passed_on(expected.language))}
    if model.name not in WITHOUT_FULL:
        rows, _ = rows_of(asked, inputs, "full")
        found["full"] = max(
            relative(rows.vision, expected.vision), relative(passed_on(rows.language), passed_on(expected.language))
        )
        assert (rows.image.sum() / rows.vision.sum()).item() == pytest.approx(
            float((expected.vision * (expected.seed > 0)).sum() / expected.vision.sum()), abs=bound
        )
    for scope, error in found.items():
        record_property(f"{scope}, {precision}", error)
    assert max(found.values()) < bound


def test_places_by_rule_are_those_measured(model, record_property):
    sizes = [size for size in SIZES if size != relatives.TOO_SMALL.get(model.name)]
    found = survey(model, [size for size in sizes if (model.name, size) not in UNMEASURED])
    assert [sighting.refused for sighting in found.sightings] == [None] * len(found.sightings)
    record_property("geometry", "measured" if found.rule is None else "by rule")
    for sighting in found.sightings:
        assert sighting.away is None or sighting.away <= AGREES, sighting.size
        assert (sighting.away is None) == (found.rule is None)
    if found.rule is not None:
        record_property("away", max(sighting.away for sighting in found.sightings))


@pytest.mark.parametrize("scope", ["language", "full"])
def test_explained_end_to_end(model, scope, record_property):
    if scope == "full" and model.name in WITHOUT_FULL:
        with pytest.raises(RelevancyError, match=WITHOUT_FULL[model.name]) as refused:
            explain(model, pictures()[1], QUESTIONS[0], scope=scope)
        record_property("full refused", str(refused.value))
        return
    results = explain(model, pictures(), QUESTIONS, scope=scope, max_new_tokens=2)
    for result, picture in zip(results, pictures(), strict=True):
        pixels = result.grid.spread(result.image_map)
        assert pixels.shape == (picture.height, picture.width)
        assert not pixels[np.isnan(result.heatmap())].any()
        layout = model.layout(*picture.size)
        assert layout.count == result.is_image.sum()
        if scope == "language":
            seen = layout.placed & ~np.isnan(layout.middles[:, 0])
            assert result.image_map.sum() == pytest.approx(result.relevance[result.is_image][seen].sum(), rel=1e-4)
        alone = explain(model, picture, result.question, scope=scope, max_new_tokens=1, evidence=False)
        assert np.abs(alone.image_map - result.image_map).max() <= 1e-4 * np.abs(alone.image_map).max()
    record_property("explained", scope)


@pytest.mark.parametrize("family", relatives.RESAMPLING)
def test_resamplers_are_refused_by_name(family, record_property):
    model = wrap(*relatives.RESAMPLING[family](), name=family)
    said = model.model.config.model_type
    with pytest.raises(RelevancyError, match=f"image tokens of {said} is made of the whole picture") as refused:
        explain(model, pictures()[0], QUESTIONS[0])
    record_property("family", said)
    record_property("refused", str(refused.value))
    found = survey(model, SIZES[:1])
    assert found.rule is None
    assert found.row is None
    assert "whole picture" in found.sightings[0].refused
    assert "attends outside" in found.full_refused


@pytest.mark.parametrize("family", kindred.REFUSED)
def test_other_families_are_refused_by_a_reason(family, record_property):
    build, reason = kindred.REFUSED[family]
    try:
        built = build()
    except ImportError as error:
        pytest.skip(str(error).strip().splitlines()[0])
    record_property("family", built[0].config.model_type)
    with pytest.raises(RelevancyError, match=reason) as refused:
        explain(wrap(*built, name=family), pictures()[0], QUESTIONS[0])
    record_property("refused", str(refused.value))


@pytest.mark.parametrize("family", DECODERS)
def test_decoders_that_cannot_be_followed_are_refused_by_a_reason(family, record_property):
    changes, reason = DECODERS[family]
    model, ids = shrunken.shrunken(family, **changes), torch.arange(100, 109)[None]
    inputs = {
        "idefics": {"pixel_values": torch.zeros(1, 1, 3, 56, 56), "image_attention_mask": torch.ones(1, 9, 1)},
        "vision-encoder-decoder": {"pixel_values": torch.zeros(1, 3, 56, 56), "decoder_input_ids": ids},
    }.get(family, {})
    if family != "vision-encoder-decoder":
        inputs["input_ids"] = ids
    record_property("family", family)
    with pytest.raises(RelevancyError, match=reason) as refused, record(model) as tape:
        tape.relevance(model(**inputs).logits[:, -1].max(-1).values)
    record_property("refused", str(refused.value))


def test_two_towers_over_one_picture_are_measured_or_refused():
    """DeepSeek-VL's hybrid: the finer tower's tokens lie to the left of the other one's, and above them."""
    model = wrap(*kindred.deepseek_vl_hybrid(), name="deepseek_vl_hybrid")
    inputs = model.prepare(pictures(), QUESTIONS)
    rows, _ = rows_of(model.model, dict(inputs))
    expected = of_family(model.model, dict(inputs), model.image_token_id)
    assert relative(passed_on(rows.language), passed_on(expected.language)) < ROUNDED
    assert explain(model, pictures()[0], QUESTIONS[0], max_new_tokens=1).image_map.shape == (4, 4)
    with pytest.raises(RelevancyError, match="SamVisionSdpaAttention attends outside SiglipVisionModel"):
        explain(model, pictures()[0], QUESTIONS[0], scope="full")
    with pytest.raises(RelevancyError, match="is not seen by the token of that place"):
        model.layout(640, 480)


def test_every_family_of_transformers_is_named_in_the_docs():
    page = (Path(__file__).parents[2] / "docs/models.md").read_text()
    assert set(shrunken.FAMILIES) <= set(re.findall(r"`([\w.-]+)`", page))
