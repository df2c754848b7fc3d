"""Scores of a training run's checkpoints and its model, each in a process of its own: training feels nothing of it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from relevancy.cli.evaluate import NAMES
from relevancy.cli.terminal import err
from relevancy.errors import RelevancyError

if TYPE_CHECKING:
    from relevancy.train.card import CardScore

FOLDER, JOURNAL = "evaluation", "scores.jsonl"
_CLI = (sys.executable, "-m", "relevancy.cli")


def benchmarks_wanted(given: Sequence[str]) -> list[tuple[str, Path]]:
    """Names and folders of `pope:DIR`. Raises RelevancyError."""
    wanted = []
    for one in given:
        name, _, folder = one.partition(":")
        if name not in NAMES or not folder or not Path(folder).exists():
            raise RelevancyError(f"--evaluate {one}: give BENCHMARK:DIR, one of {', '.join(NAMES)} and its folder.")
        wanted.append((name, Path(folder)))
    return wanted


@dataclass(frozen=True)
class RunScores:
    """What is scored of the run in a folder; RUN/evaluation/scores.jsonl gets a line for each score."""

    run: Path
    wanted: Sequence[tuple[str, Path]]

    @property
    def saved(self) -> Callable[[Path], None] | None:
        """What a run calls with each checkpoint; None where nothing is to be scored, or several processes wait."""
        from relevancy.train.trainer import processes_here

        return self._score_checkpoint if self.wanted and processes_here() == 1 else None

    def of_model(self, folder: Path) -> list[CardScore]:
        """Scores of the finished model, which its card tells from now on. Raises RelevancyError."""
        from relevancy.atomic_io import write_whole
        from relevancy.export.identity import weights_digest
        from relevancy.train.card import with_scores

        if not self.wanted:
            return []
        name = f"finished-{weights_digest(str(folder))[:8]}"  # the next stage's model comes to the same folder
        found = self._scores(folder, self.run / FOLDER / name)
        card = folder / "README.md"
        write_whole(card, with_scores(card.read_text(encoding="utf-8"), found))
        return found

    def _score_checkpoint(self, checkpoint: Path) -> None:
        """A checkpoint that cannot be scored costs its scores, not the run."""
        place = self.run / FOLDER / f"{checkpoint.parent.name}-{checkpoint.name}"
        model = place / "model"
        shutil.rmtree(model, ignore_errors=True)  # of a process that was killed
        try:
            _done("train", "export-hub", str(self.run), "--out", str(model))
            self._scores(model, place)
        except RelevancyError as error:
            err.print(f"{place.name}: not scored: {error}", markup=False, highlight=False, soft_wrap=True)
        shutil.rmtree(model, ignore_errors=True)

    def _scores(self, model: Path, place: Path) -> list[CardScore]:
        from relevancy.train.card import CardScore

        found = []
        for benchmark, data in self.wanted:
            told = _done(
                "evaluate", benchmark, "--data", str(data), "--model", str(model), "--out", str(place), "--json"
            )
            (score,) = json.loads(told)["scores"].values()
            if score is None:
                err.print(f"{place.name}: {benchmark} has no score yet", highlight=False, soft_wrap=True)
                continue
            self._note({"of": place.name} | score)
            head, protocol = score["headline"], score["protocol"]
            ends = "" if head["interval"] is None else "{:.4g} to {:.4g}".format(*head["interval"])
            stand_in = f"; stand-in: {score['stand_in']}" if score["stand_in"] else ""
            title = f"{head['score']}, {head['group']}"
            found.append(CardScore(benchmark, title, head["printed"], ends, f"{protocol['name']}{stand_in}"))
        return found

    def _note(self, line: dict[str, Any]) -> None:
        from relevancy.atomic_io import writing

        journal = self.run / FOLDER / JOURNAL
        with writing(journal), journal.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line, ensure_ascii=False) + "\n")


def _done(*arguments: str) -> str:
    """What a command of this program prints. Raises RelevancyError with the line it ends with."""
    done = subprocess.run([*_CLI, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"relevancy {arguments[0]} ended with code {done.returncode}"]
        raise RelevancyError(lines[-1].removeprefix("relevancy: "))
    return done.stdout
