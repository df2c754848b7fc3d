"""A tower and a decoder that know nothing of each other -> one LlavaForConditionalGeneration with a fresh connector."""

from __future__ import annotations

__all__ = ["assembled"]

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from transformers import (
    AutoModel,
    GenerationConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.llava.modeling_llava import LlavaMultiModalProjector

from relevancy.errors import RelevancyError
from relevancy.train.parts import Parts, connector_of, decoder_of, strategy_for, tower_of
from relevancy.train.presets import Preset
from relevancy.train.stages import PARTS, Stage
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

    Gemma and others multiply their word embeddings by a number such as sqrt(hidden), and nothing else: a connector
    initialized as usual would write features that much smaller than the words around them. The factor is put into the
    connector's last layer here, once, and needs no repair when loaded again.

    `sample`: features (..., width) of some pictures. Before the first step the connector is then centered, so that it
    hands over what tells patches apart, and scaled, so that what it hands over is as large as the words around it.
    """
    config = joined_config(decoder_config, tower.config, tokenizer.convert_tokens_to_ids(IMAGE), feature_layer)  # type: ignore[arg-type]
    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration(config)
    model.model.vision_tower.load_state_dict(tower.state_dict())
    if decoder is not None:
        model.model.language_model.load_state_dict(decoder.base_model.state_dict())
        model.lm_head.load_state_dict(decoder.get_output_embeddings().state_dict())
    connector = model.model.multi_modal_projector
    if sample is None:
        _scale(connector.linear_2, scale_of(config))
    else:
        _center_and_scale(model, sample.float().flatten(0, -2))
    model.generation_config = generation(tokenizer, 32)
    return model


def assembled(preset: Preset, parts: Parts, stage: Stage | None = None) -> LlavaForConditionalGeneration:
    """The model a preset names, with trained tower and decoder and its connector fresh or given. On the CPU.

    Both come into it as they are: no second copy of them exists at any time. Embeddings of added tokens are drawn, with
    the preset's seed, from the distribution of the others. What a stage with `half_frozen` leaves alone is bfloat16,
    all else float32.
    """
    dtypes = {part: _dtype(part, stage, preset) for part in PARTS}
    decoder = decoder_of(preset.language, dtypes["decoder"])
    check_decoder(decoder, preset.language)
    tower = tower_of(preset.vision, dtypes["tower"])
    present = decoder.get_input_embeddings().weight.shape[0]  # type: ignore[index]
    rows = padded_rows(present, len(parts.tokenizer), preset.vocabulary_multiple)  # type: ignore[arg-type]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(preset.seed)
        if rows != present:
            decoder.resize_token_embeddings(rows, mean_resizing=True)
        text = decoder.config.get_text_config()
        token = parts.tokenizer.convert_tokens_to_ids(IMAGE)
        config = joined_config(text, tower.config, token, preset.feature_layer)  # type: ignore[arg-type]
        with torch.device("meta"):
            model = LlavaForConditionalGeneration(config)
        model.model.multi_modal_projector = fresh_connector(config)
    model.model.language_model = getattr(decoder.model, "language_model", decoder.model)
    model.lm_head = decoder.get_output_embeddings()
    model.model.vision_tower = tower
    model.tie_weights()
    if preset.connector:
        model.model.multi_modal_projector.load_state_dict(connector_of(preset.connector, config))
    model.generation_config = generation(parts.tokenizer)
    return model.train()


def joined_config(
    text: PretrainedConfig, vision: PretrainedConfig, image_token: int, feature_layer: int = -2
) -> LlavaConfig:
    """The config of a decoder and a tower with LLaVA's two-layer connector between them."""
    return LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=image_token,
        vision_feature_layer=feature_layer,
        vision_feature_select_strategy=strategy_for(vision),  # type: ignore[arg-type]
        projector_hidden_act="gelu",
        tie_word_embeddings=text.tie_word_embeddings,
    )


def padded_rows(present: int, needed: int, multiple: int) -> int:
    """Rows of an embedding that has `present`, needs `needed`, and shall have a multiple of `multiple`."""
    return -(-max(present, needed) // multiple) * multiple


def fresh_connector(config: LlavaConfig) -> LlavaMultiModalProjector:
    """A connector as torch initializes linear layers, which is how LLaVA starts, times what words are multiplied by."""
    connector = LlavaMultiModalProjector(config)
    _scale(connector.linear_2, scale_of(config))
    return connector


@torch.no_grad()
def scale_of(config: PretrainedConfig) -> float:
    """What the decoder's embedding multiplies words by, measured: sqrt(hidden) for every Gemma, 1 for most others.

    Image features do not pass the embedding. A number by which a decoder multiplies all that it is given, as Granite
    does, reaches them as well, and is no part of this.
    """
    with torch.random.fork_rng(devices=[]):
        with torch.device("meta"):
            decoder = AutoModel.from_config(config.get_text_config())
        words = decoder.get_input_embeddings()
        words.weight = nn.Parameter(torch.empty(1, words.weight.shape[1]))
        words.padding_idx = None
        for name, buffer in words.named_buffers(recurse=False):
            setattr(words, name, torch.empty_like(buffer, device="cpu"))
        decoder._init_weights(words)  # gives the buffers their values
        words.weight.fill_(1.0)
        return float(words(torch.tensor([0]))[0, 0])


@torch.no_grad()
def check_decoder(decoder: PreTrainedModel, name: str) -> None:
    """Refuse a decoder that does with words what it cannot do with embeddings: pictures come as embeddings.

    Falcon-H1 scales only words that come as ids; Gemma 3n and 4 look their ids up in every layer.
    """
    ids = torch.tensor([[1, 2]], device=decoder.device)
    words = decoder.get_input_embeddings()(ids)
    with_picture = torch.cat([words, words.mean(1, keepdim=True)], 1)  # the last is no word, and nothing sees it
    expected = decoder(input_ids=ids, use_cache=False).logits
    try:
        found = decoder(inputs_embeds=with_picture, use_cache=False).logits[:, :2]
        same = bool((found - expected).abs().max() <= 1e-3 * expected.abs().max())
    except (RuntimeError, ValueError):
        same = False
    if not same:
        raise RelevancyError(
            f"{name} ({decoder.config.model_type}) does with words what it cannot do with the embeddings that pictures "
            "come as: choose another decoder"
        )


def put(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Replace some of a model's weights, by name."""
    unknown = model.load_state_dict(weights, strict=False).unexpected_keys
    if unknown:
        raise ValueError(f"weights that the model lacks, such as {unknown[0]}")


def _dtype(part: str, stage: Stage | None, preset: Preset) -> torch.dtype:
    if stage is None or not stage.half_frozen:
        return torch.float32
    trains = part in stage.trains and not (part == "decoder" and preset.lora_rank)
    return torch.float32 if trains else torch.bfloat16


def generation(tokenizer: PreTrainedTokenizerBase, longest: int = 512) -> GenerationConfig:
    """Greedy answers of at most `longest` tokens, which a turn's end ends."""
    return GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=[tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(END)],
        pad_token_id=tokenizer.pad_token_id,
        do_sample=False,
        max_new_tokens=longest,
    )


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
