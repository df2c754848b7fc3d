"""Models of true size with random weights, and words for them: speed and memory do not depend on what they learned."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    GemmaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    ProcessorMixin,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
)
from transformers.initialization import no_init_weights
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from relevancy.benchmark.setting import Shape
from relevancy.models import video_processors
from relevancy.models.model import Model, wrap

_MARKS = ("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>", "<image>", "<video>", "user", "model")
_KINDS = {LlavaConfig: LlavaForConditionalGeneration, Qwen2_5_VLConfig: Qwen2_5_VLForConditionalGeneration}
_ROOM = 64  # for the tokens of an answer, after the longest prompt


def random_model(shape: Shape, dtype: torch.dtype, device: str, longest: int) -> Model:
    """A model made in place in its final type, without a copy and without slow sampling; always the same weights."""
    config = _config(shape, max(8192, longest + _ROOM))
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(dtype)
        with no_init_weights(), torch.device(device):
            made = _KINDS[type(config)](config)
    finally:
        torch.set_default_dtype(before)
    made.tie_weights()
    _fill(made, device, dtype)
    return wrap(made.eval(), _processor(shape), name="random")


def _config(shape: Shape, room: int) -> LlavaConfig | Qwen2_5_VLConfig:
    text = {
        "vocab_size": shape.vocabulary,
        "max_position_embeddings": room,
        "bos_token_id": _MARKS.index("<bos>"),
        "eos_token_id": _MARKS.index("<eos>"),
        "pad_token_id": _MARKS.index("<pad>"),
        **shape.text,
    }
    if shape.picture is not None:
        turning = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]}
        return Qwen2_5_VLConfig(
            text_config={**text, "rope_parameters": turning},
            vision_config=dict(shape.tower),
            tie_word_embeddings=True,
            image_token_id=_MARKS.index("<image>"),
            video_token_id=_MARKS.index("<video>"),
            vision_start_token_id=_MARKS.index("<start_of_turn>"),
            vision_end_token_id=_MARKS.index("<end_of_turn>"),
        )
    return LlavaConfig(
        text_config=GemmaConfig(**text),
        vision_config=CLIPVisionConfig(**shape.tower),
        image_token_index=_MARKS.index("<image>"),
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )


def _fill(model: PreTrainedModel, device: str, dtype: torch.dtype) -> None:
    noise = torch.randn(1 << 20, generator=torch.Generator().manual_seed(0)).to(device, dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.fill_(0.1)
                continue
            flat, scale = parameter.view(-1), parameter.shape[-1] ** -0.5
            for start in range(0, flat.numel(), noise.numel()):
                piece = flat[start : start + noise.numel()]
                torch.mul(noise[: piece.numel()], scale, out=piece)


def _processor(shape: Shape) -> ProcessorMixin:
    words = {word: number for number, word in enumerate(_MARKS)}
    words |= {_word(number): number for number in range(len(_MARKS), shape.vocabulary)}
    core = Tokenizer(WordLevel(words, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    named = ("image_token", "video_token", "start_of_turn_token", "end_of_turn_token")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        unk_token="<unk>",
        extra_special_tokens=dict(zip(named, ("<image>", "<video>", "<start_of_turn>", "<end_of_turn>"), strict=True)),
    )
    if shape.picture is not None:
        parts = {"image_processor": Qwen2VLImageProcessorPil(), "tokenizer": tokenizer, "video_processor": None}
        return video_processors.complete(Qwen2_5_VLProcessor, parts)
    side, patch = shape.tower["image_size"], shape.tower["patch_size"]
    pictures = CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
    return LlavaProcessor(
        image_processor=pictures,
        tokenizer=tokenizer,
        patch_size=patch,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )


def _word(number: int) -> str:
    return f"w{number}"


def random_words(model: Model, count: int, seed: int) -> str:
    """So many tokens of text."""
    drawn = np.random.default_rng(seed).integers(len(_MARKS), len(model.tokenizer), count)
    return " ".join(map(_word, drawn))


def random_question(model: Model, shape: Shape, tokens: int, seed: int) -> str:
    """A question that makes a prompt of so many tokens, the picture's included."""
    one_word = len(model.tokenizer.encode(model.worded(_word(len(_MARKS)), 1)))  # and a mark for the picture
    return random_words(model, tokens - shape.patches - (one_word - 2), seed)


def random_picture(shape: Shape, seed: int) -> Image.Image:
    """A picture of colors at random: of the shape's size, or a bit larger than the tower's input."""
    size = shape.picture
    if size is None:
        side = shape.tower["image_size"]
        size = side * 4 // 3, side
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)
