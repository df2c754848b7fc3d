"""Adapters of peft: told apart from weights, loaded on the model they were trained on, and put into its weights."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import PreTrainedModel

from relevancy.errors import RelevancyError
from relevancy.models import bases, checkpoints

_CONFIG = "adapter_config.json"
# Kinds that put tokens of their own before the prompt, or whose layers depend on more than their input.
_NOT_FOLLOWED = {
    "PROMPT_TUNING": "virtual tokens before the prompt",
    "MULTITASK_PROMPT_TUNING": "virtual tokens before the prompt",
    "P_TUNING": "virtual tokens before the prompt",
    "CPT": "virtual tokens before the prompt",
    "PREFIX_TUNING": "virtual keys and values in every layer",
    "CARTRIDGE": "virtual keys and values in every layer",
    "ADAPTION_PROMPT": "virtual keys and values in every layer",
    "XLORA": "a mixture that the whole sequence chooses",
    "POLY": "a mixture that the task chooses",
    "SHADOW": "a second network beside the model",
}


@dataclass(frozen=True)
class Adapter:
    """An adapter in a folder.

    kind: peft's name of it. base: name, folder or hub id of the model it was trained on. revision: of the base.
    """

    folder: Path
    label: str
    kind: str
    base: str | None
    revision: str | None

    def base_folder(self) -> Path:
        """Where the model is on which it was trained, fetched if it must be. Raises RelevancyError."""
        if not self.base:
            raise RelevancyError(
                f'{self.label} is an adapter ({self.kind}) that names no base model: write its name or folder as "base_'
                f'model_name_or_path" into {_CONFIG}, or give merged weights'
            )
        try:
            found = checkpoints.folder_of(self.base, self.revision)
        except RelevancyError as error:
            raise RelevancyError(
                f"{self.label} is an adapter ({self.kind}) whose base cannot be found: {error}; its {_CONFIG} names "
                'the base as "base_model_name_or_path"'
            ) from error
        if (found / _CONFIG).is_file() and not checkpoints.weight_files(found):
            raise RelevancyError(
                f"{self.label} is an adapter ({self.kind}) whose base, {self.base}, is an adapter again: merge the "
                "base first, or name a whole model"
            )
        return found


@dataclass(frozen=True)
class Location:
    """Where the parts of a named model lie: its weights, its processor, and what is to be put on the weights."""

    weights: Path
    processor: Path
    adapter: Adapter | None = None

    @property
    def folders(self) -> tuple[Path, ...]:
        """Every folder that it is read from."""
        return tuple(dict.fromkeys((self.weights, *([self.adapter.folder] if self.adapter else ()))))


def located(label: str, revision: str | None) -> Location:
    """The parts of a named model, fetched if they must be. Raises RelevancyError."""
    folder = checkpoints.folder_of(label, revision)
    if bases.needed_by(folder):
        folder = bases.joined(folder, label)
    adapter = alone_in(folder, label)
    if adapter is None:
        return Location(folder, folder)
    base = adapter.base_folder()
    return Location(base, folder if checkpoints.has_processor(folder) else base, adapter)


def beside_weights(folder: Path, label: str) -> tuple[str, ...]:
    """A note for a folder whose weights have an adapter beside them: the weights are loaded, the adapter is not.

    Merged weights are often saved over an adapter; transformers would add it to them a second time. Raises
    RelevancyError where the adapter names this very folder as its base: then the weights may lack it.
    """
    if not (folder / _CONFIG).is_file():
        return ()
    try:
        base = json.loads((folder / _CONFIG).read_text())["base_model_name_or_path"]
        itself = bool(base) and Path(base).expanduser().resolve() == folder.resolve()
    except (OSError, ValueError, KeyError, TypeError):
        itself = False
    if itself:
        raise RelevancyError(
            f"{label} holds weights and an adapter that names the same folder as its base, so whether the weights have "
            f"it in them cannot be told: move {_CONFIG} and {checkpoints.ADAPTER} to a folder of their own and load "
            "that, or delete them where the weights are merged"
        )
    note = (
        f"the weights in {label} were loaded as they are; the adapter beside them ({_CONFIG}) was not applied: where "
        "they are not merged, give the adapter in a folder of its own"
    )
    return (note,)


def alone_in(folder: Path, label: str) -> Adapter | None:
    """The adapter of a folder that holds one and no weights of a whole model. Raises RelevancyError."""
    if not (folder / _CONFIG).is_file() or checkpoints.weight_files(folder):
        return None
    try:
        told = json.loads((folder / _CONFIG).read_text())
        kind, base, revision = str(told["peft_type"]), told.get("base_model_name_or_path"), told.get("revision")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RelevancyError(f"{label}: {_CONFIG} is damaged ({checkpoints.first_line(error)})") from error
    _check_kind(kind, label)
    pickled = [name for name in ("non_lora_trainables.bin", "adapter_model.bin") if (folder / name).is_file()]
    if pickled[:1] == ["non_lora_trainables.bin"] or not (folder / checkpoints.ADAPTER).is_file():
        reason = (
            f"a part of its weights is pickled ({pickled[0]}), which can run code when read: merge it where it was "
            "trained, and save it as safetensors"
            if pickled
            else f"there is no {checkpoints.ADAPTER} in it"
        )
        raise RelevancyError(f"{label} is an adapter ({kind}) that cannot be loaded: {reason}")
    if importlib.util.find_spec("peft") is None:
        raise RelevancyError(f'{label} is an adapter ({kind}), which needs peft: pip install "relevancy[lora]"')
    return Adapter(folder, label, kind, base, revision)


def applied(base: PreTrainedModel, adapter: Adapter, *, merge: bool) -> PreTrainedModel:
    """The base with the adapter in its weights or, without `merge`, beside them; every tensor of it found its place."""
    from peft import PeftConfig, PeftModel

    try:
        with torch.random.fork_rng(devices=[]):
            beside: Any = PeftModel(base, PeftConfig.from_pretrained(str(adapter.folder)))
            found = beside.load_adapter(str(adapter.folder), "default", torch_device=str(base.device))
        left = [*found.unexpected_keys, *found.missing_keys]
        if left:
            raise RelevancyError(
                f"{adapter.label} does not fit {adapter.base}: {len(left)} of its tensors have no place or are "
                f"missing, such as {left[0]}"
            )
        if not merge:
            return beside.get_base_model()
        _untie(base)
        return beside.merge_and_unload(safe_merge=True)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
        raise RelevancyError(
            f"{adapter.label}: the adapter ({adapter.kind}) cannot be put on {adapter.base} "
            f"({checkpoints.first_line(error)})"
        ) from error


def unwrapped(model: Any, name: str) -> PreTrainedModel:
    """The transformers model inside a peft model, its adapters in place. Raises for those that cannot be followed."""
    adapters = getattr(model, "peft_config", None)
    for config in adapters.values() if isinstance(adapters, dict) else ():
        _check_kind(getattr(config.peft_type, "value", str(config.peft_type)), name)
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _check_kind(kind: str, label: str) -> None:
    if kind in _NOT_FOLLOWED:
        raise RelevancyError(
            f"{label}: {kind} adds {_NOT_FOLLOWED[kind]}, which a map cannot follow: give a model without this "
            "adapter, or one trained with LoRA"
        )


def _untie(model: PreTrainedModel) -> None:
    """A head of its own where words and head share one matrix and the adapter changes only one of the two."""
    words, head = model.get_input_embeddings(), model.get_output_embeddings()
    own_words: Any = getattr(words, "base_layer", words)
    own_head: Any = getattr(head, "base_layer", head)
    adapted = own_words is not words or own_head is not head
    if adapted and own_head is not None and own_head.weight is own_words.weight:
        own_head.weight = nn.Parameter(own_words.weight.detach().clone(), requires_grad=False)
        model.config.get_text_config().tie_word_embeddings = model.config.tie_word_embeddings = False
