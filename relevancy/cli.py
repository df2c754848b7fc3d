"""The command line: parsing and printing only. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from relevancy.errors import RelevancyError

if TYPE_CHECKING:
    from relevancy.comparing import Comparison
    from relevancy.explanation import Explanation
    from relevancy.models import Model

WRONG_INPUT, EMPTY_MAP, INTERRUPTED = 2, 3, 130
PAIR = ("demo-small", "demo-large")
EXIT_CODES = "Exit codes: 0 done, 2 wrong input (one line says what to do), 3 done, but a map is empty."

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Which image patches and which words made a vision-language model say that token.\n\n"
    "Try: [bold]relevancy demo[/bold], then [bold]relevancy explain --model demo-large --image duck.png "
    '--question "Is the duck floating?" --out result[/bold]',
    epilog=EXIT_CODES,
)
train_app = typer.Typer(no_args_is_help=True, help="Train models that can be explained.")
evaluate_app = typer.Typer(no_args_is_help=True, help="Measure how often models are right, and whether maps are.")
app.add_typer(train_app, name="train")
app.add_typer(evaluate_app, name="evaluate")

# Typer exports only the errors it derives from this one.
_USAGE_ERROR: Any = typer.BadParameter.__base__
_LAYERS = re.compile(r"(?P<one>-?\d{1,4})|(?P<first>\d{1,4})-(?P<last>\d{1,4})")

out = Console()
err = Console(stderr=True)


class ScopeName(str, Enum):
    """How far relevance is followed."""

    language = "language"
    full = "full"


class Framing(str, Enum):
    """How a picture is brought to the tower's square."""

    pad = "pad"
    crop = "crop"


class Bits(str, Enum):
    """Quantized weights."""

    four = "4bit"
    eight = "8bit"


@app.command(epilog=EXIT_CODES)
def explain(
    model: Annotated[str, typer.Option(help="demo-small, demo-large, 2b, 7b, a hub id, or a local folder.")],
    image: Annotated[str, typer.Option(metavar="FILE", help="The picture: any format Pillow reads.")],
    question: Annotated[str, typer.Option(help="What to ask about it.")],
    target: Annotated[
        str,
        typer.Option(
            help="Which token of the answer: [bold]first[/bold], [bold]first-relevant[/bold] (skips brackets and "
            "quotes), [bold]all[/bold], a position such as 2, a string in the answer, or a contrast such as "
            "'Yes|No'."
        ),
    ] = "first",
    scope: Annotated[
        ScopeName, typer.Option(help="Stop at the decoder's image tokens, or go on through the vision tower.")
    ] = ScopeName.language,
    method: Annotated[str, typer.Option(help="relevancy: Chefer et al. 2021, eqs. 5-6.")] = "relevancy",
    layers: Annotated[
        str | None, typer.Option(help="Decoder layers that take part, as 6-17 or 0,4,8; all by default.")
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
) -> None:
    """Explain one answer about one picture.

    Writes explanation.json, overlay.png, figure.png, heatmap.npy and picture.png into --out (with --target all, into
    one numbered folder per token).
    """
    _check_writable(out_folder)
    from relevancy.explaining import explain as run
    from relevancy.pictures import MAX_PIXELS, open_picture

    chosen = _layers(layers)
    limit = MAX_PIXELS if max_pixels is None else max_pixels
    open_picture(image, max_pixels=limit)  # a bad picture is worth knowing before gigabytes of weights are read
    loaded = _load(
        model, device=device, dtype=dtype, device_map=device_map, quantization=_value(quantization),
        framing=_value(framing),
    )  # fmt: skip
    with _busy(f"explaining {loaded.name}"):
        found = run(
            loaded, image, question, target=target, scope=scope.value, method=method, layers=chosen,
            answer=answer, max_new_tokens=max_new_tokens, max_pixels=limit,
        )  # fmt: skip
    results: list[Explanation] = found if isinstance(found, list) else [found]
    folders = [out_folder] if not isinstance(found, list) else [out_folder / f"{i:03d}" for i in range(len(results))]
    with _busy("drawing"):
        for result, folder in zip(results, folders, strict=True):
            result.save(folder)
    if as_json:
        printed = [result.to_json() for result in results]
        sys.stdout.write(json.dumps(printed if isinstance(found, list) else printed[0]) + "\n")
    else:
        for result, folder in zip(results, folders, strict=True):
            _say(result.summary())
            for note in result.notes:
                _say(f"note: {note}")
            _say(f"→ {folder / 'overlay.png'}")
    if any(result.empty for result in results):
        raise typer.Exit(EMPTY_MAP)


@app.command(epilog=EXIT_CODES)
def compare(
    models: Annotated[
        list[str], typer.Option("--models", "--model", metavar="MODEL...", help="Models as in explain, two or more.")
    ],
    image: Annotated[str, typer.Option(metavar="FILE", help="The picture.")],
    question: Annotated[str, typer.Option(help="What to ask about it.")],
    more: Annotated[list[str] | None, typer.Argument(metavar="MODEL", hidden=True)] = None,
    target: Annotated[str, typer.Option(help="Which token of each answer, as in explain; not all.")] = "first-relevant",
    scope: Annotated[ScopeName, typer.Option(help="As in explain.")] = ScopeName.language,
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
) -> None:
    """Set maps of several models side by side, on one scale, with numbers for how far they agree.

    Models take their turns one after the other. Writes comparison.json, side-by-side.png and .pdf, and each model's
    results.
    """
    _check_writable(out_folder)
    from relevancy.comparing import compare as run
    from relevancy.pictures import MAX_PIXELS

    options = {"device": device, "dtype": dtype, "quantization": _value(quantization), "framing": _value(framing)}
    with _stages() as report:
        found = run(
            [*models, *(more or [])], image, question, target=target, scope=scope.value, layers=_layers(layers),
            answer=answer, keep=keep, loader=lambda name: _load_quietly(name, **options), progress=report,
            max_pixels=MAX_PIXELS if max_pixels is None else max_pixels, max_new_tokens=max_new_tokens,
        )  # fmt: skip
    with _busy("drawing"):
        found.save(out_folder)
    if as_json:
        sys.stdout.write(json.dumps(found.to_json()) + "\n")
    else:
        _say_comparison(found)
        _say(f"→ {out_folder / 'side-by-side.png'}")
    if any(result.empty for result in found.explanations):
        raise typer.Exit(EMPTY_MAP)


def _say_comparison(found: Comparison) -> None:
    """Answers with what each model gives for them, notes, and how far the maps agree."""
    numbers = [str(number) for number in range(1, len(found.explanations) + 1)]
    table = Table(
        "", "model", "answer", "token", "p", "image", "text", "first token", *(f"p({number})" for number in numbers),
        box=None, pad_edge=False,
    )  # fmt: skip
    for number, result, row in zip(numbers, found.explanations, found.likelihoods, strict=True):
        table.add_row(
            number, _escaped(result.model), _escaped(result.answer), _escaped(repr(result.target.token)),
            f"{result.target.probability:.3f}", *(f"{result.shares[key]:.1%}" for key in result.shares),
            *("–" if one is None else f"{one.per_token:.3f}" for one in row),
        )  # fmt: skip
    out.print(table)
    _say("p(1): how likely the row's model is to say answer 1, geometric mean over its tokens; and so on.")
    for result in found.explanations:
        for note in result.notes:
            _say(f"note: {result.model}: {note}")
    for pair in found.agreement:
        _say(pair.summary())


@app.command()
def demo(
    out_folder: Annotated[Path, typer.Option("--out", help="Folder for the pictures.")] = Path("relevancy-demo"),
    scenes: Annotated[int, typer.Option(min=1, help="How many held-out scenes besides the duck's.")] = 3,
    seed: Annotated[int, typer.Option(min=0, help="Which held-out scenes.")] = 0,
) -> None:
    """See it work: the embedded pair of small models, side by side on held-out scenes. No download, no GPU."""
    _check_writable(out_folder)
    from relevancy.demo.showcase import showcase

    pair = [_load(name) for name in PAIR]
    _say(
        "Two small models come with this package: LLaVA-Gemma in miniature, trained on drawn scenes (a demonstration "
        "pair, not LLaVA-Gemma-2B). They share one vision tower, as 2B and 7B share CLIP.\n"
    )
    for shown in showcase(pair, out_folder, scenes=scenes, seed=seed):
        _say(f"[bold]{_escaped(shown.question)}[/bold]   (truth: {_escaped(shown.truth)})", markup=True)
        table = Table("model", "answer", "token", "p", "image", "text", "first token", box=None, pad_edge=False)
        for result in shown.explanations:
            table.add_row(
                result.model, _escaped(result.answer), _escaped(repr(result.target.token)),
                f"{result.target.probability:.3f}", *(f"{result.shares[key]:.1%}" for key in result.shares),
            )  # fmt: skip
        out.print(table)
        _say(f"→ {shown.figure}\n")
    _say(f"Pictures are in {out_folder.resolve()}. Next: your own picture with `relevancy explain --help`.")


@train_app.command("demo")
def train_demo(
    out_folder: Annotated[Path, typer.Option("--out", help="Folder for stages and finished models.")] = Path(
        "runs/demo"
    ),
    seed: Annotated[int, typer.Option(min=0, help="Another seed gives other scenes and other weights.")] = 0,
    quick: Annotated[bool, typer.Option("--quick", help="Every step in miniature, to see that all works.")] = False,
) -> None:
    """Rebuild the embedded pair from a seed. Stopped and started again, it goes on where it was."""
    _check_writable(out_folder)
    from relevancy.demo.build import build

    with _bars() as report:
        folders = build(out_folder, seed=seed, progress=report, quick=quick)
    for name, folder in folders.items():
        _say(f"{name} → {folder}   (relevancy explain --model {folder} ...)")


@evaluate_app.command("demo")
def evaluate_demo(
    model: Annotated[
        list[str] | None, typer.Option(help="Which models; give the option again for more. Both by default.")
    ] = None,
    scenes: Annotated[int, typer.Option(min=1, help="Held-out scenes.")] = 2000,
    seed: Annotated[int, typer.Option(min=0, help="Fresh scenes for each seed.")] = 1,
    maps: Annotated[bool, typer.Option(help="Also hold the maps against the objects' true outlines.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON, and nothing else.")] = False,
) -> None:
    """Are the embedded models right, blind without the picture, and do their maps point at what was asked about?"""
    from relevancy.demo.evaluation import accuracy, map_truth, table

    names = model or list(PAIR)
    loaded = [_load(name) for name in names]
    right, blind, truths = [], [], []
    with _bars() as report:
        for one in loaded:
            right.append(accuracy(one, scenes=scenes, seed=seed, progress=_share(report, f"{one.name} answers")))
            blind.append(
                accuracy(one, scenes=scenes, seed=seed, picture="other", progress=_share(report, f"{one.name} blind"))
            )
            for scope in ("language", "full") if maps else ():
                label = f"{one.name} {scope} maps"
                truths.append((one.name, map_truth(one, right[-1], scope=scope, progress=_share(report, label))))
    if as_json:
        sys.stdout.write(json.dumps(_evaluation(names, right, blind, truths)) + "\n")
        return
    answers = Table("question", "form", "asked", "chance", *(c for name in names for c in (name, "blind")), box=None)
    for (kind, form, count, shares), (_, _, _, unseen) in zip(table(right), table(blind), strict=True):
        cells = [f"{value:.1%}" for pair in zip(shares, unseen, strict=True) for value in pair]
        answers.add_row(kind, form, str(count), f"{right[0].chance[kind, form]:.1%}", *cells)
    whole = [f"{one.overall:.1%}" for pair in zip(right, blind, strict=True) for one in pair]
    answers.add_row("all", "", str(right[0].questions), f"{right[0].chance_overall:.1%}", *whole)
    out.print(answers)
    if truths:
        maps_table = Table("model", "scope", "maps", "map", "pointing game", "energy in mask", box=None)
        for name, found in truths:
            for kind in found.pointing:
                maps_table.add_row(
                    name, found.scope, str(found.maps), kind, f"{found.pointing[kind]:.1%}", f"{found.energy[kind]:.1%}"
                )
        out.print(maps_table)


@app.command()
def bench(
    size: Annotated[str, typer.Option(help="2b or 7b: true sizes, random weights.")] = "2b",
    tokens: Annotated[str, typer.Option(help="Sequence lengths, as 601,2048,8192; 576 are the picture's.")] = "601",
    layers: Annotated[int | None, typer.Option(min=1, help="Decoder layers; all by default.")] = None,
    variants: Annotated[
        str, typer.Option(help="forward, engine, engine-full, eager-frozen, eager-weights (as lvlm-interpret).")
    ] = "forward,engine,eager-frozen,eager-weights",
    repeats: Annotated[int, typer.Option(min=1, help="Timed runs after one to warm up; the median counts.")] = 3,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    dtype: Annotated[str, typer.Option(help="bfloat16, float16 or float32.")] = "bfloat16",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; by default as PyTorch chooses.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON, and nothing else.")] = False,
) -> None:
    """What a map costs beside a bare forward pass and eager attention. Each variant has a process of its own."""
    from dataclasses import asdict

    from relevancy.bench import settings_for, sweep

    try:
        lengths = tuple(int(length) for length in tokens.split(","))
    except ValueError as error:
        raise RelevancyError(f"--tokens takes numbers such as 601,2048, not {tokens!r}.") from error
    settings = settings_for(
        size, tokens=lengths, variants=tuple(variants.split(",")), layers=layers, repeats=repeats, device=device,
        dtype=dtype, threads=threads,
    )  # fmt: skip
    measured = []
    with _bars() as report:
        for measurement in sweep(settings):
            measured.append(measurement)
            report(f"{measurement.setting.variant}, {measurement.setting.tokens} tokens", 1.0)
    if as_json:
        sys.stdout.write(json.dumps([asdict(one) for one in measured]) + "\n")
        return
    table = Table("tokens", "variant", "seconds", "x forward", "peak GiB", "over forward, GiB", "", box=None)
    base: Any = None
    for one in measured:
        if one.setting.variant == "forward" and not one.failure:
            base = one
        known = base is not None and base.setting.tokens == one.setting.tokens and not one.failure
        table.add_row(
            str(one.setting.tokens), one.setting.variant,
            "" if one.failure else f"{one.seconds:.2f}",
            f"{one.seconds / base.seconds:.2f}" if known else "",
            "" if one.failure else f"{one.peak_bytes / 2**30:.2f}",
            f"{(one.peak_bytes - base.peak_bytes) / 2**30:.2f}" if known else "",
            one.failure or "",
        )  # fmt: skip
    where = f"{size}, {layers or 'all'} layers, {dtype} on {device}, random weights, median of {repeats}"
    out.print(where)
    out.print(table)


def main() -> None:
    """Entry point: a user's mistake is one line and exit code 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a terminal that lacks a letter must not cost the result
            stream.reconfigure(errors="backslashreplace")
    try:
        code = app(prog_name="relevancy", standalone_mode=False) or 0
    except RelevancyError as error:
        code = _refused(str(error))
    except _USAGE_ERROR as error:
        asked = error.ctx.command_path if error.ctx else "relevancy"
        why = error.format_message().rstrip(".")  # without a command the help is shown, and nothing else to say
        code = _refused(f"{why}; see {asked} --help") if why else WRONG_INPUT
    if code == INTERRUPTED:
        sys.stderr.write("relevancy: stopped\n")
    sys.exit(code)


def _refused(why: str) -> int:
    sys.stderr.write(f"relevancy: {' '.join(why.split())}\n")
    return WRONG_INPUT


def _load(name: str, **options: Any) -> Model:
    with _busy(f"loading {name}"):
        return _load_quietly(name, **options)


def _load_quietly(name: str, **options: Any) -> Model:
    from transformers.utils import logging

    from relevancy.models import load

    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    logging.set_verbosity_error()
    return load(name, **options)


def _check_writable(folder: Path) -> None:
    """Refuse an --out that cannot be written before anything long begins; create nothing yet."""
    existing = folder
    try:
        while not existing.exists() and existing != existing.parent:
            existing = existing.parent
    except OSError as error:  # a name that no file system takes
        raise RelevancyError(f"--out: {error.strerror}. Choose another --out.") from error
    if not existing.is_dir():
        raise RelevancyError(f"--out {folder}: {existing} is not a folder. Choose another --out.")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise RelevancyError(f"--out {folder}: no right to write in {existing}. Choose another --out.")


def _layers(text: str | None) -> list[int] | None:
    if text is None:
        return None
    chosen: list[int] = []
    for part in text.split(","):
        found = _LAYERS.fullmatch(part.strip())
        if found is None:
            raise RelevancyError(f"--layers takes numbers such as 6-17 or 0,4,8, not {text!r}.")
        chosen += [int(found["one"])] if found["one"] else range(int(found["first"]), int(found["last"]) + 1)
    if not chosen:
        raise RelevancyError(f"--layers {text}: no layer is in this range; give the smaller number first.")
    return chosen


def _value(choice: Enum | None) -> Any:
    return None if choice is None else choice.value


def _say(text: str, *, markup: bool = False) -> None:
    out.print(text, markup=markup, highlight=False, soft_wrap=True)


def _escaped(text: str) -> str:
    return text.replace("[", "\\[")


@contextmanager
def _busy(what: str) -> Iterator[None]:
    """A spinner on a terminal's standard error, nothing elsewhere."""
    with err.status(what) if err.is_terminal else _nothing():
        yield


@contextmanager
def _nothing() -> Iterator[None]:
    yield


@contextmanager
def _bars() -> Iterator[Callable[[str, float], None]]:
    """A progress bar per named step, on standard error; without a terminal, a line as each step ends."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:.0f}%"))
    with Progress(*columns, TimeElapsedColumn(), console=err, disable=not err.is_terminal) as progress:
        tasks: dict[str, Any] = {}
        ended: set[str] = set()

        def report(what: str, share: float) -> None:
            if not err.is_terminal:
                if share >= 1 and what not in ended:
                    ended.add(what)
                    err.print(f"{what}: done", highlight=False)
                return
            if what not in tasks:
                tasks[what] = progress.add_task(what, total=1.0)
            progress.update(tasks[what], completed=share)

        yield report


@contextmanager
def _stages() -> Iterator[Callable[[str, float], None]]:
    """One progress bar that names the stage, on a terminal's standard error; nothing elsewhere."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:.0f}%"))
    with Progress(*columns, TimeElapsedColumn(), console=err, disable=not err.is_terminal, transient=True) as progress:
        task = progress.add_task("", total=1.0)
        yield lambda stage, share: progress.update(task, description=_escaped(stage), completed=share)


def _share(report: Callable[[str, float], None], what: str) -> Callable[[float], None]:
    return lambda share: report(what, share)


def _evaluation(names: list[str], right: list[Any], blind: list[Any], truths: list[Any]) -> dict[str, Any]:
    def flat(shares: dict[tuple[str, str], float]) -> dict[str, float]:
        return {f"{kind}/{form}": value for (kind, form), value in shares.items()}

    answers = {
        name: {
            "scenes": own.scenes,
            "questions": own.questions,
            "overall": own.overall,
            "by_type": flat(own.by_type),
            "blind": other.overall,
            "blind_by_type": flat(other.by_type),
            "chance": own.chance_overall,
        }
        for name, own, other in zip(names, right, blind, strict=True)
    }
    maps = [
        {"model": name, "scope": found.scope, "maps": found.maps, "pointing": found.pointing, "energy": found.energy,
         "by_type": found.by_type, "object_share": found.object_share}
        for name, found in truths
    ]  # fmt: skip
    return {"answers": answers, "maps": maps}


if __name__ == "__main__":
    main()
