"""Is the embedded pair right, and do its maps show why? Measured on held-out scenes whose truth is known."""

from __future__ import annotations

__all__ = ["accuracy", "held_out"]

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from relevancy.core import patching
from relevancy.core.tape import Scope, record
from relevancy.demo.pool import shrink
from relevancy.demo.questions import FORMS, TYPES, Question, chance
from relevancy.demo.renderer import SIDE
from relevancy.demo.tower import normalized
from relevancy.demo.world import HELD_OUT, Scene, scene
from relevancy.metrics.localization import energy, pointing_patch
from relevancy.models.model import Model
from relevancy.train.collate import Collate
from relevancy.train.features import look_once, stored_features
from relevancy.train.losses import CHUNK
from relevancy.train.template import IGNORED, IMAGE, dialogue, encode

Picture = Literal["own", "other", "grey"]  # what the model is shown: the scene, another scene, nothing
Progress = Callable[[float], None]
Wording = Callable[[Question], Question]  # in which words a question is asked
GREY = 127
WORDS = 1 << 22  # of one position, over a batch: as many logits as maps are made of at a time
DRAWN = 0.6  # of the time that accuracies take: all pictures are drawn


@dataclass(frozen=True)
class Accuracy:
    """Shares of right answers beside what is reached without seeing: {(type, form): share}."""

    picture: Picture
    scenes: int
    seed: int
    questions: int
    overall: float
    chance_overall: float
    by_type: dict[tuple[str, str], float]
    chance: dict[tuple[str, str], float]
    counts: dict[tuple[str, str], int]
    right: list[list[bool]] = field(repr=False)  # per scene, per question


@dataclass(frozen=True)
class MapTruth:
    """Maps of right answers about one object, against that object's visible pixels.

    pointing: share of maps whose peak lies on the object. energy: mean share of the map's mass on the object. Each a
    dictionary over the maps compared: "relevancy", "relevancy of a contrast" (the token that is said rather than the
    next best one), "last-layer attention", "random". by_type: pointing of "relevancy" for each question type.
    object_share: mean share of the picture that the object fills.
    """

    scope: Scope
    maps: int
    pointing: dict[str, float]
    energy: dict[str, float]
    by_type: dict[str, float]
    object_share: float


def as_it_is(question: Question) -> Question:
    """The question in its own words."""
    return question


def held_out(scenes: int, seed: int) -> Iterator[Scene]:
    """Scenes never trained on; each seed has its own."""
    first = HELD_OUT + seed * 1_000_000
    return (scene(first + index) for index in range(scenes))


def accuracy(
    model: Model,
    *,
    scenes: int = 2000,
    seed: int = 0,
    picture: Picture = "own",
    wording: Wording = as_it_is,
    batch: int = 128,
    progress: Progress | None = None,
) -> Accuracy:
    """Ask every question of every scene, alone, and compare the greedy answer with the right one, letter by letter.

    wording: in which words each is asked, such as `wordings.never_heard`.

    An answer is right when at each of its tokens, and at the end of the turn, the right token has the largest logit
    after the right tokens before it: exactly then greedy decoding writes it. So one forward pass is enough.
    """
    report = progress or (lambda _share: None)
    drawn, pixels = _drawn(model, scenes, seed, picture, lambda share: report(DRAWN * share))
    tower = model.model.model.vision_tower
    layer = model.model.config.vision_feature_layer
    features = look_once(
        tower, lambda start, stop: normalized(pixels[start:stop]), len(drawn), layer, dtype=torch.float32
    )
    asked = [(index, wording(question)) for index, one in enumerate(drawn) for question in one.questions]
    right: list[list[bool]] = [[] for _ in drawn]
    hits = answered(model, asked, features, batch, lambda share: report(DRAWN + (1 - DRAWN) * share))
    for (index, _), hit in zip(asked, hits, strict=True):
        right[index].append(hit)
    return _summary(drawn, seed, right, picture)


@torch.no_grad()
def answered(
    model: Model,
    asked: Sequence[tuple[int, Question]],
    features: Tensor,
    batch: int = 128,
    progress: Progress | None = None,
) -> list[bool]:
    """Whether each question is answered right, asked alone, as `accuracy` counts it.

    asked: (number of the picture, question), a picture's questions side by side. features: (pictures, tokens, width),
    the tower's.
    """
    hits: list[bool] = []
    with stored_features(model.model):
        for start in range(0, len(asked), batch):
            hits += _greedy_hits(model, asked[start : start + batch], features)
            if progress:
                progress(len(hits) / len(asked))
    return hits


def _drawn(model: Model, scenes: int, seed: int, picture: Picture, report: Progress) -> tuple[list[Scene], np.ndarray]:
    """The scenes, and what the model is shown of each, (scenes, height, width, 3) uint8."""
    size = model.processor.image_processor.crop_size["height"]
    drawn, shown = [], []
    for one in held_out(scenes, seed):
        drawn.append(one)
        shown.append(np.full((size, size, 3), GREY, np.uint8) if picture == "grey" else shrink(one.pixels, size))
        report(len(drawn) / scenes)
    pixels = np.stack(shown)
    return drawn, np.roll(pixels, 1, axis=0) if picture == "other" else pixels


def _inputs(model: Model, questions: Sequence[Question]) -> dict[str, Tensor]:
    """Question and right answer of each, right-padded; labels mark the answer. The pictures are still to be added."""
    image_tokens = model.layout(SIDE, SIDE).count
    encoded = [
        encode(dialogue(f"{IMAGE}{question.text}", question.answer), model.tokenizer, image_tokens)
        for question in questions
    ]
    batch = Collate(model.tokenizer.pad_token_id)([{"input_ids": one.ids, "labels": one.labels} for one in encoded])
    return {name: values.to(model.device) for name, values in batch.items()}


def _greedy_hits(model: Model, asked: Sequence[tuple[int, Question]], features: Tensor) -> list[bool]:
    """Whether greedy decoding gives the right answers, the newline after the turn's end left out.

    What comes before a question is the same for all of a picture: it is read once.
    """
    inputs = _inputs(model, [question for _, question in asked])
    ids = inputs["input_ids"]
    opening = int((ids[0] == model.image_token_id).nonzero().max()) + 1
    pictures, of_picture = np.unique([index for index, _ in asked], return_inverse=True)
    cache = model.model(
        input_ids=ids[: len(pictures), :opening],
        pixel_values=features[pictures].to(model.device),
        use_cache=True,
        logits_to_keep=1,
    ).past_key_values
    cache.batch_select_indices(torch.from_numpy(of_picture).to(model.device))
    labels = inputs["labels"][:, opening + 1 :].clone()
    last = labels.shape[1] - 1 - (labels != IGNORED).flip(1).int().argmax(1)
    labels[torch.arange(len(labels)), last] = IGNORED
    said = labels != IGNORED
    # Padding comes after a question's own tokens, so that none of them sees it.
    hidden = model.model.model(input_ids=ids[:, opening:], past_key_values=cache).last_hidden_state
    hits = torch.ones_like(said)
    hits[said] = _most_likely(model, hidden[:, :-1][said]) == labels[said]
    return hits.all(1).tolist()


def _most_likely(model: Model, states: Tensor) -> Tensor:
    """The token with the largest logit after each state (states, width), with few logits in memory at once."""
    head = model.model.get_output_embeddings()
    return torch.cat([head(part).argmax(-1) for part in states.split(CHUNK)])


def _summary(drawn: Sequence[Scene], seed: int, right: list[list[bool]], picture: Picture) -> Accuracy:
    hits: dict[tuple[str, str], list[bool]] = defaultdict(list)
    for one, scored in zip(drawn, right, strict=True):
        for question, hit in zip(one.questions, scored, strict=True):
            hits[question.type, question.form].append(hit)
    cells = [(kind, form) for kind in TYPES for form in FORMS if hits[kind, form]]
    counts = {cell: len(hits[cell]) for cell in cells}
    total = sum(counts.values())
    return Accuracy(
        picture=picture,
        scenes=len(drawn),
        seed=seed,
        questions=total,
        overall=sum(map(sum, right)) / max(total, 1),
        chance_overall=sum(chance(*cell) * counts[cell] for cell in cells) / max(total, 1),
        by_type={cell: float(np.mean(hits[cell])) for cell in cells},
        chance={cell: chance(*cell) for cell in cells},
        counts=counts,
        right=right,
    )


def map_truth(
    model: Model,
    scored: Accuracy,
    *,
    scope: Scope = "language",
    wording: Wording = as_it_is,
    batch: int = 64,
    progress: Progress | None = None,
) -> MapTruth:
    """Score the maps of all right answers about exactly one visible object, first token, all layers.

    scored: what `accuracy` found of this model, with the scenes' own pictures. wording: as there.
    """
    asked: list[tuple[Scene, Question]] = []
    for one, hits in zip(held_out(scored.scenes, scored.seed), scored.right, strict=True):
        asked += [
            (one, wording(question))
            for question, hit in zip(one.questions, hits, strict=True)
            if hit and len(question.items) == 1
        ]
    judge = _Judge(model, scored.seed)
    batch = max(1, min(batch, WORDS // model.model.config.get_text_config().vocab_size))
    for start in range(0, len(asked), batch):
        part = asked[start : start + batch]
        _judge_batch(model, part, scope, judge)
        if progress:
            progress(min(start + batch, len(asked)) / len(asked))
    return judge.verdict(scope)


def _judge_batch(model: Model, part: Sequence[tuple[Scene, Question]], scope: Scope, judge: _Judge) -> None:
    size = model.processor.image_processor.crop_size["height"]
    pixels = normalized(np.stack([shrink(one.pixels, size) for one, _ in part]))
    inputs = _inputs(model, [question for _, question in part]) | {"pixel_values": pixels.to(model.device)}
    labels = inputs.pop("labels")
    position = (labels != IGNORED).int().argmax(1) - 1  # the position whose logits emit the answer's first token
    image_tokens = inputs["input_ids"] == model.image_token_id
    attention = _last_attention(model, inputs, position)[image_tokens].view(len(part), -1)
    said, contrast = _relevancy(model, inputs, position, scope, _largest, _lead)
    maps = {
        "relevancy": said,
        "relevancy of a contrast": contrast,
        "last-layer attention": attention.numpy(force=True),
    }
    for index, (one, question) in enumerate(part):
        judge.see(one, question, {name: each[index] for name, each in maps.items()})


def _largest(logits: Tensor) -> Tensor:
    """The logit of the token that is said: (batch, words) -> (batch,)."""
    return logits.max(-1).values


def _lead(logits: Tensor) -> Tensor:
    """How far it is ahead of the next best one, as a target such as "Yes|No" has it."""
    best = logits.topk(2).values
    return best[:, 0] - best[:, 1]


def _relevancy(
    model: Model, inputs: dict[str, Tensor], position: Tensor, scope: Scope, *targets: Callable[[Tensor], Tensor]
) -> list[np.ndarray]:
    """For each target, maps of what it makes of the logits at `position`: (batch, patches). One forward pass."""
    rows = torch.arange(len(position), device=model.device)
    asked, of_row = position.unique(return_inverse=True)
    image_tokens = inputs["input_ids"] == model.image_token_id
    grid = model.grid(SIDE, SIDE)
    patches = grid.rows * grid.cols
    maps = []
    with record(model.model, scope=scope) as tape:
        logits = model.model(**inputs, logits_to_keep=asked).logits[rows, of_row]
        for number, target in enumerate(targets, start=1):
            relevance = tape.relevance(target(logits), position, retain_graph=number < len(targets))
            on_text_side = relevance.language[image_tokens].view(len(position), -1)
            seen = on_text_side if relevance.vision is None else relevance.vision
            maps.append(seen[:, -patches:].numpy(force=True))  # of the tower's tokens the class token is no patch
    return maps


@torch.no_grad()
def _last_attention(model: Model, inputs: dict[str, Tensor], position: Tensor) -> Tensor:
    """What the explained position attends to in the decoder's last layer, mean over heads: (batch, tokens)."""
    with patching.attention_implementation("eager", model.model.get_decoder()):
        probabilities = model.model(**inputs, output_attentions=True).attentions[-1]
    return probabilities[torch.arange(len(position)), :, position].float().mean(1)


class _Judge:
    """Collects scores of maps, one question after the other."""

    def __init__(self, model: Model, seed: int):
        self.grid = model.grid(SIDE, SIDE)
        self.rng = np.random.default_rng([seed, 3])
        self.pointing: dict[str, list[float]] = defaultdict(list)
        self.energy: dict[str, list[float]] = defaultdict(list)
        self.by_type: dict[str, list[float]] = defaultdict(list)
        self.shares: list[float] = []

    def see(self, one: Scene, question: Question, maps: dict[str, np.ndarray]) -> None:
        """Score the maps of one answer; a random map of the same size is added."""
        mask = one.mask(*question.items)
        shape = self.grid.rows, self.grid.cols
        self.shares.append(float(mask.mean()))
        for name, flat in (maps | {"random": self.rng.uniform(size=shape)}).items():
            patches = np.asarray(flat, np.float32).reshape(shape)
            hit = pointing_patch(patches, self.grid, mask)
            self.pointing[name].append(hit)
            self.energy[name].append(energy(self.grid.heatmap(patches, smooth=False), mask))
            if name == "relevancy":
                self.by_type[question.type].append(hit)

    def verdict(self, scope: Scope) -> MapTruth:
        """Means over all maps seen."""
        return MapTruth(
            scope=scope,
            maps=len(self.shares),
            pointing=_mean_of_each(self.pointing),
            energy=_mean_of_each(self.energy),
            by_type=_mean_of_each(self.by_type),
            object_share=float(np.mean(self.shares)) if self.shares else float("nan"),
        )


def _mean_of_each(values: dict[str, list[float]]) -> dict[str, float]:
    return {name: float(np.nanmean(each)) for name, each in values.items()}


def table(results: Iterable[Accuracy]) -> list[tuple[str, str, int, list[float]]]:
    """Rows (type, form, questions, share for each result) for printing several results side by side."""
    results = list(results)
    first = results[0]
    return [
        (kind, form, first.counts[kind, form], [one.by_type[kind, form] for one in results])
        for kind, form in first.by_type
    ]
