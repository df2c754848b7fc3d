"""What is not one self-attention in each layer and nothing else: refused by name, whatever the lengths happen to be."""

from collections.abc import Callable

import pytest
import torch
import transformers as hf
from test_families import IMAGE, TEXT, VISION, Built, finished, pixels
from test_tape import passed_on, relative

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
    """Eight tower tokens... as many keys as there are words: the layer in the middle attends to the picture alone."""
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


def test_a_decoder_with_cross_attention_that_is_not_used_is_exact():
    model, inputs = text(hf.BartForCausalLM, **BART)()
    expected = reference_of_text(model, inputs)
    with record(model) as tape:
        rows = tape.relevance(model(**inputs).logits[:, -1].max(-1).values)
    assert relative(passed_on(rows.language), passed_on(expected)) < 1e-5
