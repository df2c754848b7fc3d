"""`relevancy evaluate BENCHMARK`, `--list`, `score`, `table` and `effects`: benchmarks of answers."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from relevancy.cli.export import EngineName, exporting
from relevancy.cli.options import Bits, Framing, value
from relevancy.cli.terminal import check_writable, escaped, lines, out, say

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from relevancy.evaluate.scores import BenchmarkScore
    from relevancy.evaluate.table import ScoreTable


class TableForm(str, Enum):
    """In what a table is written."""

    markdown = "markdown"
    latex = "latex"
    csv = "csv"
    json = "json"


NAMES = ("pope", "gqa", "mme", "mm-vet", "vqav2", "mmvp", "scienceqa", "textvqa")
"""Of the benchmarks, each a command; told here so that parsing needs none of their code."""

PICTURES = ("png", "svg", "pdf")
EXIT_CODES = "Exit codes: 0 done, 2 wrong input (one line says what to do)."


def evaluate(
    context: typer.Context,
    listed: Annotated[
        bool, typer.Option("--list", help="Every benchmark: what it needs, from where, its licence, size and layout.")
    ] = False,
) -> None:
    """Measure how often models are right, and whether maps are."""
    if context.invoked_subcommand is not None:
        return
    if not listed:
        out.print(context.get_help(), markup=False, highlight=False)
        raise typer.Exit
    from relevancy.evaluate.benchmarks import BENCHMARKS

    for one in BENCHMARKS.values():
        say(f"[bold]{one.name}[/bold]  {escaped(one.title)}", markup=True)
        lines = {
            "questions": one.questions, "DIR holds": "; ".join(one.layout),
            "pictures": f"DIR/{one.pictures} (not needed to score)", "from": one.source, "licence": one.licence,
            "size": one.size, "unchecked": one.unchecked,
        }  # fmt: skip
        for name, text in lines.items():
            say(f"  {name:<10} {text}")
    say(
        "\nDIR is the folder that --data names; put these files and pictures there. Unchecked is what this list says "
        "without having seen it at its source."
    )
    say("Ask models and score them: relevancy evaluate pope --data DIR --model 2b --out scores")
    say("Score your own predictions: relevancy evaluate score pope --data DIR --predictions FILE")


def run(
    context: typer.Context,
    data: Annotated[
        Path,
        typer.Option(
            metavar="DIR", help="Files and pictures as the benchmark's authors ship them, or the hub's Parquet."
        ),
    ],
    models: Annotated[list[str], typer.Option("--model", help="As in explain; give it again for each further model.")],
    out_folder: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for answers, scores and pages.")],
    maps: Annotated[
        str,
        typer.Option(
            metavar="all|none|N",
            help="Explain every answer, none, or a sample of so many questions, and make a page: does the model look?",
        ),
    ] = "none",
    bare: Annotated[
        bool,
        typer.Option(
            "--bare",
            help="Leave out the words by which LLaVA asks for a short answer, for models that never saw them; the "
            "scores say so.",
        ),
    ] = False,
    engine: Annotated[EngineName, typer.Option(help="As in export.")] = EngineName.processes,
    address: Annotated[str | None, typer.Option(help="As in export.")] = None,
    processes: Annotated[int | None, typer.Option(min=0, help="As in export.")] = None,
    together: Annotated[bool | None, typer.Option("--together/--one-at-a-time", help="As in export.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="As in export.")] = None,
    device: Annotated[str | None, typer.Option(help="As in explain.")] = None,
    dtype: Annotated[str | None, typer.Option(help="As in explain.")] = None,
    quantization: Annotated[Bits | None, typer.Option(help="As in explain.")] = None,
    framing: Annotated[Framing | None, typer.Option(help="As in explain.")] = None,
    revision: Annotated[str | None, typer.Option(help="As in explain.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print scores and differences as JSON alone.")] = False,
) -> None:
    """Ask this benchmark's questions in LLaVA-1.5's words, write the answers in its forms, and score them.

    All pictures and labels are looked for first. Stopped at any moment, the same command finishes the rest.

    Try: relevancy evaluate pope --data DIR --model 2b --model 7b --out scores --maps 500
    """
    check_writable(out_folder)
    from relevancy.errors import RelevancyError
    from relevancy.evaluate.benchmarks import benchmark
    from relevancy.evaluate.runner import EvaluationRequest, evaluate
    from relevancy.evaluate.table import make_table
    from relevancy.export.run import Request

    if maps not in ("all", "none") and not (maps.isdecimal() and int(maps)):
        raise RelevancyError(f"--maps takes all, none or a number of questions, not {maps!r}.")
    options = {
        "device": device, "dtype": dtype, "quantization": value(quantization), "framing": value(framing),
        "revision": revision,
    }  # fmt: skip
    answering = Request(
        models=models, input="", out=out_folder, engine=engine.value, address=address, processes=processes,
        together=together, batch=batch, options={name: given for name, given in options.items() if given is not None},
    )  # fmt: skip
    asked = f"sample:{maps}" if maps.isdecimal() else maps
    name = str(context.info_name)
    line = lines()
    with exporting() as report:
        done = evaluate(
            EvaluationRequest(name, data, out_folder, asked, bare, answering),
            report,
            lambda share: line(f"unpacking Parquet: {share:.0%}"),
        )
    scored = {model: found for model, found in done.scores.items() if found is not None}
    table = make_table([done.folders[model] for model in scored], paper=False) if scored else None
    differences = [one for one in table.differences if one.benchmark == name] if table else []
    page = None
    if maps != "none":
        from relevancy.report.picture_use import picture_use

        page = picture_use(done, differences).save(out_folder / "report")
    if as_json:
        scores = {model: found and found.to_json() for model, found in done.scores.items()}
        paired = [one.to_json() for one in differences]
        sys.stdout.write(json.dumps({"scores": scores, "differences": paired}, ensure_ascii=False) + "\n")
        return
    for model, folder in done.folders.items():
        say(f"\n{model}")
        if model in scored:
            _print(scored[model])
        else:
            say(f"{name}: {folder / name} waits for {benchmark(name).waits(done.data)}")
    for one in differences:
        say(f"{one.first} less {one.second}, {one.column}: {one.printed}")
    say(f"→ {out_folder}   (relevancy evaluate table {out_folder})")
    if page is not None:
        say(f"→ {page}")


def score(
    name: Annotated[str, typer.Argument(metavar="BENCHMARK", help="One of `relevancy evaluate --list`.")],
    data: Annotated[Path, typer.Option(metavar="DIR", help="The benchmark's files, as its authors ship them.")],
    predictions: Annotated[
        Path,
        typer.Option(metavar="FILE", help="Answers: LLaVA's JSONL, the submission's form, or a judge's grades."),
    ],
    judge: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write what to ask a judge about each answer, and score nothing."),
    ] = None,
    out_folder: Annotated[
        Path | None, typer.Option("--out", metavar="MODEL", help="Also write MODEL/BENCHMARK.json, for the table.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the scores as JSON, and nothing else.")] = False,
) -> None:
    """Score any program's predictions by the official rules, with intervals over pictures.

    Try: relevancy evaluate score pope --data DIR --predictions answers.jsonl
    """
    from relevancy.errors import RelevancyError
    from relevancy.evaluate.benchmarks import benchmark
    from relevancy.evaluate.judges import write_requests
    from relevancy.evaluate.store import write_score

    chosen = benchmark(name)
    if judge is not None:
        if chosen.requests is None:
            raise RelevancyError(f"{name} needs no judge: leave --judge out.")
        write_requests(list(chosen.requests(data, predictions)), judge)
        say(f"→ {judge}   (its grades, lines of id, model and content, are the next --predictions)")
        return
    if out_folder is not None:
        check_writable(out_folder)
    found = chosen.score(data, predictions)
    if out_folder is not None:
        write_score(found, out_folder)
    if as_json:
        sys.stdout.write(json.dumps(found.to_json(), ensure_ascii=False, allow_nan=False) + "\n")
        return
    _print(found)


def table(
    folders: Annotated[
        list[Path] | None, typer.Argument(metavar="[MODEL]...", help="Folders that `score --out` wrote, one a model.")
    ] = None,
    form: Annotated[TableForm, typer.Option("--format", help="What to print.")] = TableForm.markdown,
    picture: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Draw it instead: a .png, .svg or .pdf.")
    ] = None,
    paper: Annotated[bool, typer.Option(help="With the LLaVA-Gemma paper's ten rows, marked as published.")] = True,
) -> None:
    """Models beside each other and beside the LLaVA-Gemma paper's Table 1.

    Try: relevancy evaluate table mine/ yours/ --format latex
    """
    from relevancy.errors import RelevancyError
    from relevancy.evaluate.table import make_table

    if not folders and not paper:
        raise RelevancyError("There is nothing to show: give a folder of scores, or leave --no-paper out.")
    made = make_table(folders or [], paper=paper)
    if picture is not None:
        _draw(made, picture)
        return
    forms = {
        TableForm.markdown: made.markdown, TableForm.latex: made.latex, TableForm.csv: made.csv,
        TableForm.json: made.json,
    }  # fmt: skip
    sys.stdout.write(forms[form]())


def _draw(made: ScoreTable, path: Path) -> None:
    from relevancy.plotting.tables import table_figure

    own = sum(not row.published for row in made.rows)
    parts = [own + 1] if 0 < own < len(made.rows) else []
    _save(table_figure(made.cells(), parts=parts, notes=made.remarks()), path)


def _save(drawn: Figure, path: Path) -> None:
    from relevancy.atomic_io import whole, writing
    from relevancy.errors import RelevancyError

    kind = path.suffix.lower().removeprefix(".")
    if kind not in PICTURES:
        raise RelevancyError(f"--out {path}: it is drawn as .{', .'.join(PICTURES)}.")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole(path) as part:
            drawn.savefig(part, format=kind)
    say(f"→ {path}")


def effects(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[OUT]...", help="What evaluate BENCHMARK --out wrote, or folders of single models."),
    ] = None,
    choices: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="How the models of OUT differ, beside what their training says: a CSV of model and a column a choice.",
        ),
    ] = None,
    rows: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Instead of OUT, answers, one a line: right (0 to 1), picture, the choices."),
    ] = None,
    by: Annotated[
        list[str] | None, typer.Option(help="A choice with two values; give the option again for more.")
    ] = None,
    interactions: Annotated[
        bool, typer.Option("--interactions", help="Also how each choice changes what another one does.")
    ] = False,
    picture: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Draw them instead: a .png, .svg or .pdf.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the effects as JSON, and nothing else.")] = False,
) -> None:
    """What design choices change: Figure 1 of the LLaVA-Gemma paper from its Table 1, or the same of your models.

    Your models are those that relevancy evaluate scored; what relevancy train wrote knows its decoder, tower, connector
    and seed. A linear model of right answers, its standard errors clustered by picture and, with several seeds, by run.

    Try: relevancy evaluate effects OUT --by tower --by decoder --out effects.png
    """
    from relevancy.errors import RelevancyError
    from relevancy.evaluate.choices import choices_in
    from relevancy.evaluate.effects import ModelEffects, effects_of_models, effects_of_rows

    if rows is not None and (folders or choices):
        raise RelevancyError("--rows holds answers and their choices: leave OUT and --choices out.")
    if (rows is not None) != bool(by) and not folders:
        raise RelevancyError("--rows and --by belong together: answers, and the columns that hold the choices.")
    if rows is None and not folders:
        if choices or picture or interactions:
            raise RelevancyError("The paper's own effects take no options: give OUT, what relevancy evaluate wrote.")
        _published_effects(as_json)
        return
    if rows is not None:
        found = effects_of_rows(rows, by or [], interactions=interactions)
        told = f"{found[0].estimate.rows:,} answers about {found[0].estimate.pictures:,} pictures"
        made = ModelEffects(tuple(found), (told + (".", "; no interactions.")[not interactions],))
    else:
        given = choices_in(choices) if choices else {}
        made = effects_of_models(folders or [], given, by or [], interactions=interactions)
    if picture is not None:
        from relevancy.plotting.effects import Bar, effects_figure

        bars = [
            Bar(one.name, one.benchmark or "all answers", one.estimate.value or 0, one.estimate.low, one.estimate.high,
                one.published)
            for one in made.effects
        ]  # fmt: skip
        _save(effects_figure(bars, made.notes), picture)
        return
    if as_json:
        effects = [asdict(one) for one in made.effects]
        sys.stdout.write(json.dumps({"effects": effects, "notes": made.notes}, ensure_ascii=False) + "\n")
        return
    shown = Table("benchmark", "choice", "change of Pr(right)", "95 % interval", "the paper", box=None, pad_edge=False)
    for own in made.effects:
        ends = "–" if own.estimate.low is None else f"{own.estimate.low:+.4f} to {own.estimate.high:+.4f}"
        change = _signed(own.estimate.value, 4)
        shown.add_row(*map(escaped, (own.benchmark, own.short, change, ends, _signed(own.published, 3))))
    for name in dict.fromkeys(one.name for one in made.effects if not one.also):
        say(name)
    out.print(shown)
    for note in made.notes:
        say(note)


def _published_effects(as_json: bool) -> None:
    from relevancy.evaluate.effects import published_effects
    from relevancy.evaluate.paper import IN_POINTS

    published = published_effects()
    if as_json:
        sys.stdout.write(json.dumps([asdict(one) for one in published]) + "\n")
        return
    shown = Table("choice", "benchmark", "from Table 1", "Figure 1", box=None, pad_edge=False)
    for one in published:
        change = _signed(one.from_table, 2 if one.benchmark in IN_POINTS else 4)
        shown.add_row(one.choice, one.benchmark, change, _signed(one.printed, 3))
    out.print(shown)
    say("From the published cells (shares; points for MME, MM-Vet and VQAv2), arXiv 2404.01331v2.")


def _signed(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:+.{digits}f}"


def _print(found: BenchmarkScore) -> None:
    table = Table(found.benchmark, "score", "value", "95 % interval", "questions", "pictures", box=None, pad_edge=False)
    for group, own in found.estimates.items():
        for name, one in own.items():
            ends = "–" if one.low is None else f"{found.unit.printed(one.low)} to {found.unit.printed(one.high)}"
            cells = name, found.unit.printed(one.value), ends, f"{one.rows:,}", f"{one.pictures:,}"
            table.add_row(escaped(group), *cells)
    out.print(table)
    group, name = found.headline
    say(f"Quoted: {name} of {group}, {found.unit.printed(found.estimates[group][name].value)}.")
    say(f"Protocol: {found.protocol.name}; {found.protocol.version}. {found.protocol.rules}")
    if found.stand_in:
        say(f"Stand-in: {found.stand_in}.")
