"""More tiny random models with their processors, of families that people use less."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pictured
import tiny
import transformers as hf
from pictured import PATCH, SIDE, VISION, finished, template, text, without_video
from transformers.models.deepseek_vl.image_processing_pil_deepseek_vl import DeepseekVLImageProcessorPil
from transformers.models.ernie4_5_vl_moe.image_processing_pil_ernie4_5_vl_moe import Ernie4_5_VLMoeImageProcessorPil
from transformers.models.gemma4.image_processing_pil_gemma4 import Gemma4ImageProcessorPil
from transformers.models.glm4v.image_processing_pil_glm4v import Glm4vImageProcessorPil
from transformers.models.glm46v.image_processing_pil_glm46v import Glm46VImageProcessorPil
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.janus.image_processing_pil_janus import JanusImageProcessorPil
from transformers.models.minicpmv4_6.image_processing_pil_minicpmv4_6 import MiniCPMV4_6ImageProcessorPil
from transformers.models.ovis2.image_processing_pil_ovis2 import Ovis2ImageProcessorPil
from transformers.models.paddleocr_vl.image_processing_pil_paddleocr_vl import PaddleOCRVLImageProcessorPil
from transformers.models.pixtral.image_processing_pil_pixtral import PixtralImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.video_llama_3.image_processing_pil_video_llama_3 import VideoLlama3ImageProcessorPil

BUDGET = {"shortest_edge": 56 * 56, "longest_edge": 40 * 28 * 28}
MROPE = {"rope_type": "default", "mrope_section": [1, 1, 2]}


def built(name: str, config: Any, processor: Any) -> tiny.Pictured:
    return finished(getattr(hf, f"{name}ForConditionalGeneration"), config, processor)


def tokenizer(image: str, *special: str, **named: str) -> hf.PreTrainedTokenizerFast:
    """As for the other families, with `special` ones known by their names alone."""
    words = pictured.tokenizer(image, *special, **named)
    words.add_tokens(list(special), special_tokens=True)
    return words


def pixtral_pictures(patch: int) -> PixtralImageProcessorPil:
    return PixtralImageProcessorPil(size={"longest_edge": 4 * SIDE}, patch_size={"height": patch, "width": patch})


def pixtral_tower() -> hf.PixtralVisionConfig:
    return hf.PixtralVisionConfig(**VISION | {"image_size": 4 * SIDE, "head_dim": 8})


def pixtral() -> tiny.Pictured:
    """LLaVA with Pixtral's tower, as Pixtral 12B is published."""
    words = tokenizer("[IMG]", "[IMG_BREAK]", "[IMG_END]")
    processor = hf.PixtralProcessor(pixtral_pictures(PATCH), words, PATCH, 1, template("[IMG]"))
    config = hf.LlavaConfig(
        text_config=hf.MistralConfig(**text(words)), vision_config=pixtral_tower(), vision_feature_layer=-1,
        image_token_index=words.convert_tokens_to_ids("[IMG]"), vision_feature_select_strategy="full",
    )  # fmt: skip
    return built("Llava", config, processor)


def mistral3() -> tiny.Pictured:
    words = tokenizer("[IMG]", "[IMG_BREAK]", "[IMG_END]")
    processor = hf.PixtralProcessor(pixtral_pictures(PATCH), words, PATCH, 2, template("[IMG]"))
    config = hf.Mistral3Config(
        text_config=hf.MistralConfig(**text(words)), vision_config=pixtral_tower(), spatial_merge_size=2,
        image_token_index=words.convert_tokens_to_ids("[IMG]"),
    )  # fmt: skip
    return built("Mistral3", config, processor)


def lighton_ocr() -> tiny.Pictured:
    words = tokenizer("<|image_pad|>", image_break_token="<|vision_pad|>", image_end_token="<|vision_end|>")
    processor = hf.LightOnOcrProcessor(pixtral_pictures(2 * PATCH), words, PATCH, 2, template("<|image_pad|>"))
    config = hf.LightOnOcrConfig(
        text_config=hf.Qwen3Config(**text(words)), vision_config=pixtral_tower(), image_token_id=words.image_token_id
    )
    return built("LightOnOcr", config, processor)


def aya_vision() -> tiny.Pictured:
    special = ["<|START_OF_IMG|>", "<|END_OF_IMG|>", "<|IMG_PATCH|>", "<|IMG_LINE_BREAK|>", "TILE_GLOBAL"]
    words = tokenizer("<image>", *special, *[f"TILE_{number}" for number in range(1, 9)], "TILE")
    pictures = GotOcr2ImageProcessorPil(size={"height": SIDE, "width": SIDE}, crop_to_patches=True, max_patches=6)
    processor = hf.AyaVisionProcessor(
        pictures, words, PATCH, SIDE, downsample_factor=2, chat_template=template("<image>")
    )
    config = hf.AyaVisionConfig(
        text_config=hf.Cohere2Config(**text(words, sliding_window=512)),
        vision_config=tiny.siglip(vision_use_head=False),
        image_token_index=words.convert_tokens_to_ids("<|IMG_PATCH|>"), downsample_factor=2,
    )  # fmt: skip
    return built("AyaVision", config, processor)


def ovis2() -> tiny.Pictured:
    marks = ["<IMG_START>", "<IMG_GRID>", "<IMG_COL>", "<IMG_ROW>", "<IMG_END>"]
    words = tokenizer("<image>", "<IMG_ATOM>", *marks)
    pictures = Ovis2ImageProcessorPil(size={"height": SIDE, "width": SIDE}, crop_to_patches=True, max_patches=6)
    processor = hf.Ovis2Processor(pictures, words, template("<image>"), image_seq_length=4)
    config = hf.Ovis2Config(
        text_config=hf.Qwen2Config(**text(words)), hidden_size=32, vocab_size=len(words),
        vision_config=hf.Ovis2VisionConfig(**VISION, vocab_size=40, hidden_stride=2),
        image_token_id=words.convert_tokens_to_ids("<IMG_ATOM>"),
        visual_indicator_token_ids=words.convert_tokens_to_ids(marks),
    )  # fmt: skip
    return built("Ovis2", config, processor)


def glm(kind: str, pictures: type, family: str, vision: Any, language: Any) -> tiny.Pictured:
    words = tokenizer(
        "<|image|>", "<|begin_of_image|>", "<|end_of_image|>", "<|begin_of_video|>", "<|end_of_video|>",
        video_token="<|video|>",
    )  # fmt: skip
    shown = template("<|begin_of_image|><|image|><|end_of_image|>")
    # The budget counts the frames of one patch, of which there are two.
    budget = {name: 2 * pixels for name, pixels in BUDGET.items()}
    processor = without_video(getattr(hf, f"{kind}Processor"))(pictures(size=budget), words, None, shown)
    tower = {"depth": 2, "hidden_size": 32, "num_heads": 4, "patch_size": PATCH, "out_hidden_size": 32}
    config = getattr(hf, f"{family}Config")(
        text_config=language(words), vision_config=vision(**tower, intermediate_size=48, image_size=SIDE),
        image_token_id=words.image_token_id, video_token_id=words.video_token_id,
        image_start_token_id=words.convert_tokens_to_ids("<|begin_of_image|>"),
        image_end_token_id=words.convert_tokens_to_ids("<|end_of_image|>"),
        video_start_token_id=words.convert_tokens_to_ids("<|begin_of_video|>"),
        video_end_token_id=words.convert_tokens_to_ids("<|end_of_video|>"),
    )  # fmt: skip
    return built(family, config, processor)


def glm_text(words: Any, **changes: Any) -> dict[str, Any]:
    return text(words, rope_parameters=MROPE | {"partial_rotary_factor": 1.0}, **changes)


def glm4v() -> tiny.Pictured:
    return glm("Glm4v", Glm4vImageProcessorPil, "Glm4v", hf.Glm4vVisionConfig, lambda words: glm_text(words))


def glm46v() -> tiny.Pictured:
    return glm(
        "Glm46V", Glm46VImageProcessorPil, "Glm46V", hf.Glm4vVisionConfig,
        lambda words: hf.Glm4vTextConfig(**glm_text(words)),
    )  # fmt: skip


def glm4v_moe() -> tiny.Pictured:
    experts = {"moe_intermediate_size": 16, "n_routed_experts": 4, "num_experts_per_tok": 2, "first_k_dense_replace": 0}
    return glm(
        "Glm4v", Glm4vImageProcessorPil, "Glm4vMoe", hf.Glm4vMoeVisionConfig, lambda words: glm_text(words, **experts)
    )


def glm_ocr() -> tiny.Pictured:
    return glm("Glm46V", Glm46VImageProcessorPil, "GlmOcr", hf.GlmOcrVisionConfig, glm_text)


def janus() -> tiny.Pictured:
    words = tokenizer("<image_placeholder>", boi_token="<begin_of_image>", eoi_token="<end_of_image>")
    pictures = JanusImageProcessorPil(size={"height": SIDE, "width": SIDE}, min_size=2)
    processor = hf.JanusProcessor(pictures, words, template("<image_placeholder>"), num_image_tokens=16)
    drawing = {
        "base_channels": 32, "channel_multiplier": [1, 1], "num_res_blocks": 1, "embed_dim": 8, "projection_dim": 32,
        "image_token_embed_dim": 32, "num_embeddings": 8, "latent_channels": 32, "hidden_size": 32, "num_patches": 4,
    }  # fmt: skip
    config = hf.JanusConfig(
        text_config=hf.LlamaConfig(**text(words)), vq_config=drawing, image_token_id=words.image_token_id,
        vision_config=VISION | {"projection_dim": 32, "num_image_tokens": 16, "mlp_ratio": 2.0},
    )  # fmt: skip
    return built("Janus", config, processor)


def deepseek_vl() -> tiny.Pictured:
    words = tokenizer("<image_placeholder>")
    pictures = DeepseekVLImageProcessorPil(size={"height": SIDE, "width": SIDE}, min_size=2)
    processor = hf.DeepseekVLProcessor(pictures, words, template("<image_placeholder>"), num_image_tokens=16)
    config = hf.DeepseekVLConfig(
        text_config=hf.LlamaConfig(**text(words)), vision_config=tiny.siglip(), image_token_id=words.image_token_id
    )
    return built("DeepseekVL", config, processor)


def minicpm() -> tiny.Pictured:
    words = tokenizer(
        "<image>", video_token="<video>", image_start_token="<im_start>", image_end_token="<im_end>",
        slice_start_token="<slice>", slice_end_token="</slice>", image_id_start_token="<image_id>",
        image_id_end_token="</image_id>",
    )  # fmt: skip
    pictures = MiniCPMV4_6ImageProcessorPil(scale_resolution=2 * SIDE, patch_size=PATCH, max_slice_nums=4)
    kind = without_video(hf.MiniCPMV4_6Processor)
    modes = SimpleNamespace(slice_mode=True, downsample_mode="16x")
    processor = kind(pictures, modes, words, chat_template=template("<image>"))
    config = hf.MiniCPMV4_6Config(
        text_config=hf.Qwen3Config(**text(words)), image_size=2 * SIDE, insert_layer_id=0,
        vision_config=VISION | {"image_size": 2 * SIDE, "insert_layer_id": 0}, image_token_id=words.image_token_id,
        video_token_id=words.video_token_id,
    )  # fmt: skip
    return built("MiniCPMV4_6", config, processor)


def paddleocr_vl() -> tiny.Pictured:
    words = tokenizer("<|IMAGE_PLACEHOLDER|>", "<|IMAGE_START|>", "<|IMAGE_END|>")
    pictures = PaddleOCRVLImageProcessorPil(size=BUDGET, patch_size=PATCH)
    shown = template("<|IMAGE_START|><|IMAGE_PLACEHOLDER|><|IMAGE_END|>")
    processor = hf.PaddleOCRVLProcessor(pictures, words, shown)
    config = hf.PaddleOCRVLConfig(
        text_config=text(words, rope_parameters=MROPE), vision_config=VISION, image_token_id=words.image_token_id,
        vision_start_token_id=words.convert_tokens_to_ids("<|IMAGE_START|>"),
        vision_end_token_id=words.convert_tokens_to_ids("<|IMAGE_END|>"),
    )  # fmt: skip
    return built("PaddleOCRVL", config, processor)


def video_llama_3() -> tiny.Pictured:
    words = tokenizer("<|image_pad|>", video_token="<|video_pad|>")
    pictures = VideoLlama3ImageProcessorPil(size={"shortest_edge": 28 * 28, "longest_edge": 60 * 14 * 14})
    processor = without_video(hf.VideoLlama3Processor)(pictures, words, None, template("<|image_pad|>"))
    config = hf.VideoLlama3Config(
        text_config=hf.Qwen2Config(**text(words)), vision_config=VISION, image_token_id=words.image_token_id,
        video_token_id=words.video_token_id,
    )  # fmt: skip
    return built("VideoLlama3", config, processor)


def ernie4_5_vl() -> tiny.Pictured:
    words = tokenizer(
        "<|IMAGE_PLACEHOLDER|>", image_start_token="<|IMAGE_START|>", image_end_token="<|IMAGE_END|>",
        video_token="<|video|>", video_start_token="<|VIDEO_START|>", video_end_token="<|VIDEO_END|>",
    )  # fmt: skip
    shown = template("<|IMAGE_START|><|IMAGE_PLACEHOLDER|><|IMAGE_END|>")
    pictures = Ernie4_5_VLMoeImageProcessorPil(size=BUDGET, patch_size=PATCH)
    processor = without_video(hf.Ernie4_5_VLMoeProcessor)(pictures, words, None, shown)
    experts = {"moe_intermediate_size": [16, 16], "moe_num_experts": 4, "moe_k": 2, "moe_num_shared_experts": 1,
               "mlp_layer_types": ["dense", "sparse"]}  # fmt: skip
    config = hf.Ernie4_5_VLMoeConfig(
        text_config=text(words, rope_parameters=MROPE, **experts),
        vision_config={"depth": 2, "hidden_size": 32, "num_heads": 4, "intermediate_size": 48},
        **{f"{name}_id": getattr(words, f"{name}_id") for name in ("image_token", "image_start_token",
            "image_end_token", "video_token", "video_start_token", "video_end_token")},
    )  # fmt: skip
    return built("Ernie4_5_VLMoe", config, processor)


def gemma4() -> tiny.Pictured:
    words = tokenizer(
        "<|image|>", boi_token="<|image>", eoi_token="<image|>", video_token="<|video|>", audio_token="<|audio|>",
        boa_token="<|audio>", eoa_token="<audio|>",
    )  # fmt: skip
    pictures = Gemma4ImageProcessorPil(patch_size=PATCH, max_soft_tokens=70, pooling_kernel_size=2)
    kind = without_parts(hf.Gemma4Processor)
    processor = kind(None, pictures, words, None, template("<|image|>"), image_seq_length=70)
    config = hf.Gemma4Config(
        text_config=text(
            words, sliding_window=8, layer_types=["sliding_attention", "full_attention"],
            hidden_size_per_layer_input=0, global_head_dim=8,
        ),
        vision_config={
            "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
            "num_key_value_heads": 4, "head_dim": 8, "patch_size": PATCH, "pooling_kernel_size": 2,
            "position_embedding_size": 128,
        },
        audio_config=None, image_token_id=words.image_token_id, boi_token_id=words.boi_token_id,
        eoi_token_id=words.eoi_token_id, video_token_id=words.video_token_id, audio_token_id=words.audio_token_id,
    )  # fmt: skip
    return built("Gemma4", config, processor)


def without_parts(kind: type[hf.ProcessorMixin]) -> Any:
    """The processor without those of videos and sounds."""

    class Still(kind):  # type: ignore[misc, valid-type]
        def check_argument_for_proper_class(self, name: str, value: Any) -> Any:
            seen = name in ("video_processor", "feature_extractor", "audio_processor")
            return None if seen else super().check_argument_for_proper_class(name, value)

    return Still


def qwen3(kind: str, vision: dict[str, Any], **language: Any) -> tiny.Pictured:
    words = tokenizer("<|image_pad|>", "<|vision_start|>", "<|vision_end|>", video_token="<|video_pad|>")
    processor = without_video(hf.Qwen3VLProcessor)(
        Qwen2VLImageProcessorPil(size=BUDGET), words, None,
        chat_template=template("<|vision_start|><|image_pad|><|vision_end|>"),
    )  # fmt: skip
    tower = {"depth": 2, "num_heads": 4, "patch_size": PATCH, "hidden_size": 32, "out_hidden_size": 32,
             "intermediate_size": 48, "num_position_embeddings": 64}  # fmt: skip
    config = getattr(hf, f"{kind}Config")(
        text_config=text(words, rope_parameters=MROPE, **language), vision_config=tower | vision,
        image_token_id=words.image_token_id, video_token_id=words.video_token_id,
        vision_start_token_id=words.convert_tokens_to_ids("<|vision_start|>"),
        vision_end_token_id=words.convert_tokens_to_ids("<|vision_end|>"),
    )  # fmt: skip
    return built(kind, config, processor)


def qwen3_5() -> tiny.Pictured:
    """All of its layers with full attention, as none of the published ones is."""
    return qwen3("Qwen3_5", {}, layer_types=["full_attention", "full_attention"])


def qwen3_vl_moe() -> tiny.Pictured:
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
    return qwen3("Qwen3VLMoe", {"deepstack_visual_indexes": [0]}, **experts)


def gemma3_pan_and_scan() -> tiny.Pictured:
    """The whole picture, and crops of elongated ones."""
    model, processor = pictured.gemma3()
    crops = {
        "pan_and_scan_min_crop_size": 8,
        "pan_and_scan_max_num_crops": 3,
        "pan_and_scan_min_ratio_to_activate": 1.2,
    }
    processor.images_kwargs = processor.images_kwargs | {"do_pan_and_scan": True} | crops
    return model, processor


def cohere2_vision() -> tiny.Pictured:
    words = tokenizer(
        "<|IMG_PATCH|>", boi_token="<|START_OF_IMG|>", eoi_token="<|END_OF_IMG|>",
        img_line_break_token="<|IMG_LINE_BREAK|>",
    )  # fmt: skip
    pictures = hf.Cohere2VisionImageProcessor(size={"height": SIDE, "width": SIDE}, max_patches=6, patch_size=2)
    processor = hf.Cohere2VisionProcessor(pictures, words, template("<|IMG_PATCH|>"))
    config = hf.Cohere2VisionConfig(
        text_config=hf.Cohere2Config(**text(words, sliding_window=512)), alignment_intermediate_size=48,
        vision_config=tiny.siglip(vision_use_head=False), image_token_id=words.image_token_id,
    )  # fmt: skip
    return built("Cohere2Vision", config, processor)


def lfm2_vl() -> tiny.Pictured:
    """All of its layers with attention, as none of the published ones is."""
    words = tokenizer("<image>", "<|image_start|>", "<|image_end|>", "<|img_thumbnail|>")
    words.add_tokens(
        [f"<|img_row_{row}_col_{col}|>" for row in range(1, 5) for col in range(1, 5)], special_tokens=True
    )
    pictures = hf.Lfm2VlImageProcessor(
        tile_size=SIDE, encoder_patch_size=PATCH, min_image_tokens=4, max_image_tokens=16, max_tiles=4,
        size={"height": SIDE, "width": SIDE},
    )  # fmt: skip
    processor = hf.Lfm2VlProcessor(pictures, words, template("<image>"))
    config = hf.Lfm2VlConfig(
        text_config=hf.Lfm2Config(**text(words, layer_types=["full_attention", "full_attention"])),
        vision_config=hf.Siglip2VisionConfig(
            **{name: value for name, value in VISION.items() if name != "image_size"}, num_patches=16
        ),
        image_token_id=words.convert_tokens_to_ids("<image>"), projector_hidden_size=32,
    )  # fmt: skip
    return built("Lfm2Vl", config, processor)


def llama4() -> tiny.Pictured:
    marks = ["<|image_start|>", "<|image_end|>", "<|tile_x_separator|>", "<|tile_y_separator|>"]
    words = tokenizer("<|image|>", "<|patch|>", *marks)
    pictures = hf.Llama4ImageProcessor(size={"height": SIDE, "width": SIDE}, max_patches=4)
    processor = hf.Llama4Processor(pictures, words, PATCH, 0.5, chat_template=template("<|image|>"))
    language = text(words, intermediate_size_mlp=48, num_local_experts=2, attention_chunk_size=512)
    config = hf.Llama4Config(
        text_config=language, image_token_index=words.convert_tokens_to_ids("<|patch|>"),
        vision_config=VISION | {
            "intermediate_size": 128, "vision_output_dim": 32, "projector_input_dim": 32, "projector_output_dim": 32,
        },
    )  # fmt: skip
    return built("Llama4", config, processor)


def qianfan_ocr() -> tiny.Pictured:
    words = tokenizer(
        "<image>", start_image_token="<img>", end_image_token="</img>", context_image_token="<IMG_CONTEXT>"
    )
    pictures = GotOcr2ImageProcessorPil(size={"height": SIDE, "width": SIDE}, crop_to_patches=True, max_patches=6)
    processor = hf.QianfanOCRProcessor(pictures, words, 4, template("<image>"))
    config = hf.QianfanOCRConfig(
        text_config=hf.Qwen3Config(**text(words)), image_seq_length=4,
        vision_config=VISION | {"image_size": [SIDE, SIDE], "patch_size": [PATCH, PATCH]},
        image_token_id=words.convert_tokens_to_ids("<IMG_CONTEXT>"),
    )  # fmt: skip
    return built("QianfanOCR", config, processor)


def exaone4_5() -> tiny.Pictured:
    words = tokenizer("<|image_pad|>", "<|vision_start|>", "<|vision_end|>", video_token="<|video_pad|>")
    processor = without_video(hf.Qwen2_5_VLProcessor)(
        Qwen2VLImageProcessorPil(size=BUDGET), words, None,
        chat_template=template("<|vision_start|><|image_pad|><|vision_end|>"),
    )  # fmt: skip
    tower = {
        "depth": 2, "num_heads": 4, "num_key_value_heads": 2, "patch_size": PATCH, "hidden_size": 32,
        "out_hidden_size": 32, "intermediate_size": 48, "window_size": 56, "fullatt_block_indexes": [1],
    }  # fmt: skip
    config = hf.Exaone4_5_Config(
        text_config=hf.Exaone4Config(**text(words, layer_types=["full_attention", "full_attention"])),
        vision_config=tower, image_token_id=words.image_token_id, video_token_id=words.video_token_id,
    )  # fmt: skip
    return built("Exaone4_5_", config, processor)


def hunyuan_vl() -> tiny.Pictured:
    from transformers.models.hunyuan_vl.image_processing_pil_hunyuan_vl import HunYuanVLImageProcessorPil

    words = tokenizer("<img>", image_start_token="<im_start>", image_end_token="<im_end>")
    pictures = HunYuanVLImageProcessorPil(size=BUDGET, patch_size=PATCH)
    processor = hf.HunYuanVLProcessor(pictures, words, template("<im_start><img><im_end>"))
    config = hf.HunYuanVLConfig(
        text_config=text(words, rope_parameters=MROPE), vision_config=VISION | {
            "out_hidden_size": 32, "text_hidden_size": 32, "max_image_size": 112, "min_image_size": 28,
            "img_max_token_num": 64,
        },
        image_token_id=words.image_token_id, im_start_id=words.image_start_token_id, im_end_id=words.image_end_token_id,
    )  # fmt: skip
    return built("HunYuanVL", config, processor)


def hyperclovax() -> tiny.Pictured:
    words = tokenizer("<|IMAGE_PAD|>", video_token="<|VIDEO_PAD|>")
    processor = without_video(hf.HyperCLOVAXVisionV2Processor)(
        Qwen2VLImageProcessorPil(size=BUDGET), words, None, template("<|IMAGE_PAD|>")
    )
    tower = {"depth": 2, "num_heads": 4, "patch_size": PATCH, "hidden_size": 32, "out_hidden_size": 32,
             "intermediate_size": 48, "window_size": 56, "fullatt_block_indexes": [1]}  # fmt: skip
    config = hf.HyperCLOVAXVisionV2Config(
        text_config=hf.HyperCLOVAXConfig(**text(words)), vision_config=tower, image_token_id=words.image_token_id,
        video_token_id=words.video_token_id,
    )  # fmt: skip
    return built("HyperCLOVAXVisionV2", config, processor)


def llava_next_video() -> tiny.Pictured:
    _, processor = pictured.llava_next()
    words = tokenizer("<image>", "<video>")
    kind = without_video(hf.LlavaNextVideoProcessor)
    other = kind(
        None, processor.image_processor, words, template("<image>"), PATCH, "default", num_additional_image_tokens=1
    )
    config = hf.LlavaNextVideoConfig(
        text_config=hf.LlamaConfig(**text(words)), vision_config=tiny.clip(),
        image_token_index=words.convert_tokens_to_ids("<image>"), image_grid_pinpoints=pictured.PINPOINTS,
        video_token_index=words.convert_tokens_to_ids("<video>"),
    )  # fmt: skip
    return built("LlavaNextVideo", config, other)


def molmo2() -> tiny.Pictured:
    """A connector that attends from each token to its patches, over crops that overlap."""
    words = tokenizer(
        "<|image|>", "<im_patch>", "<im_col>", "<im_start>", "<low_res_im_start>", "<frame_start>", "<im_end>",
        "<frame_end>", "<im_low>", "<|video|>",
    )  # fmt: skip
    pictures = hf.Molmo2ImageProcessor(
        size={"height": 2 * SIDE, "width": 2 * SIDE}, max_crops=4, overlap_margins=[1, 1], patch_size=PATCH
    )
    processor = without_video(hf.Molmo2Processor)(pictures, None, words, template("<|image|>"))
    adapter = {"hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 8,
               "intermediate_size": 48, "text_hidden_size": 32, "vision_feature_layer": [-1]}  # fmt: skip
    config = hf.Molmo2Config(
        text_config=text(words, vocab_size=len(words) - 1, additional_vocab_size=1),
        vision_config=VISION | {"image_size": [2 * SIDE] * 2, "head_dim": 8, "num_key_value_heads": 4},
        adapter_config=adapter, image_patch_id=words.convert_tokens_to_ids("<im_patch>"),
        **{f"{name}_token_id": words.convert_tokens_to_ids(f"<{mark}>") for name, mark in {
            "image_start": "im_start", "low_res_image_start": "low_res_im_start", "image_end": "im_end",
            "frame_start": "frame_start", "frame_end": "frame_end"}.items()},
    )  # fmt: skip
    return built("Molmo2", config, processor)


def aria() -> tiny.Pictured:
    """A connector in which each of its tokens attends to the whole picture."""
    from transformers.models.aria.image_processing_pil_aria import AriaImageProcessorPil

    words = tokenizer("<image>")
    pictures = AriaImageProcessorPil(max_image_size=980, min_image_size=336)
    processor = hf.AriaProcessor(pictures, words, template("<image>"), size_conversion={980: 4})
    config = hf.AriaConfig(
        text_config=hf.AriaTextConfig(**text(words, moe_num_experts=2, moe_topk=1, moe_num_shared_experts=1)),
        vision_config=hf.Idefics3VisionConfig(**VISION | {"image_size": 980, "patch_size": 140}),
        image_token_index=words.image_token_id, projector_patch_to_query_dict={49: 4},
    )  # fmt: skip
    return built("Aria", config, processor)


def idefics2() -> tiny.Pictured:
    """A connector whose own few tokens attend to the whole picture."""
    from transformers.models.idefics2.image_processing_pil_idefics2 import Idefics2ImageProcessorPil

    words = tokenizer("<image>", "<end_of_utterance>", image_boundary_token="<fake_token_around_image>")
    pictures = Idefics2ImageProcessorPil(size={"longest_edge": 2 * SIDE, "shortest_edge": SIDE})
    processor = hf.Idefics2Processor(pictures, words, image_seq_len=4, chat_template=template("<image>"))
    config = hf.Idefics2Config(
        text_config=hf.MistralConfig(**text(words)), vision_config=VISION | {"image_size": 2 * SIDE},
        perceiver_config={
            "hidden_size": 32, "resampler_n_latents": 4, "resampler_depth": 1, "resampler_n_heads": 4,
            "resampler_head_dim": 8, "num_key_value_heads": 2,
        },
        image_token_id=words.image_token_id,
    )  # fmt: skip
    return built("Idefics2", config, processor)


def q_former(kind: str, pictures: Any, *tokenizers: Any) -> tiny.Pictured:
    """A connector of queries that attend to the whole picture."""
    named = {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>", "unk_token": "<unk>"}
    words = hf.PreTrainedTokenizerFast(tokenizer_object=tokenizer("<image>").backend_tokenizer, **named)
    processor = getattr(hf, f"{kind}Processor")(pictures, words, *tokenizers, num_query_tokens=4)
    bridge = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
              "encoder_hidden_size": 32, "vocab_size": len(words)}  # fmt: skip
    config = getattr(hf, f"{kind}Config")(
        text_config=hf.OPTConfig(
            vocab_size=len(words), hidden_size=32, ffn_dim=48, num_hidden_layers=2, num_attention_heads=4,
            word_embed_proj_dim=32, pad_token_id=0, bos_token_id=2, eos_token_id=1,
        ),
        vision_config=VISION | {"qkv_bias": True}, qformer_config=bridge, num_query_tokens=4,
        image_token_index=words.convert_tokens_to_ids("<image>"),
    )  # fmt: skip
    return built(kind, config, processor)


def blip2() -> tiny.Pictured:
    from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

    return q_former("Blip2", BlipImageProcessorPil(size={"height": SIDE, "width": SIDE}))


def instructblip() -> tiny.Pictured:
    from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

    return q_former("InstructBlip", BlipImageProcessorPil(size={"height": SIDE, "width": SIDE}), tokenizer("<image>"))


def perception_lm() -> tiny.Pictured:
    """With SigLIP in the place of the published ones' tower, which comes with timm."""
    words = tokenizer("<image>", video_token="<video>")
    pictures = hf.PerceptionLMImageProcessor(tile_size=SIDE, max_num_tiles=6, size={"height": SIDE, "width": SIDE})
    processor = without_video(hf.PerceptionLMProcessor)(None, pictures, words, PATCH, template("<image>"), 2)
    config = hf.PerceptionLMConfig(
        text_config=hf.LlamaConfig(**text(words)), vision_use_cls_token=False, projector_pooling_ratio=2,
        vision_config=tiny.siglip(vision_use_head=False, model_args={"embed_dim": 48}),
        image_token_id=words.image_token_id, video_token_id=words.video_token_id,
    )  # fmt: skip
    return built("PerceptionLM", config, processor)


def llava_tower(tower: hf.PreTrainedConfig) -> tiny.Pictured:
    """LLaVA with a tower that has registers, which become image tokens without a place."""
    words = tiny.gemma_tokenizer()
    decoder = tiny.text(hf.GemmaConfig, len(words))
    return tiny.build(decoder, tower, tokenizer=words, seed=1), tiny.processor_for(words)


def dinov2_registers() -> tiny.Pictured:
    return llava_tower(hf.Dinov2WithRegistersConfig(**tiny.dinov2().to_diff_dict() | {"num_register_tokens": 3}))


def dinov3() -> tiny.Pictured:
    return llava_tower(
        hf.DINOv3ViTConfig(
            hidden_size=48, intermediate_size=64, num_hidden_layers=4, num_attention_heads=4, num_register_tokens=3,
            image_size=tiny.IMAGE_SIZE, patch_size=tiny.PATCH_SIZE,
        )
    )  # fmt: skip


TOO_SMALL = {"mistral3": (9, 7)}  # pictures of one token, where transformers' own model fails
RESAMPLING: dict[str, Callable[[], tiny.Pictured]] = {
    build.__name__: build for build in (aria, idefics2, blip2, instructblip)
}
BUILDERS: dict[str, Callable[[], tiny.Pictured]] = {
    build.__name__: build
    for build in (
        pixtral, mistral3, lighton_ocr, aya_vision, ovis2, glm4v, glm46v, glm4v_moe, glm_ocr, janus, deepseek_vl,
        minicpm, paddleocr_vl, video_llama_3, ernie4_5_vl, gemma4, qwen3_5, qwen3_vl_moe, gemma3_pan_and_scan,
        cohere2_vision, lfm2_vl, llama4, qianfan_ocr, exaone4_5, hunyuan_vl, hyperclovax, llava_next_video, molmo2,
        perception_lm, dinov2_registers, dinov3,
    )
}  # fmt: skip
