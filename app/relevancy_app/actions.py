"""From what a visitor asks to results: the only place where models are called. Nothing here knows the browser."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image

import relevancy
from relevancy import Explanation, RelevancyError
from relevancy.explanations.agreement import Agreement, agreement
from relevancy.explanations.comparison import growing
from relevancy.explanations.counterfactual import Replacement, elsewhere
from relevancy.geometry import Grid
from relevancy.images import Source
from relevancy.methods import registry
from relevancy.metrics.patch_order import order, seen
from relevancy_app.asking import Ask
from relevancy_app.library import Library, Progress, depth
from relevancy_app.session import Pick, Session
from relevancy_app.settings import MOST_LAYERS, MOST_TOKENS, Settings

DRAWN, PATCHES, MOST, LEAST = "drawn", "patches", "most", "least"
_TENTH = 0.1  # of a map's patches


def explained(library: Library, settings: Settings, begun: Session, progress: Progress) -> Iterator[Session]:
    """Each model's map, as `relevancy.explain` alone gives it: with one map more each time, at last the whole.

    begun: a session without results.
    """
    found, ask, limit = begun, begun.ask, {"max_pixels": settings.max_pixels}
    shown, said = begun.asked
    with library.using(ask.models, progress) as models:
        if len(models) > 1 and len({ask.layers(model) for model in models}) == 1:
            options = ask.options(models[0]) | limit
            for both in growing(models, shown, said, progress=progress, **options):
                found = replace(found, comparison=both) if both.agreement else found.with_next(both.explanations[-1])
                yield found
            return
        for number, model in enumerate(models):  # one alone, or layers that mean something else in each
            progress(f"{model.name} explains its answer", number / len(models))
            found = found.with_next(explanation(model, shown, said, **ask.options(model) | limit))
            yield found
        if len(models) > 1:
            yield found.ended()


def explanation(model: relevancy.Model, pictures: Sequence[Source], said: Any, **options: Any) -> Any:
    """`relevancy.explain` of one question about these pictures: an Explanation, or of several tokens a list of them."""
    (found,) = relevancy.explain(model, [list(pictures)], [said], **options)
    return found


def picked(library: Library, last: Session | None, pick: Pick, progress: Progress) -> Session:
    """The same session, showing the map of one token: of which model, where in its answer, and against which other."""
    number, position, against = pick
    last = _there(last)
    if not 0 <= number < len(last.results) or not 0 <= position < len(last.first[number].answer_tokens):
        raise RelevancyError("That token is not part of the answer on the screen.")
    result = last.picked.get(pick)
    if result is None:
        target = str(position) if against is None else f"{position}|#{against}"
        with library.using(last.ask.models[number], progress) as (model,):
            progress(f"{model.name} explains another token", 0.0)
            found = explanation(model, *last.asked, **_again(last, model, target))
        result = replace(found, notes=last.first[number].notes)
    return last.with_pick(pick, result)


def every_token(library: Library, last: Session | None, number: int, progress: Progress) -> Session:
    """The same session, with the map of each token of one model's answer: one pass forward, one backward for each."""
    last = _there(last)
    if not 0 <= number < len(last.first):
        raise RelevancyError("That answer is not on the screen.")
    tokens = len(last.first[number].answer_tokens)
    if tokens > MOST_TOKENS:
        raise RelevancyError(f"The answer has {tokens} tokens, more than {MOST_TOKENS}: press one to see its map.")
    if len(last.tokens_of(number)) == tokens:
        return last
    with library.using(last.ask.models[number], progress) as (model,):
        progress(f"{model.name} explains {tokens} tokens", 0.0)
        found = explanation(model, *last.asked, **_again(last, model, "all"))
    return last.with_tokens(number, [replace(one, notes=last.first[number].notes) for one in found])


def _again(last: Session, model: relevancy.Model, target: str) -> dict[str, Any]:
    """The options of a session's question for another target."""
    return replace(last.ask, target=target).options(model)


@dataclass(frozen=True, eq=False)
class Varied:
    """One model's maps of one picture for several questions, methods or layers, and how each agrees with the first."""

    results: tuple[Explanation, ...]
    agreement: tuple[Agreement, ...]


def varied(library: Library, last: Session | None, ask: Ask, questions: Sequence[str], progress: Progress) -> Varied:
    """Does the map change with the question at all? One batch, about what was explained; `ask` names one model."""
    last = _there(last)
    then = last.ask
    ask = replace(ask, system=then.system, video=then.video, earlier=then.earlier)
    asked = [replace(last, ask=replace(ask, question=question)).asked for question in questions]
    shown, said = map(list, zip(*asked, strict=True))
    with library.using(ask.models[:1], progress) as (model,):
        progress(f"{model.name} reads {len(questions)} questions", 0.0)
        results = tuple(relevancy.explain(model, [shown[0]] * len(said), said, **ask.options(model)))
    return Varied(results, tuple(agreement(results[0], other) for other in results[1:]))


def by_method(library: Library, last: Session | None, model: Any, names: Sequence[str], progress: Progress) -> Varied:
    """One model's shown map, and the same token's by other methods; where a method knows no such scope, by its own."""
    last, found = _of(last, library, model)
    results = [found]
    with library.using(model, progress) as (chosen,):
        for place, name in enumerate(name for name in names if name != found.method):
            progress(f"{chosen.name}: {name}", place / len(names))
            method = registry.METHODS[name]
            scope = found.scope if found.scope in method.scopes else method.scopes[0]
            layers = found.layers if method.layered else None
            results.append(_otherwise(chosen, last, found, method=name, scope=scope, layers=layers))
    return Varied(tuple(results), tuple(agreement(found, other) for other in results[1:]))


def by_layers(library: Library, last: Session | None, model: Any, progress: Progress) -> Varied:
    """One model's shown map, and the same token's by parts of the decoder alone, from the lowest on."""
    last, found = _of(last, library, model)
    if not registry.METHODS[found.method].layered:
        raise RelevancyError(f"Method {found.method} does not go by layers: explain with relevancy, for example.")
    results = [found]
    with library.using(model, progress) as (chosen,):
        among = range(depth(chosen)) if found.layers is None else found.layers
        parts = [part.tolist() for part in np.array_split(among, min(MOST_LAYERS, len(among)))]
        for place, part in enumerate(parts):
            progress(f"{chosen.name}: layers {part[0]} to {part[-1]}", place / len(parts))
            options = {"method": found.method, "scope": found.scope, "layers": part}
            results.append(_otherwise(chosen, last, found, **options))
    return Varied(tuple(results), tuple(agreement(found, other) for other in results[1:]))


def by_head(library: Library, last: Session | None, model: Any, progress: Progress) -> tuple[Explanation, ...]:
    """What each head of each layer adds to the same token's map, by `relevancy.explain_heads`."""
    last, found = _of(last, library, model)
    with library.using(model, progress) as (chosen,):
        progress(f"{chosen.name}: every head", 0.0)
        options: dict[str, Any] = {"target": found.target.named, "method": found.method, "layers": found.layers}
        return tuple(relevancy.explain_heads(chosen, *last.asked, **options))


def _of(last: Session | None, library: Library, model: Any) -> tuple[Session, Explanation]:
    """The session, and what it shows of a model. Raises RelevancyError where it is not on the screen."""
    last = _there(last)
    (name,) = library.named(model)
    if name not in last.ask.models:
        raise RelevancyError(f"There is no map of {name} on the screen: choose it above, and press Explain.")
    return last, last.results[last.ask.models.index(name)]


def _otherwise(model: relevancy.Model, last: Session, found: Explanation, **options: Any) -> Explanation:
    """The same token of the same question, explained in another way."""
    other: Explanation = explanation(model, *last.asked, target=found.target.named, **options)
    return other


@dataclass(frozen=True, eq=False)
class Hidden:
    """One model, one part of the picture hidden from it: the edited picture and what became of its answer.

    new_answer: what the model says of the edited picture. elsewhere: the picture with an equal part hidden elsewhere,
    and the answer's probability then; None where no such part lies apart. seen: whether any of the part lies where the
    model looked.
    """

    model: str
    image: Image.Image
    answer: str
    before: float
    after: float
    new_answer: str
    elsewhere: tuple[Image.Image, float] | None
    seen: bool = True


def hidden(
    library: Library,
    last: Session | None,
    part: str,
    marked: relevancy.Region | None,
    replacement: Replacement,
    progress: Progress,
) -> tuple[Hidden, ...]:
    """How likely each model says its answer once a part of the picture is hidden.

    Of several pictures it is the first one that is changed.
    part: "drawn" or "patches" (what was `marked`), or the "most" or "least" relevant tenth of each model's map.
    Probabilities are of the answer, the geometric mean over its tokens.
    """
    last = _there(last)
    found = []
    for number, result in enumerate(last.first):
        region = marked or relevancy.Region(patches=tenth(result, part))
        other = elsewhere(region, result.grid)
        with library.using(last.ask.models[number], progress) as (model,):
            progress(f"{model.name} answers without it", number / len(last.first))
            changed, *beside = relevancy.counterfactual(
                model, *last.asked, [region, *([other] if other else [])], replacement=replacement, answers=True
            )  # fmt: skip
        found.append(
            Hidden(
                model=model.name,
                image=changed.image,
                answer=changed.answer,
                before=changed.before.per_token,
                after=changed.after.per_token,
                new_answer=changed.new_answer or "",
                elsewhere=(beside[0].image, beside[0].after.per_token) if beside else None,
                seen=_sees(result.grid, region),
            )
        )
    return tuple(found)


def tenth(result: Explanation, part: str) -> tuple[int, ...]:
    """The most or the least relevant tenth of a map's patches that lie on the picture, as indices row by row.

    Of patches that are equally relevant some are drawn, the same each time.
    """
    if result.empty:
        raise RelevancyError(f"The map of {result.model} is empty, so no part of it is the most relevant.")
    ordered = order(result.image_map, seen(result.grid))
    count = max(1, round(_TENTH * len(ordered)))
    return tuple(int(index) for index in (ordered[:count] if part == MOST else ordered[-count:]))


def _sees(grid: Grid, region: relevancy.Region) -> bool:
    """Whether any of a region lies where the model looked."""
    boxes = [*(region.grid or grid).boxes()[list(region.patches)], *([] if region.box is None else [region.box])]
    x, y = grid.x_edges, grid.y_edges
    return any(left < x[-1] and right > x[0] and upper < y[-1] and lower > y[0] for left, upper, right, lower in boxes)


def _there(last: Session | None) -> Session:
    if last is None:
        raise RelevancyError("There is no result yet, or it has expired: press Explain first.")
    return last
