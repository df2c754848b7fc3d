"""Decoder, tower, tokenizer and picture processor by name: hub id, folder, or a LLaVA-style model that has them."""

from __future__ import annotations

__all__ = ["parts_of"]

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForCausalLM,
    AutoTokenizer,
    LlavaImageProcessorPil,
    LlavaProcessor,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import MODEL_MAPPING

from relevancy.errors import RelevancyError
from relevancy.models import bases, checkpoints, compat
from relevancy.models.model import load
from relevancy.models.prompts import with_turns
from relevancy.train.presets import Preset
from relevancy.train.projector import FILE, check_settings, projector, projector_file
from relevancy.train.shapes import SHAPES

CHAT_TEMPLATE = (  # Gemma's turns, with the picture where its message has it
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<start_of_turn>' + ('model' if message['role'] == 'assistant' else message['role']) + '\n' }}"
    "{% if message['content'] is string %}{{ message['content'] | trim }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<image>\n' }}"
    "{% elif part['type'] == 'text' %}{{ part['text'] | trim }}{% endif %}"
    "{% endfor %}{% endif %}{{ '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)


@dataclass(frozen=True)
class Parts:
    """What is known of a model before its weights are read: configs, tokenizer, how pictures are prepared."""

    language: PreTrainedConfig
    vision: PreTrainedConfig
    tokenizer: PreTrainedTokenizerBase
    pictures: Any  # an image processor, of which only the numbers count

    @property
    def strategy(self) -> str:
        """Which of the tower's tokens the connector gets: all, or all but the class token."""
        return strategy_for(self.vision)


def strategy_for(vision: PreTrainedConfig) -> str:
    """The tower's tokens that become image tokens, in LLaVA's words. Raises for a tower that is not known."""
    found = compat.class_tokens(vision)
    if found is None:
        raise RelevancyError(
            f"towers of type {vision.model_type} are not known here: add it to relevancy/models/compat.py"
        )
    return "default" if found else "full"


def parts_of(preset: Preset) -> Parts:
    """The parts a preset names. Raises RelevancyError where one is missing or does not fit."""
    language, vision = config_of(preset.language, "language"), config_of(preset.vision, "vision")
    check_size(vision, preset)
    check_connector(preset, language, vision)
    return Parts(language, vision, tokenizer_of(preset.language), pictures_of(preset.vision))


def tokenizer_of(name: str) -> PreTrainedTokenizerBase:
    """A decoder's tokenizer, with the control tokens of Gemma's turns and `<image>` where it lacks them."""
    return with_turns(_asked(AutoTokenizer, name), name)


def pictures_of(name: str) -> Any:
    """A tower's image processor."""
    return _asked(AutoImageProcessor, name, backend="pil")


def config_of(name: str, role: str) -> PreTrainedConfig:
    """The config of a decoder ("language") or tower ("vision"); from `shapes` where the name stands there."""
    if name in SHAPES:
        return SHAPES[name]()
    config = _asked(AutoConfig, name)
    inner = getattr(config, "text_config" if role == "language" else "vision_config", None)
    if inner is None and role == "language" and getattr(config, "vision_config", None) is not None:
        raise RelevancyError(f"{name} ({config.model_type}) has no decoder to take")
    return config if inner is None else inner


def check_size(vision: PreTrainedConfig, preset: Preset) -> None:
    """Refuse an input that the tower cannot take, or a layer that it lacks, before anything is built."""
    side, patch = preset.image_size, vision.patch_size
    if side % patch:
        raise RelevancyError(f"image_size {side} is no multiple of {preset.vision}'s patches of {patch} pixels")
    if vision.model_type == "clip_vision_model" and side != vision.image_size:
        raise RelevancyError(
            f"{preset.vision} takes pictures of {vision.image_size} pixels, not {side}: set image_size"
        )
    layers = vision.num_hidden_layers
    if not -layers - 1 <= preset.feature_layer <= layers:
        raise RelevancyError(
            f"feature_layer {preset.feature_layer}: {preset.vision} has {layers} layers, so {-layers - 1} to {layers}"
        )


def check_connector(preset: Preset, language: PreTrainedConfig, vision: PreTrainedConfig) -> None:
    """Refuse a connector that is none, or that does not fit, before a decoder is read."""
    if not preset.connector:
        return
    if file := projector_file(preset.connector):
        check_settings(file, preset.feature_layer, strategy_for(vision))
        projector(file, language, vision)
    elif not _is_whole(preset.connector):
        raise RelevancyError(
            f"{preset.connector} has no connector: give a LLaVA-style model or an {FILE}, or leave connector empty"
        )


def tower_tokens(vision: PreTrainedConfig, side: int) -> tuple[int, int]:
    """Tokens of one picture of `side` pixels: in the tower, and handed to the decoder."""
    patches = (side // vision.patch_size) ** 2
    others = (compat.class_tokens(vision) or 0) + getattr(vision, "num_register_tokens", 0)
    return patches + others, patches + others - (strategy_for(vision) == "default")


def processor_for(parts: Parts, side: int, framing: str, config: PreTrainedConfig) -> LlavaProcessor:
    """The processor of a finished model: pictures of `side` pixels, framed as asked, a placeholder per image token."""
    square = {"height": side, "width": side}
    pictures = LlavaImageProcessorPil(
        do_pad=framing == "pad",
        do_resize=True,
        do_center_crop=True,
        do_convert_rgb=True,
        size={"shortest_edge": side},
        crop_size=square,
        resample=parts.pictures.resample,
        image_mean=parts.pictures.image_mean,
        image_std=parts.pictures.image_std,
    )
    plain = LlavaProcessor(image_processor=pictures, tokenizer=parts.tokenizer, chat_template=CHAT_TEMPLATE)
    return compat.complete_processor(plain, config)  # type: ignore[return-value]


def decoder_of(name: str, dtype: torch.dtype) -> PreTrainedModel:
    """A model with a decoder and its output head: a causal language model, or a LLaVA-style one."""
    if _is_whole(name):
        return load(name, dtype=dtype, device="cpu").model
    return _asked(AutoModelForCausalLM, name, dtype=dtype, **checkpoints.NO_ADAPTER)


def tower_of(name: str, dtype: torch.dtype) -> PreTrainedModel:
    """A vision tower: its own checkpoint, that of a CLIP-style pair, or the tower of a LLaVA-style model."""
    if _is_whole(name):
        return load(name, dtype=dtype, device="cpu").model.model.vision_tower
    config = config_of(name, "vision")
    return _asked(MODEL_MAPPING[type(config)], name, config=config, dtype=dtype, **checkpoints.NO_ADAPTER)


def connector_of(name: str, config: PreTrainedConfig) -> dict[str, torch.Tensor]:
    """The weights of a connector for a model of this config, float32.

    That of a LLaVA-style model, repaired where its files need it; or the `mm_projector.bin` of the original code's
    stage 1, in which a Gemma multiplied by sqrt(hidden) what the connector gave: the last layer then takes the factor.
    """
    if file := projector_file(name):
        text = config.get_text_config()
        weights = projector(file, text, config.vision_config)
        factor = text.hidden_size**0.5 if compat.is_gemma(config) else 1.0
        return {key: value * factor if key.startswith("linear_2.") else value for key, value in weights.items()}
    return load(name, dtype=torch.float32, device="cpu").model.model.multi_modal_projector.state_dict()


def _is_whole(name: str) -> bool:
    config = None if name in SHAPES else _asked(AutoConfig, name)
    return getattr(config, "vision_config", None) is not None and getattr(config, "text_config", None) is not None


def _asked(kind: Any, name: str, **options: Any) -> Any:
    """`from_pretrained` of a name, with one line for what can go wrong. Code of a checkpoint is never run."""
    known = checkpoints.MODELS.get(name)
    source: str | Path = known.source if known else name
    if bases.needed_by(Path(source).expanduser()):
        source = bases.joined(Path(source).expanduser(), name)
    if isinstance(source, str) and (source.startswith((".", "/", "~")) and not Path(source).expanduser().is_dir()):
        raise RelevancyError(f"there is no folder {source}: give a folder or a hub id such as google/gemma-2b-it")
    try:
        return kind.from_pretrained(source, trust_remote_code=False, **options)
    except (OSError, ValueError, KeyError, ImportError) as error:
        why = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise RelevancyError(f"{name} cannot be read as {kind.__name__.removeprefix('Auto')}: {why}") from error
