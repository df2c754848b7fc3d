"""Tiny random models with their processors of families that are like another one, or that few people use."""

from collections.abc import Callable
from typing import Any

import tiny
import torch
import transformers as hf
from pictured import PATCH, SIDE, VISION, finished, template, text, without_video
from relatives import BUDGET, MROPE, built, glm, glm_text, tokenizer, without_parts
from torch import nn
from transformers.models.chameleon.image_processing_pil_chameleon import ChameleonImageProcessorPil
from transformers.models.cohere_compass.image_processing_pil_cohere_compass import CohereCompassImageProcessorPil
from transformers.models.cosmos3_edge.image_processing_pil_cosmos3_edge import Cosmos3EdgeImageProcessorPil
from transformers.models.deepseek_vl_hybrid.image_processing_pil_deepseek_vl_hybrid import (
    DeepseekVLHybridImageProcessorPil,
)
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.glmga.image_processing_pil_glmga import GlmgaImageProcessorPil
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.granite_docling.image_processing_pil_granite_docling import GraniteDoclingImageProcessorPil
from transformers.models.kosmos2_5.image_processing_pil_kosmos2_5 import Kosmos2_5ImageProcessorPil
from transformers.models.mllama.image_processing_pil_mllama import MllamaImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

VISION_ONLY = {name: value for name, value in VISION.items() if name != "image_size"}


def vipllava() -> tiny.Pictured:
    words = tokenizer("<image>")
    pictures = hf.CLIPImageProcessorPil(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}, do_center_crop=True
    )
    processor = hf.LlavaProcessor(pictures, words, PATCH, "default", template("<image>"), num_additional_image_tokens=1)
    config = hf.VipLlavaConfig(
        text_config=hf.LlamaConfig(**text(words)),
        vision_config=tiny.clip(num_hidden_layers=3),
        image_token_index=words.image_token_id,
        vision_feature_layers=[-1, -2],
    )
    return built("VipLlava", config, processor)


def video_llava() -> tiny.Pictured:
    words = tokenizer("<image>", video_token="<video>")
    pictures = hf.VideoLlavaImageProcessor(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    processor = without_video(hf.VideoLlavaProcessor)(pictures, None, words, PATCH, chat_template=template("<image>"))
    config = hf.VideoLlavaConfig(
        text_config=hf.LlamaConfig(**text(words)),
        vision_config=tiny.clip(),
        image_token_index=words.image_token_id,
        video_token_index=words.video_token_id,
    )
    return built("VideoLlava", config, processor)


def shieldgemma2() -> tiny.Pictured:
    """Gemma 3 by another name."""
    words = tokenizer("<image_soft_token>", boi_token="<start_of_image>", eoi_token="<end_of_image>")
    processor = hf.Gemma3Processor(
        Gemma3ImageProcessorPil(size={"height": SIDE, "width": SIDE}), words, template("<start_of_image>"), 4
    )
    config = hf.ShieldGemma2Config(
        text_config=hf.Gemma3TextConfig(
            **text(words, sliding_window=8, layer_types=["sliding_attention", "full_attention"])
        ),
        vision_config=hf.SiglipVisionConfig(**VISION),
        mm_tokens_per_image=4,
        image_token_index=words.image_token_id,
        boi_token_index=words.boi_token_id,
        eoi_token_index=words.eoi_token_id,
    )
    return finished(hf.Gemma3ForConditionalGeneration, config, processor)


def smoothed(model: Any) -> Any:
    """The model with convolutions that spread evenly, so that a change is felt most where it is."""
    kernel = torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]]) / 16
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3):
            module.weight.data = module.weight.data.mean((2, 3), keepdim=True) * 9 * kernel
    return model


def got_ocr2() -> tiny.Pictured:
    """A tower of convolutions after windows, 16 of its patches to a token."""
    words = tokenizer("<imgpad>", "<img>", "</img>", "<|im_start|>", "<|im_end|>")
    pictures = GotOcr2ImageProcessorPil(size={"height": 2 * SIDE, "width": 2 * SIDE})
    processor = hf.GotOcr2Processor(pictures, words, template("<imgpad>"))
    processor.num_image_tokens = 16
    tower = {
        "hidden_size": 32,
        "output_channels": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "patch_size": 7,
        "image_size": 2 * SIDE,
        "window_size": 4,
        "global_attn_indexes": [1],
        "mlp_dim": 48,
    }
    config = hf.GotOcr2Config(
        text_config=hf.Qwen2Config(**text(words)),
        vision_config=tower,
        image_token_index=words.image_token_id,
        image_seq_length=16,
    )
    model, _ = built("GotOcr2", config, processor)
    return smoothed(model), processor


def deepseek_vl_hybrid() -> tiny.Pictured:
    """Two towers for one picture."""
    words = tokenizer("<image_placeholder>")
    pictures = DeepseekVLHybridImageProcessorPil(
        size={"height": SIDE, "width": SIDE}, high_res_size={"height": 4 * SIDE, "width": 4 * SIDE}, min_size=2
    )
    processor = hf.DeepseekVLHybridProcessor(pictures, words, template("<image_placeholder>"), num_image_tokens=16)
    fine = {
        "hidden_size": 32,
        "output_channels": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "patch_size": PATCH,
        "image_size": 4 * SIDE,
        "window_size": 4,
        "global_attn_indexes": [1],
        "mlp_dim": 48,
    }
    config = hf.DeepseekVLHybridConfig(
        text_config=hf.LlamaConfig(**text(words)),
        vision_config=tiny.siglip(),
        high_res_vision_config=hf.SamVisionConfig(**fine),
        image_token_id=words.image_token_id,
    )
    return built("DeepseekVLHybrid", config, processor)


def cosmos3_omni() -> tiny.Pictured:
    return qwen_like("Cosmos3Omni", {"num_position_embeddings": 64, "deepstack_visual_indexes": [0]})


def qwen_like(kind: str, vision: dict[str, Any], processor: str = "Qwen3VL", **language: Any) -> tiny.Pictured:
    words = tokenizer("<|image_pad|>", "<|vision_start|>", "<|vision_end|>", video_token="<|video_pad|>")
    made = without_video(getattr(hf, f"{processor}Processor"))(
        Qwen2VLImageProcessorPil(size=BUDGET),
        words,
        None,
        chat_template=template("<|vision_start|><|image_pad|><|vision_end|>"),
    )
    tower = {
        "depth": 2,
        "num_heads": 4,
        "patch_size": PATCH,
        "hidden_size": 32,
        "out_hidden_size": 32,
        "intermediate_size": 48,
    }
    config = getattr(hf, f"{kind}Config")(
        text_config=text(words, rope_parameters=MROPE, **language),
        vision_config=tower | vision,
        image_token_id=words.image_token_id,
        video_token_id=words.video_token_id,
        vision_start_token_id=words.convert_tokens_to_ids("<|vision_start|>"),
        vision_end_token_id=words.convert_tokens_to_ids("<|vision_end|>"),
    )
    return built(kind, config, made)


def omni(kind: str, thinker: str, vision: dict[str, Any], **language: Any) -> tiny.Pictured:
    """The part of a speaking model that reads and thinks."""
    words = tokenizer(
        "<|image_pad|>",
        video_token="<|video_pad|>",
        audio_token="<|audio_pad|>",
        vision_bos_token="<|vision_start|>",
        vision_eos_token="<|vision_end|>",
        audio_bos_token="<|audio_start|>",
        audio_eos_token="<|audio_end|>",
    )
    processor = without_parts(getattr(hf, f"{kind}Processor"))(
        Qwen2VLImageProcessorPil(size=BUDGET),
        None,
        None,
        words,
        template("<|vision_start|><|image_pad|><|vision_end|>"),
    )
    tower = {
        "depth": 2,
        "num_heads": 4,
        "patch_size": PATCH,
        "hidden_size": 32,
        "out_hidden_size": 32,
        "intermediate_size": 48,
    }
    sound = {"d_model": 32, "encoder_layers": 1, "encoder_attention_heads": 4, "encoder_ffn_dim": 48, "output_dim": 32}
    config = getattr(hf, f"{thinker}Config")(
        text_config=text(words, rope_parameters=MROPE, **language),
        vision_config=tower | vision,
        audio_config=sound,
        image_token_id=words.image_token_id,
        video_token_id=words.video_token_id,
        audio_token_id=words.audio_token_id,
        vision_start_token_id=words.convert_tokens_to_ids("<|vision_start|>"),
        vision_end_token_id=words.convert_tokens_to_ids("<|vision_end|>"),
        audio_start_token_id=words.convert_tokens_to_ids("<|audio_start|>"),
        audio_end_token_id=words.convert_tokens_to_ids("<|audio_end|>"),
    )
    return built(thinker, config, processor)


def qwen2_5_omni_thinker() -> tiny.Pictured:
    return omni("Qwen2_5Omni", "Qwen2_5OmniThinker", {"window_size": 56, "fullatt_block_indexes": [1]})


def qwen3_omni_moe_thinker() -> tiny.Pictured:
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
    return omni(
        "Qwen3OmniMoe",
        "Qwen3OmniMoeThinker",
        {"num_position_embeddings": 64, "deepstack_visual_indexes": [0]},
        **experts,
    )


def granite_docling() -> tiny.Pictured:
    words = tokenizer("<image>", "<fake_token_around_image>", "<global-img>")
    pictures = GraniteDoclingImageProcessorPil(size={"height": SIDE, "width": SIDE})
    processor = hf.GraniteDoclingProcessor(pictures, words, 4, template("<image>"))
    config = hf.GraniteDoclingConfig(
        text_config=text(
            words, embedding_multiplier=1.0, logits_scaling=1.0, residual_multiplier=1.0, attention_multiplier=0.35
        ),
        vision_config=VISION | {"out_hidden_size": 32, "scale_factor": 2, "deepstack_visual_indexes": [0]},
        image_token_id=words.image_token_id,
        pad_token_id=0,
    )
    return built("GraniteDocling", config, processor)


def glmga() -> tiny.Pictured:
    """GLM-4.6V with pictures of its own."""
    return glm(
        "Glm46V",
        GlmgaImageProcessorPil,
        "Glm46V",
        hf.Glm4vVisionConfig,
        lambda words: hf.Glm4vTextConfig(**glm_text(words)),
    )


def cohere_compass() -> tiny.Pictured:
    words = tokenizer("<|IMAGE_PAD|>", "<|VISION_START|>", "<|VISION_END|>", "<|VIDEO_PAD|>")
    words.video_token = "<|VIDEO_PAD|>"
    processor = without_video(hf.CohereCompassProcessor)(
        CohereCompassImageProcessorPil(size=BUDGET, patch_size=PATCH),
        words,
        None,
        template("<|VISION_START|><|IMAGE_PAD|><|VISION_END|>"),
    )
    tower = {
        "depth": 2,
        "num_heads": 4,
        "patch_size": PATCH,
        "hidden_size": 32,
        "out_hidden_size": 32,
        "intermediate_size": 48,
        "num_position_embeddings": 64,
        "deepstack_visual_indexes": [0],
    }
    names = {
        f"{name}_id": words.convert_tokens_to_ids(mark)
        for name, mark in {
            "image_token": "<|IMAGE_PAD|>",
            "video_token": "<|VIDEO_PAD|>",
            "vision_start_token": "<|VISION_START|>",
            "vision_end_token": "<|VISION_END|>",
        }.items()
    }
    config = hf.CohereCompassConfig(
        text_config=text(
            words,
            sliding_window=512,
            layer_types=["sliding_attention", "full_attention"],
            rope_parameters={
                kind: {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}
                for kind in ("sliding_attention", "full_attention")
            },
        ),
        vision_config=tower,
        **names,
    )
    return built("CohereCompass", config, processor)


def cosmos3_edge() -> tiny.Pictured:
    words = tokenizer("<|image_pad|>", "<|vision_start|>", "<|vision_end|>", video_token="<|video_pad|>")
    processor = without_video(hf.Cosmos3EdgeProcessor)(
        Cosmos3EdgeImageProcessorPil(size=BUDGET, patch_size=PATCH),
        words,
        None,
        template("<|vision_start|><|image_pad|><|vision_end|>"),
    )
    config = hf.Cosmos3EdgeConfig(
        text_config=text(words, rope_parameters=MROPE),
        vision_config=VISION_ONLY | {"num_patches": 16},
        image_token_id=words.image_token_id,
        video_token_id=words.video_token_id,
        projector_hidden_size=32,
        vision_start_token_id=words.convert_tokens_to_ids("<|vision_start|>"),
        vision_end_token_id=words.convert_tokens_to_ids("<|vision_end|>"),
    )
    return built("Cosmos3Edge", config, processor)


def minimax_m3_vl() -> tiny.Pictured:
    kind = hf.MiniMaxM3VLProcessor
    words = tokenizer(kind.IMAGE_TOKEN, kind.VISION_START_TOKEN, kind.VISION_END_TOKEN, kind.VIDEO_TOKEN)
    processor = without_video(kind)(hf.MiniMaxM3VLImageProcessor(size=BUDGET), words, None, template(kind.IMAGE_TOKEN))
    language = text(
        words,
        num_local_experts=4,
        num_experts_per_tok=2,
        dense_intermediate_size=48,
        shared_intermediate_size=48,
        rotary_dim=8,
        index_n_heads=2,
        index_head_dim=8,
        index_block_size=4,
        index_topk_blocks=2,
        mlp_layer_types=["dense", "sparse"],
        layer_types=None,
    )
    config = hf.MiniMaxM3VLConfig(
        text_config=language,
        vision_config=VISION | {"image_size": 4 * SIDE},
        projector_hidden_size=32,
        image_token_index=words.convert_tokens_to_ids(kind.IMAGE_TOKEN),
        video_token_index=words.convert_tokens_to_ids(kind.VIDEO_TOKEN),
    )
    return finished(hf.MiniMaxM3SparseForConditionalGeneration, config, processor)


def kimi_k25() -> tiny.Pictured:
    words = tokenizer("<|media_pad|>", "<|media_start|>", "<|media_end|>", video_token="<|video|>")
    processor = without_video(hf.Kimi_K25Processor)(
        hf.Kimi_K25ImageProcessor(max_patches=160), words, None, template("<|media_start|><|media_pad|><|media_end|>")
    )
    language = hf.DeepseekV3Config(
        **text(
            words,
            num_key_value_heads=4,
            kv_lora_rank=16,
            q_lora_rank=16,
            qk_rope_head_dim=8,
            qk_nope_head_dim=8,
            v_head_dim=8,
            n_routed_experts=4,
            num_experts_per_tok=2,
            n_shared_experts=1,
            moe_intermediate_size=16,
            first_k_dense_replace=1,
            n_group=1,
            topk_group=1,
        )
    )
    config = hf.Kimi_K25Config(
        text_config=language,
        projection_hidden_size=32,
        vision_config={
            "hidden_size": 32,
            "num_attention_heads": 4,
            "num_hidden_layers": 2,
            "intermediate_size": 48,
            "pos_emb_height": 8,
            "pos_emb_width": 8,
        },
        image_token_id=words.image_token_id,
        video_token_id=words.video_token_id,
    )
    return built("Kimi_K25", config, processor)


def step3p7() -> tiny.Pictured:
    words = tokenizer("<im_patch>", "<im_start>", "<im_end>", "<patch_start>", "<patch_end>", "<patch_newline>")
    pictures = hf.Step3p7ImageProcessor(
        size={"height": 2 * SIDE, "width": 2 * SIDE}, patch_size=SIDE, vision_patch_size=7, downsampler_stride=4
    )
    processor = hf.Step3p7Processor(pictures, words, template("<im_patch>"))
    config = hf.Step3p7Config(
        text_config=text(
            words,
            moe_intermediate_size=16,
            n_routed_experts=4,
            num_local_experts=4,
            num_experts_per_tok=2,
            share_expert_dim=16,
            sliding_window=512,
            num_sliding_attention_heads=4,
            layer_types=["full_attention", "full_attention"],
            mlp_layer_types=["dense", "sparse"],
        ),
        vision_config=VISION
        | {"patch_size": 7, "image_size": 2 * SIDE, "max_position_embeddings": 256, "mlp_ratio": 1.5},
        image_token_id=words.image_token_id,
    )
    model, _ = built("Step3p7", config, processor)
    return smoothed(model), processor


def muse_glimmer() -> tiny.Pictured:
    words = tokenizer(
        "<|patch|>",
        "<|image_start|>",
        "<|image_end|>",
        "<|video|>",
        "<|vid_start|>",
        "<|vid_end|>",
        "<|vid_frame_separator|>",
    )
    processor = without_video(hf.MuseGlimmerProcessor)(
        hf.MuseGlimmerImageProcessor(max_image_tokens=40), None, words, template("<|patch|>")
    )
    config = hf.MuseGlimmerConfig(
        text_config=text(words, sliding_window=512, layer_types=["sliding_attention", "full_attention"]),
        vision_config={
            "hidden_size": 32,
            "num_attention_heads": 4,
            "num_hidden_layers": 2,
            "intermediate_size": 48,
            "pos_emb_height": 8,
            "pos_emb_width": 8,
            "max_position_embeddings": 1024,
        },
        out_hidden_size=128,
        projector_hidden_size=32,
        image_token_id=words.convert_tokens_to_ids("<|patch|>"),
        video_token_id=words.convert_tokens_to_ids("<|video|>"),
    )
    return built("MuseGlimmer", config, processor)


def gemma4_unified() -> tiny.Pictured:
    """Without a tower: patches go to the decoder as they are."""
    words = tokenizer(
        "<|image|>",
        boi_token="<|image>",
        eoi_token="<image|>",
        video_token="<|video|>",
        audio_token="<|audio|>",
        boa_token="<|audio>",
        eoa_token="<audio|>",
    )
    pictures = hf.Gemma4UnifiedImageProcessor(patch_size=7, max_soft_tokens=70, pooling_kernel_size=2)
    processor = without_parts(hf.Gemma4UnifiedProcessor)(
        None, pictures, words, None, template("<|image|>"), image_seq_length=70
    )
    config = hf.Gemma4UnifiedConfig(
        text_config=text(
            words, sliding_window=512, layer_types=["sliding_attention", "full_attention"], global_head_dim=8
        ),
        vision_config={
            "patch_size": 7,
            "pooling_kernel_size": 2,
            "mm_embed_dim": 32,
            "mm_posemb_size": 128,
            "output_proj_dims": 32,
        },
        audio_config=None,
        image_token_id=words.image_token_id,
        boi_token_id=words.boi_token_id,
        eoi_token_id=words.eoi_token_id,
        video_token_id=words.video_token_id,
        audio_token_id=words.audio_token_id,
    )
    return built("Gemma4Unified", config, processor)


def phi4_multimodal() -> tiny.Pictured:
    """A decoder that holds its tower."""
    words = tokenizer("<|image|>", audio_token="<|audio|>")
    pictures = hf.Phi4MultimodalImageProcessor(size={"height": SIDE, "width": SIDE}, patch_size=PATCH, dynamic_hd=4)
    processor = without_parts(hf.Phi4MultimodalProcessor)(pictures, None, words)
    processor.chat_template = template("<|image|>")
    tower = VISION | {"num_hidden_layers": 3, "crop_size": SIDE, "image_token_id": words.image_token_id}
    sound = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_blocks": 1,
        "num_attention_heads": 4,
        "ext_pw_out_channel": 32,
        "depthwise_separable_out_channel": 32,
        "nemo_conv_channels": 8,
        "audio_token_id": words.audio_token_id,
    }
    language = {name: value for name, value in text(words).items() if name != "head_dim"}
    config = hf.Phi4MultimodalConfig(**language, vision_config=tower, audio_config=sound)
    return finished(hf.Phi4MultimodalForCausalLM, config, processor)


def mllama() -> tiny.Pictured:
    words = tokenizer("<|image|>", "<|python_tag|>")
    pictures = MllamaImageProcessorPil(size={"height": SIDE, "width": SIDE}, max_image_tiles=2)
    processor = hf.MllamaProcessor(pictures, words, template("<|image|>"))
    config = hf.MllamaConfig(
        text_config=text(words, num_hidden_layers=3, cross_attention_layers=[1]),
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_global_layers": 1,
            "attention_heads": 4,
            "image_size": SIDE,
            "patch_size": PATCH,
            "vision_output_dim": 64,
            "max_num_tiles": 2,
            "intermediate_layers_indices": [0],
            "supported_aspect_ratios": [[1, 1], [1, 2], [2, 1]],
        },
        image_token_index=words.image_token_id,
    )
    return built("Mllama", config, processor)


def florence2() -> tiny.Pictured:
    words = tokenizer("<image>")
    pictures = hf.CLIPImageProcessorPil(
        size={"height": 64, "width": 64}, do_center_crop=False, crop_size={"height": 64, "width": 64}
    )
    pictures.image_seq_length = 5
    processor = hf.Florence2Processor(pictures, words)
    sizes = {
        "depths": [1, 1],
        "embed_dim": [16, 32],
        "num_heads": [2, 2],
        "num_groups": [2, 2],
        "patch_size": [7, 3],
        "patch_stride": [4, 2],
        "patch_padding": [3, 1],
        "patch_prenorm": [False, True],
        "projection_dim": 32,
        "window_size": 4,
    }
    config = hf.Florence2Config(
        text_config=hf.BartConfig(
            vocab_size=len(words),
            d_model=32,
            encoder_layers=2,
            decoder_layers=2,
            encoder_ffn_dim=48,
            decoder_ffn_dim=48,
            encoder_attention_heads=4,
            decoder_attention_heads=4,
            pad_token_id=0,
            eos_token_id=1,
            bos_token_id=2,
            decoder_start_token_id=2,
        ),
        vision_config=sizes,
        image_token_id=words.image_token_id,
    )
    return built("Florence2", config, processor)


def kosmos2_5() -> tiny.Pictured:
    words = tokenizer("<s>", boi_token="<image>", eoi_token="</image>")
    processor = hf.Kosmos2_5Processor(
        Kosmos2_5ImageProcessorPil(patch_size={"height": PATCH, "width": PATCH}, max_patches=16), words, 4
    )
    config = hf.Kosmos2_5Config(
        text_config={
            "vocab_size": len(words),
            "embed_dim": 32,
            "layers": 2,
            "ffn_dim": 48,
            "attention_heads": 4,
            "max_position_embeddings": 512,
            "pad_token_id": 0,
            "bos_token_id": 2,
            "eos_token_id": 1,
        },
        vision_config={
            "hidden_size": 32,
            "patch_embed_hidden_size": 3 * PATCH * PATCH,
            "intermediate_size": 48,
            "head_dim": 8,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_num_patches": 16,
        },
        latent_query_num=4,
    )
    return built("Kosmos2_5", config, processor)


def chameleon() -> tiny.Pictured:
    """Pictures are ids of a code book."""
    words = tokenizer(
        "<image>",
        *[f"IMGIMG{letter}Z" for letter in "ABCDEFGH"],
        boi_token="<racm3:break>",
        eoi_token="<eoss>",
        sep_token="<sep>",
    )
    pictures = ChameleonImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    processor = hf.ChameleonProcessor(pictures, words, image_seq_length=64)
    processor.chat_template = template("<image>")
    language = {name: value for name, value in text(words).items() if name != "head_dim"}
    config = hf.ChameleonConfig(
        **language,
        vocabulary_map=words.get_vocab(),
        vq_config={
            "embed_dim": 8,
            "num_embeddings": 8,
            "latent_channels": 8,
            "resolution": 32,
            "base_channels": 32,
            "channel_multiplier": [1, 1, 1],
            "num_res_blocks": 1,
        },
    )
    return built("Chameleon", config, processor)


BUILDERS: dict[str, Callable[[], tiny.Pictured]] = {
    build.__name__: build
    for build in (
        vipllava,
        video_llava,
        shieldgemma2,
        got_ocr2,
        cosmos3_omni,
        cosmos3_edge,
        qwen2_5_omni_thinker,
        qwen3_omni_moe_thinker,
        granite_docling,
        glmga,
        cohere_compass,
        minimax_m3_vl,
        kimi_k25,
        step3p7,
        muse_glimmer,
        gemma4_unified,
    )
}

# Of each: a family that is refused, and what of the reason.
REFUSED: dict[str, tuple[Callable[[], tiny.Pictured], str]] = {
    "chameleon": (chameleon, "the decoder of chameleon looks at pictures itself"),
    "florence2": (florence2, "writes with a decoder that attends to an encoder"),
    "kosmos2_5": (kosmos2_5, "marks no image tokens in its input"),
    "mllama": (mllama, "the decoder of mllama looks at pictures itself"),
    "phi4_multimodal": (phi4_multimodal, "the decoder of phi4_multimodal looks at pictures itself"),
}
