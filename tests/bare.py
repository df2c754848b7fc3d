"""Tiny random models of other families, without processors: each with the inputs of one prompt."""

from collections.abc import Callable

import tiny
import torch
import transformers as hf
from torch import Tensor

VOCABULARY, IMAGE = 99, 98


TEXT = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": 2,
}


VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 28,
    "patch_size": 14,
}


Built = tuple[hf.PreTrainedModel, dict[str, Tensor]]


def finished(model: hf.PreTrainedModel) -> hf.PreTrainedModel:
    tiny.randomize(model, 0)
    return model.eval()


def ids(count: int) -> dict[str, Tensor]:
    row = torch.tensor([[2, 5, *[IMAGE] * count, 7, 8, 9, 11]])
    return {"input_ids": row, "attention_mask": torch.ones_like(row)}


def pixels(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def llava_siglip() -> Built:
    config = hf.LlavaConfig(
        text_config=hf.GemmaConfig(**TEXT),
        vision_config=hf.SiglipVisionConfig(**VISION),
        image_token_index=IMAGE,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )
    return finished(hf.LlavaForConditionalGeneration(config)), ids(4) | {"pixel_values": pixels(1, 3, 28, 28)}


def llava_qwen2() -> Built:
    config = hf.LlavaConfig(
        text_config=hf.Qwen2Config(**TEXT), vision_config=tiny.clip(image_size=28), image_token_index=IMAGE
    )
    return finished(hf.LlavaForConditionalGeneration(config)), ids(4) | {"pixel_values": pixels(1, 3, 28, 28)}


def paligemma() -> Built:
    config = hf.PaliGemmaConfig(
        text_config=hf.GemmaConfig(**TEXT),
        vision_config=hf.SiglipVisionConfig(**VISION, projection_dim=32),
        image_token_index=IMAGE,
        projection_dim=32,
    )
    words = ids(4)
    words["token_type_ids"] = torch.zeros_like(words["input_ids"])
    return finished(hf.PaliGemmaForConditionalGeneration(config)), words | {"pixel_values": pixels(1, 3, 28, 28)}


def gemma3() -> Built:
    config = hf.Gemma3Config(
        text_config=hf.Gemma3TextConfig(**TEXT, sliding_window=4, layer_types=["sliding_attention", "full_attention"]),
        vision_config=hf.SiglipVisionConfig(**VISION | {"image_size": 56}),
        mm_tokens_per_image=4,
        image_token_index=IMAGE,
    )
    words = ids(4)
    words["token_type_ids"] = (words["input_ids"] == IMAGE).long()
    return finished(hf.Gemma3ForConditionalGeneration(config)), words | {"pixel_values": pixels(1, 3, 56, 56)}


def qwen2_vl() -> Built:
    config = hf.Qwen2VLConfig(
        text_config=TEXT | {"rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2]}},
        vision_config={"depth": 2, "embed_dim": 32, "num_heads": 4, "hidden_size": 32, "patch_size": 14},
        image_token_id=IMAGE,
        vision_start_token_id=97,
        vision_end_token_id=96,
    )
    words = ids(4)
    words["mm_token_type_ids"] = (words["input_ids"] == IMAGE).int()
    return finished(hf.Qwen2VLForConditionalGeneration(config)), words | {
        "pixel_values": pixels(16, 3 * 2 * 14 * 14),
        "image_grid_thw": torch.tensor([[1, 4, 4]]),
    }


def idefics3() -> Built:
    config = hf.Idefics3Config(
        text_config=hf.LlamaConfig(**TEXT),
        vision_config=VISION | {"image_size": 56},
        image_token_id=IMAGE,
        scale_factor=2,
    )
    return finished(hf.Idefics3ForConditionalGeneration(config)), ids(4) | {"pixel_values": pixels(1, 1, 3, 56, 56)}


def internvl() -> Built:
    config = hf.InternVLConfig(
        text_config=hf.Qwen2Config(**TEXT),
        vision_config=VISION | {"image_size": [56, 56], "patch_size": [14, 14]},
        image_token_id=IMAGE,
        image_seq_length=4,
    )
    return finished(hf.InternVLForConditionalGeneration(config)), ids(4) | {"pixel_values": pixels(1, 3, 56, 56)}


BUILDERS: dict[str, Callable[[], Built]] = {
    build.__name__: build for build in (llava_siglip, llava_qwen2, paligemma, gemma3, qwen2_vl, idefics3, internvl)
}
