"""What is not one self-attention in each layer and nothing else: refused by name, whatever the lengths happen to be."""

from collections.abc import Callable

import pytest
import tiny
import torch
import transformers as hf
from bare import IMAGE, TEXT, VISION, Built, finished, ids, pixels
from reference import of_family, passed_on, reference, relative

from relevancy.core.stacks import Stack, is_attention
from relevancy.core.tape import record
from relevancy.errors import RelevancyError

BART = {
    "vocab_size": 99,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 1,
}
# No head_dim: some families derive it.
PLAIN = {key: value for key, value in TEXT.items() if key != "head_dim"}
MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_expand": 2}


def words(count: int = 6) -> dict[str, torch.Tensor]:
    row = torch.arange(3, 3 + count)[None]
    return {"input_ids": row, "attention_mask": torch.ones_like(row)}


def text(model_class: type, **settings: object) -> Callable[[], Built]:
    return lambda: (finished(model_class(model_class.config_class(**settings))), words())


def both_ways(model_class: type, **settings: object) -> Callable[[], Built]:
    """As many tokens in the encoder as in the decoder: lengths tell nothing."""
    model, inputs = text(model_class, **settings)()
    return lambda: (model, inputs | {"decoder_input_ids": inputs["input_ids"].flip(1)})


def florence2() -> Built:
    tower = {"depths": [1], "patch_size": [7], "embed_dim": [8], "num_heads": [2], "num_groups": [2], "window_size": 4,
             "patch_stride": [4], "patch_padding": [3], "patch_prenorm": [False]}  # fmt: skip
    config = hf.Florence2Config(
        text_config=BART | {"model_type": "bart"}, vision_config=tower | {"projection_dim": 32}, image_token_id=IMAGE
    )
    return finished(hf.Florence2ForConditionalGeneration(config)), words()


def mllama() -> Built:
    """Five tower tokens for five words, and a layer that attends to the picture alone."""
    config = hf.MllamaConfig(
        text_config=PLAIN | {"num_hidden_layers": 3, "cross_attention_layers": [1]},
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_global_layers": 1,
            "attention_heads": 4,
            "image_size": 28,
            "patch_size": 14,
            "vision_output_dim": 64,
            "intermediate_layers_indices": [1],
            "max_num_tiles": 1,
            "supported_aspect_ratios": [[1, 1]],
        },
        image_token_index=IMAGE,
    )
    return finished(hf.MllamaForConditionalGeneration(config)), words(5) | {
        "pixel_values": pixels(1, 1, 1, 3, 28, 28),
        "aspect_ratio_ids": torch.ones(1, 1, dtype=torch.long),
        "aspect_ratio_mask": torch.ones(1, 1, 1, dtype=torch.long),
        "cross_attention_mask": torch.ones(1, 5, 1, 1),
    }


def idefics() -> Built:
    config = hf.IdeficsConfig(
        **PLAIN | {"additional_vocab_size": 0, "use_resampler": False, "cross_layer_interval": 1},
        vision_config={
            "embed_dim": 32,
            "image_size": 28,
            "intermediate_size": 48,
            "patch_size": 14,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
        },
    )
    return finished(hf.IdeficsForVisionText2Text(config)), words(5) | {
        "pixel_values": pixels(1, 1, 3, 28, 28),
        "image_attention_mask": torch.ones(1, 5, 1),
    }


def git() -> Built:
    config = hf.GitConfig(**PLAIN, vision_config=VISION)
    return finished(hf.GitForCausalLM(config)), words() | {"pixel_values": pixels(1, 3, 28, 28)}


REFUSED: dict[str, tuple[Callable[[], Built], str]] = {
    "bart": (both_ways(hf.BartForConditionalGeneration, **BART), "cross-attention"),
    "florence2": (florence2, "cross-attention"),
    "mllama": (mllama, "MllamaTextCrossAttention attends to another sequence"),
    "idefics": (idefics, "cross-attention"),
    "git": (git, "0 of 2 layers of GitModel went through"),
    "diffllama": (text(hf.DiffLlamaForCausalLM, **TEXT), "DiffLlamaAttention attends more than once in layer 0"),
    "doge": (text(hf.DogeForCausalLM, **TEXT), "DogeAttention computes its mask from the tokens"),
    "falcon_h1": (text(hf.FalconH1ForCausalLM, **PLAIN, **MAMBA, mamba_d_ssm=64), "FalconH1Mixer"),
    "lfm2": (text(hf.Lfm2ForCausalLM, **PLAIN, layer_types=["conv", "full_attention"]), "Lfm2ShortConv"),
    "minimax": (
        text(hf.MiniMaxForCausalLM, **TEXT, num_local_experts=2, layer_types=["linear_attention", "full_attention"]),
        "MiniMaxLightningAttention",
    ),
    "albert": (
        text(hf.AlbertForMaskedLM, **PLAIN | {"embedding_size": 16}),
        "AlbertAttention does not say which layer",
    ),
    "modernbert": (text(hf.ModernBertForMaskedLM, **PLAIN), "Linear is no stack of layers"),
    "bigbird_pegasus": (text(hf.BigBirdPegasusForCausalLM, **BART), "by a mask alone"),
    "gpt_oss": (text(hf.GptOssForCausalLM, **TEXT, num_local_experts=2), "s_aux"),
}


@pytest.mark.parametrize("family", REFUSED)
def test_what_is_not_one_self_attention_a_layer_is_refused_by_name(family):
    build, reason = REFUSED[family]
    model, inputs = build()
    with pytest.raises(RelevancyError, match=reason), record(model) as tape:
        tape.relevance(model(**inputs).logits[:, -1].max(-1).values)


MLA = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 4, "qk_nope_head_dim": 8, "v_head_dim": 6}
EXACT: dict[str, Callable[[], Built]] = {
    "cross-attention that is there but not used": text(hf.BartForCausalLM, **BART),
    "values narrower than queries": text(
        hf.DeepseekV3ForCausalLM,
        **PLAIN | MLA | {"num_key_value_heads": 4, "first_k_dense_replace": 2, "n_routed_experts": 2, "n_group": 1},
    ),
    "a hybrid without anything but attention": text(hf.Lfm2ForCausalLM, **PLAIN, layer_types=["full_attention"] * 2),
    "token types handed to attention": lambda: (
        finished(hf.LlamaForCausalLM(hf.LlamaConfig(**TEXT))),
        words() | {name: torch.ones(1, 6, dtype=torch.long) for name in ("token_type_ids", "mm_token_type_ids")},
    ),
}


@pytest.mark.parametrize("case", EXACT)
def test_what_only_looks_like_more_than_self_attention_is_exact(case):
    model, inputs = EXACT[case]()
    expected = reference(model, inputs)
    with record(model) as tape:
        logits = model(**inputs).logits[:, -1]
        rows = tape.relevance(logits.max(-1).values)
    assert relative(logits, expected.logits) < 1e-5
    assert relative(passed_on(rows.language), passed_on(expected.language)) < 1e-5


@pytest.mark.parametrize("argument", [{"score_mod": 2.0}, {"head_weights": torch.ones(4)}])
def test_an_argument_of_attention_that_is_not_known_is_refused_by_name(argument):
    model, inputs = text(hf.LlamaForCausalLM, **TEXT)()
    with pytest.raises(RelevancyError, match=f"passes {next(iter(argument))}"), record(model):
        model(**inputs, **argument)


def test_methods_that_read_attention_alone_refuse_the_same():
    model, _ = text(hf.DiffLlamaForCausalLM, **TEXT)()
    stack = Stack.decoder(model)
    stack.begin()
    attention = model.model.layers[1].self_attn
    assert stack.hear(attention) == 1
    with pytest.raises(RelevancyError, match="more than once in layer 1"):
        stack.hear(attention)
    with pytest.raises(RelevancyError, match="1 of 2 layers"):
        stack.require_every_layer()


def test_a_tower_may_attend_part_by_part_but_not_twice():
    model, _ = paddleocr()
    stack = Stack.tower(model.get_encoder(modality="image"))
    first, second = [module for module in stack.model.modules() if is_attention(module)]
    with stack.guarded():
        stack.begin()
        stack._given |= {id(first): 12, id(second): 12}
        assert stack.hear_part(first, 8) == (0, slice(0, 8))
        assert stack.hear_part(first, 4) == (0, slice(8, 12))
        assert stack.hear_part(second, 12) == (1, None)
        with pytest.raises(RelevancyError, match="attends more than once in layer"):
            stack.hear_part(first, 4)
        with pytest.raises(RelevancyError, match="attends more than once in layer"):
            stack.hear_part(second, 12)


LAYERS = VISION | {"num_hidden_layers": 3}


def llava(tower: hf.PreTrainedConfig, image_tokens: int, **settings: object) -> Built:
    config = hf.LlavaConfig(
        text_config=hf.LlamaConfig(**TEXT), vision_config=tower, image_token_index=IMAGE, **settings
    )
    model = finished(hf.LlavaForConditionalGeneration(config))
    return model, ids(image_tokens) | {"pixel_values": pixels(1, 3, 28, 28)}


def vipllava() -> Built:
    config = hf.VipLlavaConfig(
        text_config=hf.LlamaConfig(**TEXT),
        vision_config=tiny.clip(image_size=28),
        image_token_index=IMAGE,
        vision_feature_layers=[-2, -3],
    )
    return finished(hf.VipLlavaForConditionalGeneration(config)), ids(4) | {"pixel_values": pixels(1, 3, 28, 28)}


NO_PATCHES: dict[str, Callable[[], Built]] = {
    "dinov2 with registers": lambda: llava(hf.Dinov2WithRegistersConfig(**LAYERS, num_register_tokens=3), 7),
    "dinov3": lambda: llava(hf.DINOv3ViTConfig(**LAYERS, num_register_tokens=3), 7),
    "deit": lambda: llava(hf.DeiTConfig(**LAYERS), 5),
    "clip, class token kept": lambda: llava(tiny.clip(image_size=28), 5, vision_feature_select_strategy="full"),
    "siglip, first patch dropped": lambda: llava(hf.SiglipVisionConfig(**LAYERS), 3),
    "vipllava": vipllava,
}


@pytest.mark.parametrize("case", NO_PATCHES)
def test_full_scope_starts_from_every_tower_token_that_the_connector_reads(case):
    model, inputs = NO_PATCHES[case]()
    expected = reference(model, inputs, full=True)
    with record(model, "full") as tape:
        rows = tape.relevance(model(**inputs).logits[:, -1].max(-1).values)
    assert relative(passed_on(rows.language), passed_on(expected.language)) < 1e-5
    assert relative(rows.vision, expected.vision) < 1e-5


def paddleocr() -> Built:
    config = hf.PaddleOCRVLConfig(
        text_config=TEXT | {"rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4}},
        vision_config=VISION | {"image_size": 56},
        image_token_id=IMAGE,
        vision_start_token_id=97,
        vision_end_token_id=96,
    )
    inputs = ids(4)
    inputs["mm_token_type_ids"] = (inputs["input_ids"] == IMAGE).int()
    pictures = {"pixel_values": pixels(16, 3, 14, 14), "image_grid_thw": torch.tensor([[1, 4, 4]])}
    return finished(hf.PaddleOCRVLForConditionalGeneration(config)), inputs | pictures


def deepseek_vl_hybrid() -> Built:
    large = {"hidden_size": 32, "output_channels": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "mlp_dim": 48,
             "image_size": 128, "patch_size": 16, "window_size": 4, "global_attn_indexes": [1]}  # fmt: skip
    config = hf.DeepseekVLHybridConfig(
        text_config=hf.LlamaConfig(**TEXT),
        vision_config=hf.SiglipVisionConfig(**VISION),
        high_res_vision_config=hf.SamVisionConfig(**large),
        image_token_id=IMAGE,
    )
    pictures = {"pixel_values": pixels(1, 3, 28, 28), "high_res_pixel_values": pixels(1, 3, 128, 128)}
    return finished(hf.DeepseekVLHybridForConditionalGeneration(config)), ids(4) | pictures


def kosmos2() -> Built:
    decoder = {"vocab_size": 99, "embed_dim": 32, "layers": 2, "ffn_dim": 48, "attention_heads": 4}
    config = hf.Kosmos2Config(text_config=decoder, vision_config=VISION, latent_query_num=4)
    inputs = ids(4)
    pictured = inputs["input_ids"] == IMAGE
    return finished(hf.Kosmos2ForConditionalGeneration(config)), inputs | {
        "pixel_values": pixels(1, 3, 28, 28),
        "image_embeds_position_mask": pictured,
    }


@pytest.mark.parametrize(
    ("build", "why"),
    [
        (
            deepseek_vl_hybrid,
            "not exact for deepseek_vl_hybrid: SamVision.*Attention attends outside SiglipVisionModel",
        ),
        (kosmos2, "Kosmos2.* names no image token"),
    ],
    ids=["deepseek_vl_hybrid", "kosmos2"],
)
def test_full_scope_is_refused_by_name_where_the_language_row_is_exact(build, why):
    model, inputs = build()
    expected = reference(model, inputs)
    with record(model) as tape:
        rows = tape.relevance(model(**inputs).logits[:, -1].max(-1).values)
    assert relative(passed_on(rows.language), passed_on(expected.language)) < 1e-5
    with pytest.raises(RelevancyError, match=why), record(model, "full"):
        model(**inputs)


def test_full_scope_of_pixels_that_come_patch_by_patch():
    model, inputs = paddleocr()
    expected = of_family(model, inputs, IMAGE)
    with record(model, "full") as tape:
        rows = tape.relevance(model(**inputs).logits[:, -1].max(-1).values)
    assert relative(rows.vision, expected.vision) < 1e-5
