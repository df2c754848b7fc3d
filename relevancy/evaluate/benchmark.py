"""What every benchmark tells of itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from relevancy.evaluate.judges import JudgeRequest
from relevancy.evaluate.questions import BenchmarkQuestion, Submission
from relevancy.evaluate.scores import BenchmarkScore, Protocol, SumsFunction, ratio

SHORT_ANSWER = "\nAnswer the question using a single word or phrase."
LETTER_ONLY = "\nAnswer with the option's letter from the given choices directly."


@dataclass(frozen=True)
class Benchmark:
    """A benchmark: its files, and its scorer.

    layout: what --data must hold to score. pictures: the folder of its pictures, needed to ask and not to score. size:
    how much. unchecked: which of this was written without its source at hand. ask: every question of --data. submit:
    writes answers in the official form. score: from --data and --predictions. requests: the judge's prompts, where a
    judge grades, made with the file `examples` if it names one. waits: what answers to --data's questions wait for
    until they have a score; None where they have one at once. function: of a group and a score, what it is of sums over
    pictures.
    """

    name: str
    title: str
    questions: str
    layout: tuple[str, ...]
    pictures: str
    source: str
    licence: str
    size: str
    unchecked: str
    protocol: Protocol
    ask: Callable[[Path], Iterable[BenchmarkQuestion]]
    submit: Submission
    score: Callable[[Path, Path], BenchmarkScore]
    requests: Callable[[Path, Path], Iterable[JudgeRequest]] | None = None
    examples: str | None = None
    waits: Callable[[Path], str | None] = lambda _: None
    function: Callable[[str, str], SumsFunction] = lambda _group, _score: ratio
