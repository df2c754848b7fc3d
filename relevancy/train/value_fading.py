"""A price on answers whose logit does not fall when less is read, so that relevancy has something to keep.

Eq. 5 keeps what is positive of A * dy/dA. Summed over what a layer reads, A * dy/dA is how fast the answer's logit y
grows with the values that are read there. Nothing in a loss on words makes it positive: an answer becomes surer as well
by a logit that falls while all others fall deeper, and heads that rest on one word with all their weight have one sign
for everything that word has read. So some values of a layer are made fainter, and y has to fall. Where in the picture
something is read is not asked for.

Source of eq. 5: Chefer, Gur, Wolf, ICCV 2021.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from relevancy.errors import RelevancyError
from relevancy.train.template import IGNORED

LEAST, MOST = 0.1, 0.5
"""By how much of themselves values become fainter."""
MARGIN = 0.5
"""Logits by which an answer should fall, for each whole value of all tokens; for some tokens it should not rise."""


@dataclass(frozen=True)
class Fading:
    """For each sequence of a batch: the layer whose values fade (batch,), and by how much each token's (batch, tokens).

    amount: how much, (batch,). whole: whether all tokens' values do, (batch,) bool.
    """

    layer: Tensor
    faded: Tensor
    amount: Tensor
    whole: Tensor

    @classmethod
    def drawn(cls, is_image: Tensor, layers: int) -> Fading:
        """At random: one layer's values of all tokens, or of half of the words and all or nothing of the picture.

        is_image: (batch, tokens) bool.
        """
        batch, device = len(is_image), is_image.device
        amount = torch.empty(batch, device=device).uniform_(LEAST, MOST)
        whole, pictures = torch.rand(2, batch, device=device) < 0.5
        some = torch.where(is_image, pictures[:, None], torch.rand(is_image.shape, device=device) < 0.5)
        chosen = some | whole[:, None]
        return cls(torch.randint(layers, (batch,), device=device), chosen * amount[:, None], amount, whole)

    def shortfall(self, own: Tensor, fainter: Tensor, sequence: Tensor) -> Tensor:
        """By how many logits answers fail to fall as they should, mean over answers; 0 without any.

        own, fainter: the answers' logits, (answers,). sequence: the one that each answer is in, (answers,).
        """
        fell = (own - fainter) / self.amount[sequence]
        lacking = (MARGIN * self.whole[sequence] - fell).clamp(min=0)
        return lacking.sum() / max(len(lacking), 1)


def check_values(model: PreTrainedModel) -> None:
    """Refuse a decoder whose values are not made by a layer of their own."""
    attention = model.model.language_model.layers[0].self_attn
    if not hasattr(attention, "v_proj"):
        raise RelevancyError(f"fading_cost needs values of their own, v_proj, which {type(attention).__name__} lacks")


@contextmanager
def faded_values(model: PreTrainedModel, fading: Fading) -> Iterator[None]:
    """Within the block each sequence reads fainter values in its layer."""
    with ExitStack() as hooks:
        for number, layer in enumerate(model.model.language_model.layers):
            kept = 1 - fading.faded * (fading.layer == number)[:, None]
            hooks.callback(layer.self_attn.v_proj.register_forward_hook(_times(kept)).remove)
        yield


def _times(kept: Tensor) -> Any:
    return lambda _module, _arguments, values: values * kept[..., None].to(values.dtype)


def fading_shortfall(
    forward: Callable[..., Any], model: PreTrainedModel, inputs: Mapping[str, Tensor], logits: Tensor
) -> Tensor:
    """`Fading.shortfall` of a batch as `Collate` makes it, of the first token of each answer. One more forward pass.

    forward: the model as it is called in training, whatever wraps it. logits: (batch, tokens, words), its own.
    """
    labeled = inputs["labels"] != IGNORED
    first = labeled[:, 1:] & ~labeled[:, :-1]
    words = inputs["labels"][:, 1:][first][:, None]
    fading = Fading.drawn(inputs["input_ids"] == model.config.image_token_id, len(model.model.language_model.layers))
    with faded_values(model, fading):
        fainter = forward(**inputs).logits
    own, fainter = (each[:, :-1][first].float().gather(1, words)[:, 0] for each in (logits, fainter))
    return fading.shortfall(own, fainter, first.nonzero()[:, 0])
