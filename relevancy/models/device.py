"""Where a model's weights go, and in which numbers: device, dtype, quantization."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any, Literal

import torch
from transformers import BitsAndBytesConfig, PreTrainedModel

from relevancy.errors import RelevancyError

Quantization = Literal["4bit", "8bit"]
_DTYPES = {
    "float32": torch.float32,
    "fp32": torch.float32,
    "bfloat16": torch.bfloat16,
    "bf16": torch.bfloat16,
    "float16": torch.float16,
    "fp16": torch.float16,
}
_FLOAT32_BELOW = 1_000_000_000  # parameters; smaller models are fast and exact in float32, 4 GB of weights at most
# The connector is repaired in place, the head gives the logits. A name counts from the start of a module's full path.
_UNQUANTIZED = ["model.multi_modal_projector", "multi_modal_projector", "lm_head"]


def device_for(device: str | torch.device | None) -> torch.device:
    """The device a user named, or the first of CUDA, MPS and CPU that is there. Raises RelevancyError."""
    if device is None:
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise RelevancyError(f"unknown device {device!r}: cpu, cuda, cuda:1 or mps") from error
    available: dict[str, Callable[[], bool]] = {
        "cpu": lambda: True,
        "cuda": lambda: (chosen.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available,
        "xpu": torch.xpu.is_available,
    }
    if chosen.type not in available:
        raise RelevancyError(f"models do not run on device {device!r} here: cpu, cuda, cuda:1, mps or xpu")
    if not available[chosen.type]():
        raise RelevancyError(f"there is no {chosen} on this machine, as PyTorch sees it: leave the device out, or cpu")
    return chosen


def dtype_for(dtype: str | torch.dtype | None, parameters: int, device: torch.device) -> torch.dtype:
    """The dtype a user named, or what suits a model of this size on this device. Raises RelevancyError."""
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype is not None:
        if dtype not in _DTYPES:
            raise RelevancyError(f"unknown dtype {dtype!r}: one of {', '.join(_DTYPES)}")
        return _DTYPES[dtype]
    emulated = device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.float32 if parameters < _FLOAT32_BELOW or emulated else torch.bfloat16


def options_for(
    device: torch.device, device_map: str | dict[str, Any] | None, quantization: str | None, dtype: torch.dtype
) -> dict[str, Any]:
    """The keyword arguments of `from_pretrained` that place and quantize."""
    options: dict[str, Any] = {}
    if quantization is not None:
        if quantization not in ("4bit", "8bit"):
            raise RelevancyError(f"unknown quantization {quantization!r}: 4bit or 8bit")
        _require("quantization", "bitsandbytes", "accelerate")
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=quantization == "4bit",
            load_in_8bit=quantization == "8bit",
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=dtype,
            llm_int8_skip_modules=_UNQUANTIZED,
        )
        device_map = device_map or {"": device}
    if device_map is not None:
        _require("device_map", "accelerate")
        options["device_map"] = device_map
    return options


def check_weights(model: PreTrainedModel, name: str) -> None:
    """Refuse weights that are no numbers, and a model whose first part, the tower, is not in memory.

    Parts further in may be elsewhere: accelerate fetches them when they are needed. Raises RelevancyError.
    """
    if model.device.type == "meta":
        raise RelevancyError(
            f"{name}: its weights are not in memory, those of the vision tower at least (left on disk, or never "
            "loaded): use a device_map that keeps the tower in memory, quantization 4bit, or dtype bfloat16"
        )
    for path, weight in model.named_parameters():
        if weight.is_meta or not weight.is_floating_point() or not weight.numel():
            continue
        if not torch.stack(weight.detach().aminmax()).isfinite().all():
            raise RelevancyError(
                f"{name}: {path} holds values that are no numbers (NaN or infinite): copy the weights anew, or load "
                "them in the dtype they were trained in"
            )


def _require(feature: str, *packages: str) -> None:
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        raise RelevancyError(f'{feature} needs {" and ".join(missing)}: pip install "relevancy[quantize]"')
