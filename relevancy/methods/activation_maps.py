"""Token activation maps: what an image token's own last hidden state would say, less what earlier words explain.

No gradient is asked for, and one forward pass serves every token of an answer.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from relevancy.core import patching
from relevancy.core.targets import Choice
from relevancy.errors import RelevancyError
from relevancy.methods.base import Attribution, Attributor, MethodSettings, TargetBatch
from relevancy.models.model import Model
from relevancy.models.prepared import Prepared

_WINDOW = 3  # patches of the filter's square, down and across


@contextmanager
def tam(model: Model, setting: MethodSettings) -> Iterator[Attributor]:
    """Token activation map of the explained token, after Li et al., ICCV 2025.

    Activation of token i at place p: a_i(p) = max(0, w_i h_p), with h the decoder's last hidden states and w the output
    embeddings less their mean, since probabilities do not hear what is added to all logits (the authors clamp logits as
    they come); of a contrast, w is the difference, of a span the map is the mean of its tokens' maps. The picture's map
    is A - s I, not below zero, filtered.
    I = sum_i a(i) A_i / sum_i a(i) is the interference of the words i before the explained position, of which A_i is
    the picture's map of word i itself, and a(i) the explained token's activation at that word; s is the scale with
    which I comes closest to A (least squares). Words that are the explained token itself are no interference. A word's
    own number is a(i). The filter is `ranked`. Costs one forward pass for all targets.
    """
    with patching.eval_mode(model.model):
        yield _Activations(model, setting)


class _Activations:
    def __init__(self, model: Model, setting: MethodSettings) -> None:
        self.model, self.setting = model, setting
        head: Any = model.model.get_output_embeddings()
        if not isinstance(head, nn.Linear):
            raise RelevancyError(f"Method tam reads the output embeddings, and {model.name} has none: use relevancy.")
        self.head = head
        self.mean = head.weight.mean(0, dtype=torch.float32)
        self.states: Tensor | None = None  # (batch, tokens, width)
        self.ids: Tensor | None = None

    def forward(self, prepared: Prepared, keep: int, *, use_cache: bool) -> Any:
        def look(_: nn.Module, _args: Any, output: Any) -> None:
            self.states = output.last_hidden_state

        self.ids = prepared.ids
        handle = self.model.model.get_decoder().register_forward_hook(look)
        try:
            with torch.no_grad():
                return self.model.model(**prepared.inputs, logits_to_keep=keep, use_cache=use_cache)
        finally:
            handle.remove()

    @torch.no_grad()
    def read(self, round_: TargetBatch) -> Attribution:
        assert self.states is not None
        assert self.ids is not None
        found = [
            self._mean(states, ids, choice, place)
            for states, ids, choice, place in zip(self.states, self.ids, round_.choices, round_.places, strict=True)
        ]
        return Attribution(torch.stack(found))

    def _mean(self, states: Tensor, ids: Tensor, choice: Choice, place: int) -> Tensor:
        """One example's numbers, (tokens,); of a span, the mean of its tokens'."""
        first = place - choice.length + 1
        rows = [self._row(states, ids, one, first + number) for number, one in enumerate(choice.singly())]
        return torch.stack(rows).mean(0)

    def _row(self, states: Tensor, ids: Tensor, choice: Choice, place: int) -> Tensor:
        """One example's numbers, (tokens,), from its padded hidden states."""
        end = len(ids) + place
        own = {choice.id, choice.contrast_id}
        special = {*self.model.tokenizer.all_special_ids, self.model.image_token_id}
        pictured = (ids == self.model.image_token_id).nonzero().squeeze(1)[-self.setting.patches :]
        words = [at for at, token in enumerate(ids[:end].tolist()) if token not in special]
        others = [at for at in words if int(ids[at]) not in own]
        activation = self._activation(states, [choice.id])[:, 0]
        if choice.contrast_id is not None:
            activation = activation - self._activation(states, [choice.contrast_id])[:, 0]
        activation = activation.clamp(min=0)
        of_words = self._activation(states[pictured], ids[others].tolist()).clamp(min=0)
        alone = without_interference(activation[pictured], of_words, activation[others])
        row = torch.zeros(len(ids), device=ids.device)
        row[words] = activation[words]
        row[pictured] = ranked(alone.view(self.setting.rows, self.setting.cols)).flatten()
        return row

    def _activation(self, states: Tensor, tokens: list[int]) -> Tensor:
        """What states (places, width) say for each of some tokens more than for the mean one, (places, tokens)."""
        return states.float() @ (self.head.weight[tokens].float() - self.mean).T


def without_interference(activation: Tensor, of_words: Tensor, weights: Tensor) -> Tensor:
    """A map (patches,) less the mean of words' maps (patches, words), as far as that explains it; not below zero."""
    total = weights.sum()
    if not total > 0:
        return activation
    interference = of_words @ weights / total
    size = interference @ interference
    scale = activation @ interference / size if size > 0 else 0.0
    return (activation - scale * interference).clamp(min=0)


def ranked(image_map: Tensor) -> Tensor:
    """The rank Gaussian filter of a map (rows, cols) that is nowhere negative: noise goes, edges stay.

    Each patch becomes the mean of its 3 x 3 square, sorted, with Gaussian weights around the median's rank, whose width
    is the square's coefficient of variation: a square that is even takes its median. Beyond the border the map is
    mirrored.
    """
    around = _WINDOW // 2
    rows, cols = (_mirrored(length, around).to(image_map.device) for length in image_map.shape)
    squares = image_map[rows][:, cols].unfold(0, _WINDOW, 1).unfold(1, _WINDOW, 1).flatten(2).sort(-1).values
    mean = squares.mean(-1, keepdim=True)
    width = squares.std(-1, correction=0, keepdim=True) / mean
    ranks = torch.arange(_WINDOW**2, device=image_map.device) - _WINDOW**2 // 2
    weights = torch.softmax(-(ranks.square() / (2 * width.square()).clamp(min=1e-12)), -1)
    return torch.where(mean > 0, weights * squares, 0).sum(-1)


def _mirrored(length: int, around: int) -> Tensor:
    """Places 0 to length - 1 with as many mirrored ones on either side; one place alone is its own mirror."""
    places = torch.arange(-around, length + around).abs()
    last = length - 1
    return torch.where(places > last, 2 * last - places, places).clamp(0, last)
