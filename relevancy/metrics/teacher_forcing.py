"""A question with its answer, prepared once and read on many versions of its picture: teacher-forced probabilities."""

from __future__ import annotations

__all__ = ["GivenAnswer", "TeacherForcing"]

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from relevancy.core import patching, targets
from relevancy.errors import RelevancyError
from relevancy.explanations.counterfactual import REPLACEMENTS, Replacement, color_of, painted
from relevancy.explanations.explanation import Explanation
from relevancy.images import Picture
from relevancy.metrics.patch_order import seen
from relevancy.models import generation
from relevancy.models.hooks import read_by_decoder
from relevancy.models.model import Model
from relevancy.models.prepared import Example, Prepared
from relevancy.models.session import Session
from relevancy.models.vision_cache import unused_tower_layers_skipped

_BLUR = 0.1  # of the picture's side: the radius, in which nothing of an object's shape is left
_FEWEST, _MOST = 4, 64  # pictures at once
_CACHED = 1 << 18  # activations of a layer that a CPU's cache holds, for each thread


@dataclass(frozen=True)
class GivenAnswer:
    """An answer and the token of it that is explained, or several that are explained together.

    ids: of the answer, stop token excluded. position: of the explained token in them. token: its id. length: of how
    many tokens from there on the probability is followed, which is their product.
    """

    ids: tuple[int, ...]
    position: int
    token: int
    length: int = 1

    @property
    def followed(self) -> tuple[int, ...]:
        """The ids of the tokens whose probability is followed."""
        return self.ids[self.position : self.position + self.length] if self.length > 1 else (self.token,)

    @classmethod
    def of(cls, result: Explanation, model: Model) -> GivenAnswer:
        """What a result explains. Raises RelevancyError for an answer without a token."""
        ids: tuple[int, ...] = tuple(map(model.tokenizer.convert_tokens_to_ids, result.answer_tokens))  # type: ignore[arg-type]
        if not ids:
            raise RelevancyError("The answer has no token, so there is no probability to follow: ask another question.")
        return cls(ids, result.target.position, result.target.id, result.target.length)

    @classmethod
    def words(cls, model: Model, answer: str, target: str | int = "first-relevant") -> GivenAnswer:
        """An answer in words, as `explain(..., answer=..., target=...)` reads it; not for targets that give several."""
        ids = generation.encoded(model, answer)
        choice = targets.choose(target, ids, model.tokenizer)[0]
        return cls(ids, choice.position, choice.id, choice.length)


@dataclass(frozen=True, eq=False)
class VersionScores:
    """What a model makes of several versions of a picture.

    probability: (versions,) float64, of what is explained after the answer's tokens before it. kept: (versions,)
    bool, whether greedy decoding would still write this answer, token by token, and end it there.
    """

    probability: np.ndarray
    kept: np.ndarray


class TeacherForcing:
    """One question about one picture with its answer, ready to be read on many versions of the picture.

    Patches are the cells of `image_map`. Where image tokens are the tower's patches one by one, they are replaced in
    what the tower sees, the picture after its processor: nothing of a hidden patch is left in its neighbours, as
    resizing an edited picture would leave it. For all other families they are replaced in the picture itself, as
    `counterfactual` does it, and so in every view of it.
    """

    def __init__(
        self, model: Model, picture: Image.Image, question: str, said: GivenAnswer, *, batch: int | None = None
    ) -> None:
        self.model, self.said = model, said
        self.layout = model.layout(*picture.size)
        self.grid = self.layout.grid
        self.seen = seen(self.grid)
        self._picture, self._question = picture, question
        self._prepared = self._prepared_for([picture])
        self.batch = batch or _together(model, self._prepared.ids.shape[1])
        self._others: dict[Replacement, Tensor] = {}
        self._known: dict[tuple[str, bytes], tuple[float, bool]] = {}

    @property
    def patches(self) -> int:
        """How many patches there are on the picture."""
        return self.grid.rows * self.grid.cols

    @property
    def pixels(self) -> Tensor:
        """What the processor made of the picture; (channels, height, width) where patches are image tokens."""
        pixels: Tensor = self._prepared.inputs["pixel_values"][0]
        return pixels

    def _prepared_for(self, pictures: Sequence[Image.Image]) -> Prepared:
        """Versions of the picture, each with the question and the answer."""
        examples = [Example((Picture(picture),), self._question) for picture in pictures]
        with Session(self.model) as session:
            return session.prepare(examples, [self.said.ids] * len(examples))

    def replaced(self, hidden: np.ndarray, replacement: Replacement = "grey") -> Tensor:
        """The pixels with patches replaced: hidden bool (versions, patches) -> (versions, channels, height, width).

        replacement: "grey", "black", "mean" (the picture's mean color), or "blur" of the picture.
        """
        mask = torch.from_numpy(np.ascontiguousarray(hidden)).view(-1, 1, self.grid.rows, self.grid.cols)
        side = self.model.model.config.vision_config.patch_size
        mask = mask.repeat_interleave(side, 2).repeat_interleave(side, 3).to(self.pixels.device)
        height, width = self.pixels.shape[-2:]
        whole = nn.functional.pad(mask, (0, width - mask.shape[-1], 0, height - mask.shape[-2]))
        return torch.where(whole, self._other(replacement), self.pixels)

    def _other(self, replacement: Replacement) -> Tensor:
        """What stands in a hidden patch's place, of the pixels' own shape or one that broadcasts to it."""
        if replacement not in REPLACEMENTS:
            raise RelevancyError(f"Unknown replacement {replacement!r}; choose from {', '.join(REPLACEMENTS)}.")
        if replacement not in self._others:
            like = self.pixels
            processor = self.model.processor.image_processor
            if replacement == "blur":
                rows = like.float().permute(1, 2, 0).cpu().numpy()
                radius = _BLUR * max(rows.shape[:2])
                blurred = cv2.GaussianBlur(rows, (0, 0), radius, borderType=cv2.BORDER_REFLECT)
                other = torch.from_numpy(blurred).permute(2, 0, 1)
            else:
                mean, spread = (torch.tensor(getattr(processor, name)) for name in ("image_mean", "image_std"))
                color = torch.tensor(color_of(self._picture, replacement)) / 255
                other = ((color - mean) / spread if processor.do_normalize else color)[:, None, None]
            self._others[replacement] = other.to(like.device, like.dtype)
        return self._others[replacement]

    def read(self, pixels: Tensor) -> VersionScores:
        """The answer on versions of the picture (versions, channels, height, width)."""

        def run(part: slice) -> Tensor:
            some = pixels[part]
            own = {key: _repeated(value, len(some)) for key, value in self._inputs.items()}
            return self._logits(own | {"pixel_values": some})

        return self._reading([0] * len(pixels), run)

    def hiding(self, hidden: np.ndarray, replacement: Replacement = "grey") -> VersionScores:
        """The answer with patches replaced; hidden bool (versions, patches)."""
        if self.model.patchwise:
            return self._once(replacement, hidden, lambda rows: self.read(self.replaced(rows, replacement)))
        return self._once(replacement, hidden, lambda rows: self._edited(rows, replacement))

    def without(self, removed: np.ndarray) -> VersionScores:
        """The answer with image tokens taken out of the sequence; removed bool (versions, patches).

        Those that have seen any of the patches, in whatever view; with all patches, those too that have no place. The
        other tokens keep their places: no token sees a removed one. Where image tokens are patches the tower runs once,
        on the whole picture.
        """
        return self._once("removed", removed, self._removed if self.model.patchwise else self._unseen)

    def _once(self, how: str, masks: np.ndarray, read: Callable[[np.ndarray], VersionScores]) -> VersionScores:
        """What `read` makes of masks (versions, patches), of each but once: curves begin and end alike."""
        keys = [(how, np.packbits(mask).tobytes()) for mask in masks]
        new = {key: mask for key, mask in zip(keys, masks, strict=True) if key not in self._known}
        if new:
            found = read(np.stack(list(new.values())))
            self._known |= zip(new, zip(found.probability.tolist(), found.kept.tolist(), strict=True), strict=True)
        probability, kept = zip(*(self._known[key] for key in keys), strict=True)
        return VersionScores(np.array(probability), np.array(kept))

    def _edited(self, hidden: np.ndarray, replacement: Replacement) -> VersionScores:
        """Pictures that are changed and go the whole way to the model."""
        shape = self.grid.rows, self.grid.cols

        def run(part: slice) -> Tensor:
            masks = (self.grid.pixels_of(one.reshape(shape)) for one in hidden[part])
            versions = [painted(self._picture, mask, replacement) for mask in masks]
            return self._logits(self._prepared_for(versions).inputs)

        return self._reading([0] * len(hidden), run)

    def _unseen(self, removed: np.ndarray) -> VersionScores:
        """The whole sequence, in which no token sees those that are removed."""
        places = self._prepared.image_places(0)
        shape = self.grid.rows, self.grid.cols
        gone = torch.from_numpy(np.stack([self.layout.hidden_with(one.reshape(shape)) for one in removed]))

        def run(part: slice) -> Tensor:
            some = gone[part].to(places.device)
            inputs = self._prepared.repeated(len(some)).inputs
            mask = inputs["attention_mask"].clone()
            mask[:, places] = (~some).to(mask.dtype)
            if "position_ids" not in inputs:
                inputs["position_ids"] = torch.arange(mask.shape[1], device=mask.device).expand(mask.shape)
            inputs["attention_mask"] = mask
            return self._logits(inputs)

        return self._reading([0] * len(removed), run)

    def _removed(self, removed: np.ndarray) -> VersionScores:
        """Shorter sequences, those of one length together; masked ones where an attention window counts places."""
        ids = self._inputs["input_ids"]
        tokens = ids.shape[1]
        places = (ids[0] == self.model.image_token_id).nonzero()[:, 0][-self.patches :]
        if len(places) != self.patches:
            raise RelevancyError(f"{self.model.name} merges patches into image tokens: they cannot be removed singly.")
        embedded = self._embedded()
        others = {key: value for key, value in self._inputs.items() if key not in ("input_ids", "attention_mask")}
        along = any(isinstance(value, Tensor) and value.shape[1:2] == (tokens,) for value in others.values())
        order = np.argsort(removed.sum(1), kind="stable")
        stays = torch.ones(len(removed), tokens, dtype=torch.bool, device=ids.device)
        stays[:, places] = ~torch.from_numpy(removed[order]).to(ids.device)
        masked = along or _has_windows(self.model)

        def run(part: slice) -> Tensor:
            own = torch.ones_like(stays[part]) if masked else stays[part]
            count = len(own)
            positions = own.nonzero()[:, 1].view(count, -1)
            return self._logits(
                {key: _repeated(value, count) for key, value in others.items()}
                | {
                    "inputs_embeds": embedded[0, positions],
                    "attention_mask": stays[part].long() if masked else torch.ones_like(positions),
                    "position_ids": positions,
                }
            )

        found = self._reading([tokens] * len(removed) if masked else stays.sum(1).tolist(), run)
        back = np.argsort(order)
        return VersionScores(found.probability[back], found.kept[back])

    @property
    def _inputs(self) -> dict[str, Any]:
        """What the model reads beside the picture."""
        return {key: value for key, value in self._prepared.inputs.items() if key != "pixel_values"}

    def _logits(self, inputs: Mapping[str, Any]) -> Tensor:
        """Those that the answer and its end come from, (versions, answer + 1, vocabulary)."""
        keep = len(self.said.ids) + 1
        logits: Tensor = self.model.model(**inputs, logits_to_keep=keep, use_cache=False).logits
        return logits

    def _embedded(self) -> Tensor:
        """What the decoder is given for the untouched picture, (1, tokens, hidden)."""
        with Session(self.model), torch.no_grad(), read_by_decoder(self.model) as embedded:
            self.model.model(**self._inputs, pixel_values=self.pixels[None], logits_to_keep=1, use_cache=False)
        return embedded[0]

    def _reading(self, lengths: Sequence[int], run: Callable[[slice], Tensor]) -> VersionScores:
        """What `run` makes of versions, as many together as fit, and never of two lengths."""
        probabilities, kept = [], []
        model = self.model.model
        answer = torch.tensor(self.said.ids, device=self.model.device)
        stops = torch.tensor(self.model.stop_token_ids, device=self.model.device)
        skipped = patching.unread_rows_skipped(model, model.get_decoder())
        with Session(self.model), torch.no_grad(), unused_tower_layers_skipped(self.model), skipped:
            for part in _parts(lengths, self.batch):
                logits = run(part)
                best = logits.argmax(-1)
                kept.append((best[:, :-1] == answer).all(1) & torch.isin(best[:, -1], stops))
                first, length = self.said.position, self.said.length
                followed = answer.new_tensor(self.said.followed)
                here = logits[:, first : first + length].float().log_softmax(-1)
                probabilities.append(here[:, range(length), followed].double().sum(-1).exp())
        return VersionScores(torch.cat(probabilities).double().cpu().numpy(), torch.cat(kept).cpu().numpy())


def _parts(lengths: Sequence[int], most: int) -> Iterator[slice]:
    """Neighbours of one length, at most so many."""
    start = 0
    for _, same in groupby(lengths):
        stop = start + len(list(same))
        yield from (slice(first, min(first + most, stop)) for first in range(start, stop, most))
        start = stop


def _has_windows(model: Model) -> bool:
    """Whether some layer of the decoder looks back a limited number of places."""
    config = model.model.config.get_text_config()
    kinds = getattr(config, "layer_types", None)
    return any(kind != "full_attention" for kind in kinds) if kinds else bool(getattr(config, "sliding_window", None))


def _together(model: Model, tokens: int) -> int:
    """How many versions are read at once: on a CPU as many as its cache holds activations of."""
    if model.device.type != "cpu":
        return _MOST
    room = _CACHED * torch.get_num_threads() // (tokens * model.model.config.get_text_config().hidden_size)
    return min(max(room, _FEWEST), _MOST)


def _repeated(value: Any, count: int) -> Any:
    return value.expand(count, *value.shape[1:]) if isinstance(value, Tensor) else value
