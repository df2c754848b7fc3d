"""Models of words alone, and vision-language models that are asked without a picture."""

import json
from dataclasses import replace
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
import tiny
import torch
from making import encoded, write_lines
from reference import ROUNDED, reference
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)
from typer.testing import CliRunner

import relevancy
from relevancy.cli import app
from relevancy.cli import explain as cli_explain
from relevancy.data.columns import Columns
from relevancy.errors import RelevancyError
from relevancy.explanations.comparison import Comparison
from relevancy.explanations.explain import ExplainConfig, explain
from relevancy.explanations.explanation import Explanation
from relevancy.export.run import Request, export
from relevancy.models.model import Model, wrap
from relevancy.report.build import make_report

QUESTIONS = ["Is the duck floating?", "What color is the ball, and where is the dog?"]
KINDS = {
    "gpt2": (GPT2LMHeadModel, GPT2Config, {"n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": 512}),
    "llama": (LlamaForCausalLM, LlamaConfig, {}),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config, {}),
    "gemma3": (
        Gemma3ForCausalLM, Gemma3TextConfig,
        {"sliding_window": 8, "layer_types": ["sliding_attention", "sliding_attention", "full_attention"]},
    ),
}  # fmt: skip


@cache
def model_of(kind: str) -> Model:
    tokenizer = tiny.gemma_tokenizer(**({} if kind == "gemma3" else {"chat_template": None}))
    model_class, config_class, changes = KINDS[kind]
    if kind == "gpt2":
        config = config_class(vocab_size=len(tokenizer), bos_token_id=2, eos_token_id=1, pad_token_id=0, **changes)
    else:
        config = tiny.text(config_class, len(tokenizer), **changes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = model_class(config).float()
    tiny.randomize(model, 0)
    return wrap(model.eval(), tokenizer, name=kind)


@pytest.fixture(params=KINDS)
def model(request: pytest.FixtureRequest) -> Model:
    return model_of(request.param)


def test_rows_of_a_padded_batch_equal_the_equations(model):
    inputs = model.prepare([(), ()], QUESTIONS)
    kept = inputs["attention_mask"].bool()
    assert not kept.all()
    text = QUESTIONS[0]
    if model.name == "gemma3":
        text = model.tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True
        )
    plain = model.tokenizer(text.removeprefix("<bos>"), return_tensors="pt").input_ids[0]
    assert torch.equal(inputs["input_ids"][0][kept[0]], plain)
    expected = reference(model.model, dict(inputs)).language
    expected[:, -1] -= 1  # e_t
    results = explain(model, None, QUESTIONS, max_new_tokens=2)
    for result, row, mask in zip(results, expected, kept, strict=True):
        wanted = row[mask].numpy()
        assert np.linalg.norm(result.relevance - wanted) <= ROUNDED * np.linalg.norm(wanted)
        assert result.shares["image"] == 0
        assert sum(result.shares.values()) == pytest.approx(1)
        assert [token for token, _ in result.words()] == list(result.tokens)
        assert result.evidence is None
        assert any("no picture" in note for note in result.notes)


def test_what_a_result_of_words_alone_has_and_has_not(model, tmp_path):
    result = explain(model, None, QUESTIONS[0], max_new_tokens=2)
    assert result.pictures == ()
    assert result.image_map.shape == (0, 0)
    assert not result.empty
    for missing in (result.heatmap, result.overlay, lambda: result.image, lambda: result.grid):
        with pytest.raises(RelevancyError, match="words alone"):
            missing()
    assert "image" not in result.summary()
    assert "first token" in result.summary()
    assert result.panel().shares.keys() == {"text", "first_token"}
    result.save(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["explanation.json", "figure.png"]
    stored = json.loads((tmp_path / "explanation.json").read_text())
    assert stored["image"] is stored["image_map"] is stored["evidence"] is None
    again = Explanation.load(tmp_path)
    assert again.pictures == ()
    assert again.relevance.tobytes() == result.relevance.tobytes()
    assert (again.tokens, again.target, again.shares) == (result.tokens, result.target, result.shares)
    assert len(Explanation.saved_in(tmp_path)) == 2


def test_targets_and_given_answers(model):
    every = explain(model, None, QUESTIONS[0], answer="the ball", target="all")
    for number, one in enumerate(every):
        alone = explain(model, None, QUESTIONS[0], answer="the ball", target=number)
        np.testing.assert_allclose(one.relevance, alone.relevance, rtol=1e-4, atol=1e-6)
    assert all(len(before.tokens) + 1 == len(after.tokens) for before, after in pairwise(every))
    contrast = explain(model, None, QUESTIONS[0], target="ball|dog", answer="ball")
    assert contrast.target.contrast is not None


@pytest.mark.parametrize("kind", ["gpt2", "llama", "gemma3"])  # of qwen2, transformers takes another tokenizer
def test_a_folder_of_a_language_model_is_loaded(kind, tmp_path):
    model = model_of(kind)
    model.model.save_pretrained(tmp_path)
    model.tokenizer.save_pretrained(tmp_path)
    loaded = relevancy.load(tmp_path)
    assert not loaded.takes_pictures
    one, other = (explain(each, None, QUESTIONS[0], max_new_tokens=2) for each in (model, loaded))
    assert one.answer == other.answer
    np.testing.assert_allclose(one.relevance, other.relevance, rtol=1e-5, atol=1e-7)


def test_what_needs_a_picture_is_refused_by_name(model, picture):
    with pytest.raises(RelevancyError, match="takes no pictures"):
        explain(model, picture, QUESTIONS[0])
    for wish in ({"scope": "full"}, {"method": "gradcam"}):
        with pytest.raises(RelevancyError, match="words alone, scope language"):
            explain(model, None, QUESTIONS[0], **wish)


@pytest.mark.parametrize("method", ["relevancy-magnitude", "rollout", "attention", "attention-gradient", "attnlrp"])
def test_methods_that_read_tokens(method):
    result = explain(model_of("llama"), None, QUESTIONS[0], method=method, max_new_tokens=1)
    assert np.isfinite(result.relevance).all()
    assert result.relevance.any()


def test_a_vision_language_model_is_asked_with_and_without_a_picture(pair, picture):
    model = wrap(*pair, name="tiny")
    asked = explain(model, [picture, None], [QUESTIONS[0]] * 2, max_new_tokens=2)
    for source, beside in zip((picture, None), asked, strict=True):
        alone = explain(model, source, QUESTIONS[0], max_new_tokens=2)
        assert alone.tokens == beside.tokens
        np.testing.assert_allclose(alone.relevance, beside.relevance, rtol=1e-4, atol=1e-6)
    assert "<image>" not in asked[1].tokens
    assert len(asked[0].pictures) == 1
    assert asked[1].pictures == ()


def test_two_language_models_are_compared(tmp_path):
    found = relevancy.compare([model_of("llama"), model_of("qwen2")], None, QUESTIONS[0], max_new_tokens=2)
    assert np.isnan(found.agreement[0].rank_correlation)
    assert not any("map" in line for line in found.findings())
    found.save(tmp_path)
    assert len(Comparison.load(tmp_path).explanations) == 2


def test_the_command_without_a_picture(tmp_path, monkeypatch):
    model = model_of("llama")
    monkeypatch.setattr(cli_explain, "load_model", lambda *_, **__: model)
    arguments = ["explain", "--model", "llama", "--question", QUESTIONS[0], "--max-new-tokens", "2"]
    done = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert "figure.png" in done.output
    assert Explanation.load(tmp_path / "out").answer == explain(model, None, QUESTIONS[0], max_new_tokens=2).answer
    for wrong in (["--messages", str(tmp_path / "none.json")], []):
        bare = ["explain", "--model", "llama", *wrong, *(["--question", "what?"] if wrong else [])]
        refused = CliRunner().invoke(app, [*bare, "--out", str(tmp_path / "no")])
        assert refused.exit_code != 0


def test_an_export_with_rows_of_words_alone(pair, tmp_path):
    (tmp_path / "0.png").write_bytes(encoded(0))
    rows = [
        {"image": picture, "question": QUESTIONS[row % 2], "answer": "Yes"}
        for row, picture in enumerate(["0.png", None, "0.png", ""])
    ]
    items, model = write_lines(tmp_path / "items.jsonl", rows), wrap(*pair, name="tiny")
    request = Request([model], str(items), tmp_path / "plain", wish=ExplainConfig(max_new_tokens=2))
    assert export(request).errors == 2
    asked = replace(request, out=tmp_path / "out", columns=Columns(text_rows=True), overlays="all")
    assert (export(asked).count, export(asked).errors) == (4, 0)
    found = relevancy.open_export(tmp_path / "out")
    assert len(found) == 4
    for row, result in zip(rows, found, strict=True):
        source = tmp_path / row["image"] if row["image"] else None
        alone = explain(model, source, row["question"], max_new_tokens=2)
        assert (result.tokens, result.answer, len(result.pictures)) == (alone.tokens, alone.answer, len(alone.pictures))
        np.testing.assert_allclose(result.relevance, alone.relevance, rtol=1e-4, atol=1e-6)
    assert found.table(["share_image"])["share_image"].null_count == 2
    assert len(list((tmp_path / "out" / "overlays").iterdir())) == 2
    make_report(tmp_path / "out", resamples=20)


def test_an_export_of_a_language_model(tmp_path):
    model = model_of("llama")
    items = write_lines(tmp_path / "items.jsonl", [{"question": question} for question in QUESTIONS])
    request = Request([model], str(items), tmp_path / "out", wish=ExplainConfig(max_new_tokens=2))
    with pytest.raises(RelevancyError, match="--text-rows"):
        export(request)
    assert export(replace(request, columns=Columns(text_rows=True))).errors == 0
    first = relevancy.open_export(tmp_path / "out")[0]
    assert first.summary() == explain(model, None, QUESTIONS[0], max_new_tokens=2).summary()
