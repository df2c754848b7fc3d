"""`relevancy explain` and `relevancy compare`: one picture, one question."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from relevancy.atomic_io import whole_files
from relevancy.cli.methods import METHOD_HELP
from relevancy.cli.options import (
    EVIDENCE_HELP,
    MESSAGES_HELP,
    Bits,
    Framing,
    ScopeName,
    layer_numbers,
    load_model,
    load_quietly,
    value,
)
from relevancy.cli.terminal import EMPTY_MAP, busy, check_writable, escaped, out, say, stages
from relevancy.errors import RelevancyError
from relevancy.methods import registry
from relevancy.methods.registry import DEFAULT, Method

_NUMBERED = re.compile(r"\d{3,}")

if TYPE_CHECKING:
    from relevancy.explanations.comparison import Comparison
    from relevancy.explanations.explanation import Explanation


def explain(
    model: Annotated[
        str, typer.Option(help="demo-small, demo-large, demo-gemma, 2b, 7b, a hub id, or a local folder.")
    ],
    image: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE",
            help="The picture: any format Pillow reads. Several times for several pictures in one question; left out, "
            "the question is in words alone.",
        ),
    ] = None,
    question: Annotated[str | None, typer.Option(help="What to ask about it.")] = None,
    messages: Annotated[
        Path | None, typer.Option(metavar="FILE", help=f"In place of --question: {MESSAGES_HELP}")
    ] = None,
    target: Annotated[
        str,
        typer.Option(
            help="Which token of the answer: [bold]first[/bold], [bold]first-relevant[/bold] (skips brackets and "
            "quotes), [bold]contrast[/bold] (that token against the next best), a position such as 2, a string in the "
            "answer, [bold]word:2[/bold] for the string 2, or two words such as 'Yes|No'. Several together: a span "
            "such as 3:7, or [bold]answer[/bold] for all. One by one: [bold]all[/bold], [bold]each:3:7[/bold], or "
            "[bold]words[/bold], each word's tokens together."
        ),
    ] = "first",
    scope: Annotated[
        ScopeName, typer.Option(help="Stop at the decoder's image tokens, or go on through the vision tower.")
    ] = ScopeName.language,
    method: Annotated[str, typer.Option(help=METHOD_HELP)] = DEFAULT,
    layers: Annotated[
        str | None, typer.Option(help="Decoder layers that take part, as 6-17 or 0,4,8; all by default.")
    ] = None,
    heads: Annotated[
        str | None,
        typer.Option(
            metavar="LAYER",
            help="What each head of this layer adds to the map, a result for each; [bold]all[/bold] for every layer's. "
            "It costs one map, whatever their number.",
        ),
    ] = None,
    answer: Annotated[str | None, typer.Option(help="Explain this answer instead of the model's own.")] = None,
    out_folder: Annotated[Path, typer.Option("--out", help="Folder for the results.")] = Path("relevancy-out"),
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON, and nothing else.")] = False,
    device: Annotated[str | None, typer.Option(help="cuda, mps or cpu; by default the first that is there.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16.")] = None,
    device_map: Annotated[str | None, typer.Option(help="auto: spread a large model over all devices.")] = None,
    quantization: Annotated[Bits | None, typer.Option(help="Load the decoder in 4 or 8 bits.")] = None,
    framing: Annotated[
        Framing | None, typer.Option(help="Pad or crop the picture to a square; by default as the model's files say.")
    ] = None,
    max_pixels: Annotated[int | None, typer.Option(min=1, help="Largest picture that is opened, in pixels.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 64,
    evidence: Annotated[bool, typer.Option(help=EVIDENCE_HELP)] = True,
    floor: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, help="Image share below which a map is drawn as empty; 0 draws every map. 0.001 by default."
        ),
    ] = None,
) -> None:
    """Explain one answer: about one picture, several, or to words alone.

    Writes explanation.json, overlay.png, figure.png, heatmap.npy and picture.png into --out (with --target all, words
    or each:3:7, and with --heads, into one numbered folder for each), of a second picture overlay-2.png, heatmap-2.npy
    and picture-2.png. Results of an earlier run that are there go; other files stay.
    """
    check_writable(out_folder)
    chosen = layer_numbers(layers)
    layer = _layer_of_heads(heads, registry.chosen(method, scope.value, chosen), scope.value)
    asked = _asked(question, messages)
    limit = _openable(image or [], asked, max_pixels)
    from relevancy.explanations.explain import explain as run
    from relevancy.explanations.explain import explain_heads
    from relevancy.plotting.overlay import FLOOR

    loaded = load_model(
        model, device=device, dtype=dtype, device_map=device_map, quantization=value(quantization),
        framing=value(framing),
    )  # fmt: skip
    given: dict[str, Any] = {
        "target": target, "method": method, "layers": chosen, "answer": answer, "max_new_tokens": max_new_tokens,
        "max_pixels": limit,
    }  # fmt: skip
    with busy(f"explaining {loaded.name}"):
        if heads is None:
            (found,) = run(loaded, [image or []], [asked], scope=scope.value, evidence=evidence, **given)
        else:
            found = explain_heads(loaded, image or [], asked, layer=layer, **given)
    results: list[Explanation] = found if isinstance(found, list) else [found]
    names = [f"{number:03d}" for number in range(len(results))] if isinstance(found, list) else ["."]
    folders = [out_folder / name for name in names]
    with busy("drawing"), whole_files(out_folder, _earlier(out_folder)) as part:
        for result, name in zip(results, names, strict=True):
            result.write_files(part / name, floor=FLOOR if floor is None else floor)
    if as_json:
        printed = [result.to_json() for result in results]
        sys.stdout.write(json.dumps(printed if isinstance(found, list) else printed[0]) + "\n")
    else:
        if heads is not None:
            for note in results[0].notes:
                if all(note in result.notes for result in results):
                    say(f"note: {note}")
            _say_heads(results)
        for result, folder in zip(results, folders, strict=True):
            if heads is None:
                say(result.summary())
                for note in result.notes:
                    say(f"note: {note}")
            say(f"→ {folder / 'figure.png'}")
    if (all if heads is not None else any)(result.empty for result in results):  # most heads add nothing
        raise typer.Exit(EMPTY_MAP)


def _layer_of_heads(heads: str | None, method: Method, scope: str) -> int | None:
    """The layer that --heads names, None for all of them; what cannot be asked of heads is refused."""
    if heads is None:
        return None
    registry.require_heads(method)
    if scope != "language":
        raise RelevancyError("--heads are those of the decoder: leave --scope out, or give language.")
    if heads == "all":
        return None
    try:
        return int(heads)
    except ValueError as error:
        raise RelevancyError(f"--heads takes a layer's number or all, not {heads!r}.") from error


def _say_heads(results: Sequence[Explanation]) -> None:
    """Which heads' maps carry how much of what these heads add together: to the picture, and to everything."""
    first = results[0]
    title = f"{first.model} answers {first.answer!r}; what each of these heads adds for {first.target.token!r}"
    table = Table("layer", "head", "of their picture's", "of all of theirs", title=escaped(title))
    on_picture = [float(one.relevance[one.is_image].sum(dtype="float64")) for one in results]
    everywhere = [float(one.relevance.sum(dtype="float64")) for one in results]
    for one, own, whole in zip(results, on_picture, everywhere, strict=True):
        assert one.head is not None
        table.add_row(*map(str, one.head), _part(own, sum(on_picture)), _part(whole, sum(everywhere)))
    out.print(table)


def _part(value: float, whole: float) -> str:
    from relevancy.plotting.overlay import percent

    return percent(value / whole) if whole > 0 else "–"


def _earlier(folder: Path) -> list[Path]:
    """What an earlier explain or compare left: one result, numbered folders of results, or a comparison."""
    from relevancy.explanations.comparison import Comparison
    from relevancy.explanations.explanation import Explanation

    numbered = sorted(place for place in folder.glob("[0-9]*") if place.is_dir() and _NUMBERED.fullmatch(place.name))
    single = [file for place in (folder, *numbered) for file in Explanation.saved_in(place)]
    return single + Comparison.saved_in(folder)


def compare(
    models: Annotated[
        list[str], typer.Option("--models", "--model", metavar="MODEL...", help="Models as in explain, two or more.")
    ],
    image: Annotated[list[str] | None, typer.Option(metavar="FILE", help="The picture; as in explain.")] = None,
    question: Annotated[str | None, typer.Option(help="What to ask about it.")] = None,
    messages: Annotated[Path | None, typer.Option(metavar="FILE", help="As in explain.")] = None,
    more: Annotated[list[str] | None, typer.Argument(metavar="MODEL", hidden=True)] = None,
    target: Annotated[
        str, typer.Option(help="What of each answer, as in explain; not all, not each.")
    ] = "first-relevant",
    scope: Annotated[ScopeName, typer.Option(help="As in explain.")] = ScopeName.language,
    method: Annotated[str, typer.Option(help=METHOD_HELP)] = DEFAULT,
    layers: Annotated[str | None, typer.Option(help="As in explain, the same for every model.")] = None,
    answer: Annotated[str | None, typer.Option(help="Explain this answer instead of each model's own.")] = None,
    keep: Annotated[
        bool | None,
        typer.Option(
            "--keep/--one-at-a-time",
            help="Models stay in memory together, or all but the last are loaded twice; by default as memory allows.",
        ),
    ] = None,
    out_folder: Annotated[Path, typer.Option("--out", help="Folder for the results.")] = Path("relevancy-comparison"),
    as_json: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON, and nothing else.")] = False,
    device: Annotated[str | None, typer.Option(help="cuda, mps or cpu.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16.")] = None,
    quantization: Annotated[Bits | None, typer.Option(help="Load the decoders in 4 or 8 bits.")] = None,
    framing: Annotated[Framing | None, typer.Option(help="As in explain.")] = None,
    max_pixels: Annotated[int | None, typer.Option(min=1, help="Largest picture that is opened, in pixels.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 64,
    evidence: Annotated[bool, typer.Option(help=EVIDENCE_HELP)] = True,
    floor: Annotated[float | None, typer.Option(min=0, max=1, help="As in explain.")] = None,
) -> None:
    """Set maps of several models side by side, with numbers for how far they agree.

    Models take their turns one after the other. Writes comparison.json, side-by-side.png and .pdf, and each model's
    results. Results of an earlier run that are there go; other files stay.
    """
    check_writable(out_folder)
    chosen = layer_numbers(layers)
    registry.chosen(method, scope.value, chosen)
    asked = _asked(question, messages)
    limit = _openable(image or [], asked, max_pixels)
    from relevancy.explanations.comparison import compare as run
    from relevancy.plotting.overlay import FLOOR

    options = {"device": device, "dtype": dtype, "quantization": value(quantization), "framing": value(framing)}
    with stages() as report:
        found = run(
            [*models, *(more or [])], image, asked, target=target, scope=scope.value, method=method,
            layers=chosen, answer=answer, keep=keep, progress=report, max_new_tokens=max_new_tokens,
            evidence=evidence, loader=lambda name: load_quietly(name, **options), max_pixels=limit,
        )  # fmt: skip
    with busy("drawing"), whole_files(out_folder, _earlier(out_folder)) as part:
        found.save(part, floor=FLOOR if floor is None else floor)
    if as_json:
        sys.stdout.write(json.dumps(found.to_json()) + "\n")
    else:
        _say_comparison(found)
        say(f"→ {out_folder / 'side-by-side.png'}")
    if any(result.empty for result in found.explanations):
        raise typer.Exit(EMPTY_MAP)


def _say_comparison(found: Comparison) -> None:
    """Answers with what each model gives for them, notes, and how far the maps agree."""
    from relevancy.plotting.overlay import percent

    numbers = [str(number) for number in range(1, len(found.explanations) + 1)]
    table = Table(
        "", "model", "answer", "token", "p", "image", "text", "first token", *(f"p({number})" for number in numbers),
        box=None, pad_edge=False,
    )  # fmt: skip
    for number, result, row in zip(numbers, found.explanations, found.likelihoods, strict=True):
        table.add_row(
            number, escaped(result.model), escaped(result.answer), escaped(repr(result.target.token)),
            f"{result.target.probability:.3f}", *(percent(share) for share in result.shares.values()),
            *("–" if one is None else f"{one.per_token:.3f}" for one in row),
        )  # fmt: skip
    out.print(table)
    say("p(1): how likely the row's model is to say answer 1, geometric mean over its tokens; and so on.")
    for result in found.explanations:
        for note in result.notes:
            say(f"note: {result.model}: {note}")
    for line in found.findings():
        say(line)


def _asked(question: str | None, file: Path | None) -> str | list[dict[str, Any]]:
    """A question, or chat messages. Raises RelevancyError where it is neither, or both."""
    from relevancy.models.conversation import messages_in

    if question is not None and file is None:
        return question
    if file is None or question is not None:
        raise RelevancyError("Give a --question, or a conversation with --messages, and not both.")
    return messages_in(file)


def _openable(images: Sequence[str], asked: str | list[dict[str, Any]], max_pixels: int | None) -> int:
    """The most pixels that a picture may have. A bad picture is told before gigabytes of weights are read."""
    from relevancy.images import MAX_PIXELS
    from relevancy.models.conversation import pictured
    from relevancy.videos import open_shown

    limit = MAX_PIXELS if max_pixels is None else max_pixels
    for source in pictured(images, asked)[0]:
        open_shown(source, max_pixels=limit)
    return limit
