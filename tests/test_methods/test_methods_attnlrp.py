"""AttnLRP against the rules written out in float64, its conservation, and the layers it refuses."""

import lrp_by_hand
import numpy as np
import pictured
import pytest
import tiny
import torch
from by_hand import ByHand
from transformers import MistralConfig, OlmoConfig, Phi3Config, PhiConfig, Qwen3Config

import relevancy
from relevancy.core import lrp
from relevancy.errors import RelevancyError
from relevancy.explanations.explain import explain
from relevancy.models.model import wrap

QUESTION = "What color is the ball?"


def with_decoder(config, seed: int = 8, **changes) -> tiny.Built:
    tokenizer = tiny.gemma_tokenizer()
    hf = tiny.build(tiny.text(config, len(tokenizer), **changes), tiny.clip(), tokenizer=tokenizer, seed=seed)
    return hf, tiny.processor_for(tokenizer)


BUILDERS = {
    "gemma": tiny.gemma_clip,
    "gemma2": tiny.gemma2_clip,
    "llama": tiny.llama_clip,
    "mistral": lambda: with_decoder(MistralConfig, sliding_window=None),
    "qwen2": tiny.qwen2_clip,
    "qwen3": lambda: with_decoder(Qwen3Config),
}


@pytest.mark.parametrize("family", BUILDERS)
@pytest.mark.parametrize("target", [1, "contrast"])
def test_every_embedding_has_what_the_rules_give_it(family, target, picture):
    hf, processor = BUILDERS[family]()
    exact = wrap(hf.double(), processor)
    found = explain(exact, picture, QUESTION, method="attnlrp", target=target, max_new_tokens=2, evidence=False)
    said = exact.tokenizer.convert_tokens_to_ids(list(found.answer_tokens))[: found.target.position]
    case = ByHand(exact, picture, QUESTION, tuple(said))
    weights = hf.get_output_embeddings().weight.detach()
    row = weights[found.target.id] - (0 if found.target.contrast_id is None else weights[found.target.contrast_id])
    expected, value = lrp_by_hand.relevance(hf.get_decoder(), case.embeddings[0], row)
    logit = found.target.logit - (found.target.contrast_logit or 0)
    assert value == pytest.approx(logit, rel=1e-4)
    assert np.abs(found.relevance - expected.numpy()).max() <= 1e-4 * expected.abs().max()


def test_a_fused_feed_forward_is_the_same(picture):
    """Phi-3 keeps query, key and value in one matrix, and gate and up in one: with Llama's weights, Llama's map."""
    llama, processor = tiny.llama_clip()
    phi, _ = with_decoder(Phi3Config, rms_norm_eps=llama.config.text_config.rms_norm_eps)
    state = llama.state_dict()
    for name in [name for name in state if name.endswith("q_proj.weight") and "language_model" in name]:
        parts = [state.pop(name.replace("q_proj", f"{part}_proj")) for part in "qkv"]
        state[name.replace("q_proj", "qkv_proj")] = torch.cat(parts)
    for name in [name for name in state if name.endswith("gate_proj.weight")]:
        parts = [state.pop(name.replace("gate_proj", part)) for part in ("gate_proj", "up_proj")]
        state[name.replace("gate_proj", "gate_up_proj")] = torch.cat(parts)
    phi.load_state_dict(state)
    one, other = (
        explain(wrap(hf, processor), picture, QUESTION, method="attnlrp", max_new_tokens=1) for hf in (llama, phi)
    )
    assert np.abs(one.relevance - other.relevance).max() <= 1e-5 * np.abs(one.relevance).max()


def test_relevance_sums_to_the_logit_but_for_the_softmax(picture, monkeypatch):
    """All rules but the softmax's hand on what they get; with shares that do not depend on scores nothing is lost."""
    hf, processor = tiny.gemma_clip()
    exact = wrap(hf.double(), processor)
    found = explain(exact, picture, QUESTION, method="attnlrp", max_new_tokens=1)
    assert float(found.relevance.sum()) != pytest.approx(found.target.logit, rel=1e-3)

    def no_score(module, query, key, value, mask, **options):
        return lrp.attention.attend(
            module, query.detach(), key.detach(), lrp._shared(value, 1.0), mask, cap_as_factor=True, **options
        )

    monkeypatch.setattr(lrp, "_attend", no_score)
    whole = explain(exact, picture, QUESTION, method="attnlrp", max_new_tokens=1)
    assert float(whole.relevance.sum()) == pytest.approx(whole.target.logit, rel=1e-5)


def test_half_precision_is_close(picture):
    exact, rough = (
        explain(relevancy.load("demo-small", dtype=dtype), picture, QUESTION, method="attnlrp", max_new_tokens=1)
        for dtype in ("float32", "bfloat16")
    )
    assert exact.target.id == rough.target.id
    assert np.corrcoef(exact.relevance, rough.relevance)[0, 1] > 0.99


@pytest.mark.parametrize(
    ("config", "changes", "layer"),
    [(PhiConfig, {}, "PhiModel"), (OlmoConfig, {}, "OlmoLayerNorm")],
)
def test_layers_without_a_known_rule_are_refused_by_name(config, changes, layer, picture):
    model = wrap(*with_decoder(config, **changes))
    with pytest.raises(RelevancyError, match=f"attnlrp has no rule for {layer} of {config.__name__[:-6]}Model"):
        explain(model, picture, QUESTION, method="attnlrp")


@pytest.mark.parametrize("family", ["gemma3", "qwen2_5_vl", "internvl"])
def test_image_tokens_may_be_tiles_and_merged_patches(family, picture):
    model = wrap(*pictured.BUILDERS[family]())
    found = explain(model, picture, QUESTION, method="attnlrp", max_new_tokens=1)
    assert found.image_map.any()
    assert np.isfinite(found.relevance).all()
    mapped = explain(model, picture, QUESTION, max_new_tokens=1)
    assert found.image_map.shape == mapped.image_map.shape
    assert found.tokens == mapped.tokens


def test_image_features_inside_the_layers_are_refused(picture):
    model = wrap(*pictured.BUILDERS["qwen3_vl"]())
    with pytest.raises(RelevancyError, match="adds image features inside its layers"):
        explain(model, picture, QUESTION, method="attnlrp", max_new_tokens=1)


@pytest.mark.parametrize("changed", ["gain", "parameter", "part"])
def test_a_layer_that_only_looks_known_is_refused(changed, picture):
    hf, processor = tiny.llama_clip()
    layer = hf.get_decoder().layers[1]
    if changed == "gain":
        layer.input_layernorm = torch.nn.LayerNorm(64)
    elif changed == "parameter":
        layer.self_attn.register_parameter("sinks", torch.nn.Parameter(torch.zeros(4)))
    else:
        layer.mlp.router = torch.nn.Linear(4, 4)
    with pytest.raises(RelevancyError, match=r"has no rule for (Llama|LayerNorm)"):
        explain(wrap(hf, processor), picture, QUESTION, method="attnlrp")


def test_the_embedded_pair_keeps_more_than_half_of_the_logit(picture):
    found = explain(relevancy.load("demo-small"), picture, QUESTION, method="attnlrp", max_new_tokens=1)
    assert 0.4 < float(found.relevance.sum()) / found.target.logit < 1
