"""The words of the picture world: a Gemma tokenizer built offline, and the LLaVA processor around it."""

from __future__ import annotations

__all__ = ["DESCRIBE"]

import json
from collections.abc import Iterable
from functools import cache
from typing import Any

import numpy as np
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import GemmaTokenizer, LlavaProcessor, PreTrainedTokenizerBase
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from relevancy.demo.questions import describe
from relevancy.demo.world import scene
from relevancy.train.parts import CHAT_TEMPLATE
from relevancy.train.template import END, IMAGE, START

DESCRIBE = "Describe the picture."
SPECIAL = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", START, END, IMAGE]
BYTES = [f"<0x{value:02X}>" for value in range(256)]
CORPUS_SCENES = 600
VOCABULARY = 640


def corpus() -> Iterable[str]:
    """Everything that is said in some hundred scenes, turn markers aside."""
    for seed in range(CORPUS_SCENES):
        drawn = scene(seed)
        yield from ("user", "model", DESCRIBE, describe(drawn.layout, np.random.default_rng(seed)))
        for question in drawn.questions:
            yield from (question.text, question.answer)


def build_tokenizer() -> GemmaTokenizer:
    """Byte-fallback BPE as Gemma has it, on the corpus of the picture world: nearly every word is one token."""
    learned = _learned()
    return GemmaTokenizer(
        vocab=learned["vocab"],
        merges=[tuple(pair) for pair in learned["merges"]],  # type: ignore[misc]
        chat_template=CHAT_TEMPLATE,
        add_bos_token=True,
        extra_special_tokens={"image_token": IMAGE, "start_of_turn_token": START, "end_of_turn_token": END},
    )


@cache
def _learned() -> dict[str, Any]:
    """Vocabulary and merges, the same every time."""
    core = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    core.normalizer = normalizers.Replace(" ", "▁")
    # While merges are learned only: without it whole phrases would become one token.
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(pattern="▁", behavior="merged_with_next", invert=False),
            pre_tokenizers.Split(pattern=Regex("[?.,]"), behavior="isolated", invert=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=[*SPECIAL, *BYTES], show_progress=False, initial_alphabet=["▁", "\n"]
    )
    core.train_from_iterator(corpus(), trainer)
    return json.loads(core.to_str())["model"]


def build_processor(tokenizer: PreTrainedTokenizerBase, size: int, patch: int) -> LlavaProcessor:
    """Pictures resized to `size` pixels, short side, and cropped, as CLIP does; one placeholder per patch."""
    pictures = CLIPImageProcessorPil(size={"shortest_edge": size}, crop_size={"height": size, "width": size})
    return LlavaProcessor(
        image_processor=pictures,
        tokenizer=tokenizer,
        patch_size=patch,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )
