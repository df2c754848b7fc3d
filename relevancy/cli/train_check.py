"""`relevancy train check`: a data set read once, before it is trained on."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from relevancy.cli.options import Framing, value
from relevancy.cli.terminal import busy, lines, say
from relevancy.errors import RelevancyError

if TYPE_CHECKING:
    from relevancy.train.data.examples import Encoder
    from relevancy.train.presets import Preset
    from relevancy.train.stages import Stage
    from relevancy.train.validation import Audit

FAULTS = 1
EXIT_CODES = "Exit codes: 0 nothing wrong, 1 faults found, 2 wrong input (one line says what to do)."
_SHOWN = 5  # names of each kind


def check(
    data: Annotated[
        list[str],
        typer.Option(
            metavar="DATA",
            help="A JSON list as LLaVA's, JSON Lines, a folder that datasets saved, or "
            "[bold]hf:owner/name@split[/bold]; again for each that is trained on together.",
        ),
    ],
    images: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="DIR",
            help="Where relative picture paths begin; by default beside the file. Once, or for each DATA.",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Whose tokenizer and picture size tell what is too long, if not those of a preset."),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(help="As train takes it: its decoder's tokenizer, its tower's picture size, its settings."),
    ] = None,
    flavour: Annotated[str, typer.Option(help="As train takes it: improved, or paper.")] = "improved",
    stage: Annotated[str, typer.Option(help="The stage that will read the data: align, or finetune.")] = "finetune",
    language: Annotated[str | None, typer.Option(help="Another decoder than the preset's, as train takes it.")] = None,
    vision: Annotated[str | None, typer.Option(help="Another tower, likewise.")] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="As train takes it: finetune.overlong=cut; again for each."),
    ] = None,
    max_length: Annotated[
        int | None, typer.Option(min=2, help="Longest sequence in tokens, pictures included; by default the stage's.")
    ] = None,
    framing: Annotated[
        Framing | None, typer.Option(help="How pictures are brought to a square; by default the stage's way.")
    ] = None,
    open_pictures: Annotated[
        bool, typer.Option("--open/--no-open", help="Decode every picture, or only see whether the files are there.")
    ] = True,
    threads: Annotated[int | None, typer.Option(min=0, help="That open pictures; by default one a core.")] = None,
    out_file: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Every fault by name, a line of JSON each.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON, and nothing else.")] = False,
) -> int:
    """Read training data once and say what is wrong with it: before an hour of a cluster is spent.

    Missing and unreadable pictures, empty turns, broken entries, over-long dialogues: by name and count. What is cut,
    left out or lost is what the stage will cut, leave out and lose. Without --model, --preset or --language nothing is
    measured in tokens.

    Try: relevancy train check --data llava_v1_5_mix665k.json --images data/ --model 2b --out faults.jsonl
    """
    from relevancy.cli.train import DEFAULT_PRESET, chosen_preset
    from relevancy.train.validation import audit

    chosen = chosen_preset(preset or DEFAULT_PRESET, flavour, language, vision, changes)
    found_stage = next((one for one in chosen.stages() if one.name == stage), None)
    if found_stage is None:
        raise RelevancyError(
            f"{chosen.name} has no stage {stage!r}: {' or '.join(one.name for one in chosen.stages())}"
        )
    found_stage = replace(
        found_stage,
        max_tokens=max_length or found_stage.max_tokens,
        framing=value(framing) or found_stage.framing,
    )
    named = model is None and not (preset is None and language is None)
    encoder = _encoder_of(model, found_stage) if model else _trained(chosen, found_stage) if named else None
    line = lines()
    found = audit(
        data,
        images,
        encoder=encoder,
        style=found_stage.style,
        open_pictures=open_pictures,
        threads=(os.cpu_count() or 0) if threads is None else threads,
        out=out_file,
        progress=lambda now: line(f"{now.entries:,} entries, {sum(now.counts.values()):,} faults"),
    )
    if as_json:
        sys.stdout.write(json.dumps(found.to_json()) + "\n")
    else:
        _print(found, out_file)
    return FAULTS if found.counts else 0


def _encoder_of(model: str, stage: Stage) -> Encoder:
    """With a finished model's processor."""
    from transformers import ProcessorMixin

    from relevancy.models import adapters, checkpoints, compat
    from relevancy.train.data.examples import Encoder

    with busy(f"loading {model}'s processor"):
        location = adapters.located(model, None)
        config = checkpoints.config_of(location.weights, model)
        processor = checkpoints.processor_of(location.processor, model, config)
        if not isinstance(processor, ProcessorMixin):
            raise RelevancyError(f"{model} takes no pictures: give a vision-language model")
        processor = compat.complete_processor(processor, config)
    return Encoder.of_stage(processor, stage)


def _trained(preset: Preset, stage: Stage) -> Encoder:
    """With the processor that a model of this preset will have."""
    from relevancy.train.composition import joined_config
    from relevancy.train.data.examples import Encoder
    from relevancy.train.parts import parts_of, processor_for
    from relevancy.train.template import IMAGE

    with busy(f"loading the tokenizer of {preset.language}"):
        parts = parts_of(preset)
        token: Any = parts.tokenizer.convert_tokens_to_ids(IMAGE)  # one token, so one number
        config = joined_config(parts.language, parts.vision, token, preset.feature_layer)
        processor = processor_for(parts, preset.image_size, stage.framing, config)
    return Encoder.of_stage(processor, stage)


def _print(found: Audit, out_file: Path | None) -> None:
    from relevancy.train.validation import KINDS, NOTES

    say(
        f"{found.entries:,} entries, {found.pictured:,} of them with pictures ({found.pictures:,}), "
        f"{found.turns:,} turns; {found.rate:,.0f} entries/s"
    )
    if found.tokens is not None:
        say(
            f"{found.tokens:,} tokens, the longest dialogue has {found.longest:,}; trained on are "
            f"{found.trained_tokens or 0:,} ({found.trained_labels or 0:,} of them answers) of "
            f"{found.entries - found.lost:,} entries with {found.trained_pictures or 0:,} pictures"
        )
    for note, count in found.noted.items():
        say(f"{count:,} x {note}: {NOTES[note]}")
    for kind, meaning in KINDS.items():
        if kind not in found.counts:
            continue
        say(f"{found.counts[kind]:,} x {kind}: {meaning}")
        for fault in found.named[kind][:_SHOWN]:
            say(f"    {fault.position} ({fault.id}): {fault.why}")
        if found.counts[kind] > _SHOWN:
            say("    ..." if out_file else "    ... (--out FILE names all)")
    if out_file is not None:
        say(f"→ {out_file}")
    if "unreadable rest" in found.counts:
        say("nothing would be trained on: train refuses data that breaks off; mend it, and check again")
    else:
        say(f"{found.lost:,} entries would not be trained on" if found.counts else "nothing is wrong")
