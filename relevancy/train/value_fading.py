"""A price on answers whose logit does not fall when less is read, so that relevancy has something to keep.

Eq. 5 keeps what is positive of A * dy/dA. Summed over what a layer reads, A * dy/dA is how fast the answer's logit y
grows with the values that are read there. Nothing in a loss on words makes it positive: an answer becomes surer as well
by a logit that falls while all others fall deeper, and heads that rest on one word with all their weight have one sign
for everything that word has read. So some values are made fainter, and y has to fall. And patches count by what
differs from other pictures, not by what all have: values that come nearer to those of another picture make y fall too,
and without what the pictures of a batch share, y stays. Where in the picture something is read is not asked for.

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
"""How far values go on their way to what takes their place."""
ALL, SOME, OTHER, COMMON = range(4)
"""What changes: in one layer the values of all tokens become nothing, or of half of the words and all or nothing of the
picture; in every layer the picture's become another picture's, or lose what all pictures of the batch have there."""
MARGINS = (0.5, 0.0, 0.5, 0.0)
"""Logits by which an answer should fall, for the whole way; without what is common it should neither fall nor rise."""
STILL = 0.3
"""The price of a logit that moves without what is common, beside one that does not fall."""


@dataclass(frozen=True)
class Fading:
    """What changes in each sequence of a batch.

    kind: one of the above, (batch,). layer: where one layer's values do, (batch,). amount: how far, (batch,).
    chosen: which tokens' values, (batch, tokens) bool. is_image: (batch, tokens) bool.
    """

    kind: Tensor
    layer: Tensor
    amount: Tensor
    chosen: Tensor
    is_image: Tensor

    @classmethod
    def drawn(cls, is_image: Tensor, layers: int) -> Fading:
        """At random. is_image: (batch, tokens) bool."""
        batch, device = len(is_image), is_image.device
        kind = torch.randint(len(MARGINS), (batch,), device=device)
        words = torch.rand(is_image.shape, device=device) < 0.5
        some = torch.where(is_image, torch.rand(batch, 1, device=device) < 0.5, words)
        both = is_image & is_image.roll(1, 0)  # pictures that lie elsewhere in their sequences have no counterpart
        by_kind = torch.stack([torch.ones_like(is_image), some, both, is_image])
        return cls(
            kind,
            torch.randint(layers, (batch,), device=device),
            torch.empty(batch, device=device).uniform_(LEAST, MOST),
            by_kind[kind, torch.arange(batch, device=device)],
            is_image,
        )

    def changed(self, values: Tensor, layer: int) -> Tensor:
        """The values (batch, tokens, width) as they are read in a layer."""
        here = (self.layer == layer) | (self.kind >= OTHER)
        share = (self.chosen * (self.amount * here)[:, None])[..., None].to(values.dtype)
        kind, images = self.kind[:, None, None], self.is_image[..., None].to(values.dtype)
        common = (values * images).sum(0) / images.sum(0).clamp(min=1)
        lost = torch.where(kind == OTHER, values - values.roll(1, 0), values)
        return values - share * torch.where(kind == COMMON, common, lost)

    def shortfall(self, own: Tensor, fainter: Tensor, sequence: Tensor) -> Tensor:
        """By how many logits answers fail to fall as they should, mean over answers; 0 without any.

        own, fainter: the answers' logits, (answers,). sequence: the one that each answer is in, (answers,).
        """
        kind = self.kind[sequence]
        fell = (own - fainter) / self.amount[sequence]
        margins = torch.tensor(MARGINS, device=own.device)[kind]
        lacking = torch.where(kind == COMMON, STILL * fell.abs(), (margins - fell).clamp(min=0))
        return lacking.sum() / max(len(lacking), 1)


def check_values(model: PreTrainedModel) -> None:
    """Refuse a decoder whose values are not made by a layer of their own."""
    attention = model.model.language_model.layers[0].self_attn
    if not hasattr(attention, "v_proj"):
        raise RelevancyError(f"fading_cost needs values of their own, v_proj, which {type(attention).__name__} lacks")


@contextmanager
def faded_values(model: PreTrainedModel, fading: Fading) -> Iterator[None]:
    """Within the block each sequence reads its values as `fading` changes them."""
    with ExitStack() as hooks:
        for number, layer in enumerate(model.model.language_model.layers):
            hooks.callback(layer.self_attn.v_proj.register_forward_hook(_changing(fading, number)).remove)
        yield


def _changing(fading: Fading, layer: int) -> Any:
    return lambda _module, _arguments, values: fading.changed(values, layer)


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
