"""Tiny random LLaVA models with their processors, built from configs: no download, same seed, same weights."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    Dinov2Config,
    Gemma2Config,
    GemmaConfig,
    GemmaTokenizer,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    PaliGemmaProcessor,
    PreTrainedConfig,
    PreTrainedModel,
    ProcessorMixin,
    Qwen2Config,
    SiglipImageProcessorPil,
    SiglipVisionConfig,
)

from relevancy.explanations.explanation import Explanation
from relevancy.images import Picture
from relevancy.models.generation import Prefill
from relevancy.models.model import Model
from relevancy.models.prepared import Example
from relevancy.models.session import Session

IMAGE_SIZE, PATCH_SIZE = 56, 14
CONTROL_TOKENS = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<start_of_turn>", "<end_of_turn>", "<image>"]
CORPUS = [
    "Is the duck floating? (a) Yes (b) No",
    "What color is the ball? It is red, green, blue, yellow or white.",
    "How many boats are in the picture? There are one, two, three or four.",
    "Where is the dog? The dog stands left of the tree, on the grass.",
    "user model Yes No duck rock water sky 0 1 2 3 4 5 6 7 8 9 . , ? ! ( ) a b c d",
]
# The turns of Gemma's own template, with the picture in front of the text.
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<start_of_turn>' + ('model' if message['role'] == 'assistant' else message['role']) + '\n' }}"
    "{% if message['content'] is string %}{{ message['content'] | trim }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}{{ '<image>\n' }}"
    "{% elif part['type'] == 'text' %}{{ part['text'] | trim }}{% endif %}{% endfor %}{% endif %}"
    "{{ '<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)


def gemma_tokenizer(
    corpus: Iterable[str] = CORPUS, vocab_size: int = 420, chat_template: str | None = CHAT_TEMPLATE
) -> GemmaTokenizer:
    """Gemma's tokenizer (byte fallback, no prefix space, left padding) with merges learned from `corpus`."""
    core = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    core.normalizer = normalizers.Replace(" ", "▁")
    core.pre_tokenizer = pre_tokenizers.Split(pattern="▁", behavior="merged_with_next")
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=CONTROL_TOKENS + [f"<0x{byte:02X}>" for byte in range(256)],
        initial_alphabet=["▁", "\n"],
        show_progress=False,
    )
    core.train_from_iterator(corpus, trainer)
    learned = json.loads(core.to_str())["model"]
    return GemmaTokenizer(
        vocab=learned["vocab"],
        merges=[tuple(pair) for pair in learned["merges"]],  # type: ignore[misc]  # annotated as strings, read as pairs
        chat_template=chat_template,
        add_bos_token=True,
        extra_special_tokens={
            "image_token": "<image>",
            "start_of_turn_token": "<start_of_turn>",
            "end_of_turn_token": "<end_of_turn>",
        },
    )


def processor_for(tokenizer: GemmaTokenizer) -> LlavaProcessor:
    """CLIP's pictures (short side resized, center cropped), the tokenizer, and the fields a class-token tower needs."""
    pictures = CLIPImageProcessorPil(
        size={"shortest_edge": IMAGE_SIZE}, crop_size={"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    )
    return LlavaProcessor(
        image_processor=pictures,
        tokenizer=tokenizer,
        patch_size=PATCH_SIZE,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=tokenizer.chat_template,
    )


def clip(**changes: Any) -> CLIPVisionConfig:
    """A CLIP tower with 16 patches and a class token."""
    settings: dict[str, Any] = {
        "hidden_size": 48,
        "intermediate_size": 64,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "image_size": IMAGE_SIZE,
        "patch_size": PATCH_SIZE,
        "projection_dim": 32,
    }
    return CLIPVisionConfig(**settings | changes)


def dinov2(**changes: Any) -> Dinov2Config:
    """A DINOv2 tower with 16 patches and a class token."""
    settings: dict[str, Any] = {
        "hidden_size": 48,
        "mlp_ratio": 2,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "image_size": IMAGE_SIZE,
        "patch_size": PATCH_SIZE,
        "layerscale_value": 1.0,
    }
    return Dinov2Config(**settings | changes)


def text(config_class: type[PreTrainedConfig], vocab_size: int, **changes: Any) -> PreTrainedConfig:
    """A decoder of three layers, four query heads."""
    settings: dict[str, Any] = {
        "vocab_size": vocab_size,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 512,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "bos_token_id": 2,
    }
    return config_class(**settings | changes)


def randomize(model: torch.nn.Module, seed: int) -> None:
    """Weights wide enough that attention is uneven and every layer matters; all drawn from one seeded generator."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim == 1:
                parameter.add_(0.1 * noise)
            else:
                gain = 1.5 if name.endswith(("q_proj.weight", "k_proj.weight", "query.weight", "key.weight")) else 1.0
                parameter.copy_(gain * noise / parameter[0].numel() ** 0.5)


def build(
    text_config: PreTrainedConfig,
    vision_config: PreTrainedConfig,
    *,
    tokenizer: GemmaTokenizer,
    seed: int,
    **llava: Any,
) -> LlavaForConditionalGeneration:
    """The model of these configs: float32, eval mode, weights from `seed`."""
    settings: dict[str, Any] = {
        "image_token_index": tokenizer.convert_tokens_to_ids("<image>"),
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
        "image_seq_length": (IMAGE_SIZE // PATCH_SIZE) ** 2,
    }
    config = LlavaConfig(text_config=text_config, vision_config=vision_config, **settings | llava)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlavaForConditionalGeneration(config).float()
    randomize(model, seed)
    return model.eval()


Built = tuple[LlavaForConditionalGeneration, LlavaProcessor]
Pictured = tuple[PreTrainedModel, ProcessorMixin]


def gemma_clip(seed: int = 0, **text_changes: Any) -> Built:
    """Gemma with one key-value head for four query heads (as Gemma 2B has), CLIP tower."""
    tokenizer = gemma_tokenizer()
    decoder = text(GemmaConfig, len(tokenizer), **{"num_key_value_heads": 1} | text_changes)
    return build(decoder, clip(), tokenizer=tokenizer, seed=seed), processor_for(tokenizer)


def gemma_dinov2(seed: int = 1, **text_changes: Any) -> Built:
    """Gemma with one key-value head, DINOv2 tower."""
    tokenizer = gemma_tokenizer()
    decoder = text(GemmaConfig, len(tokenizer), **{"num_key_value_heads": 1} | text_changes)
    return build(decoder, dinov2(), tokenizer=tokenizer, seed=seed), processor_for(tokenizer)


def gemma2_clip(seed: int = 2, **text_changes: Any) -> Built:
    """Gemma 2: logits soft-capped inside attention, a 16-token window in every other layer, CLIP tower."""
    tokenizer = gemma_tokenizer()
    gemma2: dict[str, Any] = {"attn_logit_softcapping": 5.0, "query_pre_attn_scalar": 16, "sliding_window": 16}
    decoder = text(Gemma2Config, len(tokenizer), **gemma2 | text_changes)
    return build(decoder, clip(), tokenizer=tokenizer, seed=seed), processor_for(tokenizer)


def llama_clip(seed: int = 3, **text_changes: Any) -> Built:
    """Llama with two key-value heads for four query heads, CLIP tower."""
    tokenizer = gemma_tokenizer()
    return build(
        text(LlamaConfig, len(tokenizer), **text_changes), clip(), tokenizer=tokenizer, seed=seed
    ), processor_for(tokenizer)


def qwen2_clip(seed: int = 4, **text_changes: Any) -> Built:
    """Qwen2 (biases on query, key and value), CLIP tower."""
    tokenizer = gemma_tokenizer()
    return build(
        text(Qwen2Config, len(tokenizer), **text_changes), clip(), tokenizer=tokenizer, seed=seed
    ), processor_for(tokenizer)


def siglip(**changes: Any) -> SiglipVisionConfig:
    """A SigLIP tower with 16 patches and no class token."""
    settings: dict[str, Any] = {
        "hidden_size": 48,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "image_size": IMAGE_SIZE,
        "patch_size": PATCH_SIZE,
    }
    return SiglipVisionConfig(**settings | changes)


def gemma_siglip(seed: int = 5, **text_changes: Any) -> Built:
    """Gemma, SigLIP tower whose last layer is used, every token of it."""
    tokenizer = gemma_tokenizer()
    model = build(
        text(GemmaConfig, len(tokenizer), **{"num_key_value_heads": 1} | text_changes), siglip(),
        tokenizer=tokenizer, seed=seed, vision_feature_layer=-1, vision_feature_select_strategy="full",
    )  # fmt: skip
    processor = processor_for(tokenizer)
    processor.vision_feature_select_strategy, processor.num_additional_image_tokens = "full", 0
    return model, processor


def paligemma(seed: int = 6, decoder: type[PreTrainedConfig] = GemmaConfig, **text_changes: Any) -> Pictured:
    """PaliGemma: the prompt is read without a causal mask, the answer with one; positions count from one."""
    tokenizer = gemma_tokenizer(chat_template=None)
    pictures = SiglipImageProcessorPil(size={"height": IMAGE_SIZE, "width": IMAGE_SIZE})
    pictures.image_seq_length = (IMAGE_SIZE // PATCH_SIZE) ** 2
    processor = PaliGemmaProcessor(image_processor=pictures, tokenizer=tokenizer)
    config = PaliGemmaConfig(
        text_config=text(decoder, len(tokenizer), **{"num_key_value_heads": 1} | text_changes),
        vision_config=siglip(projection_dim=64),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        projection_dim=64,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = PaliGemmaForConditionalGeneration(config).float()
    randomize(model, seed)
    return model.eval(), processor


def paligemma2(seed: int = 7) -> Pictured:
    """PaliGemma with Gemma 2: capped scores, a window of 16 tokens in every other layer."""
    return paligemma(
        seed, Gemma2Config, attn_logit_softcapping=5.0, query_pre_attn_scalar=16, sliding_window=16
    )  # fmt: skip


BUILDERS: dict[str, Callable[..., Built]] = {
    "gemma-clip": gemma_clip,
    "gemma-dinov2": gemma_dinov2,
    "gemma2-clip": gemma2_clip,
    "llama-clip": llama_clip,
}
# All that `explain` takes.
FAMILIES: dict[str, Callable[..., Pictured]] = {
    **BUILDERS,
    "qwen2-clip": qwen2_clip,
    "gemma-siglip": gemma_siglip,
    "paligemma": paligemma,
    "paligemma2": paligemma2,
}


def picture(width: int = 80, height: int = 60, seed: int = 0) -> Image.Image:
    """A smooth random RGB picture, so that resizing keeps some structure."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def redrawn(result: Explanation, **changes: Any) -> Explanation:
    """The same result with another map, grid or picture."""
    return replace(result, pictures=(replace(result.picture(), **changes),))


def read(model: Model, pictures: Sequence[Image.Image], questions: Sequence[str]) -> Prefill:
    """Pictures with a question each, read by a model."""
    examples = [Example((Picture(one),), question) for one, question in zip(pictures, questions, strict=True)]
    with Session(model) as session:
        return session.prefill(session.prepare(examples))
