"""Checkpoint folders: found by name, read without running anything that came with them."""

from __future__ import annotations

__all__ = ["MODELS"]

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    StrictDataclassError,
)
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProcessorMixin,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

from relevancy.errors import RelevancyError, shortened
from relevancy.models import video_processors

_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")
# What is fetched of a hub repository: weights, configs, tokenizer files. No pickles, no code, no subfolders.
_PARTS: dict[str, Any] = {
    "allow_patterns": ["*.safetensors", "*.json", "*.jinja", "*.model", "merges.txt", "vocab.txt"],
    "ignore_patterns": ["*/*", "consolidated*"],
}
# What transformers raises for files that are not what it expects.
UNREADABLE = (
    OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, ImportError, ArithmeticError,
    AssertionError, StrictDataclassError,
)  # fmt: skip
ADAPTER = "adapter_model.safetensors"
# transformers applies an adapter that lies beside the weights, merged or not; what is applied here is chosen here.
NO_ADAPTER: dict[str, Any] = {"adapter_kwargs": {"subfolder": "no adapter"}}
_COMPUTED = (".position_ids", ".inv_freq")  # in older files, computed anew since
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class Spec:
    """Where a named model comes from: a hub id, or a folder inside this package."""

    source: str | Path
    about: str


_WEIGHTS = Path(__file__).parents[1] / "demo" / "weights"
MODELS = {
    "demo-small": Spec(_WEIGHTS / "demo-small", "the smaller of the embedded pair, no download"),
    "demo-large": Spec(_WEIGHTS / "demo-large", "the larger of the embedded pair, no download"),
    "demo-gemma": Spec(_WEIGHTS / "demo-gemma", "the pair's tower with Google's Gemma 3 270M, which comes on demand"),
    "2b": Spec("Intel/llava-gemma-2b", "LLaVA-Gemma 2B with a CLIP tower"),
    "7b": Spec("Intel/llava-gemma-7b", "LLaVA-Gemma 7B with a CLIP tower"),
}


def folder_of(label: str, revision: str | None) -> Path:
    """The local folder of a named model, a path or a hub id, fetched if it must be. Raises RelevancyError."""
    source = _source_of(label)
    return source if isinstance(source, Path) else Path(_fetched(source, label, revision))


def folder_at_hand(label: str) -> Path | None:
    """The same where nothing must be fetched; None for what is on the hub alone. Raises RelevancyError."""
    source = _source_of(label)
    if isinstance(source, Path):
        return source
    try:
        return Path(snapshot_download(source, local_files_only=True, **_PARTS))
    except (OSError, HFValidationError):
        return None


def _source_of(label: str) -> Path | str:
    """A local folder, or a hub id. Raises RelevancyError for what is neither."""
    spec = MODELS.get(label)
    source = spec.source if spec else label
    if not label.strip():
        raise RelevancyError(f"the model's name is empty: give one of {', '.join(MODELS)}, a folder, or a hub id")
    try:
        path = Path(source).expanduser()
        if path.is_dir():
            return path
    except (OSError, RuntimeError) as error:  # a name too long for the system, a home of nobody
        raise RelevancyError(
            f"{shortened(label)} is no folder's name ({getattr(error, 'strerror', None) or error}): give one of "
            f"{', '.join(MODELS)}, a local folder, or a hub id such as owner/model"
        ) from error
    if isinstance(source, Path):
        raise RelevancyError(f"{label} is not part of this installation: build it with `relevancy train demo`")
    if path.exists():
        raise RelevancyError(f"{label} is a file: give the folder that holds config.json and *.safetensors")
    if not _HUB_ID.fullmatch(source) or source.startswith("."):
        known = ", ".join(MODELS)
        looks_like_path = "/" in source or "\\" in source or source.startswith((".", "~"))
        told = shortened(label)
        problem = f"there is no folder {told}" if looks_like_path else f"unknown model {told!r}"
        raise RelevancyError(f"{problem}: give one of {known}, a local folder, or a hub id such as owner/model")
    return source


def _fetched(source: str, label: str, revision: str | None) -> str:
    what = label if label == source else f"{label} ({source})"
    try:
        return snapshot_download(source, revision=revision, **_PARTS)
    except GatedRepoError as error:
        raise RelevancyError(
            f"{what} is gated: accept its terms at https://huggingface.co/{source}, then log in with `hf auth login`"
        ) from error
    except RevisionNotFoundError as error:
        raise RelevancyError(f"{what} has no revision {revision!r}") from error
    except RepositoryNotFoundError as error:
        raise RelevancyError(
            f"the hub has no model {what}, or it is private: check the name or `hf auth login`"
        ) from error
    except (OSError, HFValidationError) as error:  # every other failure of the hub's client is an OSError
        raise RelevancyError(
            f"{what} is neither a local folder nor in the local cache, and the hub cannot be reached "
            f"({first_line(error.__cause__ or error)}): connect, or give a local folder, or use demo-large"
        ) from error


def config_of(folder: Path, label: str) -> PreTrainedConfig:
    """The folder's config, of a kind that takes pictures with text, or continues a text. Raises RelevancyError."""
    if not (folder / "config.json").is_file():
        raise RelevancyError(f"{label} has no config.json: give the folder of a saved model")
    try:
        told = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RelevancyError(
            f"{label}: config.json is damaged ({first_line(error)}): copy it anew from where the model was saved"
        ) from error
    if not isinstance(told, dict):
        raise RelevancyError(f"{label}: config.json is no JSON object: copy it anew from where the model was saved")
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except UNREADABLE as error:
        raise RelevancyError(
            f"{label}: config.json is of no model this transformers knows, and code that comes with a checkpoint is "
            f"never run ({first_line(error)})"
        ) from error
    if not takes_pictures(config) and type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise RelevancyError(
            f"{label} ({config.model_type}) neither takes pictures with text nor continues a text: give a "
            "vision-language model, or a language model such as GPT-2, Llama, Gemma or Qwen"
        )
    return config


def takes_pictures(config: PreTrainedConfig) -> bool:
    """Whether it is of a vision-language model, and not of one of words alone."""
    return type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING


def _kind(config: PreTrainedConfig) -> Any:
    """The class that builds and loads models of this config."""
    return AutoModelForImageTextToText if takes_pictures(config) else AutoModelForCausalLM


def weight_files(folder: Path) -> list[Path]:
    """The folder's safetensors, an adapter's apart, sorted."""
    return sorted(path for path in folder.glob("*.safetensors") if path.name != ADAPTER)


def parameters_in(folder: Path, label: str) -> int:
    """Number of weights in the folder's safetensors, from their headers."""
    files = weight_files(folder)
    if not files:
        pickled = [path.name for pattern in _PICKLED for path in folder.glob(pattern)]
        reason = (
            f"its weights are pickled ({pickled[0]}), which can run code when read: save it as safetensors first"
            if pickled
            else "there are no *.safetensors in it"
        )
        raise RelevancyError(f"{label} has no weights to load: {reason}")
    return sum(_size(path, label) for path in files)


def _size(path: Path, label: str) -> int:
    try:
        with safe_open(path, framework="pt") as tensors:
            return sum(prod(tensors.get_slice(key).get_shape()) for key in tensors.keys())  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise RelevancyError(f"{label}: {path.name} is damaged or incomplete ({first_line(error)})") from error


def check_config(config: PreTrainedConfig, parameters: int, label: str) -> None:
    """Refuse a config that describes another model than the weights are of, before memory is taken for it.

    Where parts of a config are missing, transformers takes LLaVA-7B's instead. Raises RelevancyError.
    """
    if getattr(config, "quantization_config", None) is not None:
        return  # weights are packed, and their number says nothing
    try:
        with torch.device("meta"):
            described = sum(weight.numel() for weight in _kind(config).from_config(config).parameters())
    except UNREADABLE as error:
        raise RelevancyError(
            f"{label}: config.json describes no model that can be built ({first_line(error)}): copy it anew from "
            "where the model was saved"
        ) from error
    if described > 2 * parameters:
        raise RelevancyError(
            f"{label}: config.json describes a model of {described:,} weights, and the files hold {parameters:,}: a "
            "part of the config or of the weights is missing; copy the folder anew"
        )


def processor_of(folder: Path, label: str, config: PreTrainedConfig) -> ProcessorMixin | PreTrainedTokenizerBase:
    """The folder's processor, of a model of words alone its tokenizer.

    Pillow resizes the pictures: torchvision's way differs from the trained one.
    """
    try:
        if not takes_pictures(config):
            return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        if video_processors.reads_videos(config):
            return video_processors.processor_from(folder, config)
        return AutoProcessor.from_pretrained(folder, backend="pil", trust_remote_code=False)
    except Exception as error:  # the tokenizers library has no kind of its own for a damaged file
        raise RelevancyError(
            f"{label}: its processor (tokenizer and image processor) cannot be loaded ({first_line(error)}): save it "
            "beside the weights with processor.save_pretrained"
        ) from error


def has_processor(folder: Path) -> bool:
    """Whether the folder says how pictures are processed."""
    return any((folder / name).is_file() for name in ("processor_config.json", "preprocessor_config.json"))


def weights_of(
    folder: Path,
    config: PreTrainedConfig,
    label: str,
    dtype: torch.dtype,
    device: torch.device,
    options: dict[str, Any],
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """The model with its weights in place, and transformers' report of what it found."""
    try:
        loaded: Any = _kind(config).from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # the report names them, an error of its own would not
            **NO_ADAPTER,
            **options,
        )
        model, report = loaded
        return (model if "device_map" in options else model.to(device)), report
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise RelevancyError(
            f"not enough memory to load {label} in {str(dtype).removeprefix('torch.')} on {device}: use quantization "
            "4bit, dtype bfloat16, device cpu, or a smaller model"
        ) from error
    except (*UNREADABLE, SafetensorError) as error:
        other = ": try another device_map, or quantization 4bit" if "device_map" in options else ""
        raise RelevancyError(f"{label} cannot be loaded: {first_line(error)}{other}") from error


def check_report(report: Mapping[str, Any], model: PreTrainedModel, label: str) -> tuple[str, ...]:
    """Refuse weights that are missing, of another shape, or of layers that the config leaves out; note what else is.

    report: of `weights_of`. Raises RelevancyError.
    """
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise RelevancyError(f"{label}: the weights are incomplete, {len(missing)} are missing, such as {missing[0]}")
    if report["mismatched_keys"]:
        name, found, expected = sorted(report["mismatched_keys"])[0]
        raise RelevancyError(
            f"{label} cannot be loaded: {name} is {_shape(found)} in the files and {_shape(expected)} by config.json, "
            "which belong to different models: copy the folder anew"
        )
    unused = sorted(name for name in report["unexpected_keys"] if not name.endswith(_COMPUTED))
    lists = {name for name, module in model.named_modules() if isinstance(module, nn.ModuleList)}
    left_out = [name for name in unused if any(name.startswith(f"{prefix}.") for prefix in lists)]
    if left_out:
        raise RelevancyError(
            f"{label}: config.json leaves out layers that the weights have, such as that of {left_out[0]}: copy the "
            "folder anew"
        )
    return (f"{len(unused)} tensors of {label} have no place in this model, such as {unused[0]}",) if unused else ()


def _shape(sizes: Sequence[int]) -> str:
    return " x ".join(map(str, sizes))


def first_line(error: BaseException) -> str:
    """What an error says first, for a message of one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
