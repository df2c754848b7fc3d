"""Pictures and conversations that people have all the same: each exact, or refused in one line."""

import json
from functools import cache

import kindred
import numpy as np
import pictured
import pytest
import relatives
import tiny
import torch
from PIL import Image
from reference import ROUNDED, of_family
from transformers import LlamaConfig, LlamaForCausalLM
from typer.testing import CliRunner

from relevancy.cli import app
from relevancy.cli import probe as cli_probe
from relevancy.errors import RelevancyError
from relevancy.explanations.explain import ExplainConfig, explain
from relevancy.export.results import open_export
from relevancy.export.run import Request, export
from relevancy.families.views import View, gathered
from relevancy.geometry import Grid
from relevancy.models.conversation import read_messages
from relevancy.models.model import Model, wrap

BUILDERS = pictured.BUILDERS | relatives.BUILDERS | kindred.BUILDERS
ASK = "what color is the ball ?"
WIDE, TALL, SMALL = tiny.picture(80, 60), tiny.picture(33, 150, seed=1), tiny.picture(15, 13, seed=2)


@cache
def model_of(family: str) -> Model:
    return wrap(*BUILDERS[family](), name=family)


def part(shown: Image.Image | str) -> dict:
    return {"type": "text", "text": shown} if isinstance(shown, str) else {"type": "image", "image": shown}


def turn(role: str, *parts: Image.Image | str) -> dict:
    return {"role": role, "content": list(map(part, parts))}


CONVERSATIONS = {
    "sizes": [turn("user", SMALL, tiny.picture(300, 220), ASK)],
    "after the words": [turn("user", ASK, WIDE)],
    "in the system's turn": [turn("system", SMALL, "you model"), turn("user", ASK, WIDE)],
    "the same twice": [turn("user", WIDE, WIDE, ASK)],
    "answers before": [turn("user", WIDE, "how many ?"), turn("assistant", "two"), turn("user", ASK),
                       turn("assistant", "red"), turn("user", TALL, "is the ball red ?")],
    "late": [turn("user", "how many ?"), turn("assistant", "two"), turn("user", "what", WIDE, "color ?")],
}  # fmt: skip


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 1), (2, 2), (3, 2), (200, 57), (7, 300)], ids=str)
@pytest.mark.parametrize("family", ["minicpm", "granite_docling", "got_ocr2", "gemma3_pan_and_scan"])
def test_measured_maps_hold_all_that_lies_on_the_picture(family, size):
    """However small the picture is, blown up, or cut into tiles that reach beyond it."""
    model = model_of(family)
    result = explain(model, tiny.picture(*size), ASK, max_new_tokens=1, evidence=False)
    placed = result.relevance[result.is_image][model.layout(*size).placed].sum(dtype=np.float64)
    assert result.image_map.sum(dtype=np.float64) == pytest.approx(placed, rel=1e-4)
    assert result.grid.spread(result.image_map).sum() == pytest.approx(placed, rel=1e-4)
    assert not np.isnan(result.heatmap()).any()


def test_cells_beside_the_picture_are_none_of_the_map():
    """Two tiles of 2 x 1 tokens, the second of which has its last column in the padding, and a coarser whole."""
    edges = np.array([0.0, 10.0])
    first, second = (Grid(30, 10, np.array(columns, float), edges) for columns in ([0, 10, 20], [20, 30, 40]))
    whole = Grid(30, 10, np.array([0.0, 30.0]), edges)
    views = [
        View(str(number), grid, np.array([[2 * number, 2 * number + 1]])) for number, grid in enumerate((first, second))
    ]
    layout = gathered([*views, View("whole", whole, np.array([[4]]))], 5)
    assert layout.grid.x_edges.tolist() == [0, 10, 20, 30]
    assert layout.image_map(np.array([1, 2, 4, 0, 3], np.float32)).tolist() == [[2, 3, 5]]


@pytest.mark.parametrize(
    ("family", "size", "said"),
    [
        ("qwen2_vl", (3000, 7), "is too elongated for qwen2_vl"),
        ("glmga", (3000, 7), "the processor of glmga takes no picture of 3000 x 7"),
        ("gemma4", (7, 3000), "gemma4 cannot read this .* a picture is too small or too large for it"),
        ("video_llava", (1, 1), "the processor of video_llava takes no picture of 1 x 1"),
        ("lighton_ocr", (7, 3000), "the processor of lighton_ocr takes no picture of 7 x 3000"),
    ],
)
def test_what_a_family_cannot_read_is_refused_in_a_line(family, size, said):
    with pytest.raises(RelevancyError, match=said) as refused:
        explain(model_of(family), tiny.picture(*size), ASK, max_new_tokens=1)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "family", ["minicpm", "video_llama_3", "hunyuan_vl", "qwen2_5_omni_thinker", "granite_docling"]
)
def test_conversations_are_as_written_out_alone_and_in_a_batch(family):
    model = model_of(family)
    together = explain(model, None, list(CONVERSATIONS.values()), max_new_tokens=1)
    for (name, messages), result in zip(CONVERSATIONS.items(), together, strict=True):
        conversation, shown = read_messages(messages)
        inputs = model.prepare([shown], [conversation])
        expected = of_family(model.model, dict(inputs), model.image_token_id).language[0].numpy()
        expected[-1] -= 1
        assert np.linalg.norm(result.relevance - expected) <= ROUNDED * np.linalg.norm(expected), name
        assert [one.image.size for one in result.pictures] == [one.size for one in shown]
        values, start = expected[result.is_image], 0
        for one, layout in zip(result.pictures, model.layouts([one.size for one in shown]), strict=True):
            own = values[start : start + layout.count][layout.placed]
            start += layout.count
            assert one.image_map.sum(dtype=np.float64) == pytest.approx(own.sum(), rel=1e-4)
        assert len(result.evidence.without) == (len(shown) if len(shown) > 1 else 0)


def test_an_export_asks_some_families_one_question_at_a_time(tmp_path):
    """As `explain` does: Hunyuan's pictures would be numbered over the whole batch."""
    for name, picture in (("wide", WIDE), ("tall", TALL)):
        picture.save(tmp_path / f"{name}.png")
    rows = [
        {"id": f"{name} {number}", "image": f"{name}.png", "question": ASK}
        for number in (1, 2)
        for name in ("wide", "tall")
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    wish = ExplainConfig(max_new_tokens=1)
    export(Request([model_of("hunyuan_vl")], str(tmp_path / "rows.jsonl"), tmp_path / "out", wish=wish, batch=4))
    for row, result in zip(rows, open_export(tmp_path / "out"), strict=True):
        alone = explain(model_of("hunyuan_vl"), tmp_path / row["image"], ASK, max_new_tokens=1)
        np.testing.assert_allclose(result.relevance, alone.relevance, rtol=1e-4, atol=1e-6)


def test_a_model_of_words_alone_has_no_places_to_measure(monkeypatch):
    tokenizer = tiny.gemma_tokenizer(chat_template=None)
    words = wrap(LlamaForCausalLM(tiny.text(LlamaConfig, len(tokenizer))), tokenizer, name="words")
    monkeypatch.setattr(cli_probe, "load_model", lambda *_, **__: words)
    done = CliRunner().invoke(app, ["probe", "--model", "words"])
    assert done.exit_code
    assert "words takes no pictures, so there is nothing to measure" in str(done.exception)


def test_a_processor_may_leave_kinds_of_tokens_to_others():
    """Cosmos 3 Edge's does, although its model counts no positions without them."""
    inputs = model_of("cosmos3_edge").prepare([WIDE, TALL], [ASK, "how many ?"])
    kinds = inputs["mm_token_type_ids"]
    assert torch.equal(kinds == 1, inputs["input_ids"] == model_of("cosmos3_edge").image_token_id)
