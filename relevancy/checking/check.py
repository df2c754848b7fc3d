"""The check itself: every method on every row, then the controls on some of them; what is stored is not done again."""

from __future__ import annotations

__all__ = ["Check"]

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path

from relevancy.checking.items import FILE, ItemList, JudgedItem
from relevancy.checking.rows import CheckRow
from relevancy.checking.store import ANSWER, BASELINES, SCORES, Store, fingerprint, locked_store
from relevancy.checking.verdicts import CheckFindings, of_answers, summarise
from relevancy.checking.worker import Job, JobResult, Settings, Worker
from relevancy.core.targets import shown
from relevancy.errors import RelevancyError
from relevancy.metrics.explainers import BATCH, Explainer
from relevancy.metrics.registry import METRICS
from relevancy.metrics.teacher_forcing import GivenAnswer
from relevancy.models.model import Model
from relevancy.models.vision_cache import digest_of
from relevancy.parallel.worker_pool import Work, WorkerCrash, WorkerPool

Progress = Callable[[str, float], None]
Make = Callable[[int], Work]
"""What a process of a check calls with its number: gives what turns jobs into what came of them, `Worker.do` each."""


@dataclass(eq=False)
class Check:
    """One model, rows, and methods by name; `run` keeps what it finds in the folder.

    about: what else decides the numbers. notes: what is to be said about them, such as controls that could not be made.
    untrue: by row, why its boxes or its mask could not be used. items: judge these, whose rows `rows` must be, on the
    answers that are in them, whatever the model says now.
    processes, make: how many processes work beside this one, and what makes a worker in each of them.
    """

    model: Model
    rows: Sequence[CheckRow]
    methods: Mapping[str, Explainer]
    folder: Path
    settings: Settings = field(default_factory=Settings)
    about: Mapping[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    processes: int = 0
    make: Make | None = None
    untrue: dict[str, str] = field(default_factory=dict)
    items: ItemList | None = None

    def run(self, progress: Progress = lambda _, __: None) -> CheckFindings:
        """Do what is not done yet, and judge. Stopped at any moment, the same call goes on."""
        if given := [name for name in BASELINES if name in self.methods]:
            raise RelevancyError(f"The row {given[0]} is always there: leave it out.")
        data = fingerprint((row.key, row.question, *([row.expected] if row.expected else [])) for row in self.rows)
        self._require_metrics()
        weights = digest_of(self.model.model.state_dict())
        decided = asdict(self.settings) | {"model": self.model.name, "weights": weights, "data": data}
        decided |= dict(self.about)
        if not self.settings.metrics:  # as checks of earlier versions say it
            del decided["metrics"]
        if self.items is not None:
            decided |= {"items": self.items.digest}
        with locked_store(self.folder, decided) as store, _Hands(self) as hands:
            self._do(hands, "answers", self._answers(store), store, progress)
            usable = self.usable(store)
            if not usable:
                raise RelevancyError(
                    "No row can be checked: the model answers none of them as expected, or none at all. "
                    + " ".join(self._faults(store)[:1])
                )
            items = self._frozen(usable, progress)
            self._do(hands, "maps", self._scores(store, usable), store, progress)
            self._do(hands, "controls", self._controls(store, usable), store, progress)
        for why, count in Counter(self.untrue.values()).items():
            self._note(f"{count} of {len(usable)} rows are not held against their truth: {why}")
        if self.items is not None and (other := self._otherwise(store)):
            told = "; ".join(other[:3])
            self._note(f"{len(other)} of the explained answers are not what the model says now, such as: {told}")
        if faults := self._faults(store):
            self._note(f"{len(faults)} rows could not be read, such as: {faults[0]}")
        heading = f"{self.model.name}: {len(usable)} of {len(self.rows)} rows"
        if self.items is None and any(row.expected is not None for row in self.rows):
            heading += ", those answered rightly"
        summaries = summarise(store, self.rows, list(self.methods), self.settings.seed)
        answers = of_answers(store, self.rows, self.settings.seed)
        return CheckFindings(heading, summaries, tuple(self.notes), answers, self.model.name, items.digest)

    def _require_metrics(self) -> None:
        for name in self.settings.metrics:
            METRICS.named(name)
            if self.processes and not METRICS.travels(name):
                raise RelevancyError(
                    f"Metric {name} is known to this process only: declare it in a package (entry point "
                    "relevancy.metrics), or check without working processes."
                )

    def usable(self, store: Store) -> dict[int, str]:
        """The answers that are explained, by row: those of `items`, or the model's, right where that is known."""
        stored = [store.found.get((row.key, "", ANSWER), {}) for row in self.rows]
        if self.items is not None:
            return {
                number: self.items.by_row[row.key].answer
                for number, (row, found) in enumerate(zip(self.rows, stored, strict=True))
                if "fault" not in found
            }
        return {number: found["said"] for number, found in enumerate(stored) if found.get("said") and found["right"]}

    def _frozen(self, usable: Mapping[int, str], progress: Progress) -> ItemList:
        """What is judged, written into the folder. Raises RelevancyError where it is not what was judged before."""
        items = []
        for done, (number, answer) in enumerate(usable.items(), 1):
            said = GivenAnswer.words(self.model, answer, self.settings.target)
            token = shown(self.model.tokenizer, said.token)
            items.append(JudgedItem.of(self.rows[number], answer, said, token))
            progress("items", done / len(usable))
        found, file = ItemList(items, str(self.settings.target)), self.folder / FILE
        if self.items is not None:
            self.items.require_same(found, FILE)
        if file.exists():
            ItemList.load(file).require_same(found, str(file))
        else:
            found.save(file)
        return found

    @cached_property
    def worker(self) -> Worker:
        """What does jobs in this process."""
        return Worker(self.model, self.rows, self.methods, self.settings)

    def _do(self, hands: _Hands, what: str, jobs: Sequence[Job], store: Store, progress: Progress) -> None:
        ahead = sum(len(job.rows) * max(1, len(job.methods)) for job in jobs)
        done = 0
        for job, result in hands.do(jobs):
            store.add(result.results)
            self.untrue |= result.untrue
            for note in result.notes:
                self._note(note)
            done += len(job.rows) * max(1, len(job.methods))
            progress(what, done / ahead)

    def _answers(self, store: Store) -> list[Job]:
        missing = [number for number, row in enumerate(self.rows) if (row.key, "", ANSWER) not in store.found]
        return [Job(ANSWER, part) for part in _parts(missing, BATCH)]

    def _scores(self, store: Store, usable: Mapping[int, str]) -> list[Job]:
        jobs = [self._missing(store, SCORES, part, usable) for part in _parts(list(usable), BATCH)]
        return [job for job in jobs if job is not None]

    def _controls(self, store: Store, usable: Mapping[int, str]) -> list[Job]:
        """One job for each control, or for a share of its rows; a process goes on with the rows it has maps of."""
        chosen = dict(list(usable.items())[: self.settings.control_rows])
        size = -(-len(chosen) // max(1, self.processes))
        jobs = [
            self._missing(store, control, part, chosen)
            for control in self.worker.controls()
            for part in _parts(list(chosen), size)
        ]
        return [job for job in jobs if job is not None]

    def _missing(self, store: Store, part: str, numbers: tuple[int, ...], said: Mapping[int, str]) -> Job | None:
        """What is not stored of a part of these rows; whole for a control, whose rows are each other's partners."""
        left = {
            number: [
                name for name in (*self.methods, *BASELINES) if (self.rows[number].key, name, part) not in store.found
            ]
            for number in numbers
        }
        names = tuple(name for name in (*self.methods, *BASELINES) if any(name in missing for missing in left.values()))
        if not names:
            return None
        if part != SCORES:
            return Job(part, numbers, names, dict(said))
        rows = tuple(number for number, missing in left.items() if missing)
        return Job(part, rows, names, {number: said[number] for number in rows})

    def _faults(self, store: Store) -> list[str]:
        return [found["fault"] for (_, _, part), found in store.found.items() if part == ANSWER and "fault" in found]

    def _otherwise(self, store: Store) -> list[str]:
        """Rows of `items` with the answer there, and what the model says."""
        assert self.items is not None
        said = {row.key: store.found[row.key, "", ANSWER].get("said") for row in self.rows}
        return [
            f"{item.row}: {item.answer!r}, now {said[item.row]!r}"
            for item in self.items.items
            if said[item.row] not in (None, item.answer)
        ]

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)


class _Hands:
    """Does jobs: in this process, or in several beside it, which are started for the first one."""

    def __init__(self, check: Check) -> None:
        self.check = check
        self.crew: WorkerPool | None = None

    def __enter__(self) -> _Hands:
        return self

    def __exit__(self, *_: object) -> None:
        if self.crew is not None:
            self.crew.close()

    def do(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, JobResult]]:
        """Each job with what came of it, as they come."""
        if not jobs:
            return
        if not self.check.processes or self.check.make is None:
            yield from ((job, self.check.worker.do(job)) for job in jobs)
            return
        if self.crew is None:
            self.crew = WorkerPool(self.check.processes, self.check.make, environment={"OMP_NUM_THREADS": "1"})
        left = iter(jobs)
        for job, result in self.crew.run(lambda: next(left, None)):
            if isinstance(result, WorkerCrash):
                raise RelevancyError(f"The check cannot go on: {result.why}.")
            yield job, result


def _parts(numbers: Sequence[int], size: int) -> list[tuple[int, ...]]:
    return [tuple(numbers[start : start + size]) for start in range(0, len(numbers), size)]
