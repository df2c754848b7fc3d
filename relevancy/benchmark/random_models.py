"""LLaVA-Gemma of true size with random weights, and words for it: speed and memory do not depend on what it learned."""

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
    PreTrainedTokenizerFast,
)
from transformers.initialization import no_init_weights

from relevancy.benchmark.setting import Shape
from relevancy.models.model import Model, wrap

_MARKS = ("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>", "<image>", "user", "model")
_ROOM = 64  # for the tokens of an answer, after the longest prompt


def random_model(shape: Shape, dtype: torch.dtype, device: str, longest: int) -> Model:
    """A model made in place in its final type, without a copy and without slow sampling; always the same weights."""
    config = LlavaConfig(
        text_config=GemmaConfig(
            vocab_size=shape.vocabulary,
            max_position_embeddings=max(8192, longest + _ROOM),
            bos_token_id=_MARKS.index("<bos>"),
            eos_token_id=_MARKS.index("<eos>"),
            pad_token_id=_MARKS.index("<pad>"),
            **shape.text,
        ),
        vision_config=CLIPVisionConfig(**shape.tower),
        image_token_index=_MARKS.index("<image>"),
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(dtype)
        with no_init_weights(), torch.device(device):
            made = LlavaForConditionalGeneration(config)
    finally:
        torch.set_default_dtype(before)
    made.tie_weights()
    _fill(made, device, dtype)
    return wrap(made.eval(), _processor(shape), name="random")


def _fill(model: LlavaForConditionalGeneration, device: str, dtype: torch.dtype) -> None:
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


def _processor(shape: Shape) -> LlavaProcessor:
    words = {word: number for number, word in enumerate(_MARKS)}
    words |= {_word(number): number for number in range(len(_MARKS), shape.vocabulary)}
    core = Tokenizer(WordLevel(words, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    named = ("image_token", "start_of_turn_token", "end_of_turn_token")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        unk_token="<unk>",
        extra_special_tokens=dict(zip(named, ("<image>", "<start_of_turn>", "<end_of_turn>"), strict=True)),
    )
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
    around = len(model.tokenizer.encode("<bos><start_of_turn>user <end_of_turn><start_of_turn>model"))
    return random_words(model, tokens - shape.patches - around, seed)


def random_picture(shape: Shape, seed: int) -> Image.Image:
    """A picture a bit larger than the tower's input, of colors at random."""
    side = shape.tower["image_size"]
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((side * 4 // 3, side), Image.Resampling.BICUBIC)
