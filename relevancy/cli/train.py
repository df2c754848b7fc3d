"""`relevancy train align | finetune | both | export-hub | convert | configs`: from data to a model's folder."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer
from rich.table import Table

from relevancy.cli.options import taken_apart
from relevancy.cli.run_scores import RunScores, benchmarks_wanted
from relevancy.cli.terminal import bars, busy, check_writable, out, say, saying_how_to_go_on
from relevancy.errors import RelevancyError

if TYPE_CHECKING:
    from relevancy.train.plan import RunPlan, StagePlan
    from relevancy.train.presets import Preset
    from relevancy.train.run import TrainingSource

DEFAULT_PRESET = "llava-gemma-2b-clip"
EXIT_CODES = (
    "Exit codes: 0 done, 2 wrong input (one line says what to do), 143 stopped by SIGTERM and saved, 130 by Ctrl-C."
)

PresetName = Annotated[
    str,
    typer.Option(
        "--preset",
        help="llava-gemma-2b-clip, -2b-dinov2, -7b-clip, -7b-dinov2, each also with the ending -unaligned (connector "
        "not pretrained); demo-small, demo-large (the embedded decoders and their tower).",
    ),
]
Flavour = Annotated[str, typer.Option(help="improved, or paper: as the scripts for Gaudi have it (docs/training.md).")]
Language = Annotated[str | None, typer.Option(help="Another decoder: hub id, folder, or a LLaVA-style model's.")]
Vision = Annotated[str | None, typer.Option(help="Another tower, likewise; its input's side by --set image_size=...")]
Changes = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change one setting; again for each: seed=1, finetune.batch=64, finetune.steps=100, align=none. A wrong "
        "key is answered with all there are.",
    ),
]
OutFolder = Annotated[
    Path, typer.Option("--out", metavar="DIR", help="Folder of the run; the model will be DIR/model.")
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on where DIR's run stopped; its settings must be the same.")]
Cache = Annotated[
    bool, typer.Option("--cache-features", help="Look at each picture once, keep its features (1.2 MB each for CLIP).")
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Shapes only, on no device: parameters, memory, steps. Writes nothing.")
]
ReportTo = Annotated[list[str] | None, typer.Option(help="tensorboard, wandb; again for each.")]
Workers = Annotated[int, typer.Option(min=0, help="Processes that read data, for each device.")]
LogEvery = Annotated[int, typer.Option(min=1, help="Steps between two lines of DIR/STAGE/metrics.jsonl.")]
MaxSkipped = Annotated[
    float, typer.Option(min=0, max=1, help="Share of samples that cannot be trained on above which the run stops.")
]
Processes = Annotated[int, typer.Option(min=1, help="Devices that a dry run counts with.")]
Evaluate = Annotated[
    list[str] | None,
    typer.Option(
        metavar="BENCHMARK:DIR",
        help="Score checkpoints as they come, and the model for its card, as relevancy evaluate BENCHMARK --data DIR "
        "does; again for each. With several processes the finished model alone.",
    ),
]
Data = Annotated[
    list[str] | None,
    typer.Option(
        metavar="DATA",
        help="LLaVA's JSON, JSON Lines, Parquet, CSV, tar shards, a folder of datasets, or hf:owner/name@split; again "
        "for each: all are mixed.",
    ),
]
Images = Annotated[
    list[str] | None,
    typer.Option(
        metavar="DIR", help="Where relative picture paths begin; by default beside the file. Once, or for each DATA."
    ),
]


Given: TypeAlias = tuple[list[str] | None, list[str] | None]  # a stage's data, and where its pictures are


@dataclass(frozen=True)
class TrainSettings:
    """The options that align, finetune and both have in common."""

    out_folder: OutFolder
    preset: PresetName = DEFAULT_PRESET
    flavour: Flavour = "improved"
    language: Language = None
    vision: Vision = None
    changes: Changes = None
    resume: Resume = False
    report_to: ReportTo = None
    workers: Workers = 4
    log_every: LogEvery = 10
    cache: Cache = False
    max_skipped: MaxSkipped = 0.05
    dry_run: DryRun = False
    processes: Processes = 1
    evaluate: Evaluate = None

    def chosen(self) -> Preset:
        """The preset with what was asked to be otherwise. Raises RelevancyError."""
        return chosen_preset(self.preset, self.flavour, self.language, self.vision, self.changes)


@taken_apart
def align(settings: TrainSettings, data: Data = None, images: Images = None) -> int:
    """Stage 1: the connector alone learns to speak the decoder's language, from pictures and captions.

    Then: relevancy train finetune, with the same --out and --resume.

    Try: relevancy train align --data blip_laion_cc_sbu_558k.json --images images/ --out runs/2b
    """
    return _do(settings, {"align": (data, images)})


@taken_apart
def finetune(
    settings: TrainSettings,
    data: Data = None,
    images: Images = None,
    model: Annotated[
        str | None, typer.Option(help="Go on from a whole LLaVA-style model: its decoder, tower and connector.")
    ] = None,
    projector: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Begin with the mm_projector.bin that stage 1 of the original code left."),
    ] = None,
) -> int:
    """Stage 2: connector and decoder learn to answer. After align with the same --out, from --model or --projector.

    Try: relevancy train finetune --data llava_v1_5_mix665k.json --images data/ --out runs/2b --resume
    """
    changes = list(settings.changes or [])
    if model is not None:
        changes = [f"connector={model}", *changes]
        settings = replace(settings, language=settings.language or model, vision=settings.vision or model)
    if projector is not None:
        changes = [*changes, f"connector={projector}"]
    if (model or projector) and (settings.out_folder / "align" / "trained.safetensors").exists():
        raise RelevancyError(
            f"{settings.out_folder} holds a connector that was aligned there: choose another --out, or give neither "
            "--model nor --projector"
        )
    return _do(replace(settings, changes=changes), {"finetune": (data, images)})


@taken_apart
def both(
    settings: TrainSettings,
    align_data: Data = None,
    align_images: Images = None,
    finetune_data: Data = None,
    finetune_images: Images = None,
) -> int:
    """Both stages, one after the other; a preset ending in -unaligned has only the second.

    Stopped by any means and started again with --resume, it goes on bit for bit on the same hardware.

    First: --dry-run tells parameters, memory and steps; relevancy train check tells what is wrong with the data.

    Try: relevancy train both --align-data blip_laion_cc_sbu_558k.json --align-images pretrain/ --finetune-data
    llava_v1_5_mix665k.json --finetune-images data/ --out runs/2b --processes 8 --dry-run
    """
    given = {"align": (align_data, align_images), "finetune": (finetune_data, finetune_images)}
    if settings.chosen().align is None:
        del given["align"]
    return _do(settings, given)


def export_hub(
    run: Annotated[Path, typer.Argument(help="Folder of a run, finished or not.")],
    out_folder: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for the model.")],
) -> None:
    """Write a run's model as the hub wants it: weights, processor, generation config, card.

    Of a stage that is not finished, its last whole checkpoint: so a run that still goes on can be looked at.

    Try: relevancy train export-hub runs/2b --out so-far, then relevancy explain --model so-far ...
    """
    check_writable(out_folder)
    with busy("writing the model"):
        from relevancy.train.run import export

        export(run, out_folder)
    say(f"→ {out_folder}   (relevancy explain --model {out_folder} ...)")


def convert(
    source: Annotated[Path, typer.Argument(help="Folder of a checkpoint.")],
    out_folder: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for the other layout.")],
    back: Annotated[
        bool, typer.Option("--to-original", help="From Hugging Face's layout to the original code's.")
    ] = False,
    language: Annotated[str | None, typer.Option(help="Where the tokenizer is, if not in the folder.")] = None,
    vision: Annotated[str | None, typer.Option(help="The tower, if not the one the checkpoint names.")] = None,
    side: Annotated[int | None, typer.Option(min=1, help="Pixels of its input, if not as its config says.")] = None,
) -> None:
    """Between the original LLaVA code's checkpoints and Hugging Face's layout, either way, bit for bit.

    The original's have weights called mm_projector; relevancy explain opens Hugging Face's alone.

    Try: relevancy train convert llava-gemma-original/ --out llava-gemma/, and back with --to-original
    """
    check_writable(out_folder)
    with busy("converting"):
        from relevancy.train.conversion import to_hugging_face, to_original

        if back:
            to_original(source, out_folder)
        else:
            to_hugging_face(source, out_folder, language=language, vision=vision, side=side)
    say(f"→ {out_folder}")


def configs(
    out_folder: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for the files.")] = Path("launch"),
) -> None:
    """Write the files for `accelerate launch` (DDP, FSDP2, ZeRO-2, ZeRO-3), Slurm and Gaudi into a folder.

    Try: accelerate launch --config_file launch/fsdp2.yaml -m relevancy.cli train both ...
    """
    check_writable(out_folder)
    from relevancy.atomic_io import writing

    for file in sorted(files("relevancy.train.launch").iterdir(), key=lambda one: one.name):
        if file.name.endswith((".yaml", ".sh")):
            with writing(out_folder):
                out_folder.mkdir(parents=True, exist_ok=True)
                (out_folder / file.name).write_text(file.read_text())
            say(f"→ {out_folder / file.name}")


def chosen_preset(
    name: str, flavour: str, language: str | None, vision: str | None, changes: list[str] | None
) -> Preset:
    """A preset by its name, with what was asked to be otherwise. Raises RelevancyError."""
    from relevancy.train.presets import overridden, preset

    named = [f"{key}={value}" for key, value in (("language", language), ("vision", vision)) if value]
    return overridden(preset(name, flavour), [*named, *(changes or [])])


def _do(settings: TrainSettings, given: Mapping[str, Given]) -> int:
    preset, out_folder = settings.chosen(), settings.out_folder
    if settings.dry_run:
        _planned(preset, given, settings.processes)
        return 0
    check_writable(out_folder)
    scores = RunScores(out_folder, benchmarks_wanted(settings.evaluate or ()))
    sources = _sources(given)
    from transformers.utils import logging

    from relevancy.train.records import SKIPPED, skipped_in
    from relevancy.train.run import RunOptions, train
    from relevancy.train.trainer import is_first

    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    with saying_how_to_go_on("the same command with --resume goes on"), bars() as report:
        way = RunOptions(
            settings.resume, settings.report_to or (), settings.workers, settings.log_every, settings.cache,
            progress=report, max_skipped=settings.max_skipped, saved=scores.saved,
        )  # fmt: skip
        folder = train(preset, sources, out_folder, way)
    if is_first():
        for stage in sources:
            if number := skipped_in(out_folder, stage):
                say(f"{stage}: {number:,} samples were skipped, see {out_folder / stage / SKIPPED}")
        for one in scores.of_model(folder):
            say(f"{one.benchmark}: {one.score} {one.printed} {one.interval}")
        say(f"→ {folder}   (relevancy explain --model {folder} ...)")
    return 0


def _sources(given: Mapping[str, Given]) -> dict[str, TrainingSource]:
    from relevancy.train.run import TrainingSource

    missing = [name for name, (data, _) in given.items() if not data]
    if missing:
        option = "--data" if len(given) == 1 else f"--{missing[0]}-data"
        raise RelevancyError(f"stage {missing[0]} needs {option}")
    return {name: TrainingSource(_plain(data), _plain(images)) for name, (data, images) in given.items()}


def _plain(given: list[str] | None) -> Any:
    """One value as itself, so that a run is recorded as it always was."""
    return given[0] if given and len(given) == 1 else given or None


def _planned(preset: Preset, given: Mapping[str, Given], processes: int) -> None:
    from relevancy.train.data.sources import open_data
    from relevancy.train.plan import plan
    from relevancy.train.preflight import check_settings

    if "align" not in given:
        preset = replace(preset, align=None)
    check_settings(preset, [stage for stage in preset.stages() if stage.name in given], processes)
    samples = {name: len(open_data(data, images)) for name, (data, images) in given.items() if data}  # type: ignore[arg-type]
    found = plan(preset, samples=samples, processes=processes)
    stages = [stage for stage in found.stages if stage.stage in given]
    say(
        f"{preset.name} ({preset.flavour}): {preset.language} with {preset.vision} at {preset.image_size} pixels, "
        f"{found.image_tokens} image tokens, {found.vocabulary:,} rows"
    )
    say(f"parameters {found.total:,}: " + ", ".join(f"{part} {count:,}" for part, count in found.parameters.items()))
    table = Table("", *(stage.stage for stage in stages), box=None, pad_edge=False)
    for name, cells in _rows(found, stages).items():
        table.add_row(name, *cells)
    out.print(table)
    say("Memory is an estimate for a device that holds everything; nothing was built or written.")


def _rows(found: RunPlan, stages: list[StagePlan]) -> dict[str, list[str]]:
    def each(text: Any) -> list[str]:
        return [text(stage) for stage in stages]

    return {
        "trains": each(lambda one: f"{one.trainable:,} ({one.trainable / found.total:.2%})"),
        "samples": each(lambda one: f"{one.samples:,}"),
        "steps": each(lambda one: f"{one.steps:,}"),
        "at a time": each(lambda one: f"{one.micro} x {one.accumulate}"),
        "weights": each(lambda one: f"{one.weights / 1e9:.1f} GB"),
        "gradients": each(lambda one: f"{one.gradients / 1e9:.1f} GB"),
        "optimizer": each(lambda one: f"{one.optimizer / 1e9:.1f} GB"),
        "activations": each(lambda one: f"~{one.activations / 1e9:.1f} GB"),
        "memory": each(lambda one: f"~{one.memory / 1e9:.1f} GB"),
        "checkpoint": each(lambda one: f"{one.checkpoint / 1e9:.1f} GB"),
        "operations": each(lambda one: f"{one.operations:.2e}"),
    }
