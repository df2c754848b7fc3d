"""What a model answers to a question it has read, and how likely it is to say something else in that place."""

from __future__ import annotations

__all__ = ["Likelihood"]

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import takewhile
from math import exp
from numbers import Integral
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from relevancy.core import patching
from relevancy.errors import RelevancyError
from relevancy.models.conversation import encodable
from relevancy.models.model import Model
from relevancy.models.prepared import Prepared

MAX_NEW_TOKENS = 64
_OUT_OF_MEMORY = (
    "Out of memory: ask fewer questions at once, load with dtype bfloat16 or quantization 4bit, use scope language, "
    "or a smaller model."
)


@dataclass(frozen=True)
class Likelihood:
    """How likely a model is to say an answer: probabilities of its tokens, each after those before it.

    first: of the first token. whole: of all of them, their product; a stop token is not part of it. per_token: their
    geometric mean, whole ** (1 / tokens), which answers of different lengths, and models with different tokenizers,
    can be compared by. tokens: how many the model reads the answer as. For an empty answer, tokens is 0 and the others
    are the probability of ending at once.
    """

    first: float
    whole: float
    per_token: float
    tokens: int


@dataclass(frozen=True, eq=False)
class Prefill:
    """Pictures with a question each, as a model has read them: what any answer goes on from.

    ids, mask: (batch, tokens), padded on the left. logits: (batch, vocabulary), of the answer's first token. cache: the
    decoder's keys and values. positions: (batch, 1), of the last token, or (axes, batch, 1) where a family counts
    along time, rows and columns; None where the model counts by itself.
    """

    ids: Tensor
    mask: Tensor
    logits: Tensor
    cache: Any
    positions: Tensor | None = None

    @classmethod
    def of(cls, prepared: Prepared, output: Any) -> Prefill:
        """From what a forward pass read, and what it gave, its cache included."""
        positions = prepared.inputs.get("position_ids")
        return cls(
            prepared.ids,
            prepared.inputs["attention_mask"],
            output.logits[:, -1].detach(),
            output.past_key_values,
            None if positions is None else positions[..., -1:],
        )

    @property
    def tokens(self) -> int:
        """How many the longest of the batch has, padding left out."""
        return int(self.mask.sum(-1).max())

    def branch(self) -> Prefill:
        """The same prompt with a cache of its own, which may grow while this one stays; nothing is copied yet."""
        cache = branched(self.cache)
        for layer in cache.layers:
            if layer.is_initialized:
                layer.keys, layer.values = layer.keys.detach(), layer.values.detach()
        return replace(self, cache=cache)

    def repeated(self, times: int) -> Prefill:
        """A branch with each row so many times, one after the other."""
        branch = self.branch()
        branch.cache.batch_repeat_interleave(times)
        positions = None if self.positions is None else self.positions.repeat_interleave(times, -2)
        ids, mask, logits = (each.repeat_interleave(times, 0) for each in (self.ids, self.mask, self.logits))
        return Prefill(ids, mask, logits, branch.cache, positions)

    def further(self, model: Model, ids: Tensor) -> tuple[Prefill, Tensor]:
        """The prompt with more tokens (batch, new), in the same cache, and the logits after each of them.

        They are read as generation reads its own: causally, and from the next position on.
        """
        mask = torch.cat([self.mask, torch.ones_like(ids, dtype=self.mask.dtype)], 1)
        known: dict[str, Tensor] = {}
        if self.positions is not None:
            further = self.positions + torch.arange(1, ids.shape[1] + 1, device=ids.device)
            # A row that has no more room goes on beside those that have: what it says there is not read.
            known["position_ids"] = further.clamp(max=model.room - int(model.causal))
        output = model.model(input_ids=ids, attention_mask=mask, past_key_values=self.cache, use_cache=True, **known)
        positions = known["position_ids"][..., -1:] if known else None
        logits = output.logits[:, -1].detach()
        return Prefill(torch.cat([self.ids, ids], 1), mask, logits, output.past_key_values, positions), output.logits


def branched(cache: Any) -> Any:
    """A cache that may grow while this one stays, gradients included; nothing is copied yet."""
    branch = copy.copy(cache)
    branch.layers = [copy.copy(layer) for layer in cache.layers]
    return branch


def shares_prefix(model: Model, longest: int, cache: Any = None) -> bool:
    """Whether keys and values of a prompt's beginning are those that its later tokens need, up to so many tokens.

    Not where the picture's tokens read the question's (a prompt without a causal mask), where an attention window is
    shorter than the sequence, or where a layer keeps a state that is no list of keys. cache: what a forward pass left
    behind; without one, it is told from what the model would fill.
    """
    read: Any = DynamicCache(config=model.model.config.get_text_config()) if cache is None else cache
    layers = read.layers
    filled = [layer for layer in layers if layer.is_initialized]
    return model.causal and all(
        type(layer) is DynamicLayer or (type(layer) is DynamicSlidingWindowLayer and longest < layer.sliding_window)
        for layer in filled or layers
    )


def answers(model: Model, prompt: Prefill, max_new_tokens: int = MAX_NEW_TOKENS) -> list[list[int]]:
    """Ids of the greedy answers, each token the one of the largest logit, stop tokens left out.

    Of a checkpoint's own generation settings only the stop tokens are heard: none of the others can change an answer.
    Each ends by itself where the model has no more positions.
    Goes on in the prompt's own cache: give `prompt.branch()` where the prompt is needed again.
    """
    stops = torch.tensor(model.stop_token_ids, device=prompt.logits.device)
    rooms = [min(max_new_tokens, max(1, model.room - own)) for own in prompt.mask.sum(-1).tolist()]
    said = [prompt.logits.argmax(-1, keepdim=True)]
    ended = torch.isin(said[0], stops)
    with torch.no_grad(), patching.eval_mode(model.model):
        while len(said) < max(rooms) and not ended.all():
            prompt, _ = prompt.further(model, said[-1])
            said.append(prompt.logits.argmax(-1, keepdim=True))
            ended |= torch.isin(said[-1], stops)
    found = zip(torch.cat(said, 1).tolist(), rooms, strict=True)
    return [_before_stop(ids[:room], set(model.stop_token_ids)) for ids, room in found]


def _before_stop(ids: list[int], stops: set[int]) -> list[int]:
    return list(takewhile(lambda token: token not in stops, ids))


def checked_length(max_new_tokens: int) -> int:
    """The length of an answer, in tokens. Raises RelevancyError when it is no whole number from 1."""
    if not isinstance(max_new_tokens, Integral) or isinstance(max_new_tokens, bool) or max_new_tokens < 1:
        raise RelevancyError(f"max_new_tokens must be a whole number, 1 or more, not {max_new_tokens!r}.")
    return int(max_new_tokens)


def encoded(model: Model, answer: str) -> tuple[int, ...]:
    """Ids of an answer that was given in words. Raises RelevancyError when it holds none, or control tokens."""
    if not isinstance(answer, str):
        raise RelevancyError(f"The given answer must be text, not {type(answer).__name__}: give its words.")
    if controls := model.controls_in(encodable(answer, "answer")):
        raise RelevancyError(f"The given answer holds the control token {controls[0]}: leave it out.")
    ids = tuple(model.tokenizer.encode(answer.strip(), add_special_tokens=False))
    if not ids:
        raise RelevancyError("The given answer is empty: give at least one word, or leave it out.")
    return ids


def spellings(model: Model, answer: str) -> list[tuple[int, ...]]:
    """Ids of an answer in another model's words: as they stand, and after a space, as some prompts want it."""
    words = answer.strip()
    spelled = [words, f" {words}"] if words else [""]
    return list(dict.fromkeys(tuple(model.tokenizer.encode(text, add_special_tokens=False)) for text in spelled))


def likelihoods(
    model: Model, prompt: Prefill, said: Sequence[str | Sequence[int]]
) -> tuple[tuple[Likelihood | None, ...], ...]:
    """How likely each of the answers is after each of the prompts, teacher-forced, all in one batch: [prompt][answer].

    said: ids, or words, which are then read in that one of their `spellings` that is likelier after the first prompt.
    None for an answer too long for the model.
    """
    spelled = [spellings(model, one) if isinstance(one, str) else [tuple(one)] for one in said]
    room = model.room - prompt.tokens
    every = list(dict.fromkeys(ids for choices in spelled for ids in choices if len(ids) <= room))
    rows = _log_probabilities(model, prompt, every)
    chosen = [_likeliest(choices, rows[0]) for choices in spelled]
    return tuple(tuple(None if ids is None else _likelihood(ids, row[ids]) for ids in chosen) for row in rows)


def likeliest(model: Model, prompt: Prefill, spelled: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """The likeliest of an answer's `spellings` after the first prompt, as `likelihoods` reads it.

    The first where none fits the model.
    """
    fitting = [ids for ids in spelled if len(ids) <= model.room - prompt.tokens]
    return _likeliest(spelled, _log_probabilities(model, prompt, fitting)[0]) or spelled[0]


def _likeliest(spelled: Sequence[tuple[int, ...]], known: Mapping[tuple[int, ...], list[float]]) -> Any:
    """Of those whose log-probabilities are known; None where none is."""
    return max((ids for ids in spelled if ids in known), key=lambda ids: sum(known[ids]), default=None)


def _log_probabilities(
    model: Model, prompt: Prefill, every: Sequence[tuple[int, ...]]
) -> list[dict[tuple[int, ...], list[float]]]:
    """For each prompt, the log-probabilities of each answer's tokens; of an answer without any, that of stopping."""
    batch, longest = len(prompt.logits), max(map(len, every), default=0)
    opening = prompt.logits.float().log_softmax(-1)
    stopping = opening[:, list(model.stop_token_ids)].logsumexp(-1).tolist()
    found = [{ids: [stopping[row]] for ids in every} for row in range(batch)]
    for row, ids in ((row, ids) for row in range(batch) for ids in every if ids):
        found[row][ids] = [float(opening[row, ids[0]])]
    if longest < 2:
        return found
    before = pad_sequence([torch.tensor(ids[:-1], dtype=torch.long) for ids in every], batch_first=True)
    with torch.no_grad(), patching.eval_mode(model.model):
        # Padding comes after an answer's own tokens, so that none of them sees it.
        _, logits = prompt.repeated(len(every)).further(model, before.repeat(batch, 1).to(prompt.logits.device))
    for row in range(batch):
        for number, ids in enumerate(every):
            later = logits[row * len(every) + number, : max(0, len(ids) - 1)].float().log_softmax(-1)
            found[row][ids] += [float(later[place, token]) for place, token in enumerate(ids[1:])]
    return found


def _likelihood(ids: tuple[int, ...], logs: list[float]) -> Likelihood:
    total = sum(logs)
    return Likelihood(exp(logs[0]), exp(total), exp(total / len(logs)), len(ids))


@contextmanager
def oom_as_error() -> Iterator[None]:
    """Turn a failed allocation into a line that says what to lower."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise RelevancyError(_OUT_OF_MEMORY) from error
    except RuntimeError as error:
        if "can't allocate memory" in str(error):
            raise RelevancyError(_OUT_OF_MEMORY) from error
        raise
