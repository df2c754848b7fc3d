"""Tiny random models of families that cut, merge or stretch pictures in ways of their own, with their processors."""

import copy
from collections.abc import Callable
from functools import cache
from typing import Any

import tiny
import torch
import transformers as hf
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

from relevancy.models.model import Model, wrap
from relevancy.models.video_processors import (
    PillowInternVideos,
    PillowOneVisionVideos,
    PillowQwen2Videos,
    PillowQwen3Videos,
)

SIDE, PATCH = 56, 14
WORDS = "is the duck floating what color ball red how many boats are there yes no user model one two ( ) ? . a b"
PINPOINTS = [[56, 112], [112, 56], [112, 112], [168, 56], [56, 168]]


def tokenizer(image: str, *special: str, **named: str) -> hf.PreTrainedTokenizerFast:
    """Words, one token each; `special` ones beside, `named` ones as the processor asks for them."""
    control = ["<pad>", "<eos>", "<bos>", "<unk>", image, *special, *named.values()]
    tags = [f"<row_{row}_col_{col}>" for row in range(1, 7) for col in range(1, 7)]
    vocabulary = list(dict.fromkeys([*control, *tags, *WORDS.split()]))
    core = Tokenizer(models.WordLevel({word: index for index, word in enumerate(vocabulary)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="<eos>", bos_token="<bos>", unk_token="<unk>",
        padding_side="left", extra_special_tokens={"image_token": image} | named,
        additional_special_tokens=[*special, *tags],
    )  # fmt: skip


def template(image: str, video: str = "") -> str:
    """Pictures, videos and texts in the order of the messages."""
    return (
        "{% for message in messages %}user {% for part in message['content'] %}{% if part['type'] == 'image' %}"
        f"{image}{{% elif part['type'] == 'video' %}}{video}"
        "{% else %} {{ part['text'] }} {% endif %}{% endfor %}{% endfor %}"
        "{% if add_generation_prompt %}model{% endif %}"
    )


def text(words: hf.PreTrainedTokenizerFast, **changes: Any) -> dict[str, Any]:
    """A decoder of two layers."""
    settings: dict[str, Any] = {
        "vocab_size": len(words), "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 2048,
        "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2,
    }  # fmt: skip
    return copy.deepcopy(settings | changes)  # configs add to the dictionaries that they are given


VISION: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "image_size": SIDE, "patch_size": PATCH,
}  # fmt: skip


def without_video(kind: type[hf.ProcessorMixin]) -> Any:
    """The processor without one for videos, which would need torchvision."""

    class Still(kind):  # type: ignore[misc, valid-type]
        def check_argument_for_proper_class(self, name: str, value: Any) -> Any:
            return None if name == "video_processor" else super().check_argument_for_proper_class(name, value)

    return Still


def finished(kind: type[hf.PreTrainedModel], config: hf.PreTrainedConfig, processor: Any) -> tiny.Pictured:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = kind(config).float()
    tiny.randomize(model, 0)
    return model.eval(), processor


def gemma3() -> tiny.Pictured:
    words = tokenizer("<image_soft_token>", boi_token="<start_of_image>", eoi_token="<end_of_image>")
    processor = hf.Gemma3Processor(
        Gemma3ImageProcessorPil(size={"height": SIDE, "width": SIDE}), words, template("<start_of_image>"), 4
    )
    config = hf.Gemma3Config(
        text_config=text(words, sliding_window=8, layer_types=["sliding_attention", "full_attention"]),
        vision_config=VISION, mm_tokens_per_image=4, image_token_index=words.image_token_id,
        boi_token_index=words.boi_token_id, eoi_token_index=words.eoi_token_id,
    )  # fmt: skip
    return finished(hf.Gemma3ForConditionalGeneration, config, processor)


def internvl() -> tiny.Pictured:
    words = tokenizer(
        "<IMG_CONTEXT>", start_image_token="<img>", end_image_token="</img>", context_image_token="<IMG_CONTEXT>",
        video_token="<video>",
    )  # fmt: skip
    pictures = GotOcr2ImageProcessorPil(size={"height": SIDE, "width": SIDE}, crop_to_patches=True, max_patches=6)
    processor = without_video(hf.InternVLProcessor)(pictures, words, None, 4, template("<IMG_CONTEXT>", "<video>"))
    processor.video_processor = PillowInternVideos(size={"height": SIDE, "width": SIDE})
    config = hf.InternVLConfig(
        text_config=hf.Qwen2Config(**text(words)),
        vision_config=VISION | {"image_size": [SIDE, SIDE], "patch_size": [PATCH, PATCH]},
        image_token_id=words.image_token_id, image_seq_length=4, downsample_ratio=0.5,
    )  # fmt: skip
    return finished(hf.InternVLForConditionalGeneration, config, processor)


def qwen(kind: str, **vision: Any) -> tiny.Pictured:
    words = tokenizer("<|image_pad|>", "<|vision_start|>", "<|vision_end|>", video_token="<|video_pad|>")
    pictures = Qwen2VLImageProcessorPil(size={"shortest_edge": 56 * 56, "longest_edge": 40 * 28 * 28})
    shown = template(*(f"<|vision_start|><|{mark}_pad|><|vision_end|>" for mark in ("image", "video")))
    processor = without_video(getattr(hf, f"{kind}Processor"))(pictures, words, None, chat_template=shown)
    videos = PillowQwen3Videos if kind.startswith("Qwen3") else PillowQwen2Videos
    processor.video_processor = videos(patch_size=PATCH, size={"shortest_edge": 56 * 56, "longest_edge": 40 * 28 * 28})
    config = getattr(hf, f"{kind}Config")(
        text_config=text(words, rope_parameters={"rope_type": "default", "mrope_section": [1, 1, 2]}),
        vision_config={"depth": 2, "num_heads": 4, "patch_size": PATCH} | vision,
        image_token_id=words.image_token_id, video_token_id=words.video_token_id,
        vision_start_token_id=words.convert_tokens_to_ids("<|vision_start|>"),
        vision_end_token_id=words.convert_tokens_to_ids("<|vision_end|>"),
    )  # fmt: skip
    return finished(getattr(hf, f"{kind}ForConditionalGeneration"), config, processor)


def qwen2_vl() -> tiny.Pictured:
    return qwen("Qwen2VL", embed_dim=32, hidden_size=32)


def qwen2_5_vl() -> tiny.Pictured:
    sizes = {"hidden_size": 32, "out_hidden_size": 32, "intermediate_size": 48}
    return qwen("Qwen2_5_VL", window_size=56, fullatt_block_indexes=[1], **sizes)


def qwen3_vl() -> tiny.Pictured:
    sizes = {"hidden_size": 32, "out_hidden_size": 32, "intermediate_size": 48, "num_position_embeddings": 64}
    return qwen("Qwen3VL", deepstack_visual_indexes=[0], **sizes)


def llava_next() -> tiny.Pictured:
    words = tokenizer("<image>")
    pictures = LlavaNextImageProcessorPil(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}, image_grid_pinpoints=PINPOINTS
    )
    processor = hf.LlavaNextProcessor(
        pictures, words, PATCH, "default", template("<image>"), num_additional_image_tokens=1
    )
    config = hf.LlavaNextConfig(
        text_config=hf.LlamaConfig(**text(words)), vision_config=tiny.clip(), image_token_index=words.image_token_id,
        image_grid_pinpoints=PINPOINTS,
    )  # fmt: skip
    return finished(hf.LlavaNextForConditionalGeneration, config, processor)


def llava_onevision() -> tiny.Pictured:
    words = tokenizer("<image>", video_token="<video>")
    pinpoints = [[56 * down, 56 * across] for down in range(1, 5) for across in range(1, 5)]
    pictures = LlavaOnevisionImageProcessorPil(size={"height": SIDE, "width": SIDE}, image_grid_pinpoints=pinpoints)
    processor = without_video(hf.LlavaOnevisionProcessor)(
        pictures, words, None, 16, "full", template("<image>", "<video>"), vision_aspect_ratio="anyres_max_4"
    )
    processor.video_processor = PillowOneVisionVideos(size={"height": SIDE, "width": SIDE})
    config = hf.LlavaOnevisionConfig(
        text_config=hf.Qwen2Config(**text(words)), vision_config=tiny.siglip(vision_use_head=False),
        image_token_index=words.image_token_id, image_grid_pinpoints=pinpoints, vision_aspect_ratio="anyres_max_4",
        vision_feature_layer=-1, vision_feature_select_strategy="full", video_token_index=words.video_token_id,
    )  # fmt: skip
    return finished(hf.LlavaOnevisionForConditionalGeneration, config, processor)


def idefics(kind: str, pictures: type) -> tiny.Pictured:
    words = tokenizer(
        "<image>", "<end_of_utterance>", fake_image_token="<fake_token_around_image>", global_image_token="<global-img>"
    )
    made = pictures(size={"longest_edge": 3 * SIDE}, max_image_size={"longest_edge": SIDE})
    # SmolVLM's own processor does the same for pictures, and needs num2words for videos.
    processor = hf.Idefics3Processor(made, words, 4, template("<image>"))
    config = getattr(hf, f"{kind}Config")(
        text_config=hf.LlamaConfig(**text(words)), vision_config=VISION, image_token_id=words.image_token_id,
        scale_factor=2,
    )  # fmt: skip
    return finished(getattr(hf, f"{kind}ForConditionalGeneration"), config, processor)


def idefics3() -> tiny.Pictured:
    return idefics("Idefics3", Idefics3ImageProcessorPil)


def smolvlm() -> tiny.Pictured:
    return idefics("SmolVLM", SmolVLMImageProcessorPil)


BUILDERS: dict[str, Callable[[], tiny.Pictured]] = {
    build.__name__: build
    for build in (gemma3, internvl, qwen2_vl, qwen2_5_vl, qwen3_vl, llava_next, llava_onevision, idefics3, smolvlm)
}


@cache
def model_of(family: str) -> Model:
    """One of them, built once for all tests."""
    return wrap(*BUILDERS[family](), name=family)


def unmixed(model: Model) -> Model:
    """The same model, its tower changed so that no patch hears of another."""
    for module in model.model.get_encoder(modality="image").modules():
        if type(module).__name__.endswith("Attention"):
            for name in ("out_proj", "o_proj", "proj", "projection_layer"):
                if isinstance(last := getattr(module, name, None), nn.Linear):
                    nn.init.zeros_(last.weight)
    return model
