"""The command line: parsing and printing only. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import errno
import sys
from io import TextIOWrapper
from typing import Any

import typer

from relevancy.cli import bench, check, demo, evaluate, explain, export, methods, probe, report, train, train_check
from relevancy.cli.commands import Commands
from relevancy.cli.terminal import EXIT_CODES, INTERRUPTED, WRONG_INPUT
from relevancy.errors import RelevancyError, shortened

app = Commands(
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Which image patches and which words made a vision-language model say that token.\n\n"
    "Try: [bold]relevancy demo[/bold], then [bold]relevancy explain --model demo-large --image "
    'relevancy-demo/00-floating/1-demo-large/picture.png --question "What color is the duck?" --out result[/bold]',
    epilog=EXIT_CODES,
)
train_app = Commands(
    no_args_is_help=True,
    help="Train models that can be explained: a decoder, a vision tower, and a connector between them.\n\n"
    "In this order: [bold]check[/bold] the data; [bold]both[/bold] --dry-run, what it will take; [bold]both[/bold], or "
    "[bold]align[/bold] and then [bold]finetune[/bold]; relevancy explain --model DIR/model. Without any data of your "
    "own: [bold]demo[/bold] and [bold]grid[/bold] draw theirs.",
)
evaluate_app = Commands(invoke_without_command=True)
app.command(epilog=EXIT_CODES)(explain.explain)
app.command(epilog=EXIT_CODES)(explain.compare)
app.command()(methods.methods)
app.command()(probe.probe)
app.command()(export.export)
app.command(epilog=EXIT_CODES)(check.check)
app.command()(demo.demo)
app.command()(bench.bench)
app.command(epilog=EXIT_CODES)(report.report)
train_app.command("check", epilog=train_check.EXIT_CODES)(train_check.check)
train_app.command("align", epilog=train.EXIT_CODES)(train.align)
train_app.command("finetune", epilog=train.EXIT_CODES)(train.finetune)
train_app.command("both", epilog=train.EXIT_CODES)(train.both)
train_app.command("export-hub")(train.export_hub)
train_app.command("convert")(train.convert)
train_app.command("configs")(train.configs)
train_app.command("demo")(demo.train_demo)
train_app.command("grid", epilog=train.EXIT_CODES)(demo.train_grid)
evaluate_app.callback(epilog=evaluate.EXIT_CODES)(evaluate.evaluate)
for name in evaluate.NAMES:
    evaluate_app.command(name, epilog=evaluate.EXIT_CODES, short_help=f"Ask {name} of models, and score them.")(
        evaluate.run
    )
evaluate_app.command("score", epilog=evaluate.EXIT_CODES)(evaluate.score)
evaluate_app.command("table", epilog=evaluate.EXIT_CODES)(evaluate.table)
evaluate_app.command("effects", epilog=evaluate.EXIT_CODES)(evaluate.effects)
evaluate_app.command("demo")(demo.evaluate_demo)
evaluate_app.command("methods")(demo.evaluate_methods)
app.add_typer(train_app, name="train")
app.add_typer(evaluate_app, name="evaluate")

# Typer exports only the errors it derives from this one.
_USAGE_ERROR: Any = typer.BadParameter.__base__


def main() -> None:
    """Entry point: a user's mistake is one line and exit code 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a terminal that lacks a letter must not cost the result
            stream.reconfigure(errors="backslashreplace")
    try:
        code = app(prog_name="relevancy", standalone_mode=False) or 0
    except RelevancyError as error:
        code = _refused(str(error))
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        code = _refused(f"{shortened(error.filename)}: this name is too long for a file or folder")
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
