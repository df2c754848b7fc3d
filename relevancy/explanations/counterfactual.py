"""What if the model had not seen this? A part of the picture is hidden, and the answer's probability read again."""

from __future__ import annotations

__all__ = ["Counterfactual", "Region", "Replacement", "counterfactual", "elsewhere"]

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from numbers import Integral
from operator import index
from typing import Any, Literal, get_args, overload

import numpy as np
from PIL import Image, ImageFilter, ImageStat

from relevancy.core.targets import shown
from relevancy.errors import RelevancyError
from relevancy.explanations.explain import Messages
from relevancy.geometry import Grid
from relevancy.images import MAX_PIXELS, Picture, Source, open_picture
from relevancy.models import generation
from relevancy.models.conversation import pictured
from relevancy.models.generation import MAX_NEW_TOKENS, Likelihood
from relevancy.models.model import Model, load
from relevancy.models.prepared import Example
from relevancy.models.session import Session
from relevancy.videos import Film

Replacement = Literal["grey", "black", "mean", "blur"]
"""What stands in a hidden part's place, wherever pictures are changed: a color (`color_of`), or the picture blurred."""
REPLACEMENTS: tuple[Replacement, ...] = get_args(Replacement)
_COLORS = {"grey": (128, 128, 128), "black": (0, 0, 0)}
_REGION = "give box=(left, upper, right, lower), or patches=[0, 1]"
_BLUR = 0.1  # of the picture's longer side: the radius, in which nothing of an object's shape is left


@dataclass(frozen=True)
class Region:
    """A part of a picture: a rectangle in its pixels, or patches, or both together.

    box: (left, upper, right, lower), 0 at the left and upper border.
    patches: indices into `image_map`, row by row.
    grid: where they lie, if they are of another model's map of the same picture.
    Raises RelevancyError for what is neither.
    """

    box: tuple[float, float, float, float] | None = None
    patches: Sequence[int] = ()
    grid: Grid | None = None

    def __post_init__(self) -> None:
        try:
            if self.grid is not None and not isinstance(self.grid, Grid):
                raise TypeError("grid is another result's `grid`, which says where its patches lie")
            for patch in self.patches:
                if isinstance(patch, bool | np.bool_):
                    raise TypeError(f"{patch} is no patch")
                index(patch)
            sides = [] if self.box is None else [float(side) for side in self.box]
        except (TypeError, ValueError) as error:
            raise RelevancyError(f"A region's numbers are wrong ({error}): {_REGION}.") from error
        if self.box is not None and len(sides) != 4:
            raise RelevancyError(f"A region's box has four numbers, not {len(sides)}: {_REGION}.")


@dataclass(frozen=True)
class Counterfactual:
    """An answer's likelihood on a picture, and on the same picture with a region hidden (`image`).

    new_answer: what the model says of the changed picture; None where it was not asked for.
    """

    answer: str
    region: Region
    replacement: Replacement
    image: Image.Image
    before: Likelihood
    after: Likelihood
    new_answer: str | None = None


@overload
def counterfactual(
    model: Model | str,
    image: Source | Sequence[Source],
    question: str | Messages,
    regions: Region,
    *,
    picture: int = ...,
    replacement: Replacement = ...,
    answer: str | None = ...,
    answers: bool = ...,
    max_new_tokens: int = ...,
    max_pixels: int = ...,
) -> Counterfactual: ...
@overload
def counterfactual(
    model: Model | str,
    image: Source | Sequence[Source],
    question: str | Messages,
    regions: Sequence[Region],
    *,
    picture: int = ...,
    replacement: Replacement = ...,
    answer: str | None = ...,
    answers: bool = ...,
    max_new_tokens: int = ...,
    max_pixels: int = ...,
) -> list[Counterfactual]: ...
def counterfactual(
    model: Model | str,
    image: Source | Sequence[Source],
    question: str | Messages,
    regions: Region | Sequence[Region],
    *,
    picture: int = 0,
    replacement: Replacement = "grey",
    answer: str | None = None,
    answers: bool = False,
    max_new_tokens: int = MAX_NEW_TOKENS,
    max_pixels: int = MAX_PIXELS,
) -> Counterfactual | list[Counterfactual]:
    """How likely the answer is before and after a region of the picture is hidden: a Counterfactual, or a list of them.

    image, question: as in `explain`, of one question; a list of pictures is several in it.
    picture: the number of the picture that is changed, from 0; all else stays as it is.
    regions: one, or a list, which runs as one batch with the untouched picture.
    replacement: what stands in the region's place: "grey", "black", "mean" (the picture's mean color), or "blur".
    answer: read this answer, teacher-forced, instead of the one the model gives of the untouched picture.
    answers: also ask what the model says of each changed picture.
    The model and the picture are left as they are. Raises RelevancyError.
    """
    listed = [regions] if isinstance(regions, Region) else list(regions) if isinstance(regions, Iterable) else []
    if not listed or not all(isinstance(region, Region) for region in listed):
        raise RelevancyError("There is no region to hide: give a relevancy.Region, or a list of some.")
    max_new_tokens = generation.checked_length(max_new_tokens)
    if not isinstance(model, Model):
        model = load(model)
    sources, asked = pictured(image, question)
    pictures = tuple(open_picture(_still(source), max_pixels=max_pixels) for source in sources)
    if not isinstance(picture, Integral) or isinstance(picture, bool) or picture not in range(len(pictures)):
        raise RelevancyError(f"There is no picture {picture!r} to change: there are {len(pictures)}, counted from 0.")
    shown_first, changing, shown_later = pictures[:picture], pictures[picture], pictures[picture + 1 :]
    grid = model.layouts([one.size for one in pictures])[picture].grid
    changed = [hidden(changing.image, grid, region, replacement) for region in listed]
    with Session(model) as session:
        prompt = session.prefill(session.prepare([Example(pictures, asked)], features=True))
        said: Sequence[int]
        if answer is None:
            (said,) = session.generate(prompt.branch(), max_new_tokens)
            words = shown(model.tokenizer, *said).strip()
        else:
            generation.encoded(model, answer)
            words = answer.strip()
            said = generation.likeliest(model, prompt, generation.spellings(model, words))
        ((before,),) = session.score(prompt, [said])
        edits = [Example((*shown_first, Picture(edited), *shown_later), asked) for edited in changed]
        prompt = session.prefill(session.prepare(edits, features=True))
        after = session.score(prompt, [said])
        new: list[str | None] = [None] * len(listed)
        if answers:
            new = [shown(model.tokenizer, *tokens).strip() for tokens in session.generate(prompt, max_new_tokens)]
    found = []
    for region, edited, (likelihood,), now in zip(listed, changed, after, new, strict=True):
        if before is None or likelihood is None:
            raise RelevancyError("The answer is too long for this model beside the question: shorten it.")
        found.append(Counterfactual(words, region, replacement, edited, before, likelihood, now))
    return found[0] if isinstance(regions, Region) else found


def _still(source: Any) -> Source:
    """A source of a picture. Raises RelevancyError for a video's."""
    if isinstance(source, Film):
        raise RelevancyError("Parts of a video cannot be hidden: give its frames as pictures.")
    picture: Source = source
    return picture


def elsewhere(region: Region, grid: Grid) -> Region | None:
    """The region mirrored to another side of the picture: as large, and as far from its borders.

    Of left and right, up and down, and both, that which meets the region least; None where all meet half of it.
    """
    mask = _mask(grid, region)
    own = region.grid or grid
    order = np.arange(own.rows * own.cols).reshape(own.rows, own.cols)
    found = []
    for x, y in ((-1, 1), (1, -1), (-1, -1)):
        box = region.box
        if box is not None:
            left, right = (box[0], box[2]) if x > 0 else (grid.width - box[2], grid.width - box[0])
            upper, lower = (box[1], box[3]) if y > 0 else (grid.height - box[3], grid.height - box[1])
            box = (left, upper, right, lower)
        patches = [int(order[::y, ::x].flat[patch]) for patch in region.patches]
        mirrored = Region(box, patches, region.grid)
        found.append(((_mask(grid, mirrored) & mask).sum(), mirrored))
    common, best = min(found, key=lambda one: one[0])
    return best if 2 * common < mask.sum() else None


def hidden(picture: Image.Image, grid: Grid, region: Region, replacement: Replacement) -> Image.Image:
    """The picture (RGB) with the region replaced; `grid` says where its patches are. Raises RelevancyError."""
    mask = _mask(grid, region)
    if not mask.any():
        raise RelevancyError("The region holds nothing of the picture: give a box or patches inside it.")
    return painted(picture, mask, replacement)


def painted(picture: Image.Image, mask: np.ndarray, replacement: Replacement) -> Image.Image:
    """The picture (RGB) with a replacement where a mask of its pixels (height, width) is. Raises RelevancyError."""
    if replacement not in REPLACEMENTS:
        raise RelevancyError(f"Unknown replacement {replacement!r}; choose from {', '.join(REPLACEMENTS)}.")
    if replacement == "blur":
        other = picture.filter(ImageFilter.GaussianBlur(_BLUR * max(picture.size)))
    else:
        other = Image.new("RGB", picture.size, color_of(picture, replacement))
    return Image.composite(other, picture, Image.fromarray(mask))


def color_of(picture: Image.Image, replacement: Replacement) -> tuple[int, int, int]:
    """Red, green and blue, 0 to 255, of a replacement that is one color; "mean" is the picture's mean color."""
    if replacement in _COLORS:
        return _COLORS[replacement]
    red, green, blue = (round(value) for value in ImageStat.Stat(picture).mean)
    return red, green, blue


def _mask(grid: Grid, region: Region) -> np.ndarray:
    """The region's pixels, bool (height, width); a rectangle smaller than a pixel still holds the one it is in."""
    own = region.grid or grid
    wrong = [patch for patch in region.patches if not 0 <= patch < own.rows * own.cols]
    if wrong:
        raise RelevancyError(f"The patches are 0 to {own.rows * own.cols - 1}: there is no {wrong[0]}.")
    if (own.width, own.height) != (grid.width, grid.height):
        raise RelevancyError("The region's grid is of a picture of another size: give patches of this one.")
    boxes = [*own.boxes()[list(region.patches)]]
    if region.box is not None:
        left, upper, right, lower = region.box
        boxes.append(np.clip([left, upper, right, lower], 0, np.tile([grid.width, grid.height], 2)))
    mask = np.zeros((grid.height, grid.width), dtype=bool)
    for left, upper, right, lower in boxes:
        if right > left and lower > upper:
            columns, rows = _span(left, right, grid.width), _span(upper, lower, grid.height)
            mask[rows, columns] = True
    return mask


def _span(start: float, end: float, length: int) -> slice:
    first = min(round(start), length - 1)
    return slice(first, max(first + 1, round(end)))
