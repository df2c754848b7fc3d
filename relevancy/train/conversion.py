"""Checkpoints of the original LLaVA code <-> Hugging Face's layout, without a bit lost on the way there and back.

The original code keeps the connector as `model.mm_projector.{0,2}`, the tower, if at all, as
`model.vision_tower.vision_tower`, has no row for `<image>`, and for a Gemma relies on a transformers that multiplies
image features by sqrt(hidden) in the decoder. Here they are `multi_modal_projector`, a tower, padded rows, and that
factor in the connector's last layer. What was rounded and cannot be computed back is stored beside the weights.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CONFIG_MAPPING, AutoProcessor, LlavaForConditionalGeneration, PreTrainedConfig

from relevancy.atomic_io import whole
from relevancy.errors import RelevancyError
from relevancy.models import checkpoints, compat
from relevancy.train.composition import generation, joined_config, padded_rows, scale_of
from relevancy.train.parts import Parts, config_of, pictures_of, processor_for, tokenizer_of, tower_of
from relevancy.train.projector import KIND, LAYERS, tensors
from relevancy.train.template import IMAGE

KEPT = "original"  # folder beside the converted weights
_RECORD, _UNSCALED = "record.json", "connector.safetensors"
_LAST = "model.multi_modal_projector.linear_2."
_TOWER = "model.vision_tower.vision_tower."
_FOREIGN = ("model_type", "architectures", "transformers_version", "dtype", "vocab_size")
_ROTARY = ("rope_theta", "rope_scaling")  # where configs had them before transformers 5
_MULTIPLE = 64  # rows of the embedding
_SPREAD = 1e-5**0.5  # of added rows, as transformers draws them
_FORGOTTEN = (".position_ids", ".rotary_emb.inv_freq")  # computed anew, not stored any more
_TEXT = {"llava": "llama", "llava_llama": "llama", "llava_gemma": "gemma", "llava_mistral": "mistral"}


def to_hugging_face(
    source: Path,
    target: Path,
    *,
    language: str | None = None,
    vision: str | None = None,
    side: int | None = None,
    framing: str | None = None,
) -> Path:
    """Convert an original checkpoint's folder; what `target` then holds, `relevancy.load` and transformers open.

    language: where the tokenizer is, by default `source`. vision: the tower, by default the one `source` names; its
    weights are read from there if `source` has none. side: pixels of its input, by default as its config says; the
    original code takes DINOv2's 518 down to 224. framing: "pad" or "crop", by default as `image_aspect_ratio` says.
    Raises RelevancyError, also for what the original does to pictures or prompts and this layout cannot.
    """
    _check_free(target)
    original = _config(source)
    kind = _TEXT.get(original["model_type"])
    if kind is None or "mm_projector_type" not in original:
        raise RelevancyError(f"{source} is no checkpoint of the original LLaVA code ({original['model_type']})")
    _check_settings(original, source)
    tower = vision or original.get("mm_vision_tower")
    if not tower:
        raise RelevancyError(f"{source} does not name its tower: give --vision")
    state = _state(source)
    text = _text_config(kind, original)
    parts = Parts(text, config_of(tower, "vision"), tokenizer_of(language or str(source)), pictures_of(tower))
    present = state["model.embed_tokens.weight"].shape[0]
    text.vocab_size = padded_rows(present, len(parts.tokenizer), _MULTIPLE)
    token = parts.tokenizer.convert_tokens_to_ids(IMAGE)
    config = joined_config(text, parts.vision, token, original.get("mm_vision_select_layer", -2))  # type: ignore[arg-type]
    if original.get("mm_vision_select_feature") == "cls_patch":
        config.vision_feature_select_strategy = "full"
    with torch.device("meta"):
        model = LlavaForConditionalGeneration(config)
    weights, unscaled = _renamed(state, model), {}
    record = {
        "config": original,
        "rows": present,
        "tower": any(name.startswith(_TOWER) for name in state),
        "head": "lm_head.weight" in state,
    }
    if not record["tower"]:
        seeing = tower_of(tower, weights["model.language_model.embed_tokens.weight"].dtype)
        weights |= {f"model.vision_tower.{name}": value for name, value in seeing.state_dict().items()}
    for name in ("model.language_model.embed_tokens.weight", "lm_head.weight"):
        if name in weights:
            weights[name] = _extended(weights[name], text.vocab_size)
    if compat.is_gemma(config):
        unscaled = {name: value for name, value in weights.items() if name.startswith(_LAST)}
        weights |= {name: _scaled(value, config) for name, value in unscaled.items()}
        config.image_features_scaled = True  # see compat.needs_image_scale
    _assign(model, weights, source)
    model.generation_config = generation(parts.tokenizer)
    side = parts.vision.image_size if side is None else side
    with whole(target) as part:
        model.save_pretrained(part)
        framing = framing or ("pad" if original.get("image_aspect_ratio") == "pad" else "crop")
        processor_for(parts, side, framing, model.config).save_pretrained(part)
        (part / KEPT).mkdir()
        (part / KEPT / _RECORD).write_text(json.dumps(record, indent=2) + "\n")
        save_file({name: value.contiguous() for name, value in unscaled.items()}, part / KEPT / _UNSCALED)
    return target


def to_original(source: Path, target: Path) -> Path:
    """Convert a LLaVA in Hugging Face's layout back. Of one that came from there, all weights are what they were.

    A model that was trained here names its tower by `training.json`. Raises RelevancyError.
    """
    _check_free(target)
    kind = _config(source)["model_type"]
    if kind != "llava":  # transformers would build a model of LLaVA's default size out of any other config
        raise RelevancyError(f"{source} is no LLaVA in Hugging Face's layout ({kind})")
    try:
        model = LlavaForConditionalGeneration.from_pretrained(source, dtype="auto", **checkpoints.NO_ADAPTER)
        processor: Any = AutoProcessor.from_pretrained(source, backend="pil")
    except (OSError, ValueError) as error:
        raise RelevancyError(f"{source} cannot be read: {str(error).splitlines()[0]}") from error
    record, unscaled = _record(source, model.config, padded=processor.image_processor.do_pad)
    weights = dict(model.state_dict())
    if compat.is_gemma(model.config) and not compat.needs_image_scale(model.config):
        weights |= {name: _unscaled(weights[name], unscaled.get(name), model.config) for name in _last(weights)}
    state = dict(_original(weights, record, model.config.vision_config.model_type))  # type: ignore[union-attr]
    with whole(target) as part:
        part.mkdir(parents=True)
        save_torch_state_dict(state, part)
        (part / "config.json").write_text(json.dumps(record["config"], indent=2) + "\n")
        processor.tokenizer.save_pretrained(part)
    return target


def _projector_name(name: str, numbers: Mapping[str, str]) -> str:
    _, layer, kind = name.rsplit(".", 2)
    return f"model.mm_projector.{numbers[layer]}.{kind}"


def _renamed(state: Mapping[str, Tensor], model: LlavaForConditionalGeneration) -> dict[str, Tensor]:
    """The original's weights under the names that the model has in memory."""
    known = model.state_dict()
    found = {}
    for name, value in state.items():
        if name.endswith(_FORGOTTEN):
            continue
        if name.startswith("model.mm_projector."):
            _, _, number, kind = name.split(".")
            new = f"model.multi_modal_projector.{LAYERS.get(number, number)}.{kind}"
        elif name.startswith(_TOWER):
            tail = name.removeprefix(_TOWER)
            plain = f"model.vision_tower.{tail}"
            new = plain if plain in known else f"model.vision_tower.{tail.removeprefix('vision_model.')}"
        else:
            new = name if name == "lm_head.weight" else f"model.language_model.{name.removeprefix('model.')}"
        if new not in known:
            raise RelevancyError(f"the checkpoint holds {name}, for which this model has no place")
        found[new] = value
    return found


def _original(weights: Mapping[str, Tensor], record: Mapping[str, Any], kind: str) -> Iterator[tuple[str, Tensor]]:
    """The weights under the original's names, without rows that were added."""
    numbers = {own: number for number, own in LAYERS.items()}
    prefix = "" if kind.startswith("dinov2") else "vision_model."
    for name, value in weights.items():
        if name.startswith("model.multi_modal_projector."):
            yield _projector_name(name, numbers), value
        elif name.startswith("model.vision_tower."):
            tail = name.removeprefix("model.vision_tower.").removeprefix("vision_model.")
            if record["tower"]:
                yield f"{_TOWER}{prefix}{tail}", value
        elif name == "lm_head.weight":
            if record["head"]:
                yield name, value[: record["rows"]].clone()
        else:
            own = f"model.{name.removeprefix('model.language_model.')}"
            yield own, value[: record["rows"]].clone() if own == "model.embed_tokens.weight" else value


def _record(source: Path, config: PreTrainedConfig, *, padded: bool) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What was kept when this model was converted, or what follows from its config."""
    if (source / KEPT / _RECORD).is_file():
        return json.loads((source / KEPT / _RECORD).read_text()), load_file(source / KEPT / _UNSCALED)
    text = config.get_text_config()
    names = {kind: original for original, kind in _TEXT.items()}
    if text.model_type not in names:
        raise RelevancyError(f"{source}: the original code has no place for a decoder of type {text.model_type}")
    trained = source / "training.json"
    tower = json.loads(trained.read_text())["preset"]["vision"] if trained.is_file() else ""
    last = config.image_token_id + 1 >= text.vocab_size - _MULTIPLE  # the token was added behind the decoder's own
    original = text.to_diff_dict() | {
        "model_type": names[text.model_type],
        "mm_projector_type": "mlp2x_gelu",
        "mm_vision_tower": tower,
        "mm_hidden_size": config.vision_config.hidden_size,
        "mm_vision_select_layer": config.vision_feature_layer,
        "mm_vision_select_feature": "patch" if config.vision_feature_select_strategy == "default" else "cls_patch",
        "mm_use_im_start_end": False,
        "mm_use_im_patch_token": False,
        "mm_patch_merge_type": "flat",
        "image_aspect_ratio": "pad" if padded else "square",
        "use_mm_proj": True,
        "tokenizer_padding_side": "right",
        "rope_theta": (getattr(text, "rope_parameters", None) or {}).get("rope_theta", 10_000.0),
        "torch_dtype": str(config.dtype).removeprefix("torch."),
    }
    rows = config.image_token_id if last else text.vocab_size
    original["vocab_size"] = rows
    head = not text.tie_word_embeddings
    return {"config": original, "rows": rows, "tower": True, "head": head}, {}


def _check_settings(original: Mapping[str, Any], source: Path) -> None:
    if original["mm_projector_type"] != KIND:
        raise RelevancyError(
            f"{source}: a connector of type {original['mm_projector_type']} has no place in this layout"
        )
    ratio = original.get("image_aspect_ratio")
    if ratio not in (None, "square", "pad"):
        raise RelevancyError(f"{source} cuts a picture into several ({ratio}), for which this layout has no place")
    if original.get("mm_use_im_start_end"):
        raise RelevancyError(f"{source} puts pictures between <im_start> and <im_end>, which this layout does not")


def _text_config(kind: str, original: Mapping[str, Any]) -> PreTrainedConfig:
    """The decoder's config out of the original's, which mixes it with settings of the tower and of training."""
    known = {*CONFIG_MAPPING[kind]().to_dict(), *_ROTARY}.difference(_FOREIGN)
    return CONFIG_MAPPING[kind](**{key: value for key, value in original.items() if key in known})


def _extended(rows: Tensor, count: int) -> Tensor:
    """An embedding with rows added up to `count`, drawn from the distribution of those there are, each value alone."""
    added = count - len(rows)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(added, rows.shape[1], generator=generator)
    spread, mean = rows.float().std(0), rows.float().mean(0)
    return torch.cat([rows, (mean + drawn * spread * _SPREAD).to(rows.dtype)])


def _scaled(value: Tensor, config: PreTrainedConfig) -> Tensor:
    """Times sqrt(hidden), rounded as compat.scale_image_features rounds it."""
    return value * torch.tensor(scale_of(config), dtype=value.dtype)


def _unscaled(value: Tensor, kept: Tensor | None, config: PreTrainedConfig) -> Tensor:
    """The value before `_scaled`: the one that was kept, if it still gives this one."""
    if kept is not None and torch.equal(_scaled(kept, config), value):
        return kept
    return value / torch.tensor(scale_of(config), dtype=value.dtype)


def _last(weights: Mapping[str, Tensor]) -> list[str]:
    return [name for name in weights if name.startswith(_LAST)]


def _assign(model: LlavaForConditionalGeneration, weights: dict[str, Tensor], source: Path) -> None:
    """Make the weights the model's own, in the precision they have."""
    if "lm_head.weight" not in weights:
        weights["lm_head.weight"] = weights["model.language_model.embed_tokens.weight"]
    missing = model.load_state_dict(weights, strict=False, assign=True).missing_keys
    if missing := [name for name in missing if not name.endswith(_FORGOTTEN)]:
        raise RelevancyError(f"{source}: the weights are incomplete, {len(missing)} are missing, such as {missing[0]}")
    model.tie_weights()
    dtype = weights["lm_head.weight"].dtype
    for part in (model.config, model.config.text_config, model.config.vision_config):
        part.dtype = dtype  # type: ignore[union-attr]


def _config(source: Path) -> dict[str, Any]:
    try:
        found = json.loads((source / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise RelevancyError(f"{source} is no checkpoint: its config.json cannot be read") from error
    return {"model_type": ""} | found


def _state(source: Path) -> dict[str, Tensor]:
    """All tensors of a folder, safetensors or, read as tensors alone, pickles."""
    safe, pickled = sorted(source.glob("*.safetensors")), sorted(source.glob("pytorch_model*.bin"))
    state: dict[str, Tensor] = {}
    for file in safe or pickled:
        state |= tensors(file)
    if "model.embed_tokens.weight" not in state:
        raise RelevancyError(
            f"{source} holds no decoder's weights (a connector alone is for train finetune --projector)"
        )
    return state


def _check_free(target: Path) -> None:
    if target.exists():
        raise RelevancyError(f"{target} is there already: choose another --out")
