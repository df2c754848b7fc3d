"""Families with views of their own: places by planted changes, rows by the equations, maps by their mass."""

from functools import cache

import numpy as np
import pictured
import pytest
import relatives
import tiny
import torch
from PIL import Image
from reference import ROUNDED, reference

from relevancy.errors import RelevancyError
from relevancy.explanations.explain import explain
from relevancy.explanations.explanation import Explanation
from relevancy.families.views import Layout, View, covering, tiled
from relevancy.geometry import Grid
from relevancy.models import generation, knockout
from relevancy.models.generation import Prefill
from relevancy.models.hooks import read_by_decoder
from relevancy.models.knockout import Variant
from relevancy.models.model import Model, wrap
from relevancy.models.prepared import Prepared

SIZES = {"tiny": (9, 7), "tall": (61, 200), "wide": (230, 57), "large": (640, 480), "odd": (101, 99)}
QUESTIONS = ["what color is the ball ?", "is the duck floating ?"]
BUILDERS = pictured.BUILDERS | relatives.BUILDERS
SEPARATED = {"llava_next", "llava_onevision"}


@cache
def unmixed(family: str) -> Model:
    """The same model with a tower in which no patch hears of another."""
    try:
        return pictured.unmixed(wrap(*BUILDERS[family](), name=family))
    except ImportError as error:
        pytest.skip(str(error).strip().splitlines()[0])


def embeddings(model: Model, picture: Image.Image) -> np.ndarray:
    """What the decoder reads of a picture, (image tokens, width)."""
    inputs = model.prepare([picture], [QUESTIONS[0]])
    with torch.no_grad(), read_by_decoder(model) as read:
        model.model(**inputs)
    return read[0][inputs["input_ids"] == model.image_token_id].numpy()


def rectangles(layout: Layout) -> np.ndarray:
    """Each image token's rectangle (count, 4), NaN where it has none."""
    found = np.full((layout.count, 4), np.nan)
    for view in layout.views:
        found[view.tokens.ravel()] = view.grid.boxes()
    return found


def inside(start: float, end: float) -> tuple[int, int]:
    """The pixels that lie wholly between two places, or the one in the middle."""
    first, last = int(np.ceil(start)), int(np.floor(end))
    middle = int((start + end) / 2)
    return (first, last) if first < last else (middle, middle + 1)


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("family", BUILDERS)
def test_the_token_that_a_changed_place_changes_most_owns_it(family, size):
    if relatives.TOO_SMALL.get(family) == size:
        pytest.skip("transformers' own model reads no picture of one token")
    model, rng = unmixed(family), np.random.default_rng(1)
    width, height = size
    layout = model.layout(width, height)
    pixels = rng.integers(96, 160, (height, width, 3)).astype(np.uint8)
    before, boxes = embeddings(model, Image.fromarray(pixels)), rectangles(layout)
    assert len(before) == layout.count
    known = np.flatnonzero(layout.placed & (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1]))
    for token in rng.choice(known, min(5, len(known)), replace=False):
        (left, right), (upper, lower) = (inside(*boxes[token][axis::2]) for axis in (0, 1))
        changed = pixels.copy()
        changed[upper:lower, left:right] = 255 * (changed[upper:lower, left:right] < 128)
        moved = np.linalg.norm(embeddings(model, Image.fromarray(changed)) - before, axis=1)
        found = boxes[moved.argmax()]
        overlap = np.minimum(found[2:], [right, lower]) - np.maximum(found[:2], [left, upper])
        smaller = np.minimum(found[2:] - found[:2], [right - left, lower - upper])
        assert (overlap > 0.45 * smaller).all(), (layout.count, token, boxes[token], moved.argmax(), found)
        assert not moved[~layout.placed].any()


def asked(model: Model) -> list:
    """Two pictures of different shapes in one batch, so that one row is padded."""
    pictures = [tiny.picture(80, 60), tiny.picture(33, 150, seed=1)]
    return explain(model, pictures, QUESTIONS, max_new_tokens=3)


def test_rows_of_a_padded_batch_equal_the_equations(model):
    pictures = [tiny.picture(80, 60), tiny.picture(33, 150, seed=1)]
    inputs = model.prepare(pictures, QUESTIONS)
    kept = inputs["attention_mask"].bool()
    expected = reference(model.model, dict(inputs)).language
    expected[:, -1] -= 1  # e_t
    if not kept.all():
        assert kept.sum(-1).unique().numel() == 2
    for result, row, mask in zip(asked(model), expected, kept, strict=True):
        wanted = row[mask].numpy()
        assert np.linalg.norm(result.relevance - wanted) <= ROUNDED * np.linalg.norm(wanted)


def test_the_map_is_the_mass_of_the_image_tokens(model):
    for result in asked(model):
        layout, row = model.layout(*result.image.size), result.relevance[result.is_image]
        placed = row[layout.placed].sum(dtype=np.float64)
        pixels = result.grid.spread(result.image_map)
        assert result.image_map.shape == (result.grid.rows, result.grid.cols)
        assert pixels.shape == (result.image.height, result.image.width)
        assert abs(result.image_map.sum(dtype=np.float64) / placed - 1) < 1e-4
        assert abs(pixels.sum() / placed - 1) < 1e-4
        assert (pixels >= 0).all()
        assert not pixels[np.isnan(result.heatmap())].any()
        assert any("no place in the picture" in note for note in result.notes) == (not layout.placed.all())
        assert layout.placed.all() == (model.name not in SEPARATED)


def test_a_batch_gives_what_its_questions_give_alone(model):
    pictures = [tiny.picture(80, 60), tiny.picture(33, 150, seed=1)]
    for picture, question, beside in zip(pictures, QUESTIONS, asked(model), strict=True):
        alone = explain(model, picture, question, max_new_tokens=3)
        assert (alone.answer, alone.tokens) == (beside.answer, beside.tokens)
        assert np.abs(alone.image_map - beside.image_map).max() <= 1e-4 * np.abs(alone.image_map).max()


def test_answers_are_those_of_generation(model):
    picture = tiny.picture(80, 60)
    inputs = model.prepare([picture], [QUESTIONS[0]])
    given = {name: value for name, value in inputs.items() if name != "position_ids"}  # transformers counts by itself
    stops = list(model.stop_token_ids)
    ids = model.model.generate(**given, max_new_tokens=5, do_sample=False, eos_token_id=stops)
    answer = [token for token in ids[0, inputs["input_ids"].shape[1] :].tolist() if token not in stops]
    result = explain(model, picture, QUESTIONS[0], max_new_tokens=5)
    assert list(result.answer_tokens) == model.tokenizer.convert_ids_to_tokens(answer)


def test_later_tokens_of_an_answer_have_maps_of_their_own(model):
    results = explain(model, tiny.picture(80, 60), QUESTIONS[0], target="all", answer="red ball no")
    assert [result.target.position for result in results] == [0, 1, 2]
    first = explain(model, tiny.picture(80, 60), QUESTIONS[0], answer="red ball no")
    assert np.abs(results[0].image_map - first.image_map).max() <= 1e-5 * first.image_map.max()


def test_tiles_and_thumbnail_by_hand():
    """Two tiles beside each other, 2 x 1 tokens each, then the whole in 2 x 1 tokens, on 40 x 10 pixels."""
    edges = np.array([0.0, 5.0, 10.0])
    grid = Grid(40, 10, np.array([0.0, 20.0, 40.0]), edges)
    layout = tiled(grid, 1, 2, Grid(40, 10, np.array([0.0, 40.0]), edges))
    assert [view.name for view in layout.views] == ["tile 1", "tile 2", "thumbnail"]
    values = np.array([1, 2, 3, 4, 10, 20], np.float32)
    assert layout.image_map(values).tolist() == [[1 + 5, 3 + 5], [2 + 10, 4 + 10]]
    assert grid.spread(layout.image_map(values))[[0, -1]][:, [0, -1]] == pytest.approx(
        np.array([[6, 8], [12, 14]]) / 100
    )
    assert layout.tokens_of(np.array([[1, 0], [0, 0]])).tolist() == [True, False, False, False, True, False]
    assert layout.tokens_of(np.array([[0, 0], [1, 1]])).tolist() == [False, True, False, True, False, True]
    assert not layout.tokens_of(np.zeros((2, 2))).any()
    with pytest.raises(RelevancyError, match="shape"):
        layout.tokens_of(np.zeros((1, 2)))


def test_a_map_has_cells_wherever_a_view_has_seen_more():
    grid = Grid(40, 10, np.array([-4.0, 20.0, 36.0]), np.array([2.0, 8.0]))
    whole = Grid(40, 10, np.array([0.0, 40.0]), np.array([0.0, 10.0]))
    wider = covering(grid, whole)
    assert wider.x_edges.tolist() == [-4, 20, 36, 40]
    assert wider.y_edges.tolist() == [0, 2, 8, 10]
    tokens = np.arange(1, 3).reshape(1, 2)
    layout = Layout((View("whole", whole, np.array([[0]])), View("tiles", grid, tokens)), 4, wider)
    found = layout.image_map(np.array([400, 7, 9, 1000], np.float32))
    assert found.tolist() == [[40, 32, 8], [120 + 7, 96 + 9, 24], [40, 32, 8]]
    assert layout.placed.tolist() == [True, True, True, False]


def test_every_token_with_a_place_belongs_to_some_cell(model):
    layout = model.layout(101, 99)
    every = layout.tokens_of(np.ones((layout.grid.rows, layout.grid.cols)))
    assert (every == layout.placed).all()
    corner = np.zeros((layout.grid.rows, layout.grid.cols))
    corner[0, 0] = 1
    found = layout.tokens_of(corner)
    assert 1 <= found.sum() <= len(layout.views)


def test_other_methods_are_refused_by_name():
    model = pictured.model_of("qwen2_vl")
    with pytest.raises(RelevancyError, match="With qwen2_vl, these methods are known here: "):
        explain(model, tiny.picture(), QUESTIONS[0], method="gradcam")
    with pytest.raises(RelevancyError, match="a grid is known"):
        model.grid(80, 60)


def test_attention_methods_read_rows_of_any_family(model):
    for method in ("rollout", "relevancy-magnitude"):
        result = explain(model, tiny.picture(), QUESTIONS[0], method=method, max_new_tokens=1)
        assert np.isfinite(result.image_map).all()


@pytest.mark.parametrize(
    ("family", "changes", "said"),
    [
        ("gemma3", {"do_resize": False}, "gemma3 cannot look at what its processor makes of this picture"),
        ("llava_next", {"crop_size": {"height": 28, "width": 28}}, "56 pixels of the tower"),
        ("llava_next", {"image_grid_pinpoints": [[60, 60]]}, "no multiple"),
    ],
)
def test_settings_that_lead_elsewhere_are_refused(family, changes, said):
    model = wrap(*pictured.BUILDERS[family](), name=family)
    for name, value in changes.items():
        setattr(model.processor.image_processor, name, value)
    with pytest.raises(RelevancyError, match=said):
        model.layout(80, 60)


@pytest.mark.parametrize(("family", "setting"), [("internvl", "crop_to_patches"), ("idefics3", "do_image_splitting")])
def test_pictures_that_are_not_cut_are_one_view(family, setting):
    model = wrap(*pictured.BUILDERS[family](), name=family)
    model.processor.images_kwargs = model.processor.images_kwargs | {setting: False}
    layout = model.layout(230, 57)
    assert layout.plain
    assert (layout.grid.rows, layout.grid.cols, layout.grid.x_edges[-1]) == (2, 2, 230)
    assert len(embeddings(model, tiny.picture(230, 57))) == layout.count


@pytest.mark.parametrize("size", [(3, 90), (300, 14), (56, 56), (57, 56), (112, 56)])
def test_as_many_tokens_as_the_processor_writes(model, size):
    inputs = model.prepare([tiny.picture(*size)], [QUESTIONS[0]])
    assert model.layout(*size).count == int((inputs["input_ids"] == model.image_token_id).sum())


def test_a_strange_processor_and_a_thread_like_picture_are_refused():
    model = wrap(*pictured.gemma3(), name="gemma3")
    model.processor.image_processor = pictured.model_of("qwen2_vl").processor.image_processor
    with pytest.raises(RelevancyError, match="the processor of gemma3 takes no picture of 80 x 60"):
        model.layout(80, 60)
    with pytest.raises(RelevancyError, match="too elongated"):
        pictured.model_of("qwen2_vl").layout(2000, 5)


def test_another_number_of_image_tokens_is_refused():
    model = wrap(*pictured.qwen2_vl(), name="qwen2_vl")
    layout = model.layout(80, 60)
    with pytest.raises(RelevancyError, match=f"{layout.count + 1} image tokens where {layout.count}"):
        layout.check(layout.count + 1)


def test_evidence_is_read_from_the_prefix_that_the_map_left_behind(model):
    for result in asked(model):
        found = result.evidence
        assert found.shared == (model.model.config.model_type != "gemma3")  # whose window is shorter than the prompt
        assert found.probability == pytest.approx(result.target.probability, abs=1e-5)
        assert np.isfinite([found.blind, found.best, found.peak, found.elsewhere]).all()
    later = explain(model, tiny.picture(80, 60), QUESTIONS[0], answer="yes no", target=1)
    assert later.evidence.probability == pytest.approx(later.target.probability, abs=1e-5)


@pytest.mark.parametrize("size", [(80, 60), (230, 57)])
def test_knockouts_from_a_shared_prefix_equal_whole_passes(model, size):
    """In every family that shares, pictures of one view or of several."""
    inputs = model.prepare([tiny.picture(*size)], [QUESTIONS[0]])
    prepared, ids = Prepared(inputs, model.image_token_id), inputs["input_ids"][0]
    places = (ids == model.image_token_id).nonzero()[:, 0]
    with torch.no_grad():
        prefill = Prefill.of(prepared, model.model(**inputs, use_cache=True))
    if not generation.shares_prefix(model, len(ids), prefill.cache):
        assert model.model.config.model_type == "gemma3"
        return
    draws = torch.rand(3, len(places), generator=torch.Generator().manual_seed(0))
    hidden = [torch.ones(len(places), dtype=torch.bool), *(draws < 0.4)]
    found = knockout.logits_of(model, prefill, [Variant(0, len(ids), one) for one in hidden])
    for logits, one in zip(found, hidden, strict=True):
        keys = torch.zeros(1, len(ids), dtype=torch.bool)
        keys[0, places] = one
        with knockout._knockable(model), knockout._knocked_out(keys, int(places[-1]) + 1):
            whole = model.model(**inputs, use_cache=False).logits[0, -1]
        torch.testing.assert_close(logits[0], whole, rtol=1e-5, atol=1e-5)
    assert (found[0] - prefill.logits[0]).abs().max() > 1e-3  # knocking out the picture is felt


def test_a_result_is_drawn_and_comes_back_from_its_folder(model, tmp_path):
    result = explain(model, tiny.picture(101, 99), QUESTIONS[0], max_new_tokens=1)
    result.save(tmp_path)
    again = Explanation.load(tmp_path)
    assert again.overlay(floor=0).size == (101, 99)
    assert (again.image_map == result.image_map).all()
    assert np.allclose(again.heatmap(), result.heatmap(), equal_nan=True)
