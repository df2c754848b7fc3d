"""Where image tokens lie in a picture, measured: for families that no rule is written for, and to test the rules.

Two measurements are put together. *Pixel to picture*: pictures of known colors (black, white, ramps over columns and
over rows) go through the processor; where each number that the model sees comes from is what its grey says, whatever
was cut, stretched, normalized or rearranged. *Token to pixel*: with a tower whose blocks pass on what they are given,
the gradient of an image token, as the decoder reads it, names the numbers that it was made of.
"""

from __future__ import annotations

__all__ = ["Probe"]

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from transformers import PreTrainedModel

from relevancy.core import patching
from relevancy.core.reach import Reach, owners
from relevancy.core.seeds import form_of
from relevancy.core.stacks import is_attention
from relevancy.errors import RelevancyError, shortened
from relevancy.families.views import Layout, View, gathered
from relevancy.geometry import Grid

Reader = Callable[[Image.Image], Mapping[str, Any]]

_LEVELS = 255  # of grey, above black
_RAMPS = 4  # for each axis at most: in longer pictures a level stands for more than one column
_SEEN = 0.5  # of the largest span from black to white: less is padding
_NEAR = 0.3  # of a cell: two centers nearer than that are in one row or column
_OVERLAPPING = 1.25  # cells: tokens that have seen more see some of each other's
_BORDER = 0.05  # of a cell, or of a pixel where cells are smaller: an edge nearer to the border lies on it
_HEARD = 0.25  # of the smaller of two rectangles, in both directions: with less in common, they are of different places
_PLANTED = 4  # places that are changed to see whether their tokens hear of it
_KEPT = 64  # forms of inputs, and sizes of pictures
_PARALLEL = 0.999  # of two gradients, the cosine with which they are one
_ONE_BY_ONE = 2048  # image tokens that share pixels are asked about one by one, up to as many


@dataclass(frozen=True, eq=False)
class _Owners:
    """Which image tokens each number that the model sees is part of.

    patches: of each input by name, the patch that a number belongs to, -1 where it is part of no token. taken: of each
    token the patches that it is made of, and how much it takes of each; None where each token is a patch.
    """

    patches: Mapping[str, np.ndarray]
    taken: Sequence[tuple[np.ndarray, np.ndarray]] | None = None


@dataclass(eq=False)
class _Tower:
    """What a tower's first block is given, and what it gives in place of that, the same for all tokens, by call."""

    first: nn.Module | None = None
    given: list[Tensor] = field(default_factory=list)
    alike: list[Tensor] = field(default_factory=list)

    def passed_on(self, block: nn.Module, given: Tensor) -> Tensor:
        """What this block gives: the first one the mean of all tokens for each of them, others what they are given."""
        self.first = self.first or block
        if block is not self.first:
            return given
        mean = given.detach().flatten(0, -2).mean(0)
        self.given.append(given)
        self.alike.append(mean.expand_as(given).clone().requires_grad_())
        return self.alike[-1]


class _Reached(Exception):  # noqa: N818  # a way out, no mistake
    """The decoder is about to read."""


@dataclass
class Probe:
    """Measures a model with its processor; what was measured is kept."""

    layouts: dict[tuple[int, int], Layout] = field(default_factory=dict)
    _owners: dict[str, _Owners] = field(default_factory=dict)

    def layout(self, model: PreTrainedModel, image_token_id: int, read: Reader, width: int, height: int) -> Layout:
        """Where the image tokens of a picture of `width` x `height` pixels lie.

        read: the model's inputs for a question about a picture. Raises RelevancyError where tokens have no place of
        their own, or a change in the picture does not reach the token that should have seen it.
        """
        size = width, height
        if size not in self.layouts:
            eyes = _Eyes(model, image_token_id, read)
            rectangles = self._rectangles(eyes, width, height)
            found = _layout(rectangles, width, height)
            _check(eyes, found, rectangles)
            _make_room(self.layouts)
            self.layouts[size] = found
        return self.layouts[size]

    def _rectangles(self, eyes: _Eyes, width: int, height: int) -> _Rectangles:
        noise = eyes.read(_noise(width, height))
        form = form_of(noise)
        if form not in self._owners:
            _make_room(self._owners)
            self._owners[form] = eyes.owners(noise)
        return _Rectangles.of(self._owners[form], _places(eyes, width, height), eyes.count(noise))


def _make_room(kept: dict[Any, Any]) -> None:
    if len(kept) >= _KEPT:
        kept.pop(next(iter(kept)))


@dataclass(frozen=True)
class _Eyes:
    """A model that looks at pictures and stops before it reads."""

    model: PreTrainedModel
    image_token_id: int
    read: Reader

    def count(self, inputs: Mapping[str, Any]) -> int:
        return int((inputs["input_ids"] == self.image_token_id).sum())

    def embeddings(self, inputs: Mapping[str, Any], tower: _Tower | None = None) -> Tensor:
        """The image tokens as the decoder reads them, (count, width), from a tower whose blocks pass all on.

        tower: gathers what its first block is given.
        """
        read: list[Tensor | None] = []

        def stop(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            read.append(kwargs["inputs_embeds"] if "inputs_embeds" in kwargs else args[0])
            raise _Reached

        decoder = self.model.get_decoder()
        handle = decoder.register_forward_pre_hook(stop, with_kwargs=True)
        try:
            with (
                _passing_on(self.model, decoder, tower),
                patching.eval_mode(self.model),
                patching.frozen_parameters(self.model),
            ):
                self.model(**inputs, use_cache=False)
        except _Reached:
            pass
        except Exception as error:  # what the processor makes is not what the model takes, however it says so
            raise RelevancyError(
                f"{self._name} cannot look at what its processor makes of this picture ({shortened(error)}): the "
                "picture is too small, or the processor belongs to another model"
            ) from error
        finally:
            handle.remove()
        if not read:
            raise RelevancyError(f"the decoder of {self._name} is not called on its way from a picture to an answer")
        if read[0] is None:
            raise RelevancyError(
                f"the decoder of {self._name} looks at pictures itself, so where its image tokens lie is not measurable"
            )
        return read[0][inputs["input_ids"] == self.image_token_id]

    def owners(self, inputs: Mapping[str, Any]) -> _Owners:
        """Which image tokens each number that the model sees is part of."""
        names, reach = self._reach(inputs)
        found, several = owners(len(reach.embeddings), reach.reached)
        if several:
            return self._shared(inputs, names, reach)
        return _Owners({name: part.numpy() for name, part in zip(names, found, strict=True)})

    def _reach(self, inputs: Mapping[str, Any], tower: _Tower | None = None) -> tuple[list[str], Reach]:
        """The names of what the model sees, and a way to ask what image tokens are made of."""
        seen = {name: value for name, value in inputs.items() if _is_seen(value)}
        with torch.enable_grad():
            leaves = {name: value.detach().clone().requires_grad_() for name, value in seen.items()}
            embeddings = self.embeddings({**inputs, **leaves}, tower)
        if not embeddings.requires_grad or not leaves:
            raise RelevancyError(f"{self._name} lets no gradient through from its pictures to its image tokens")
        return list(leaves), Reach(embeddings, list(leaves.values()))

    def _shared(self, inputs: Mapping[str, Any], names: Sequence[str], reach: Reach) -> _Owners:
        """Where numbers are part of several tokens, as where a tower's tokens are interpolated to fewer."""
        count = len(reach.embeddings)
        every = _in_a_row(reach.reached(torch.ones(count, dtype=torch.bool)))
        alone = torch.eye(min(count, _ONE_BY_ONE), count, dtype=torch.bool)
        if all(torch.equal(_in_a_row(reach.reached(alone[token])), every) for token in (0, -1)):
            raise RelevancyError(
                f"each of the {count} image tokens of {self._name} is made of the whole picture (a resampler), so that "
                "none has a place of its own; relevancy.record gives their row"
            )
        if count > _ONE_BY_ONE:
            raise RelevancyError(f"the {count} image tokens of {self._name} share pixels, too many to be told apart")
        patches, parts = self._tower_tokens(inputs) or (torch.arange(len(every)).where(every, -1), reach)
        width = 1 if parts is reach else parts.sources[0].shape[-1]
        taken = []
        for token in alone:
            gradients = _in_a_row(parts.gradients(token)).cpu().double().view(-1, width)
            places = gradients.any(1).nonzero()[:, 0]
            taken.append((places.numpy(), _shares(gradients[places]).numpy()))
        split = patches.split([source.numel() for source in reach.sources])
        shaped = (part.view(source.shape).numpy() for part, source in zip(split, reach.sources, strict=True))
        return _Owners(dict(zip(names, shaped, strict=True)), taken)

    def _tower_tokens(self, inputs: Mapping[str, Any]) -> tuple[Tensor, Reach] | None:
        """Which token of the tower each number is part of, (numbers,), and a way to ask what image tokens take of each.

        The tower's tokens are all alike there. None for a tower that mixes pixels before its blocks.
        """
        tower = _Tower()
        _, seen = self._reach(inputs, tower)
        if not tower.given:
            return None
        given = torch.cat([one.flatten(0, -2) for one in tower.given])
        found, several = owners(len(given), Reach(given, seen.sources).reached)
        return None if several else (_in_a_row(found), Reach(seen.embeddings, tower.alike))

    @property
    def _name(self) -> str:
        return str(self.model.config.model_type)


def _shares(gradients: Tensor) -> Tensor:
    """How much a token takes of each of its patches, (patches,), from its gradients in them, (patches, width).

    A mean of patches that are alike has one gradient in all of them, as large as what it takes of each. Of what is made
    of them in another way, as by a convolution, all count alike.
    """
    sizes = gradients.norm(dim=1)
    largest = sizes.argsort(descending=True)[:1]  # none, of a token that is made of no patch
    along = (gradients @ gradients[largest].mT).abs()
    return sizes if bool((along >= _PARALLEL * sizes[:, None] * sizes[largest]).all()) else torch.ones_like(sizes)


def _in_a_row(parts: Sequence[Tensor]) -> Tensor:
    return torch.cat([part.flatten() for part in parts])


@contextmanager
def _passing_on(model: PreTrainedModel, decoder: nn.Module, tower: _Tower | None) -> Iterator[None]:
    """Inside, blocks that attend within one sequence, the decoder's apart, give what they were given.

    tower: gathers what the first of them is given, and says what it passes on.
    """
    own = set(map(id, decoder.modules()))
    blocks = [
        module
        for name, module in model.named_modules()
        if id(module) not in own and name.rpartition(".")[2].isdigit() and any(map(is_attention, module.modules()))
    ]
    inner = {id(child) for block in blocks for child in blocks if child is not block and child in set(block.modules())}
    outer = {
        id(block) for block in blocks if any(id(child) in inner for child in block.modules() if child is not block)
    }

    def pass_on(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        made = output[0] if isinstance(output, tuple) else output
        given = [value for value in (*args, *kwargs.values()) if _is_seen(value) and value.shape[-1] == made.shape[-1]]
        like = [value for value in given if value.ndim == made.ndim]
        if len(like) != 1 or like[0].shape != made.shape:
            return output  # it reads another sequence too, or makes fewer tokens of those it was given
        passed = like[0] if tower is None else tower.passed_on(block, like[0])
        return (passed, *output[1:]) if isinstance(output, tuple) else passed

    with ExitStack() as hooks:
        for block in blocks:
            if id(block) not in outer:
                hooks.callback(block.register_forward_hook(pass_on, with_kwargs=True, prepend=True).remove)
        yield


def _is_seen(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(96, 160, (height, width, 3)).astype(np.uint8))


def _places(eyes: _Eyes, width: int, height: int) -> dict[str, np.ndarray]:
    """Where in the picture each number that the model sees comes from: (2, ...) x and y, NaN for padding."""

    def seen(values: np.ndarray) -> dict[str, np.ndarray]:
        picture = Image.fromarray(np.repeat(values.astype(np.uint8)[..., None], 3, axis=2))
        inputs = eyes.read(picture)
        return {name: value.float().cpu().numpy() for name, value in inputs.items() if _is_seen(value)}

    black, white = (seen(np.full((height, width), grey)) for grey in (0, _LEVELS))
    spans = {name: white[name] - black[name] for name in black}
    found = {name: np.full((2, *span.shape), np.nan) for name, span in spans.items()}
    known = {name: np.abs(span) > _SEEN * np.abs(span).max() for name, span in spans.items()}
    for axis, length in enumerate((width, height)):
        ramps = min(_RAMPS, max(1, -(-(length - 1) // _LEVELS)))
        step = max(length - 1, 1) / (ramps * _LEVELS)  # columns to a level of grey
        levels = np.arange(length) / step
        summed = {name: np.zeros(span.shape) for name, span in spans.items()}
        for ramp in range(ramps):
            grey = np.clip(np.rint(levels) - ramp * _LEVELS, 0, _LEVELS)
            shown = seen(np.broadcast_to(grey if axis == 0 else grey[:, None], (height, width)))
            for name, span in spans.items():
                summed[name] += np.where(known[name], shown[name] - black[name], 0) / np.where(known[name], span, 1)
        for name, total in summed.items():
            found[name][axis] = np.where(known[name], total * _LEVELS * step + 0.5, np.nan)
    return found


@dataclass(frozen=True, eq=False)
class _Rectangles:
    """Of each image token: the middle (count, 2) of what it has seen, its extent (count, 2), NaN where it saw nothing.

    In the middle each place counts as much as the token takes of it.

    whole: bool (count,), whether it saw no padding.
    """

    middles: np.ndarray
    extents: np.ndarray
    whole: np.ndarray

    @classmethod
    def of(cls, owners: _Owners, places: Mapping[str, np.ndarray], count: int) -> _Rectangles:
        token, x, y, weight = _pairs(owners, places)
        middles, extents = np.full((count, 2), np.nan), np.full((count, 2), np.nan)
        known = ~np.isnan(x)
        numbers, seen = np.bincount(token, minlength=count), np.bincount(token[known], minlength=count)
        order = np.argsort(token[known], kind="stable")
        starts = np.concatenate([[0], np.cumsum(seen)])
        weights, pitches = weight[known][order], np.full((count, 2), np.nan)
        for axis, values in enumerate((x, y)):
            sorted_values = values[known][order]
            for number in np.flatnonzero(seen):
                part = slice(starts[number], starts[number + 1])
                own = sorted_values[part]
                steps = np.unique(np.round(own, 2))
                pitches[number, axis] = np.median(np.diff(steps)) if len(steps) > 1 else np.nan
                middles[number, axis] = np.average(own, weights=weights[part])
                extents[number, axis] = np.ptp(own)
        # what has seen one column of numbers reaches as far as theirs do elsewhere, or over a pixel
        usual = [np.nanmedian(own) if np.isfinite(own).any() else 1.0 for own in pitches.T]
        return cls(middles, extents + np.where(np.isnan(pitches), usual, pitches), (seen == numbers) & (seen > 0))


def _pairs(owners: _Owners, places: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Pairs of a token and a place that it has seen: the token's number, x, y, and how much it takes of it."""
    patch = np.concatenate([one.ravel() for one in owners.patches.values()])
    x, y = np.concatenate([places[name].reshape(2, -1) for name in owners.patches], 1)
    order = np.argsort(patch, kind="stable")[(patch < 0).sum() :]
    if owners.taken is None:
        return patch[order], x[order], y[order], np.ones(len(order))
    own = np.split(order, np.cumsum(np.bincount(patch[order]))[:-1])
    token = np.repeat(np.arange(len(owners.taken)), [sum(len(own[one]) for one in held) for held, _ in owners.taken])
    numbers = np.concatenate([own[one] for held, _ in owners.taken for one in held])
    weight = np.concatenate(
        [np.repeat(size, len(own[one])) for taken in owners.taken for one, size in zip(*taken, strict=True)]
    )
    return token, x[numbers], y[numbers], weight


def _layout(found: _Rectangles, width: int, height: int) -> Layout:
    """Grids of tokens that follow each other row by row; whatever has seen nothing of the picture has no place."""
    views: list[np.ndarray] = []
    for row in _rows(found):
        if views and _goes_on(found, views[-1], row):
            views[-1] = np.vstack([views[-1], row])
        else:
            views.append(row[None])
    grids = [
        Grid(width, height, _edges(found, tokens.T, 0, width), _edges(found, tokens, 1, height)) for tokens in views
    ]
    names = _names(grids, width, height)
    return gathered(
        [View(name, grid, tokens) for name, grid, tokens in zip(names, grids, views, strict=True)], len(found.middles)
    )


def _rows(found: _Rectangles) -> list[np.ndarray]:
    """Tokens that lie beside each other, from left to right."""
    rows: list[list[int]] = []
    for token in np.flatnonzero(~np.isnan(found.middles[:, 0])).tolist():
        if rows:
            before = rows[-1][-1]
            right, down = found.middles[token] - found.middles[before]
            across, high = found.extents[[token, before]].max(0)
            if right > _NEAR * across and abs(down) < _NEAR * high and abs(right) < (2 - _NEAR) * across:
                rows[-1].append(token)
                continue
        rows.append([token])
    return [np.array(row) for row in rows]


def _goes_on(found: _Rectangles, view: np.ndarray, row: np.ndarray) -> bool:
    """Whether a row lies right below the last one of a view."""
    last = view[-1]
    if len(row) != len(last):
        return False
    right, down = (found.middles[row] - found.middles[last]).T
    across, high = np.maximum(found.extents[row], found.extents[last]).max(0)
    return bool(
        (abs(right) < _NEAR * across).all() and (down > _NEAR * high).all() and (down < (2 - _NEAR) * high).all()
    )


def _edges(found: _Rectangles, tokens: np.ndarray, axis: int, length: int) -> np.ndarray:
    """Edges (cells + 1,) of a view's rows, from tokens (rows, cols), or of its columns.

    Cells are equally large, as resizing is even; they follow from those that have seen no padding and do not lie at
    the border, where what a pixel says of its place is drawn inwards. Where tokens see more than their cells, as by
    convolutions, the outer cells reach as far as theirs have seen.
    """
    whole = found.whole[tokens]
    if not whole.any():
        whole = np.ones_like(whole)
    cells, known = len(tokens), np.flatnonzero(whole.any(1))
    centers = np.nanmean(np.where(whole, found.middles[tokens, axis], np.nan)[known], 1)
    if len(known) > 1:
        step, start = np.polyfit(known, centers, 1)
    else:
        step = float(np.median(found.extents[tokens, axis][whole]))
        start = centers[0] - step * known[0]
    edges: np.ndarray = start + step * (np.arange(cells + 1) - 0.5)
    middles, halves = found.middles[tokens, axis], found.extents[tokens, axis] / 2
    if 2 * np.median(halves) > _OVERLAPPING * step:
        edges[0] = min(edges[0], max(0.0, float((middles - halves)[0].min())))
        edges[-1] = max(edges[-1], min(float(length), float((middles + halves)[-1].max())))
    # what has seen something of the picture lies in it, be it at its border
    edges[1:] = np.maximum(edges[1:], np.minimum(step, 1.0) * _BORDER)
    edges[:-1] = np.minimum(edges[:-1], length - np.minimum(step, 1.0) * _BORDER)
    for end, border in ((0, 0.0), (-1, float(length))):
        if abs(edges[end] - border) < _BORDER * max(1.0, step):
            edges[end] = border
    return edges


def _names(grids: list[Grid], width: int, height: int) -> list[str]:
    """Of views that show all that any has seen, the coarsest is "whole", others are "tiles"; the rest has numbers."""
    boxes = np.array([[grid.x_edges[0], grid.y_edges[0], grid.x_edges[-1], grid.y_edges[-1]] for grid in grids])
    boxes = np.clip(boxes, 0, [width, height, width, height])
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], 1)
    complete = areas > 0.9 * np.prod(boxes[:, 2:].max(0) - boxes[:, :2].min(0))
    cells = np.array([grid.rows * grid.cols for grid in grids])
    fewest = cells[complete].min() if complete.any() else 0
    names, tiles = [], 0
    for all_seen, number in zip(complete, cells, strict=True):
        tiles += not all_seen
        names.append(f"tile {tiles}" if not all_seen else "whole" if number == fewest else "tiles")
    return names


def _check(eyes: _Eyes, layout: Layout, found: _Rectangles) -> None:
    """Raise RelevancyError unless changed places of a picture change the tokens that have seen them most."""
    name = eyes.model.config.model_type
    width, height = layout.grid.width, layout.grid.height
    if not layout.views:
        raise RelevancyError(f"no image token of {name} has a place in the picture")
    boxes = np.full((layout.count, 4), np.nan)
    for view in layout.views:
        boxes[view.tokens.ravel()] = view.grid.boxes()
    rng = np.random.default_rng(1)
    pixels = np.array(_noise(width, height))
    with torch.no_grad():
        before = eyes.embeddings(eyes.read(Image.fromarray(pixels)))
        large = np.flatnonzero((boxes[:, 2] - boxes[:, 0] > 0) & (boxes[:, 3] - boxes[:, 1] > 0) & found.whole)
        for token in rng.choice(large, min(_PLANTED, len(large)), replace=False):
            (left, right), (upper, lower) = (_inside(*boxes[token][axis::2]) for axis in (0, 1))
            changed = pixels.copy()
            changed[upper:lower, left:right] = 255 * (changed[upper:lower, left:right] < 128)
            moved = (eyes.embeddings(eyes.read(Image.fromarray(changed))) - before).float().norm(dim=1)
            own = boxes[int(moved.argmax())]
            overlap = np.minimum(own[2:], [right, lower]) - np.maximum(own[:2], [left, upper])
            smaller = np.minimum(own[2:] - own[:2], [right - left, lower - upper])
            if not (overlap > _HEARD * smaller).all():
                raise RelevancyError(
                    f"where the image tokens of {name} lie could not be measured: a change at ({left}, {upper}) to "
                    f"({right}, {lower}) of a picture of {width} x {height} is not seen by the token of that place; "
                    "relevancy.record gives the row"
                )


def _inside(start: float, end: float) -> tuple[int, int]:
    """The pixels that lie wholly between two places, or the one in the middle."""
    first, last = int(np.ceil(start)), int(np.floor(end))
    middle = int((start + end) / 2)
    return (first, last) if first < last else (middle, middle + 1)
