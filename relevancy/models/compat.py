"""What published LLaVA checkpoints need before a current transformers computes with them what they were trained for."""

import copy
from typing import Any

import torch
from packaging.version import InvalidVersion, Version
from torch import nn
from transformers import (
    LlavaImageProcessorPil,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProcessorMixin,
)

from relevancy.errors import RelevancyError
from relevancy.models.prompts import END_OF_TURN

FRAMINGS = ("pad", "crop")
_SCALED_DECODERS = frozenset({"gemma", "gemma2"})
_SCALE_MOVED = (5, 4)  # transformers release
_LONGEST = 40  # characters of a value in a message
_SCALED = "image_features_scaled"  # config entry that says the repair was made
# Tokens of the tower that are no patches, registers apart.
_CLASS_TOKENS = {
    "clip_vision_model": 1,
    "deit": 2,
    "dinov2": 1,
    "dinov2_with_registers": 1,
    "dinov3_vit": 1,
    "siglip_vision_model": 0,
    "siglip2_vision_model": 0,
    "vit": 1,
}


# Towers that take pictures of the size they were trained on and no other.
_ONE_SIZE = frozenset({"clip_vision_model", "siglip_vision_model", "vit"})


def is_gemma(config: PreTrainedConfig) -> bool:
    """Whether a LLaVA-style model speaks through a Gemma of the first or second generation."""
    return "llava" in config.model_type and config.get_text_config().model_type in _SCALED_DECODERS


def needs_image_scale(config: PreTrainedConfig) -> bool:
    """Whether the checkpoint of this config expects its decoder to multiply image features by sqrt(hidden).

    Up to transformers 5.3 `GemmaModel` and `Gemma2Model` multiplied everything they were given, projected image
    features included; since 5.4 only the word embeddings are, and image tokens of older checkpoints arrive 45 (2B) or
    55 (7B) times too small, without an error. A config that was never saved has no version and needs nothing. Raises
    RelevancyError where the version is none, as builds from a checkout of transformers may write.
    """
    saved_by = config.transformers_version
    if not is_gemma(config) or not saved_by or getattr(config, _SCALED, False):
        return False
    try:
        return Version(str(saved_by)).release[:2] < _SCALE_MOVED
    except InvalidVersion as error:
        raise RelevancyError(
            f"transformers_version in config.json is {str(saved_by)[:_LONGEST]!r}, which is no release, so whether "
            "image features of this LLaVA-Gemma need to be scaled cannot be told: write the release that trained it, "
            'such as "4.57.1" (before 5.4 they do) or "5.4.0" (since then they do not)'
        ) from error


@torch.no_grad()
def scale_image_features(model: PreTrainedModel) -> bool:
    """Puts sqrt(hidden) into the connector of a checkpoint that needs it, in place, once; tells whether it did.

    The factor is rounded to the weights' precision, as it was when the checkpoint was trained. The config remembers,
    so that the saved model is right for any loader of transformers >= 5.4 and is never repaired twice.
    """
    if not needs_image_scale(model.config):
        return False
    parts = [module for name, module in model.named_modules() if name.split(".")[-1] == "multi_modal_projector"]
    last = getattr(parts[0], "linear_2", None) if parts else None
    if not isinstance(last, nn.Linear):
        raise RelevancyError(
            f"the connector of this {model.config.model_type} checkpoint (saved by transformers "
            f"{model.config.transformers_version}) is not LLaVA's: convert it with transformers >= 5.4 first"
        )
    # LLaVA-NeXT and its relatives put a learned token between image rows, which the decoder multiplied as well.
    newlines = [value for name, value in model.named_parameters() if name.split(".")[-1] == "image_newline"]
    for parameter in [last.weight, last.bias, *newlines]:
        if parameter is not None:
            _multiply(parameter, model.config.get_text_config().hidden_size ** 0.5)
    setattr(model.config, _SCALED, True)
    return True


def _multiply(parameter: torch.Tensor, factor: float) -> None:
    if parameter.is_meta:
        raise RelevancyError(
            "the connector was left on disk: use a device_map that keeps multi_modal_projector in memory"
        )
    if parameter.dtype not in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
        raise RelevancyError("the connector is quantized: load a checkpoint whose multi_modal_projector is not")
    parameter.mul_(torch.tensor(factor, dtype=parameter.dtype, device=parameter.device))


def complete_processor(processor: ProcessorMixin, config: PreTrainedConfig) -> ProcessorMixin:
    """A copy of a LLaVA processor with the fields that published ones lack, read from the model's config.

    Without `patch_size` it fails; with the default `num_additional_image_tokens` of 0 it writes one image token too
    few for a tower with a class token. Any other processor comes back as it is.
    """
    if not all(hasattr(processor, field) for field in ("patch_size", "num_additional_image_tokens")):
        return processor
    completed: Any = copy.copy(processor)
    tower = config.vision_config
    completed.patch_size = tower.patch_size
    # VipLLaVA has no such setting: it leaves the class token out.
    completed.vision_feature_select_strategy = getattr(config, "vision_feature_select_strategy", "default")
    if tower.model_type in _CLASS_TOKENS:
        completed.num_additional_image_tokens = _CLASS_TOKENS[tower.model_type] + getattr(
            tower, "num_register_tokens", 0
        )
    tokenizer, token_id = completed.tokenizer, config.image_token_id
    token = tokenizer.convert_ids_to_tokens(token_id) if token_id < len(tokenizer) else None
    if token is None or tokenizer.encode(token, add_special_tokens=False) != [token_id]:
        raise RelevancyError(
            f"the tokenizer has no token for the picture (the model expects one with id {token_id}): "
            "this processor belongs to another model"
        )
    completed.image_token, completed.image_token_id = token, token_id
    if type(completed.image_processor).__name__ == "VideoLlavaImageProcessor":  # which warns of its old names
        completed.images_kwargs = {**getattr(completed, "images_kwargs", {}), "return_legacy_image_output": False}
    return completed


def class_tokens(tower: PreTrainedConfig) -> int | None:
    """How many of a tower's tokens are neither patches nor registers; None for a tower not known here."""
    return _CLASS_TOKENS.get(tower.model_type)


def extra_image_tokens(processor: ProcessorMixin) -> int:
    """How many image tokens come before the first patch: class token under "full", registers; 0 for most models."""
    extra = getattr(processor, "num_additional_image_tokens", 0)
    return extra - (getattr(processor, "vision_feature_select_strategy", None) == "default")


def frame(processor: ProcessorMixin, framing: str) -> ProcessorMixin:
    """A copy of a LLaVA processor that pads pictures to a square ("pad") or cuts the center square out ("crop").

    LLaVA trains its second stage with "pad", in the mean color; published processors say "crop".
    """
    if framing not in FRAMINGS:
        raise RelevancyError(f"unknown framing {framing!r}: choose one of {', '.join(FRAMINGS)}")
    old = processor.image_processor
    side = output_size(old)
    if not hasattr(processor, "num_additional_image_tokens") or side is None or side[0] != side[1]:
        raise RelevancyError(f"{type(old).__name__} cannot pad or crop to a square: leave framing out")
    kept: dict[str, Any] = {
        name: getattr(old, name)
        for name in ("resample", "do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std")
    }
    framed = copy.copy(processor)
    framed.image_processor = LlavaImageProcessorPil(
        do_pad=framing == "pad",
        do_resize=True,
        do_center_crop=True,
        do_convert_rgb=True,
        size={"shortest_edge": side[0]},
        crop_size={"height": side[0], "width": side[0]},
        **kept,
    )
    return framed


def output_size(image_processor: Any) -> tuple[int, int] | None:
    """Height and width of what the model sees, or None where it depends on the picture."""
    size = image_processor.crop_size if getattr(image_processor, "do_center_crop", False) else image_processor.size
    given = {name: value for name, value in dict(size or {}).items() if value}
    return (given["height"], given["width"]) if set(given) == {"height", "width"} else None


def check_size(processor: ProcessorMixin, config: PreTrainedConfig) -> None:
    """Refuse a processor whose pictures the tower cannot take: its patches have positions for one size only."""
    tower = getattr(config, "vision_config", None)
    if tower is None or tower.model_type not in _ONE_SIZE:
        return
    given, side = output_size(processor.image_processor), getattr(tower, "image_size", None)
    if given is None or side is None:
        return
    taken = (side, side) if isinstance(side, int) else tuple(side)
    if given != taken:
        raise RelevancyError(
            f"the processor makes pictures of {given[0]} x {given[1]} pixels, and this model's tower takes "
            f"{taken[0]} x {taken[1]}: the processor belongs to another model, so give the model's own"
        )


def stop_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Ids that end an answer: what the model's files say, and Gemma's `<end_of_turn>`.

    LLaVA-Gemma's recipe trains the latter and never `<eos>`, although its files name only `<eos>`.
    """
    named: list[int | list[int] | None] = [tokenizer.eos_token_id, model.config.get_text_config().eos_token_id]
    if model.generation_config is not None:
        named.append(model.generation_config.eos_token_id)
    if END_OF_TURN in tokenizer.get_vocab():
        named.append(tokenizer.convert_tokens_to_ids(END_OF_TURN))
    flat = [token for entry in named for token in (entry if isinstance(entry, list) else [entry])]
    words = range(model.config.get_text_config().vocab_size)  # some files say -1 for none
    return tuple(sorted({token for token in flat if token is not None and token in words}))
