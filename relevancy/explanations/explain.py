"""`explain(model, image, question)`: the map of what made a model say a token of its answer."""

from __future__ import annotations

__all__ = ["ExplainConfig", "ExplainOptions", "explain", "explain_heads"]

from collections.abc import Iterable, Sequence
from dataclasses import replace
from numbers import Integral
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypedDict, overload

from relevancy.core.stacks import depth_of
from relevancy.core.tape import Scope, chosen_layers
from relevancy.errors import RelevancyError
from relevancy.explanations.explanation import Explanation
from relevancy.explanations.map_batch import ExplainConfig, MapBatch
from relevancy.images import MAX_PIXELS, Picture, Source
from relevancy.methods import registry
from relevancy.methods.registry import MapFunction
from relevancy.models import generation
from relevancy.models.conversation import is_messages, pictured
from relevancy.models.generation import MAX_NEW_TOKENS
from relevancy.models.model import Model, load
from relevancy.models.prepared import Example
from relevancy.models.session import Session
from relevancy.videos import Video, open_shown

if TYPE_CHECKING:
    from typing_extensions import Unpack

Several: TypeAlias = list[Any] | tuple[Any, ...]
"""What makes a batch: a list where one thing could stand. A string or another sequence is one thing."""
Messages: TypeAlias = list[dict[str, Any]]
"""A conversation in transformers' chat format, which is one thing, too."""


class ExplainOptions(TypedDict, total=False):
    """The options of `explain` that decide nothing about the form of its result."""

    scope: Scope
    method: str | MapFunction
    layers: Iterable[int] | None
    max_new_tokens: int
    evidence: bool
    max_pixels: int


# A target that is only known to be a string is taken for one map: "all" must be written out to be told apart.
@overload
def explain(  # type: ignore[overload-overlap]
    model: Model | str,
    image: Source | None,
    question: str | Messages,
    *,
    target: Literal["all", "words"],
    answer: str | None = ...,
    **options: Unpack[ExplainOptions],
) -> list[Explanation]: ...
@overload
def explain(
    model: Model | str,
    image: Source | None,
    question: str | Messages,
    *,
    target: str | int = ...,
    answer: str | None = ...,
    **options: Unpack[ExplainOptions],
) -> Explanation: ...
@overload
def explain(  # type: ignore[overload-overlap]
    model: Model | str,
    image: Source | Several | None,
    question: Several,
    *,
    target: Literal["all", "words"],
    answer: str | Several | None = ...,
    **options: Unpack[ExplainOptions],
) -> list[list[Explanation]]: ...
@overload
def explain(
    model: Model | str,
    image: Source | Several | None,
    question: Several,
    *,
    target: str | int = ...,
    answer: str | Several | None = ...,
    **options: Unpack[ExplainOptions],
) -> list[Explanation]: ...
@overload
def explain(  # type: ignore[overload-overlap]
    model: Model | str,
    image: Several,
    question: str | Messages,
    *,
    target: Literal["all", "words"],
    answer: str | Several | None = ...,
    **options: Unpack[ExplainOptions],
) -> list[list[Explanation]]: ...
@overload
def explain(
    model: Model | str,
    image: Several,
    question: str | Messages,
    *,
    target: str | int = ...,
    answer: str | Several | None = ...,
    **options: Unpack[ExplainOptions],
) -> list[Explanation]: ...
@overload
def explain(  # type: ignore[overload-overlap]
    model: Model | str,
    image: Source | None,
    question: str | Messages,
    *,
    target: Literal["all", "words"],
    answer: Several,
    **options: Unpack[ExplainOptions],
) -> list[list[Explanation]]: ...
@overload
def explain(
    model: Model | str,
    image: Source | None,
    question: str | Messages,
    *,
    target: str | int = ...,
    answer: Several,
    **options: Unpack[ExplainOptions],
) -> list[Explanation]: ...
def explain(
    model: Model | str,
    image: Source | Several | None,
    question: str | Messages | Several,
    *,
    target: str | int = "first",
    scope: Scope = "language",
    method: str | MapFunction = registry.DEFAULT,
    layers: Iterable[int] | None = None,
    answer: str | Sequence[str] | None = None,
    max_new_tokens: int = MAX_NEW_TOKENS,
    evidence: bool = True,
    max_pixels: int = MAX_PIXELS,
) -> Any:
    """Why the model says what it says about a picture: an Explanation, or a list of them.

    model: what `load` or `wrap` gave, or a name for `load`.
    image, question: one each, or lists of equal length (or one beside a list), which run as one batch. A list in the
        list of images is several pictures in one question; None is none: words alone. A question may be chat messages
        in transformers' format, `[{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": ..}]}]`,
        with system messages and earlier turns; pictures stand in them ("image": file), or are taken from `image` in
        their order. A video stands in them as {"type": "video", "video": [frame, frame, ..]} or a folder of frames.
    target: "first" (the answer's first token), "first-relevant" (skips brackets, quotes and the like), "contrast" (the
        first relevant token against the likeliest other one there), a position (2 or "2", from 0; -1 is the last), a
        string in the answer, "A|B" (why A rather than B), or "2|#1234" (why the token at position 2 rather than that of
        this number in the vocabulary, as `Target.alternatives` has them). Several tokens together, by the sum of their
        log-probabilities: "3:7" (tokens 3 to 6, as Python slices), "answer" (all), a string that takes several. One by
        one, a list of results: "all", "each:3:7", or "words" (each word, its tokens together). "word:2" is the string 2
        in the answer, and so for all that read as another target.
    scope: "language" reads the decoder's image tokens; "full" goes on through the vision tower.
    method: one of `relevancy.methods.registry.METHODS`, which says of each what it computes, costs and needs; numbers
        are as it gives them, and a note says where they may be negative. Or a function of your own that gives the maps
        of a batch, as `relevancy.register_method` takes.
    layers: decoder layers that take part, all by default; for methods that read the layers' attention.
    answer: explain this answer, teacher-forced, instead of the one the model gives: greedy, each token the likeliest,
        whatever generation settings came with the checkpoint.
    evidence: knock parts of the picture out and see what becomes of the token, see `Explanation.evidence`.
    Raises RelevancyError. Source of the default: Chefer, Gur and Wolf, ICCV 2021, eqs. 5 and 6.
    """
    wish = ExplainConfig(target, scope, method, layers, max_new_tokens, evidence)
    many, images, questions, answers = _paired(image, question, answer)
    if not isinstance(model, Model):
        model = load(model)
    examples = _examples(model, images, questions, answers, max_pixels)
    with Session(model) as session:
        results = explained(session, examples, wish)
    by_item: list[Any] = results if wish.several else [only for (only,) in results]
    return by_item if many else by_item[0]


def explain_heads(
    model: Model | str,
    image: Source | Several | None,
    question: str | Messages,
    *,
    layer: int | None = None,
    target: str | int = "first",
    method: str = registry.DEFAULT,
    layers: Iterable[int] | None = None,
    answer: str | None = None,
    max_new_tokens: int = MAX_NEW_TOKENS,
    max_pixels: int = MAX_PIXELS,
) -> list[Explanation]:
    """What each head adds to a token's map: an Explanation of each, in the order of layers and heads.

    The row is a sum, r = e_t + sum over layers l and heads h of r_l max(0, A_lh * dy/dA_lh) / heads, with r_l the row
    as it comes down to layer l: these maps are its terms. All of them cost one map (docs/method.md).

    layer: whose heads, negative ones counting from the last; all layers' where None.
    method: one whose row is such a sum: relevancy, relevancy-magnitude or attention-gradient.
    layers: those that take part, as in `explain`; `layer` is one of them.
    The other arguments are those of `explain`, with a target that gives one result; a list of pictures is several in
    the question. The scope is "language", and there is no evidence: a part of the row decides nothing. Raises
    RelevancyError.
    """
    wish = ExplainConfig(target, "language", method, layers, max_new_tokens, evidence=False)
    if wish.several:
        raise RelevancyError(f"Heads are those of one result, and target {target!r} gives several: name one token.")
    if not isinstance(model, Model):
        model = load(model)
    decoder = model.model.get_decoder()
    count = depth_of(decoder)
    numbered = isinstance(layer, Integral) and not isinstance(layer, bool)
    if layer is not None and not (numbered and layer in range(-count, count)):
        raise RelevancyError(
            f"Heads are of one layer from 0 to {count - 1} (or -{count} to -1), or of all: not {layer!r}."
        )
    among = chosen_layers(wish.layers, decoder)
    wanted = among if layer is None else chosen_layers([layer], decoder)
    if not wanted <= among:
        raise RelevancyError(f"Layer {layer} is not among the layers that take part: add it to layers.")
    wish = replace(wish, heads=tuple(sorted(wanted)))
    images: list[Any] = [list(image) if isinstance(image, (list, tuple)) else image]
    examples = _examples(model, images, [question], [answer], max_pixels)
    with Session(model) as session:
        (found,) = explained(session, examples, wish)
    return found


def _examples(
    model: Model, images: Sequence[Any], questions: Sequence[Any], answers: Sequence[str | None], max_pixels: int
) -> list[Example]:
    """What is asked, pictures opened, each once, and answers as the model writes them."""
    opened: dict[int, Picture | Video] = {}  # by the source itself, which `kept` keeps alive
    kept: list[Any] = []
    examples = []
    for shown, asked, words in zip(images, questions, answers, strict=True):
        sources, said = pictured(shown, asked)
        kept += sources
        for source in sources:
            if id(source) not in opened:
                opened[id(source)] = open_shown(source, max_pixels=max_pixels)
        given = None if words is None else generation.encoded(model, words)
        examples.append(Example(tuple(opened[id(source)] for source in sources), said, given))
    return examples


def explained(session: Session, examples: Sequence[Example], wish: ExplainConfig) -> list[list[Explanation]]:
    """For each example, an Explanation of each of its targets.

    Words alone are a batch of their own; so is an example with a video, and each one of some families, since their
    processors take several together only where they are alike.
    """
    batches: dict[int, list[int]] = {}
    for number, example in enumerate(examples):
        apart = session.model.one_at_a_time or any(isinstance(one, Video) for one in example.pictures)
        batches.setdefault(number if apart else -1 - bool(example.pictures), []).append(number)
    found: dict[int, list[Explanation]] = {}
    for own in batches.values():
        found |= zip(own, MapBatch(session, [examples[number] for number in own], wish).results(), strict=True)
    return [found[number] for number in range(len(examples))]


def _paired(image: Any, question: Any, answer: Any) -> tuple[bool, list[Any], list[Any], list[str | None]]:
    """Whether lists were given, and lists of equal length; what was given once stands beside every other."""
    given = image, None if is_messages(question) else question, answer
    listed = [value for value in given if isinstance(value, (list, tuple))]
    lengths = {len(value) for value in listed}
    if len(lengths) > 1:
        raise RelevancyError(f"Lists must be of equal length, not {' and '.join(map(str, sorted(lengths)))}.")
    count = lengths.pop() if lengths else 1
    if not count:
        raise RelevancyError("The list is empty: give at least one picture and one question.")
    images, questions, answers = (
        list(value) if one is not None and isinstance(one, (list, tuple)) else [value] * count
        for one, value in zip(given, (image, question, answer), strict=True)
    )
    if any(one is None for one in answers) and any(one is not None for one in answers):
        raise RelevancyError("Some answers are given and some are not: give one for each question, or none at all.")
    return bool(listed), images, questions, answers
