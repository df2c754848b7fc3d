"""LoRA through peft: small matrices that train beside the decoder's own, and go into them at the end."""

from __future__ import annotations

import importlib.util

import torch
from transformers import PreTrainedModel

from relevancy.errors import RelevancyError
from relevancy.train.stages import ADAPTER

_TARGETS = r"model\.language_model\..*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"


def require_peft() -> None:
    """Refuse before anything is loaded."""
    if importlib.util.find_spec("peft") is None:
        raise RelevancyError('training adapters (lora_rank) needs peft: pip install "relevancy[lora]"')


def adapt(model: PreTrainedModel, rank: int, alpha: int, seed: int) -> None:
    """Put adapters beside every matrix of the decoder's layers, in place; at first they change nothing.

    They are float32 whatever the matrices are. Raises RelevancyError for a decoder whose matrices have other names.
    """
    require_peft()
    from peft import LoraConfig, inject_adapter_in_model

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=alpha, target_modules=_TARGETS), model)
        except ValueError as error:
            kind = model.config.get_text_config().model_type
            raise RelevancyError(
                f"lora_rank: adapters do not know the matrices of a {kind}: set lora_rank=0"
            ) from error
    for name, parameter in model.named_parameters():
        if ADAPTER in name:
            parameter.data = parameter.data.float()


def merge(model: PreTrainedModel) -> None:
    """Add the adapters to the matrices they stand beside, and take them away."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    found = [(name, module) for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)]
    for name, module in found:
        module.merge()
        parent, _, own = name.rpartition(".")
        setattr(model.get_submodule(parent), own, module.get_base_layer())
