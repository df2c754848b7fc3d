"""What is built on maps, for families whose pictures have views: each against a plain loop over single passes."""

import math
from pathlib import Path

import numpy as np
import pictured
import pytest
import tiny
import torch
from making import encoded, write_lines
from PIL import Image

import relevancy
from relevancy.checking.rows import read_rows
from relevancy.checking.store import ANSWER as SAID
from relevancy.checking.store import CENTRE, RANDOM, SCORES
from relevancy.checking.worker import Job, Settings, Worker
from relevancy.data.items import Item, PictureSource
from relevancy.explanations.agreement import spearman
from relevancy.explanations.comparison import Comparison, compare
from relevancy.explanations.counterfactual import Region, counterfactual
from relevancy.explanations.explain import ExplainConfig, explain
from relevancy.export.overlays import Wanted
from relevancy.export.processed import ImageProcessors
from relevancy.export.records import ExplainBatches, RecordMaker
from relevancy.export.run import Request, export
from relevancy.images import MAX_PIXELS
from relevancy.metrics.explainers import explainer_of
from relevancy.metrics.sanity_checks import similarity
from relevancy.metrics.teacher_forcing import GivenAnswer, TeacherForcing
from relevancy.models.model import Model
from relevancy.report.build import make_report, save

QUESTIONS = ["what color is the ball ?", "is the duck floating ?", "how many boats are there ?"]
SHAPES = [(80, 60), (33, 150), (230, 57)]
ANSWER = "red ball"


def probability(model: Model, picture: Image.Image, question: str, ids: tuple[int, ...], changed=None) -> float:
    """Of an answer's last token, by one pass over what the processor writes; `changed` may change its inputs."""
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}]
    text = model.processor.apply_chat_template(messages, add_generation_prompt=True)
    inputs = dict(model.processor(images=[picture], text=[text], return_tensors="pt"))
    tokens = inputs["input_ids"].shape
    for name, value in inputs.items():
        if value.shape == tokens:
            added = torch.tensor([ids[:-1]]) * (name == "input_ids") + (name == "attention_mask")
            inputs[name] = torch.cat([value, added.to(value.dtype).expand(1, len(ids) - 1)], 1)
    with torch.no_grad():
        logits = model.model(**(changed(inputs) if changed else inputs)).logits
    return float(logits[0, -1].softmax(-1)[ids[-1]])


def test_rows_of_an_export_are_single_explanations(model):
    """Pictures of three shapes in batches of three, so that every batch has rows of different numbers of tokens."""
    sources = [PictureSource(content=encoded(seed, *shape)) for seed, shape in enumerate(SHAPES)]
    items = [Item(row, str(row), sources[row % 3], QUESTIONS[row // 2]) for row in range(5)]
    processors = ImageProcessors.of([model], MAX_PIXELS)
    way = ExplainBatches(ExplainConfig(max_new_tokens=3), 3, Wanted(rows=frozenset({0, 1, 2, 4})))
    opened = {one.picture.key: processors.opened(one.picture) for one in items}
    assert not any(one.pixels[0] is not None for one in opened.values())
    records = {one["row"]: one for one in RecordMaker([model], processors, way).records(items, opened)}
    assert len(records) == 5
    for item in items:
        alone = explain(model, item.picture.content, item.question, max_new_tokens=3)
        record = records[item.row]
        assert "error" not in record
        assert (record["answer"], record["picture_hash"]) == (alone.answer, opened[item.picture.key].digest)
        assert record["probability"] == pytest.approx(alone.target.probability, rel=1e-4)
        if item.row == 3:
            assert "image_map" not in record
            continue
        scale = np.abs(alone.image_map).max()
        np.testing.assert_allclose(record["image_map"], alone.image_map.ravel(), atol=1e-4 * scale)
        assert (record["rows"], record["cols"]) == alone.image_map.shape
        assert record["tokens"] == list(alone.tokens)
        assert record["verdict"] == alone.evidence.verdict


def test_a_region_is_hidden_as_in_a_picture_edited_by_hand(model):
    picture = tiny.picture(80, 60)
    ids = GivenAnswer.words(model, ANSWER).ids
    regions = [Region(box=(10, 5, 40, 30)), Region(patches=[0])]
    found = counterfactual(model, picture, QUESTIONS[0], regions, answer=ANSWER)
    edited = np.array(picture)
    edited[5:30, 10:40] = 128
    assert (np.array(found[0].image) == edited).all()
    corner = model.layout(80, 60).grid.boxes()[0].round().astype(int)
    changed = (np.array(found[1].image) != np.array(picture)).any(-1)
    assert not changed[corner[3] :].any()
    assert not changed[:, corner[2] :].any()
    for version, likelihood in ((picture, found[0].before), (Image.fromarray(edited), found[0].after)):
        first = probability(model, version, QUESTIONS[0], ids[:1])
        assert likelihood.first == pytest.approx(first, rel=1e-3)
        assert likelihood.whole == pytest.approx(first * probability(model, version, QUESTIONS[0], ids), rel=1e-3)


def sight_of(model: Model, picture: Image.Image) -> TeacherForcing:
    return TeacherForcing(model, picture, QUESTIONS[0], GivenAnswer.words(model, ANSWER, 1), batch=2)


def some(sight: TeacherForcing) -> np.ndarray:
    """Nothing, a third, and everything of what shows the picture."""
    random = np.random.default_rng(3).random(sight.patches) < 0.3
    return np.stack([np.zeros(sight.patches, bool), random & sight.seen, sight.seen])


@pytest.mark.parametrize("replacement", ["grey", "mean"])
def test_hiding_cells_is_painting_their_pixels(model, replacement):
    picture = tiny.picture(75, 62)
    sight = sight_of(model, picture)
    color = (128, 128, 128) if replacement == "grey" else np.array(picture, float).mean((0, 1)).round()
    x, y = sight.grid.x_edges, sight.grid.y_edges
    for hidden, found in zip(some(sight), sight.hiding(some(sight), replacement).probability, strict=True):
        edited = np.array(picture)
        for row in range(62):
            for col in range(75):
                across, down = (
                    np.clip(np.minimum(edges[1:], place + 1) - np.maximum(edges[:-1], place), 0, None)
                    for edges, place in ((x, col), (y, row))
                )
                cover = np.outer(down, across).ravel()
                if cover.sum() > 0 and cover[hidden].sum() >= (0.5 - 1e-9) * cover.sum():
                    edited[row, col] = color
        wanted = probability(model, Image.fromarray(edited), QUESTIONS[0], sight.said.ids)
        assert found == pytest.approx(wanted, rel=1e-3)


def test_removing_cells_removes_every_token_that_has_seen_them(model):
    picture = tiny.picture(75, 62)
    sight = sight_of(model, picture)
    boxes = sight.grid.boxes()
    for removed, found in zip(some(sight), sight.without(some(sight)).probability, strict=True):
        gone = np.zeros(sight.layout.count, bool)
        for view in sight.layout.views:
            for token, own in zip(view.tokens.ravel(), view.grid.boxes(), strict=True):
                shared = np.minimum(boxes[removed][:, 2:], own[2:]) - np.maximum(boxes[removed][:, :2], own[:2])
                gone[token] |= bool((shared > 1e-3).all(1).any())
        if removed[sight.seen].all():
            gone[:] = True

        def masked(inputs: dict, gone: np.ndarray = gone) -> dict:
            places = (inputs["input_ids"][0] == model.image_token_id).nonzero()[:, 0]
            mask = inputs["attention_mask"].clone()
            counts = getattr(model.model.base_model, "get_rope_index", None)
            names = ("input_ids", "image_grid_thw", "attention_mask", "mm_token_type_ids")
            positions = torch.arange(mask.shape[1])[None]
            if counts is not None:
                positions, _ = counts(**{name: inputs[name] for name in names if name in inputs})
            mask[0, places[torch.from_numpy(gone)]] = 0
            return inputs | {"attention_mask": mask, "position_ids": positions}

        assert found == pytest.approx(probability(model, picture, QUESTIONS[0], sight.said.ids, masked), rel=1e-3)


@pytest.fixture
def asked(tmp_path) -> Path:
    """Six rows over three pictures of different shapes, with boxes."""
    for seed, shape in enumerate(SHAPES):
        (tmp_path / f"{seed}.png").write_bytes(encoded(seed, *shape))
    rows = [{"image": f"{row % 3}.png", "question": QUESTIONS[row % 3], "boxes": [[2, 3, 20, 30]]} for row in range(6)]
    return write_lines(tmp_path / "items.jsonl", rows)


def test_an_export_of_different_families_is_read_back_and_reported(asked, tmp_path):
    models = [pictured.model_of("qwen2_vl"), pictured.model_of("idefics3")]
    wish = ExplainConfig(max_new_tokens=2)
    done = export(Request(models, str(asked), tmp_path / "out", wish=wish, batch=4, overlays="all"))
    assert (done.count, done.errors) == (12, 0)
    found = relevancy.open_export(tmp_path / "out")
    for model in models:
        alone = explain(model, asked.parent / "1.png", QUESTIONS[1], max_new_tokens=2)
        again = found.of_row(1, model.name)
        assert again.heatmap().shape == (150, 33)
        np.testing.assert_allclose(again.heatmap(), alone.heatmap(), atol=1e-4 * np.abs(alone.image_map).max())
    assert len(list((tmp_path / "out" / "overlays").glob("*.webp"))) == 12
    page = save(make_report(tmp_path / "out", resamples=20), tmp_path / "report").read_text(encoding="utf-8")
    assert page.count("data:image") >= 6


def test_maps_of_different_families_are_compared_on_the_picture(tmp_path):
    models = [pictured.model_of("qwen2_5_vl"), pictured.model_of("llava_next")]
    picture = tiny.picture(80, 60)
    both = compare(models, picture, QUESTIONS[0], max_new_tokens=2)
    shapes = {one.image_map.shape for one in both.explanations}
    assert len(shapes) == 2
    first, second = (explain(model, picture, QUESTIONS[0], max_new_tokens=2).heatmap() for model in models)
    seen = np.isfinite(first) & np.isfinite(second)
    assert both.agreement[0].rank_correlation == pytest.approx(spearman(first[seen], second[seen]), abs=1e-3)
    both.save(tmp_path)
    assert Comparison.load(tmp_path).agreement == both.agreement


@pytest.mark.parametrize("family", ["qwen2_vl", "llava_next", "internvl"])
def test_every_job_of_a_check_of_a_family_with_views(family, asked):
    rows = read_rows(asked)[:4]
    said = dict(enumerate(["red ball", "yes", "two boats", "red"]))
    worker = Worker(
        pictured.model_of(family), rows, {"relevancy": explainer_of(target="first-relevant")}, Settings(steps=2)
    )
    if family == "qwen2_vl":  # random weights say control tokens, which cannot be given back
        ((_, values),) = worker.do(Job(SAID, (0,))).results
        assert "control token" in values["fault"]
    methods = ("relevancy", CENTRE, RANDOM)
    scores = {key[1]: values for key, values in worker.do(Job(SCORES, (0,), methods, said)).results}
    for name in methods:
        for number in ("deletion", "insertion", "positive", "negative", "pointing", "energy", "confirmed"):
            assert math.isfinite(scores[name][number]), (name, number)
    for control in worker.controls():
        done = worker.do(Job(control, (0, 1, 2, 3), methods, said))
        assert len(done.results) == 12
        assert not done.notes
        if control == "picture":
            assert all(math.isfinite(values["similarity"]) for _, values in done.results)


def test_maps_of_different_shapes_are_compared_at_the_same_places():
    coarse = np.array([[1.0, 2.0], [3.0, 4.0]])
    fine = np.kron(coarse, np.ones((2, 3)))
    assert similarity(coarse, fine) == pytest.approx(1)
    assert similarity(fine, -coarse) == pytest.approx(-1)
    assert similarity(np.array([[1.0, 2.0, 3.0]]), np.array([[1.0], [2.0]])) == pytest.approx(0, abs=1e-9)
