"""A model at work for one thread: what reads questions goes through here, and shares what can be shared."""

from __future__ import annotations

__all__ = ["Session"]

from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from types import TracebackType
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from relevancy.core import patching
from relevancy.families.views import Layout
from relevancy.models import generation
from relevancy.models.generation import MAX_NEW_TOKENS, Likelihood, Prefill
from relevancy.models.model import Model
from relevancy.models.prefixes import PrefixCache
from relevancy.models.prepared import Example, Prepared, ProcessedPicture
from relevancy.models.vision_cache import VisionCache, unused_tower_layers_skipped
from relevancy.videos import Video

_EDGE = 0.01  # less of a picture that was not seen is the edge of a patch
_TOGETHER = 8  # pictures in the tower: its activations still fit a CPU's cache


class Session:
    """Inside `with Session(model) as session`, the model is this thread's own and in evaluation mode.

    No other thread borrows it or a part of it meanwhile, and a failed allocation becomes a RelevancyError that says
    what to lower. towers: what vision towers have made of pictures; sessions that are given the same one run towers
    that are the same only once for a picture. prefixes: what it knows of pictures; it ends with the session unless the
    model is `remembering`.
    """

    def __init__(self, model: Model, towers: VisionCache | None = None) -> None:
        self.model = model
        self._towers = towers
        self._held = ExitStack()
        self._seen: dict[int, tuple[Image.Image | ProcessedPicture, ProcessedPicture]] = {}
        self.prefixes = PrefixCache()

    def __enter__(self) -> Session:
        with ExitStack() as held:
            held.enter_context(self.model.lock)
            held.enter_context(generation.oom_as_error())
            held.enter_context(patching.eval_mode(self.model.model))
            if self.model.prefixes is not None:
                self.prefixes = self.model.prefixes
                self.prefixes.check(self.model.model)
            held.callback(self.prefixes.settle)
            self._held = held.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return self._held.__exit__(kind, error, trace)

    def prepare(
        self, examples: Sequence[Example], said: Sequence[Sequence[int]] | None = None, *, features: bool = False
    ) -> Prepared:
        """Examples as the model reads them, each with the ids of `said` after the turn that the model is to fill.

        features: tower and connector run now, once for each picture, where the model takes what they make; for whoever
        asks neither for the pixels nor for gradients through the tower. Raises RelevancyError for a question that is
        empty or too long, for a given answer that is, and for a picture whose image tokens have no place that is known.
        """
        model = self.model
        sizes = [tuple(one.size for one in example.pictures) for example in examples]
        known = {own: model.layouts(own) for own in dict.fromkeys(sizes)}
        images = [example.images for example in examples]
        if features and model.takes_features and model.patchwise:  # of which no family takes videos
            seen = self.seen([image for own in images for image in own if not isinstance(image, Video)])
            images = [tuple(seen[id(image)] for image in own) for own in images]
        inputs = model.prepare(images, [example.question for example in examples], said)
        read = [0] * len(examples) if said is None else map(len, said)
        left = [len(one.answer or ()) - held for one, held in zip(examples, read, strict=True)]
        if any(more > 0 for more in left):
            model.check_room(inputs, [max(0, more) for more in left])
        return Prepared(
            inputs,
            model.image_token_id,
            tuple(known[own] for own in sizes),
            tuple(
                model.notes + _notes(one) + _cut_off(known[own]) + model.question_notes(one.question)
                for one, own in zip(examples, sizes, strict=True)
            ),
            model.video_token_id,
        )

    def seen(self, images: Sequence[Image.Image | ProcessedPicture]) -> dict[int, ProcessedPicture]:
        """What tower and connector make of each of the pictures, by the picture's `id`; each runs once in a session."""
        model: Any = self.model.model
        digests: dict[int, str] = {}
        for image in images:
            if isinstance(image, ProcessedPicture) and image.features is not None:
                self._seen[id(image)] = image, image
            elif isinstance(image, Image.Image) and self.prefixes.budget and id(image) not in self._seen:
                digests[id(image)], known = self.prefixes.seen(image)
                if known is not None:
                    self._seen[id(image)] = image, known
        new = {id(image): image for image in images if id(image) not in self._seen}
        # To know a tower again its weights are looked at: only where another session may have run the same one.
        shared = nullcontext() if self._towers is None else self._towers.shared(self.model)
        with torch.no_grad(), shared, unused_tower_layers_skipped(self.model):
            for start in range(0, len(new), _TOGETHER):
                some = list(new.values())[start : start + _TOGETHER]
                processed = [self._processed(image) for image in some]
                pixels = torch.stack([one.pixels for one in processed]).to(self.model.device, self.model.dtype)
                pooled = model.get_image_features(pixels, return_dict=True).pooler_output
                for image, one, features in zip(some, processed, pooled, strict=True):
                    whole = features[None] if isinstance(pooled, Tensor) else features
                    self._seen[id(image)] = image, replace(one, features=whole)
                    if id(image) in digests:
                        self.prefixes.remember(digests[id(image)], self._seen[id(image)][1])
        return {id(image): self._seen[id(image)][1] for image in images}

    def _processed(self, image: Image.Image | ProcessedPicture) -> ProcessedPicture:
        if isinstance(image, ProcessedPicture):
            return image
        pixels: Tensor = self.model.processor.image_processor(images=[image], return_tensors="pt")["pixel_values"][0]
        return ProcessedPicture(image.size, pixels)

    def prefill(self, prepared: Prepared) -> Prefill:
        """One forward pass over the batch: what any answer goes on from."""
        with torch.no_grad():
            return Prefill.of(prepared, self.model.model(**prepared.inputs, logits_to_keep=1, use_cache=True))

    def generate(self, prompt: Prefill, max_new_tokens: int = MAX_NEW_TOKENS) -> list[list[int]]:
        """Ids of the greedy answers, stop tokens left out; goes on in the prompt's own cache, see `Prefill.branch`."""
        return generation.answers(self.model, prompt, max_new_tokens)

    def score(self, prompt: Prefill, said: Sequence[str | Sequence[int]]) -> tuple[tuple[Likelihood | None, ...], ...]:
        """How likely each answer is after each prompt, `[prompt][answer]`; None for one too long for the model."""
        return generation.likelihoods(self.model, prompt, said)


def _cut_off(layouts: Sequence[Layout]) -> tuple[str, ...]:
    """What the model never sees of its pictures; of several, of the one of which it sees least."""
    share = max((layout.grid.unseen for layout in layouts), default=0.0)
    if share < _EDGE:
        return ()
    which = "the picture" if len(layouts) == 1 else "a picture"
    note = f"{share:.0%} of {which}, hatched on the map, is cut off before it comes to the model"
    return (f"{note}; framing pad (--framing pad) gives a LLaVA all of it",)


def _notes(example: Example) -> tuple[str, ...]:
    """What was done to its pictures; of several, each note says to which."""
    several = len(example.pictures) > 1
    return tuple(
        f"picture {number}: {note}" if several else note
        for number, picture in enumerate(example.pictures, 1)
        for note in picture.notes
    )
