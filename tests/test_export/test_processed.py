"""What an export computes is what `explain` says, whatever rows travelled together."""

from dataclasses import replace

import numpy as np
import pytest
from making import QUESTIONS, encoded

import relevancy
from relevancy.data.items import Item, PictureSource
from relevancy.explanations.explain import ExplainConfig, explain
from relevancy.export.processed import ImageProcessors
from relevancy.export.records import ExplainBatches, RecordMaker
from relevancy.images import MAX_PIXELS
from relevancy.models import vision_cache

EXACT = {"rtol": 1e-5, "atol": 1e-5}


def items_over(pictures, rows):
    sources = [PictureSource(content=encoded(number, 60 + 17 * number)) for number in range(pictures)]
    return [Item(row, str(row), sources[row % pictures], QUESTIONS[row % 3] * (1 + row % 2)) for row in range(rows)]


def records_of(models, items, wish=None, batch=4):
    processors = ImageProcessors.of(models, MAX_PIXELS)
    maker = RecordMaker(models, processors, ExplainBatches(wish or ExplainConfig(max_new_tokens=4), batch))
    pictures = {item.picture.key: processors.opened(item.picture) for item in items}
    return {(one["row"], one["model"]): one for one in maker.records(items, pictures)}


def check(model, item, record, **options):
    alone = explain(model, item.picture.content, item.question, max_new_tokens=4, **options)
    assert record["error"] is None if "error" in record else True
    np.testing.assert_allclose(record["image_map"], alone.image_map.ravel(), **EXACT)
    np.testing.assert_allclose(record["relevance"], alone.relevance, **EXACT)
    np.testing.assert_allclose(record["probability"], alone.target.probability, **EXACT)
    np.testing.assert_allclose(record["share_image"], alone.shares["image"], **EXACT)
    assert record["answer"] == alone.answer
    assert record["tokens"] == list(alone.tokens)
    assert (record["token_id"], record["position"]) == (alone.target.id, alone.target.position)
    assert record["x_edges"].tolist() == alone.grid.x_edges.tolist()
    assert record["notes"] == list(alone.notes)


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_every_map_equals_a_single_explanation(pair, batch):
    model = relevancy.wrap(*pair, name="tiny")
    items = items_over(2, 6)
    records = records_of([model], items, batch=batch)
    for item in items:
        check(model, item, records[item.row, "tiny"])


@pytest.mark.parametrize(
    "options",
    [{"scope": "full"}, {"target": "first-relevant"}, {"target": "Yes|No"}, {"layers": [1]}, {"method": "attention"}],
)
def test_any_wish(built, options):
    model = relevancy.wrap(*built["gemma-clip"], name="tiny")
    items = items_over(2, 4)
    records = records_of([model], items, ExplainConfig(max_new_tokens=4, **options))
    for item in items:
        check(model, item, records[item.row, "tiny"], **options)


def test_the_tower_runs_once_per_picture(built, monkeypatch):
    models = [relevancy.wrap(*built["gemma-clip"], name=name) for name in ("one", "two")]
    tower = models[0].model.get_encoder(modality="image")
    seen, run = [], tower.forward
    monkeypatch.setattr(tower, "forward", lambda pixels, **options: seen.append(len(pixels)) or run(pixels, **options))
    items = items_over(3, 12)
    records = records_of(models, items)
    assert sum(seen) == 3
    assert len(records) == 24
    assert vision_cache.identity(models[0]) is not None


def test_a_row_that_fails_costs_the_others_nothing(built):
    model = relevancy.wrap(*built["gemma-clip"], name="tiny")
    items = items_over(2, 5)
    items[2] = replace(items[2], question="too long " * 400)
    items[4] = replace(items[4], picture=PictureSource(content=encoded(0)[:200]))
    records = records_of([model], items)
    assert "too long" in records[2, "tiny"]["error"]
    assert "damaged" in records[4, "tiny"]["error"]
    for row in (0, 1, 3):
        check(model, items[row], records[row, "tiny"])


def test_equal_image_processors_work_once(built):
    models = [relevancy.wrap(*built[name]) for name in ("gemma-clip", "gemma-dinov2")]
    processors = ImageProcessors.of(models, MAX_PIXELS)
    assert processors.of_model == (0, 0)
    assert len(processors.opened(PictureSource(content=encoded(0))).pixels) == 1


def test_the_digest_is_of_the_encoded_file(tmp_path, built):
    (tmp_path / "a.png").write_bytes(encoded(0))
    processors = ImageProcessors.of([relevancy.wrap(*built["gemma-clip"])], MAX_PIXELS)
    by_path = processors.opened(PictureSource("a.png", str(tmp_path / "a.png")))
    assert by_path.digest == processors.opened(PictureSource(content=encoded(0))).digest
    assert by_path.size == (80, 60)
