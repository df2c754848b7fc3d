"""A tower and a decoder that know nothing of each other -> one LlavaForConditionalGeneration with a fresh connector."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import (
    GenerationConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from relevancy.train.template import END, IMAGE


def compose(
    tower: PreTrainedModel,
    decoder_config: PretrainedConfig,
    tokenizer: PreTrainedTokenizerBase,
    *,
    decoder: PreTrainedModel | None = None,
    sample: Tensor | None = None,
    feature_layer: int = -2,
    seed: int = 0,
) -> LlavaForConditionalGeneration:
    """LLaVA from a trained tower and a decoder (fresh from its config, or the weights of a given causal LM).

    Gemma multiplies its text embeddings by sqrt(hidden). Up to transformers 5.3 it multiplied image features too; since
    5.4 it does not, so a connector initialized as usual would write features sqrt(hidden) times smaller than the words
    around them. The factor is put into the connector's last layer here, once, and needs no repair when loaded again.

    `sample`: features (..., width) of some pictures. Before the first step the connector is then centered, so that it
    hands over what tells patches apart, and scaled, so that what it hands over is as large as the words around it.
    """
    config = LlavaConfig(
        vision_config=tower.config,
        text_config=decoder_config,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),  # type: ignore[arg-type]
        vision_feature_layer=feature_layer,
        vision_feature_select_strategy="default",
        projector_hidden_act="gelu",
        tie_word_embeddings=decoder_config.tie_word_embeddings,
    )
    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration(config)
    model.model.vision_tower.load_state_dict(tower.state_dict())
    if decoder is not None:
        model.model.language_model.load_state_dict(decoder.base_model.state_dict())
        model.lm_head.load_state_dict(decoder.get_output_embeddings().state_dict())
    connector = model.model.multi_modal_projector
    if sample is None:
        _scale(connector.linear_2, decoder_config.hidden_size**0.5)
    else:
        _center_and_scale(model, sample.float().flatten(0, -2))
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=[tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(END)],
        pad_token_id=tokenizer.pad_token_id,
        do_sample=False,
        max_new_tokens=32,
    )
    return model


@torch.no_grad()
def _scale(linear: nn.Linear, factor: float | Tensor) -> None:
    for parameter in linear.parameters():
        parameter.mul_(factor)


@torch.no_grad()
def _center_and_scale(model: LlavaForConditionalGeneration, features: Tensor) -> None:
    """Features (patches, width) leave both layers with mean zero, and the connector with the words' mean square."""
    connector = model.model.multi_modal_projector
    connector.linear_1.bias.copy_(-connector.linear_1.weight @ features.mean(0))
    connector.linear_2.bias.sub_(connector(features).mean(0))
    words = model.get_input_embeddings()(torch.arange(model.config.get_text_config().vocab_size))
    _scale(connector.linear_2, (words.square().mean() / connector(features).square().mean()).sqrt())
