"""Places by measurement: without a rule, once for a form of inputs, and never against what a picture shows."""

from types import MappingProxyType, SimpleNamespace

import numpy as np
import pictured
import pytest
import tiny
import torch
from observers import State
from PIL import Image

from relevancy.errors import RelevancyError
from relevancy.explanations.explain import explain
from relevancy.families import probe, rules
from relevancy.families.views import Layout, View, gathered
from relevancy.geometry import Grid
from relevancy.models.model import wrap
from relevancy.models.survey import AGREES, distance, survey

QUESTION = "is the duck floating ?"


@pytest.fixture
def without_rule(monkeypatch):
    """Qwen2-VL, whose rule nobody has written down."""
    others = {family: rule for family, rule in rules.RULES.items() if family != "qwen2_vl"}
    monkeypatch.setattr(rules, "RULES", MappingProxyType(others))
    monkeypatch.setattr("relevancy.models.survey.RULES", rules.RULES)
    return wrap(*pictured.qwen2_vl(), name="unknown")


def test_a_family_without_a_rule_is_explained_as_with_one(without_rule):
    by_rule = rules._qwen2_vl(without_rule.model.config, without_rule.processor, 80, 60)
    measured = without_rule.layout(80, 60)
    assert 0 < distance(by_rule, measured) < AGREES
    result = explain(without_rule, tiny.picture(80, 60), QUESTION, max_new_tokens=1, evidence=False)
    image = result.relevance[result.is_image]
    assert np.allclose(result.image_map, by_rule.image_map(image), atol=1e-6)


def test_the_row_that_would_make_it_a_rule_is_found(without_rule):
    found = survey(without_rule)
    assert (found.rule, found.same) == (None, ("_qwen2_vl",))
    assert found.row == '"qwen2_vl": ("Qwen2VLImageProcessor", _qwen2_vl),'
    assert all(sighting.away is None for sighting in found.sightings)
    assert found.towers == (1, 16)


def test_a_form_of_inputs_is_measured_once_and_a_size_of_pictures_too(without_rule, monkeypatch):
    asked, read = [], []
    owners, prepare = probe._Eyes.owners, type(without_rule).prepare
    monkeypatch.setattr(probe._Eyes, "owners", lambda *given: asked.append(1) or owners(*given))
    monkeypatch.setattr(type(without_rule), "prepare", lambda *given: read.append(1) or prepare(*given))
    without_rule.layout(80, 60)
    calls = len(read)
    assert calls <= 15
    without_rule.layout(80, 60)
    assert len(read) == calls
    without_rule.layout(81, 61)  # as many patches, elsewhere
    assert len(read) > calls
    assert len(asked) == 1


def test_numbers_that_are_mostly_padding_have_no_place():
    """Padded on grey, then shrunk: at the edge of the padding a number holds a little of the picture, or less than
    none of it, and what it says of its place is rounding.
    """
    width, height, side = 200, 60, 28
    offset, scale = (width - height) // 2, width / side

    def read(picture: Image.Image) -> dict[str, torch.Tensor]:
        square = Image.new("RGB", (width, width), (127, 127, 127))
        square.paste(picture, (0, offset))
        small = np.array(square.resize((side, side), Image.Resampling.BICUBIC))
        return {"pixel_values": torch.from_numpy(small).permute(2, 0, 1).float() / 255}

    named = SimpleNamespace(config=SimpleNamespace(model_type="padded"))
    x, y = probe._places(probe._Eyes(named, 0, read), width, height)["pixel_values"]
    middles = (np.arange(side) + 0.5) * scale
    inside = (middles - scale / 2 >= offset) & (middles + scale / 2 <= offset + height)
    known = ~np.isnan(y)
    assert known[:, inside].all()
    assert not known[:, np.abs(middles - width / 2) > height / 2 + scale].any()
    assert np.abs(y - (middles - offset)[None, :, None])[known].max() <= 2
    assert np.abs(x - middles[None, None])[known].max() <= 2


def test_the_model_is_given_back_as_it_was(without_rule):
    without_rule.layout(40, 40)  # transformers adds hooks of its own the first time
    before = vars(State(without_rule.model))
    without_rule.layout(120, 90)
    assert vars(State(without_rule.model)) == before


@pytest.mark.parametrize("wrong", ["backwards", "columns first", "half of the picture"])
def test_places_that_changes_do_not_bear_out_are_refused(without_rule, monkeypatch, wrong):
    right = probe._layout

    def mistaken(*given) -> Layout:
        layout = right(*given)
        (view,) = layout.views
        tokens, grid = view.tokens, view.grid
        if wrong == "backwards":
            tokens = tokens[::-1, ::-1]
        elif wrong == "columns first":
            tokens = tokens.T.reshape(tokens.shape)
        else:
            grid = Grid(grid.width, grid.height, grid.x_edges / 2, grid.y_edges / 2)
        return gathered([View("whole", grid, tokens)], layout.count)

    monkeypatch.setattr(probe, "_layout", mistaken)
    with pytest.raises(
        RelevancyError, match="where the image tokens of qwen2_vl lie could not be measured: a change at"
    ):
        without_rule.layout(130, 170)


def test_a_model_whose_pictures_let_no_gradient_through_is_refused(without_rule):
    without_rule.model.model.visual.register_forward_pre_hook(lambda _, given: tuple(one.detach() for one in given))
    with pytest.raises(RelevancyError, match="qwen2_vl lets no gradient through"):
        without_rule.layout(80, 60)


def test_a_decoder_that_looks_at_pictures_itself_is_refused(without_rule, monkeypatch):
    """As Phi-4-multimodal's does."""
    monkeypatch.setattr(type(without_rule.model), "get_decoder", lambda self: self.model)
    with pytest.raises(RelevancyError, match="the decoder of qwen2_vl looks at pictures itself"):
        without_rule.layout(80, 60)


def test_interpolated_tokens_count_each_patch_by_what_they_take_of_it(monkeypatch):
    """Of a picture of 640 x 480, 16 x 12 patches of 40 pixels become 9 x 6 tokens.

    Token i of a row is read at (i + 1/2) 16/9 - 1/2, between the middles of two patches: the first one is made of 11
    parts of patch 0 and 7 of patch 1, which lie around 8/9 of a patch; in the second row of tokens, patches 2 and 3
    count alike.
    """
    model = wrap(*pictured.llava_onevision(), name="llava_onevision")
    owners, rectangles = [], []
    asked, placed = probe._Eyes.owners, probe._layout
    monkeypatch.setattr(probe._Eyes, "owners", lambda *given: owners.append(asked(*given)) or owners[-1])
    monkeypatch.setattr(probe, "_layout", lambda found, *size: rectangles.append(found) or placed(found, *size))
    layout = model.measured_layout(640, 480)
    whole, row, (measured,), (found,) = 16, 9 + 1, owners, rectangles
    places, sizes = measured.taken[whole]
    assert places.tolist() == [whole, whole + 1, whole + 4, whole + 5]  # two of a row, four to a tile's row
    assert sizes / sizes.sum() == pytest.approx(np.array([11, 7, 11, 7]) / 36, abs=1e-6)
    assert found.middles[[whole, whole + 1, whole + row + 1]] == pytest.approx(
        np.array([[40 * 8 / 9, 40], [40 * 24 / 9, 40], [40 * 24 / 9, 120]]), abs=0.1
    )
    assert distance(model.layout(640, 480), layout) < 0.1
