"""What tests watch in a model: all that a loan may change, and how often its tower runs."""

import torch

from relevancy.models.model import Model


class State:
    """Everything of a model that recording touches."""

    def __init__(self, model: torch.nn.Module) -> None:
        configs = {id(part.config): part.config for part in model.modules() if hasattr(part, "config")}
        self.attention = {key: config._attn_implementation for key, config in configs.items()}
        self.hooks = {
            name: [(key, id(hook)) for kind in (part._forward_hooks, part._forward_pre_hooks, part._backward_hooks)
                   for key, hook in kind.items()]
            for name, part in model.named_modules()
        }  # fmt: skip
        self.grads = {name: (part.requires_grad, part.grad) for name, part in model.named_parameters()}
        self.training = {name: part.training for name, part in model.named_modules()}
        self.attributes = {name: sorted(vars(part)) for name, part in model.named_modules()}


def tower(model):
    return model.get_encoder(modality="image")


class Runs:
    """Counts a tower's runs by its first layer's."""

    def __init__(self, model: Model) -> None:
        self.count = 0
        self.hook = tower(model.model).encoder.layers[0].register_forward_pre_hook(self.note)

    def note(self, *_) -> None:
        self.count += 1
