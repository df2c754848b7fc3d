"""A tower and a decoder that know nothing of each other -> one LlavaForConditionalGeneration with a fresh connector."""

from __future__ import annotations

import torch
from torch import Tensor
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

    `sample`: features (..., width) of some pictures. What all patches have in common is then subtracted by the
    connector's first bias, so that from the first step on it hands over what tells them apart.
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
    with torch.no_grad():
        for parameter in connector.linear_2.parameters():
            parameter.mul_(decoder_config.hidden_size**0.5)
        if sample is not None:
            common = sample.float().flatten(0, -2).mean(0)
            connector.linear_1.bias.copy_(-connector.linear_1.weight @ common)
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=[tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(END)],
        pad_token_id=tokenizer.pad_token_id,
        do_sample=False,
        max_new_tokens=32,
    )
    return model
