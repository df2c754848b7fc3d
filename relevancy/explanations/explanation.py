"""The result: raw numbers that explain themselves, draw themselves, and come back from a folder as they were."""

from __future__ import annotations

__all__ = ["Explanation"]

import base64
import html
import io
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from relevancy import formats
from relevancy.atomic_io import whole_files
from relevancy.core.targets import Alternative, Target
from relevancy.errors import RelevancyError
from relevancy.explanations.evidence import Evidence
from relevancy.explanations.picture_map import PictureMap
from relevancy.explanations.turn_share import TurnShare, by_turn
from relevancy.geometry import Grid
from relevancy.images import open_picture
from relevancy.models.conversation import ChatTurn, Conversation, Moving, read_messages, to_messages
from relevancy.plotting import figures
from relevancy.plotting import overlay as drawing
from relevancy.plotting.film import PIXELS, film
from relevancy.token_text import is_control, spells_bytes, summed, whole_words

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_JSON, _OVERLAY, _FIGURE, _HEATMAP, _PICTURE, _FILM = (
    "explanation.json", "overlay.png", "figure.png", "heatmap.npy", "picture.png", "film.png",
)  # fmt: skip

_WRITTEN = re.compile(r"explanation\.json|figure\.png|(overlay|picture|film)(-\d+)?\.png|heatmap(-\d+)?\.npy")

_TOP_WORDS = 3  # told in a summary
_SHARES = {"image": "image", "text": "text", "first_token": "first token"}


@dataclass(frozen=True, eq=False)
class Explanation:
    """Which patches and words made a model say one token of its answer.

    tokens: one per input token, image tokens included, as the tokenizer writes them.
    relevance: (tokens,) float32, raw, as the method gives it; of method relevancy, the explained position's row of R
        (eq. 6) without its own unit e_t.
    pictures: those of the question and the frames of its videos, in their order, each with its map and its share; none
        for words alone.
    conversation: what was said where it was more than a question, as `relevancy.models.conversation` has it; `question`
        is then its last turn's words.
    shares: the row's mass on the "image", the "text" and the "first_token", disjoint, summing to 1; of signed numbers,
        that of their sizes.
    cut: the share of the row's flow, A * dy/dA weighted with the row that comes down to each layer, that the clamp of
        eq. 5 removed because it was negative; None for methods without that clamp.
    evidence: what knocking out parts of the picture does to the explained token; None where it was not asked for.
    head: the layer and the head that the row and the maps are of, each from 0; None where they are of all.
    answer_tokens: the answer's own, as the tokenizer writes them; `target.position` counts in them.
    notes: what was done to the inputs, and what to be careful about, one sentence each.
    """

    model: str
    method: str
    scope: str
    question: str
    answer: str
    target: Target
    pictures: tuple[PictureMap, ...]
    tokens: tuple[str, ...] = field(repr=False)
    is_image: np.ndarray = field(repr=False)
    relevance: np.ndarray = field(repr=False)
    shares: Mapping[str, float]
    cut: float | None = None
    evidence: Evidence | None = None
    layers: tuple[int, ...] | None = None
    head: tuple[int, int] | None = None
    notes: tuple[str, ...] = ()
    answer_tokens: tuple[str, ...] = field(default=(), repr=False)
    conversation: Conversation = field(default=(), repr=False)
    versions: Mapping[str, str] = field(default_factory=dict, repr=False)

    def picture(self, number: int = 0) -> PictureMap:
        """One of the pictures, counted from 0. Raises RelevancyError where there is none of this number."""
        if not self.pictures:
            raise RelevancyError("This result is of words alone: there is no picture to show a map of.")
        if not 0 <= number < len(self.pictures):
            raise RelevancyError(f"The pictures are 0 to {len(self.pictures) - 1}: there is no {number}.")
        return self.pictures[number]

    @property
    def image(self) -> Image.Image:
        """The first picture, upright."""
        return self.picture().image

    @property
    def grid(self) -> Grid:
        """Where the cells of `image_map` lie in the first picture."""
        return self.picture().grid

    @property
    def image_map(self) -> np.ndarray:
        """The first picture's map, (rows, cols) float32, raw; (0, 0) of words alone.

        The row's image tokens, or with scope "full" the tower's patches.
        """
        return self.pictures[0].image_map if self.pictures else np.zeros((0, 0), np.float32)

    @property
    def empty(self) -> bool:
        """Whether no map shows anything, or of words alone the row does not: all zero, or not a number."""
        if self.pictures:
            return all(picture.empty for picture in self.pictures)
        return not np.isfinite(self.relevance).all() or not self.relevance.any()

    @property
    def how(self) -> str:
        """Model, token, method, scope, layers and version in one line: what it takes to make this result again."""
        layers = "all layers" if self.layers is None else f"layers {_ranges(self.layers)}"
        if self.head is not None:
            layers = "head {1} of layer {0} among ".format(*self.head) + layers
        versions = f", relevancy {self.versions['relevancy']}" if "relevancy" in self.versions else ""
        return f"{self.model}: {self.target.place}, method {self.method}, scope {self.scope}, {layers}{versions}"

    @property
    def code(self) -> str:
        """Python that makes this result again, from files named picture.png, picture-2.png and so on.

        An answer that was given is not part of it: add `answer=...`.
        """
        given = {
            "target": self.target.named,
            **({} if self.head else {"scope": self.scope}),
            "method": self.method,
            **({} if self.layers is None else {"layers": list(self.layers)}),
            **({"layer": self.head[0]} if self.head else {}),
        }
        call, only = ("explain_heads", f"[{self.head[1]}]") if self.head else ("explain", "")
        arguments = [
            f"relevancy.load({self.model!r})",
            *map(repr, self._from_files()),
            *(f"{name}={value!r}" for name, value in given.items()),
        ]
        lines = "".join(f"    {argument},\n" for argument in arguments)
        return f"import relevancy\n\nresult = relevancy.{call}(\n{lines}){only}\nresult.figure().savefig('map.png')\n"

    def _from_files(self) -> tuple[str | None, str | list[dict[str, Any]]]:
        """Image and question for `explain`: several pictures, turns and videos are messages that name their files."""
        files = [_numbered(_PICTURE, number) for number in range(len(self.pictures))]
        stills = [file for file, one in zip(files, self.pictures, strict=True) if one.video is None]
        videos = [
            [file for file, one in zip(files, self.pictures, strict=True) if one.video == video]
            for video in range(self._videos())
        ]
        if not self.conversation and not videos and len(stills) < 2:
            return stills[0] if stills else None, self.question
        places = (*[None] * len(stills), *[Moving.VIDEO] * len(videos))
        messages = to_messages(self.conversation or (ChatTurn("user", (*places, self.question)),))
        shown = {"image": iter(stills), "video": iter(videos)}
        for part in (part for message in messages for part in message["content"] if part["type"] in shown):
            part[part["type"]] = next(shown[part["type"]])
        return None, messages

    def heatmap(self, *, smooth: bool = True, picture: int = 0) -> np.ndarray:
        """Raw relevance in the original picture's pixels, (height, width) float32, NaN where the model never looked.

        smooth: interpolate between the centers of patches; otherwise each pixel has its own patch's value.
        picture: which one, from 0.
        """
        return self.picture(picture).heatmap(smooth=smooth)

    def shown(self, *, smooth: bool = True, floor: float = drawing.FLOOR, picture: int = 0) -> tuple[np.ndarray, str]:
        """The heatmap as it is drawn, and why it is drawn as empty, if it is.

        floor: share of the picture below which a map is drawn as empty (see `plotting.overlay.FLOOR`); 0 draws all.
        """
        return self.picture(picture).shown(smooth=smooth, floor=floor)

    def overlay(
        self, *, smooth: bool = True, floor: float = drawing.FLOOR, picture: int = 0, **options: Any
    ) -> Image.Image:
        """The heatmap over the original picture, in its size; a map drawn as empty says why.

        floor: as in `shown`.
        options: as in `relevancy.plotting.overlay.overlay`.
        """
        return self.picture(picture).overlay(smooth=smooth, floor=floor, **options)

    def reduced(self, max_side: int) -> Explanation:
        """The same result on a smaller picture, no side longer than `max_side` pixels: drawn faster, for a screen."""
        if all(max(picture.image.size) <= max_side for picture in self.pictures):
            return self
        return replace(self, pictures=tuple(picture.reduced(max_side) for picture in self.pictures))

    def patch_at(self, x: float, y: float, picture: int = 0) -> tuple[int, int] | None:
        """Row and column in `image_map` of the patch that holds a pixel of the picture; None where none does."""
        return self.picture(picture).patch_at(x, y)

    def words(self, *, whole: bool = False) -> list[tuple[str, float]]:
        """Every token that is no image token, with its raw relevance, in their order.

        whole: by words, as text with the sum over their tokens; marks, line breaks and control tokens are each for
        themselves (see `relevancy.token_text.whole_words`).
        """
        if not whole:
            known = zip(self.tokens, self.relevance.tolist(), self.is_image, strict=True)
            return [(token, value) for token, value, image in known if not image]
        by_bytes = spells_bytes(self.tokens)
        found: list[tuple[str, float]] = []
        for image, group in groupby(range(len(self.tokens)), key=lambda place: bool(self.is_image[place])):
            places = slice((some := list(group))[0], some[-1] + 1)
            if not image:  # what stands before a picture and after it is not one word
                runs = whole_words(self.tokens[places], by_bytes=by_bytes)
                found += summed(runs, self.relevance[places].tolist())
        return found

    def turns(self) -> list[TurnShare]:
        """What each side said, with the relevance on it; of a plain question one turn.

        Words that the model's template writes around them belong to none.
        """
        shown = [list(one) for _, one in groupby(range(len(self.pictures)), self._shown_as)]
        parts = [None if self.pictures[own[0]].video is None else Moving.VIDEO for own in shown]
        conversation = self.conversation or (ChatTurn("user", (*parts, self.question)),)
        shares = [[self.pictures[number].share for number in own] for own in shown]
        return by_turn(conversation, self.tokens, self.is_image, self.relevance, shares)

    def frames(self, video: int = 0) -> list[PictureMap]:
        """The frames of a video in their order, each with its map and its share, from 0.

        Raises RelevancyError where there is none of this number.
        """
        found = [one for one in self.pictures if one.video == video]
        if not found:
            raise RelevancyError(f"There is no video {video} in this question.")
        return found

    def film(self, video: int = 0, *, smooth: bool = True, floor: float = drawing.FLOOR, **options: Any) -> Figure:
        """A video as a strip of frames with their heat on one scale, and below each frame its share of the relevance.

        floor: as in `shown`, of the share of all frames. options: as in `plotting.film.film`.
        """
        frames = [one.reduced(PIXELS) for one in self.frames(video)]
        heats = np.stack([one.heatmap(smooth=smooth) for one in frames])
        shares = [one.share for one in frames]
        drawn, why = drawing.shown(heats, sum(shares), floor)
        told = {"title": f"{self.model}: {self.answer}", "subtitle": f"{self.question} Why {self._asked()}? {why}"}
        return film([one.image for one in frames], list(drawn), shares, **told | options)

    def _asked(self) -> str:
        target = self.target
        asked = f"“{target.token.strip()}”" if target.token.strip() else repr(target.token)
        return asked + target.against

    def panel(self, *, smooth: bool = True, floor: float = drawing.FLOOR, picture: int = 0) -> figures.Panel:
        """What a figure shows of this result and one of its pictures; `floor` as in `shown`.

        Words stand beside the first picture.
        """
        target = self.target
        title, shares = f"{self.model}: {self.answer}", {key: self.shares[key] for key in self._parts()}
        if len(self.pictures) > 1:
            title = f"{self._named(picture)}, {title}"
            shares["image"] = self.picture(picture).share
        heatmap, why = self.shown(smooth=smooth, floor=floor, picture=picture) if self.pictures else (None, "")
        return figures.Panel(
            title=title,
            subtitle=f"why {self._asked()} (p = {target.probability:.2f})",
            image=self.picture(picture).image if self.pictures else None,
            heatmap=heatmap,
            words=self.words(whole=True) if picture == 0 else (),
            shares=shares,
            empty=why,
        )

    def figure(self, *, smooth: bool = True, floor: float = drawing.FLOOR, **options: Any) -> Figure:
        """Pictures, heat and words side by side; `floor` as in `shown`, `options` as in `plotting.figures.figure`.

        Of a video the frame with the largest share; `film` draws them all.
        """
        notes = [*([] if self.evidence is None else [self.evidence.sentence]), self.how]
        strongest = {one.video: number for number, one in sorted(enumerate(self.pictures), key=lambda of: of[1].share)}
        numbers = [
            number for number, one in enumerate(self.pictures) if one.video is None or strongest[one.video] == number
        ]
        panels = [self.panel(smooth=smooth, floor=floor, picture=number) for number in numbers or [0]]
        return figures.figure(panels, question=self.question, **{"notes": notes} | options)

    def to_json(self) -> dict[str, Any]:
        """Everything but the pixels, as JSON takes it; what is not a number becomes null."""
        return {
            formats.KEY: formats.EXPLANATION,
            "model": self.model,
            "method": self.method,
            "scope": self.scope,
            "layers": None if self.layers is None else list(self.layers),
            "head": None if self.head is None else list(self.head),
            "question": self.question,
            "answer": self.answer,
            "answer_tokens": list(self.answer_tokens),
            "target": finite(asdict(self.target)),
            "messages": to_messages(self.conversation) or None,
            "image": self.picture().placed() if self.pictures else None,
            "shares": dict(self.shares),
            "cut": finite(self.cut),
            "evidence": None if self.evidence is None else finite(self.evidence.to_json()),
            "tokens": list(self.tokens),
            "is_image": self.is_image.astype(int).tolist(),
            "relevance": finite(self.relevance.tolist()),
            "image_map": finite(self.image_map.tolist()) if self.pictures else None,
            "pictures": [
                {
                    "image": one.placed(),
                    "image_map": finite(one.image_map.tolist()),
                    "share": one.share,
                    "video": one.video,
                }
                for one in (self.pictures if len(self.pictures) > 1 or self._videos() else ())
            ],
            "notes": list(self.notes),
            "versions": dict(self.versions),
        }

    def save(self, folder: str | os.PathLike[str], *, floor: float = drawing.FLOOR) -> Path:
        """Write explanation.json, overlay.png, figure.png, heatmap.npy and picture.png, all of them or none.

        A second picture has overlay-2.png, heatmap-2.npy and picture-2.png, and so on; words alone have none of these.
        Each video has a film.png beside the files of its frames.
        floor: as in `shown`; numbers are stored as they are.
        """
        with whole_files(Path(folder)) as part:
            self.write_files(part, floor=floor)
        return Path(folder)

    def write_files(self, folder: Path, *, floor: float = drawing.FLOOR) -> None:
        """What `save` writes, one file after the other, for a result that is part of a larger one."""
        folder.mkdir(exist_ok=True)
        stored = json.dumps(self.to_json(), ensure_ascii=False, indent=1, allow_nan=False)
        (folder / _JSON).write_text(stored, encoding="utf-8")
        for number, one in enumerate(self.pictures):
            one.image.save(folder / _numbered(_PICTURE, number))
            one.overlay(floor=floor).save(folder / _numbered(_OVERLAY, number))
            np.save(folder / _numbered(_HEATMAP, number), one.heatmap())
        for video in range(self._videos()):
            self.film(video, floor=floor).savefig(folder / _numbered(_FILM, video))
        self.figure(floor=floor).savefig(folder / _FIGURE)

    @staticmethod
    def saved_in(folder: Path) -> list[Path]:
        """The files that `save` wrote into a folder; none where it holds no result."""
        if not (folder / _JSON).is_file():
            return []
        return [file for file in sorted(folder.iterdir()) if _WRITTEN.fullmatch(file.name) and file.is_file()]

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Explanation:
        """The result that `save` wrote. Raises RelevancyError when the folder does not hold one."""
        path = Path(folder)
        try:
            stored = json.loads((path / _JSON).read_text(encoding="utf-8"))
            formats.require_known(stored, formats.EXPLANATION, path / _JSON)
            images = [
                open_picture(path / _numbered(_PICTURE, number), max_pixels=one["width"] * one["height"]).image
                for number, one in enumerate(picture["image"] for picture in _pictures(stored))
            ]
            return cls.from_json(stored, images)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise RelevancyError(f"{path} holds no explanation that can be read: {error}") from error

    @classmethod
    def from_json(cls, stored: Mapping[str, Any], images: Sequence[Image.Image]) -> Explanation:
        """What `to_json` gave, and the pictures that it is about, in their order."""
        messages = stored.get("messages")
        pictures = (
            PictureMap.stored(image, one["image"], one["image_map"], one["share"], one.get("video"))
            for image, one in zip(images, _pictures(stored), strict=True)
        )
        return cls(
            **{key: stored[key] for key in ("model", "method", "scope", "question", "answer", "shares")},
            target=_target(stored["target"]),
            pictures=tuple(pictures),
            conversation=read_messages(messages)[0] if messages else (),
            tokens=tuple(stored["tokens"]),
            is_image=np.array(stored["is_image"], dtype=bool),
            relevance=np.array(stored["relevance"], dtype=np.float32),
            cut=stored.get("cut"),
            evidence=None if stored.get("evidence") is None else Evidence.from_json(stored["evidence"]),
            layers=None if stored["layers"] is None else tuple(stored["layers"]),
            head=None if stored.get("head") is None else tuple(stored["head"]),
            notes=tuple(stored["notes"]),
            answer_tokens=tuple(stored.get("answer_tokens", ())),
            versions=stored["versions"],
        )

    def summary(self) -> str:
        """Answer, token, shares and, where there is some, the evidence, a line each of plain words."""
        target, shares = self.target, self.shares
        against = "" if target.contrast is None else f" rather than {target.contrast.strip()!r}"
        return (
            f"{self.model} answers {self.answer!r}; explained: token {target.token!r}{against}, "
            f"probability {target.probability:.3f}{self._of_head()}\nrelevance: "
            + ", ".join(f"{name} {drawing.percent(shares[key])}" for key, name in self._parts().items())
            + self._by_word()
            + ("" if len(self.pictures) < 2 else f"\n{self._by_picture()}")
            + ("" if self.evidence is None else f"\n{self.evidence.sentence}")
        )

    def _of_head(self) -> str:
        return "" if self.head is None else "; what head {1} of layer {0} adds".format(*self.head)

    def _shown_as(self, number: int) -> tuple[str, int]:
        """The video that a frame is of, or the picture itself."""
        video = self.pictures[number].video
        return ("picture", number) if video is None else ("video", video)

    def _videos(self) -> int:
        """How many there are."""
        return len({one.video for one in self.pictures} - {None})

    def _named(self, picture: int) -> str:
        """A picture or a frame, as one of those beside it."""
        video = self.picture(picture).video
        beside = [number for number, one in enumerate(self.pictures) if one.video == video]
        if video is None:
            return f"picture {beside.index(picture) + 1} of {len(beside)}"
        which = f" of video {video + 1}" if self._videos() > 1 else ""
        return f"frame {beside.index(picture) + 1} of {len(beside)}{which}"

    def _parts(self) -> dict[str, str]:
        """The shares that there are, with their names."""
        return {key: name for key, name in _SHARES.items() if key != "image" or self.pictures}

    def _by_word(self) -> str:
        """The words with most relevance, of those that hold a letter or a digit, with their shares if not faint."""
        total = float(np.abs(self.relevance).sum(dtype=np.float64))
        words = ((text.strip(), abs(value)) for text, value in self.words(whole=True) if not is_control(text))
        ranked = sorted((one for one in words if any(map(str.isalnum, one[0]))), key=lambda one: -one[1])[:_TOP_WORDS]
        told = [
            f"{text!r} {drawing.percent(value / total)}" for text, value in ranked if value >= drawing.FLOOR * total
        ]
        return f"\nwords with most of it: {', '.join(told)}" if told and total > 0 else ""

    def _by_picture(self) -> str:
        told = (f"{self._named(number)} {drawing.percent(one.share)}" for number, one in enumerate(self.pictures))
        return f"the image's share by picture: {', '.join(told)}"

    def _repr_html_(self) -> str:
        return as_html(self.figure(), self.summary(), self.notes)


def _numbered(name: str, number: int) -> str:
    """The name of a picture's file, the second one's with a 2."""
    return name if not number else name.replace(".", f"-{number + 1}.")


def _pictures(stored: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """Where each picture's patches lie, its map and its share, as JSON has them; one picture has no list of its own."""
    only = {"image": stored["image"], "image_map": stored["image_map"], "share": stored["shares"]["image"]}
    return stored.get("pictures") or ([only] if stored["image"] else [])


def as_html(figure: Figure, alt: str, notes: Sequence[str]) -> str:
    """A figure as a notebook shows it, in HTML that needs nothing else, the notes below."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    picture = base64.b64encode(buffer.getvalue()).decode()
    listed = "".join(f"<li>{html.escape(note)}</li>" for note in notes)
    shown = f'<img alt="{html.escape(alt)}" style="max-width:100%" src="data:image/png;base64,{picture}">'
    return f"{shown}<ul>{listed}</ul>"


def _ranges(numbers: Sequence[int]) -> str:
    """Whole numbers in words: those that follow each other as "2 to 5"."""
    found: list[list[int]] = []
    for number in sorted(numbers):
        if found and number == found[-1][-1] + 1:
            found[-1].append(number)
        else:
            found.append([number])
    return ", ".join(f"{run[0]} to {run[-1]}" if len(run) > 1 else str(run[0]) for run in found)


def finite(value: Any) -> Any:
    """The value, however deep in lists and mappings, with None for each float that JSON has no way to write."""
    if isinstance(value, Mapping):
        return {key: finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _target(stored: Mapping[str, Any]) -> Target:
    """A target from JSON, in which null stands for what was not a number."""
    numbers = {"probability", "logit"} | ({"contrast_logit"} if stored["contrast_id"] is not None else set())
    values: dict[str, Any] = {
        key: math.nan if key in numbers and value is None else value for key, value in stored.items()
    }
    others = values.pop("alternatives", ())  # files of before have none
    likeliest = (
        Alternative(one["token"], one["id"], math.nan if one["probability"] is None else one["probability"])
        for one in others
    )
    return Target(**values, alternatives=tuple(likeliest))
