"""Vision-language models with their processors: load one by name, or wrap one that is already there."""

import copy
import importlib.util
import re
import sys
import threading
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from os import PathLike, fspath
from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from PIL import Image
from safetensors import SafetensorError, safe_open
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    BatchFeature,
    BitsAndBytesConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProcessorMixin,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

from relevancy import geometry, prompts, repairs
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
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")
# What is fetched of a hub repository: weights, configs, tokenizer files. No pickles, no code, no subfolders.
_FETCHED = ["*.safetensors", "*.json", "*.jinja", "*.model", "merges.txt", "vocab.txt"]
_NOT_FETCHED = ["*/*", "consolidated*"]
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
# The connector is repaired in place, the head gives the logits. A name counts from the start of a module's full path.
_UNQUANTIZED = ["model.multi_modal_projector", "multi_modal_projector", "lm_head"]
# Families whose image tokens are the tower's patches, one by one, over the whole processed picture.
_ONE_GRID = frozenset({"llava", "vipllava", "paligemma"})


@dataclass(frozen=True)
class Spec:
    """Where a named model comes from: a hub id, or a folder inside this package."""

    source: str | Path
    about: str


_WEIGHTS = Path(__file__).parent / "demo" / "weights"
MODELS = {
    "demo-small": Spec(_WEIGHTS / "demo-small", "the smaller of the embedded pair, no download"),
    "demo-large": Spec(_WEIGHTS / "demo-large", "the larger of the embedded pair, no download"),
    "2b": Spec("Intel/llava-gemma-2b", "LLaVA-Gemma 2B with a CLIP tower"),
    "7b": Spec("Intel/llava-gemma-7b", "LLaVA-Gemma 7B with a CLIP tower"),
}


@dataclass(eq=False)
class Model:
    """A Hugging Face model, its processor, and what lies between a question and token ids.

    `lock` is for whoever borrows the model: one recording at a time.
    """

    model: PreTrainedModel
    processor: ProcessorMixin
    name: str
    lock: AbstractContextManager[Any] = field(default_factory=threading.RLock, repr=False)

    @property
    def device(self) -> torch.device:
        """Where the inputs belong."""
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights, and so of the pixels."""
        return self.model.dtype

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The processor's tokenizer."""
        return self.processor.tokenizer

    @property
    def image_token_id(self) -> int:
        """The id that stands at every image token's place in `input_ids`."""
        return _image_token_id(self.model.config, self.processor)

    @property
    def room(self) -> int:
        """The longest sequence the decoder reads, in tokens."""
        return getattr(self.model.config.get_text_config(), "max_position_embeddings", None) or sys.maxsize

    @cached_property
    def stop_token_ids(self) -> tuple[int, ...]:
        """Ids that end an answer, ascending."""
        return repairs.stop_tokens(self.model, self.tokenizer)

    @property
    def extra_image_tokens(self) -> int:
        """How many of each picture's image tokens come before its first patch (class token, registers)."""
        return repairs.extra_image_tokens(self.processor)

    @cached_property
    def _controls(self) -> re.Pattern[str]:
        return prompts.control_tokens(self.processor)

    @cached_property
    def _wording(self) -> prompts.Wording:
        return prompts.wording_for(self.processor, gemma=repairs.is_gemma(self.model.config))

    def question_notes(self, question: str) -> tuple[str, ...]:
        """What was changed in the question before the model read it, one sentence each."""
        _, found = prompts.neutralize(question, self._controls)
        return tuple(
            f'"{token}" in the question was passed on as plain text, not as a control token' for token in found
        )

    def grid(self, width: int, height: int) -> geometry.Grid:
        """Where the patches lie in a picture of `width` x `height` pixels; raises for a layout that is not one grid."""
        config, pictures = self.model.config, self.processor.image_processor
        size = repairs.output_size(pictures)
        if config.model_type not in _ONE_GRID or size is None or self.extra_image_tokens < 0:
            raise RelevancyError(
                f"how {config.model_type} with {type(pictures).__name__} lays its image tokens over a picture is not "
                f"known here; a grid is known for {', '.join(sorted(_ONE_GRID))} with a fixed input size"
            )
        side = config.vision_config.patch_size
        rows, cols = size[0] // side, size[1] // side
        return geometry.grid_for(pictures, width, height, rows, cols, token_side=side)

    def prepare(
        self,
        images: Sequence[Image.Image],
        questions: Sequence[str],
        continuations: Sequence[Sequence[int]] | None = None,
    ) -> BatchFeature:
        """Model inputs of one batch, on the model's device: each picture (RGB) with its question.

        `input_ids` and `attention_mask` (batch, tokens) are padded on the left; `pixel_values` has the model's dtype.
        `continuations` are token ids of answers, appended after the turn that the model is to fill. Raises on an empty
        question and on one that is too long for the model.
        """
        texts = [prompts.neutralize(prompts.checked(question), self._controls)[0] for question in questions]
        gemma = repairs.is_gemma(self.model.config)
        worded = [prompts.one_bos(self._wording(text), self.tokenizer, gemma=gemma) for text in texts]
        inputs = self.processor(
            images=[[image] for image in images],
            text=[text for text, _ in worded],
            add_special_tokens=worded[0][1],
            padding=True,
            padding_side="left",
            return_tensors="pt",
        )
        inputs.pop("labels", None)  # PaliGemma's processor adds them; they would make the model compute a loss
        if continuations is not None:
            inputs = _continued(inputs, continuations, self.tokenizer.pad_token_id)
        self._check_length(inputs)
        return inputs.to(self.device, dtype=self.dtype)

    def _check_length(self, inputs: BatchFeature) -> None:
        longest = int(inputs["attention_mask"].sum(-1).max())
        if longest <= self.room:
            return
        pictured = int((inputs["input_ids"] == self.image_token_id).sum(-1).max())
        raise RelevancyError(
            f"the question is too long: with the picture's {pictured} tokens it makes {longest}, and {self.name} reads "
            f"{self.room}; shorten it by about {longest - self.room} tokens"
        )


def load(
    name: str | PathLike[str],
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    device_map: str | dict[str, Any] | None = None,
    quantization: Quantization | None = None,
    framing: str | None = None,
    revision: str | None = None,
) -> Model:
    """A model by name: one of MODELS, any hub id, any local folder, repaired where its files need it.

    device        "cuda", "mps", "cpu", ...; by default the first of these that is there
    dtype         by default float32 below a billion parameters, bfloat16 above (half the memory, and faster where
                  memory is the limit), unless a GPU cannot compute in it
    device_map    handed to transformers ("auto": spread over what is there); needs accelerate
    quantization  "4bit" or "8bit" through bitsandbytes; the connector and the output matrix stay as they are
    framing       "pad" or "crop" for a LLaVA; by default what the processor's files say
    revision      branch, tag or commit of a hub id

    Only safetensors are read, and code that comes with a checkpoint is never run. Raises `RelevancyError`.
    """
    label = fspath(name)
    if device is not None and device_map is not None:
        raise RelevancyError("give either a device or a device_map, not both")
    target = _device(device)
    folder = _folder(label, revision)
    config = _config(folder, label)
    parameters = _parameters(folder, label)
    precision = _dtype(dtype, parameters, target)
    options = _placement(target, device_map, quantization, precision)
    processor = _processor(folder, label)
    loaded, report = _weights(folder, config, label, precision, target, options)
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise RelevancyError(f"{label}: the weights are incomplete, {len(missing)} are missing, such as {missing[0]}")
    repairs.scale_image_features(loaded)
    return _assemble(loaded, processor, label, framing)


def wrap(hf_model: PreTrainedModel, hf_processor: ProcessorMixin, *, name: str | None = None) -> Model:
    """A model and processor that are already there. Neither is changed: a processor that lacks fields is copied.

    Warns where the weights need the repair that `load` makes; `repairs.scale_image_features(hf_model)` makes it.
    """
    if repairs.needs_image_scale(hf_model.config):
        warnings.warn(
            f"this checkpoint was saved by transformers {hf_model.config.transformers_version}: since 5.4 its image "
            "features arrive sqrt(hidden) times too small; use relevancy.load, or "
            "relevancy.repairs.scale_image_features(model) once",
            stacklevel=2,
        )
    return _assemble(hf_model, hf_processor, name or hf_model.config.name_or_path or type(hf_model).__name__, None)


def _weights(
    folder: Path,
    config: PreTrainedConfig,
    label: str,
    dtype: torch.dtype,
    device: torch.device,
    options: dict[str, Any],
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """The model with its weights in place, and transformers' report of what it found."""
    try:
        loaded: Any = AutoModelForImageTextToText.from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            **options,
        )
        model, report = loaded
        return (model if "device_map" in options else model.to(device)), report
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise RelevancyError(
            f"not enough memory to load {label} in {str(dtype).removeprefix('torch.')} on {device}: use quantization "
            "4bit, dtype bfloat16, device cpu, or a smaller model"
        ) from error
    except (OSError, ValueError, RuntimeError, KeyError, ImportError, SafetensorError) as error:
        raise RelevancyError(f"{label} cannot be loaded: {_first_line(error)}") from error


def _assemble(model: PreTrainedModel, processor: ProcessorMixin, name: str, framing: str | None) -> Model:
    if getattr(processor, "image_processor", None) is None or getattr(processor, "tokenizer", None) is None:
        raise RelevancyError(f"{name}: its processor ({type(processor).__name__}) takes no pictures with text")
    if getattr(model.config, "vision_config", None) is None:
        raise RelevancyError(f"{name} ({model.config.model_type}) takes no pictures: give a vision-language model")
    processor = repairs.complete_processor(processor, model.config)
    if framing is not None:
        processor = repairs.frame(processor, framing)
    if processor.tokenizer.pad_token is None:
        processor = copy.copy(processor)
        processor.tokenizer = copy.deepcopy(processor.tokenizer)
        processor.tokenizer.pad_token = processor.tokenizer.eos_token
    _image_token_id(model.config, processor)
    return Model(model, processor, name)


def _image_token_id(config: PreTrainedConfig, processor: ProcessorMixin) -> int:
    for owner, entry in ((config, "image_token_id"), (config, "image_token_index"), (processor, "image_token_id")):
        if isinstance(found := getattr(owner, entry, None), int):
            return found
    raise RelevancyError(
        f"{config.model_type} marks no image tokens in its input, so a map of the picture has no place"
    )


def _continued(inputs: BatchFeature, continuations: Sequence[Sequence[int]], pad: int | None) -> BatchFeature:
    """Appends token ids to each row and pads on the left anew.

    Other entries of a token each (attention mask, token types) repeat their row's last value for the new tokens.
    """
    shape = inputs["input_ids"].shape
    kept = inputs["attention_mask"].bool()
    for key, value in list(inputs.items()):
        if not isinstance(value, torch.Tensor) or value.shape != shape:
            continue
        rows = []
        for row, mask, added in zip(value, kept, continuations, strict=True):
            ids = torch.tensor(added, dtype=value.dtype)
            rows.append(torch.cat([row[mask], ids if key == "input_ids" else row[-1].expand(len(ids))]))
        filler = float(pad or 0) if key == "input_ids" else 0.0
        inputs[key] = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=filler, padding_side="left")
    return inputs


def _folder(label: str, revision: str | None) -> Path:
    """The local folder of a named model, a path or a hub id, fetched if it must be."""
    spec = MODELS.get(label)
    source = spec.source if spec else label
    path = Path(source).expanduser()
    if not label.strip():
        raise RelevancyError(f"the model's name is empty: give one of {', '.join(MODELS)}, a folder, or a hub id")
    if path.is_dir():
        return path
    if isinstance(source, Path):
        raise RelevancyError(f"{label} is not part of this installation: build it with `relevancy train demo`")
    if path.exists():
        raise RelevancyError(f"{label} is a file: give the folder that holds config.json and *.safetensors")
    if not _HUB_ID.fullmatch(source) or source.startswith("."):
        known = ", ".join(MODELS)
        looks_like_path = "/" in source or "\\" in source or source.startswith((".", "~"))
        problem = f"there is no folder {label}" if looks_like_path else f"unknown model {label!r}"
        raise RelevancyError(f"{problem}: give one of {known}, a local folder, or a hub id such as owner/model")
    return Path(_fetched(source, label, revision))


def _fetched(source: str, label: str, revision: str | None) -> str:
    what = label if label == source else f"{label} ({source})"
    try:
        return snapshot_download(source, revision=revision, allow_patterns=_FETCHED, ignore_patterns=_NOT_FETCHED)
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
            f"({_first_line(error.__cause__ or error)}): connect, or give a local folder, or use demo-large"
        ) from error


def _config(folder: Path, label: str) -> PreTrainedConfig:
    if not (folder / "config.json").is_file():
        raise RelevancyError(f"{label} has no config.json: give the folder of a saved model")
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise RelevancyError(
            f"{label}: config.json is of no model this transformers knows, and code that comes with a checkpoint is "
            f"never run ({_first_line(error)})"
        ) from error
    if type(config) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        raise RelevancyError(f"{label} ({config.model_type}) takes no pictures: give a vision-language model")
    return config


def _parameters(folder: Path, label: str) -> int:
    """Number of weights in the folder's safetensors, from their headers."""
    files = sorted(folder.glob("*.safetensors"))
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
        raise RelevancyError(f"{label}: {path.name} is damaged or incomplete ({_first_line(error)})") from error


def _processor(folder: Path, label: str) -> ProcessorMixin:
    """The folder's processor, with Pillow resizing the pictures: torchvision's way differs from the trained one."""
    try:
        return AutoProcessor.from_pretrained(folder, backend="pil", trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        raise RelevancyError(f"{label}: its processor cannot be loaded ({_first_line(error)})") from error


def _device(device: str | torch.device | None) -> torch.device:
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


def _dtype(dtype: str | torch.dtype | None, parameters: int, device: torch.device) -> torch.dtype:
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype is not None:
        if dtype not in _DTYPES:
            raise RelevancyError(f"unknown dtype {dtype!r}: one of {', '.join(_DTYPES)}")
        return _DTYPES[dtype]
    emulated = device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.float32 if parameters < _FLOAT32_BELOW or emulated else torch.bfloat16


def _placement(
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


def _require(feature: str, *packages: str) -> None:
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        raise RelevancyError(f'{feature} needs {" and ".join(missing)}: pip install "relevancy[quantize]"')


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
