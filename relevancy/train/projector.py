"""`mm_projector.bin`, which the original LLaVA code's stage 1 leaves: a connector's weights alone, read as tensors."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedConfig

from relevancy.errors import RelevancyError

FILE = "mm_projector.bin"
LAYERS: Mapping[str, str] = {"0": "linear_1", "2": "linear_2"}  # the original's names -> Hugging Face's
KIND = "mlp2x_gelu"  # the one kind of connector that has a place in Hugging Face's LLaVA
_MARK = "mm_projector."
_ENDINGS = (".bin", ".pt", ".pth", ".safetensors")


def projector_file(name: str) -> Path | None:
    """The file that a name means: itself, or the one in a folder of stage 1; None where it means a whole model."""
    path = Path(name).expanduser()
    if (path / FILE).is_file():
        return path / FILE
    if path.is_file():
        return path
    if path.suffix in _ENDINGS:
        raise RelevancyError(f"there is no file {name}: give the {FILE} that stage 1 of the original code left")
    return None


def projector(file: Path, language: PreTrainedConfig, vision: PreTrainedConfig) -> dict[str, Tensor]:
    """A connector's weights as they were trained, float32, under the names of Hugging Face's connector.

    Raises RelevancyError for what is no connector of two layers between this decoder and this tower.
    """
    found = {_name(name, file): value for name, value in tensors(file).items()}
    width, inner = language.hidden_size, vision.hidden_size
    expected = {
        "linear_1.weight": (width, inner), "linear_1.bias": (width,), "linear_2.weight": (width, width),
        "linear_2.bias": (width,),
    }  # fmt: skip
    if missing := expected.keys() - found.keys():
        raise RelevancyError(f"{file} is incomplete: there is no {min(missing)} in it")
    for name, shape in expected.items():
        if tuple(found[name].shape) != shape:
            raise RelevancyError(
                f"{file}: {name} is {tuple(found[name].shape)}, and {shape} between this tower and this decoder: it "
                "belongs to others, give theirs by --language and --vision"
            )
        if not found[name].isfinite().all():
            raise RelevancyError(f"{file}: {name} holds values that are no numbers")
    return {name: found[name].float() for name in expected}


def check_settings(file: Path, feature_layer: int, strategy: str) -> None:
    """Refuse a connector that, as the config beside it says, was trained on other features of the tower."""
    try:
        known = json.loads((file.parent / "config.json").read_text())
    except (OSError, ValueError):
        return
    feature = "patch" if strategy == "default" else "cls_patch"
    here = {
        "mm_projector_type": KIND, "mm_vision_select_layer": feature_layer, "mm_vision_select_feature": feature,
        "mm_use_im_start_end": False,
    }  # fmt: skip
    for name, own in here.items():
        if name in known and known[name] != own and not (strategy == "full" and name.endswith("feature")):
            hint = f": --set feature_layer={known[name]}" if name.endswith("layer") else ""
            raise RelevancyError(f"{file} was trained with {name} {known[name]}, and here it is {own}{hint}")


def tensors(file: Path) -> dict[str, Tensor]:
    """All tensors of a file: safetensors, or a pickle of which no code is run. Raises RelevancyError."""
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        found: Any = torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, LookupError, pickle.UnpicklingError, SafetensorError) as error:
        why = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise RelevancyError(f"{file} cannot be read as tensors, and nothing else is read: {why}") from error
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise RelevancyError(f"{file} holds other things than tensors by name")
    return found


def _name(name: str, file: Path) -> str:
    layer, _, kind = name.rpartition(_MARK)[2].partition(".")
    if _MARK not in name or layer not in LAYERS or kind not in ("weight", "bias"):
        raise RelevancyError(f"{file} holds {name}, for which a connector of two layers ({KIND}) has no place")
    return f"{LAYERS[layer]}.{kind}"
