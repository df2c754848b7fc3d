"""The paper's decoders and towers as shapes: what a dry run builds where no hub can be reached.

Values of the published config.json files of google/gemma-{2b,7b}-it, openai/clip-vit-large-patch14-336 and
facebook/dinov2-{large,giant}.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from transformers import CLIPVisionConfig, Dinov2Config, GemmaConfig, PreTrainedConfig

_gemma = partial(
    GemmaConfig,
    vocab_size=256_000,
    head_dim=256,
    hidden_act="gelu_pytorch_tanh",
    max_position_embeddings=8192,
    pad_token_id=0,
    eos_token_id=1,
    bos_token_id=2,
    tie_word_embeddings=True,
)
_dinov2 = partial(Dinov2Config, image_size=518, patch_size=14, mlp_ratio=4)

SHAPES: Mapping[str, Callable[[], PreTrainedConfig]] = {
    "google/gemma-2b-it": partial(
        _gemma,
        hidden_size=2048,
        intermediate_size=16_384,
        num_hidden_layers=18,
        num_attention_heads=8,
        num_key_value_heads=1,
    ),
    "google/gemma-7b-it": partial(
        _gemma,
        hidden_size=3072,
        intermediate_size=24_576,
        num_hidden_layers=28,
        num_attention_heads=16,
        num_key_value_heads=16,
    ),
    "openai/clip-vit-large-patch14-336": partial(
        CLIPVisionConfig,
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        image_size=336,
        patch_size=14,
        projection_dim=768,
    ),
    "facebook/dinov2-large": partial(_dinov2, hidden_size=1024, num_hidden_layers=24, num_attention_heads=16),
    "facebook/dinov2-giant": partial(
        _dinov2, hidden_size=1536, num_hidden_layers=40, num_attention_heads=24, use_swiglu_ffn=True
    ),
}
