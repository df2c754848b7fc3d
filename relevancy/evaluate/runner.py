"""A benchmark asked of models: questions through an export's machinery, answers in official forms, scores."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from relevancy.atomic_io import locked, whole_files, write_whole, writing
from relevancy.data.columns import Columns
from relevancy.errors import RelevancyError, shortened
from relevancy.evaluate.benchmark import LETTER_ONLY, SHORT_ANSWER, Benchmark
from relevancy.evaluate.benchmarks import benchmark
from relevancy.evaluate.choices import write_choices
from relevancy.evaluate.hub import unpacked
from relevancy.evaluate.judges import write_requests
from relevancy.evaluate.questions import (
    ANSWERS,
    AnsweredQuestion,
    BenchmarkQuestion,
    checked_questions,
    write_answers,
)
from relevancy.evaluate.scores import BenchmarkScore, Protocol
from relevancy.evaluate.store import write_score
from relevancy.export.overlays import names_of
from relevancy.export.results import open_export
from relevancy.export.run import Progress, Request, export

ASKED, QUESTIONS, EXPORT, OFFICIAL, JUDGE = "asked", "questions.jsonl", "export", "data", "judge.jsonl"
Told = Callable[[float], None]


@dataclass(frozen=True)
class EvaluationRequest:
    """Which benchmark is asked of which models.

    maps: of which questions there is a map with its evidence: all, none or sample:500. bare: leave out the words by
    which LLaVA asks for a short answer; scores then say so, and are no others' equals. answering: an export's request
    for all that says how the work is done; its input, folder, maps and longest answer are not heard.
    """

    benchmark: str
    data: Path
    out: Path
    maps: str = "none"
    bare: bool = False
    answering: Request = field(default_factory=lambda: Request(models=(), input="", out=Path()))


@dataclass(frozen=True)
class Evaluation:
    """What came of it: by model its score (None where it waits for something) and the folder of its files.

    data: in the official layout. export: the folder with every answer, and its map where there is one.
    """

    benchmark: str
    data: Path
    export: Path
    scores: Mapping[str, BenchmarkScore | None]
    folders: Mapping[str, Path]


def evaluate(
    request: EvaluationRequest,
    report: Callable[[Progress], None] | None = None,
    told: Told = lambda _: None,
) -> Evaluation:
    """Ask, answer, write, score; goes on where an earlier call stopped.

    request.out gets asked/BENCHMARK/ with the questions, an export's folder and, of Parquet, the official layout; and a
    folder for each model with its answers as LLaVA's scripts write them, in the official form, and its score.
    Raises RelevancyError before anything is asked where pictures or labels are missing or do not belong together, or
    another process works there, and after it where a question could not be answered.
    """
    chosen = benchmark(request.benchmark)
    folder = request.out / ASKED / chosen.name
    data = unpacked(chosen.name, request.data, folder / OFFICIAL, told)
    questions = checked_questions(chosen.ask(data), data, chosen.pictures)
    if request.bare:
        questions = [replace(one, text=_bare(one.text)) for one in questions]
    with locked(folder):
        return _evaluated(request, chosen, data, questions, report)


def _evaluated(
    request: EvaluationRequest,
    chosen: Benchmark,
    data: Path,
    questions: Sequence[BenchmarkQuestion],
    report: Callable[[Progress], None] | None,
) -> Evaluation:
    folder = request.out / ASKED / chosen.name
    asked = _written(questions, folder / QUESTIONS)
    answering = replace(
        request.answering,
        input=str(asked),
        out=folder / EXPORT,
        pictures=data.absolute(),
        columns=Columns(text_rows=any(one.picture is None for one in questions)),
        maps=request.maps,
        wish=replace(request.answering.wish, max_new_tokens=chosen.protocol.max_new_tokens),
    )
    export(answering, report, retry=True)
    answers = _answers(folder / EXPORT, questions)
    scores: dict[str, BenchmarkScore | None] = {}
    folders = {name: request.out / short for name, short in names_of(list(answers)).items()}
    for model, said in answers.items():
        own = folders[model] / chosen.name
        with whole_files(own) as part:
            write_answers(said, model, part / ANSWERS)
            chosen.submit(data, said, part)
            found = _scored(chosen.name, data, part)
        if found is not None and request.bare:
            found = replace(found, protocol=_unaided(found.protocol))
        if found is not None:
            write_score(found, folders[model])
            with locked(request.out / ASKED, wait=True):  # one file for all benchmarks, which may be asked at once
                write_choices(model, folders[model])
        scores[model] = found
    return Evaluation(chosen.name, data, folder / EXPORT, scores, folders)


def _written(questions: Sequence[BenchmarkQuestion], path: Path) -> Path:
    """The questions as an export's input. Raises RelevancyError where others stand there already."""
    text = "".join(json.dumps(one.to_json(), ensure_ascii=False) + "\n" for one in questions)
    with writing(path.parent):
        if path.exists() and path.read_text(encoding="utf-8") != text:
            raise RelevancyError(f"{path.parent} answers other questions than --data asks; give another --out.")
        if not path.exists():
            write_whole(path, text)
    return path


def _answers(folder: Path, questions: Sequence[BenchmarkQuestion]) -> dict[str, list[AnsweredQuestion]]:
    """What each model said to every question, in their order. Raises RelevancyError where one has no answer."""
    opened = open_export(folder)
    table: dict[str, list[Any]] = opened.table(["row", "model", "answer", "error"]).to_pydict()
    found: dict[str, dict[int, str]] = {model: {} for model in opened.manifest["models"]}
    failed = []
    for row, model, answer, error in zip(*table.values(), strict=True):
        if error is None:
            found[model][row] = answer
        else:
            failed.append((questions[row].id, error))
    if failed:
        own, why = failed[0]
        raise RelevancyError(
            f"{len(failed):,} of {len(table['row']):,} answers failed, first {shortened(own)}: {shortened(why)}. "
            "Mend that, and run the same command again: only these are asked anew."
        )
    return {
        model: [AnsweredQuestion(one, said[row]) for row, one in enumerate(questions)] for model, said in found.items()
    }


def _bare(text: str) -> str:
    return text.removesuffix(SHORT_ANSWER).removesuffix(LETTER_ONLY)


def _unaided(protocol: Protocol) -> Protocol:
    """The protocol of questions without LLaVA's closing words."""
    return replace(
        protocol, name=f"{protocol.name}; asked without LLaVA's closing words, so comparable with no published number",
        prompt=_bare(protocol.prompt),
    )  # fmt: skip


def _scored(name: str, data: Path, folder: Path) -> BenchmarkScore | None:
    """The score; None where it is not known yet. Writes what to ask the judge, if any."""
    chosen = benchmark(name)
    if chosen.requests is not None and (chosen.examples is None or (data / chosen.examples).is_file()):
        write_requests(chosen.requests(data, folder / ANSWERS), folder / JUDGE)
    return chosen.score(data, folder / ANSWERS) if chosen.waits(data) is None else None
