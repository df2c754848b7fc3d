"""POPE: is there such an object in the picture? Li et al., EMNLP 2023; scored as LLaVA's eval_pope.py does."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from relevancy.errors import RelevancyError
from relevancy.evaluate.benchmark import SHORT_ANSWER, Benchmark
from relevancy.evaluate.files import by_key, field, located, read_predictions, read_rows, row_id, unique
from relevancy.evaluate.questions import AnsweredQuestion, BenchmarkQuestion
from relevancy.evaluate.scores import FRACTION, BenchmarkScore, Protocol, Scoreboard, SumsFunction

CATEGORIES = ("adversarial", "popular", "random")
PROTOCOL = Protocol(
    name="POPE, COCO val2014, as LLaVA-1.5 is scored",
    version="AoiDragon/POPE e3e3926 (2023-05; random has 2,910 questions) or later, LLaVA eval_pope.py",
    prompt=f"<image>\n{{question}}{SHORT_ANSWER}",
    max_new_tokens=128,
    rules="Cut at the first full stop, commas dropped, split at spaces: No, not or no among the words is no, all else "
    "is yes. The headline is the mean F1 of the three categories.",
)


def said_no(answer: str) -> bool:
    """Whether the official parser takes an answer for no; everything else is yes."""
    return not {"No", "not", "no"}.isdisjoint(answer.split(".")[0].replace(",", "").split(" "))


def ask(data: Path) -> Iterator[BenchmarkQuestion]:
    """Every question. Raises RelevancyError."""
    path = located(data, "llava_pope_test.jsonl")
    questions = read_rows(path)
    ids = _ids(questions, path)
    truth = _truth(data, questions)
    for own, row in zip(ids, questions, strict=True):
        yield BenchmarkQuestion(
            own,
            field(row, "text", path),
            f"val2014/{field(row, 'image', path)}",
            field(row, "category", path),
            row["question_id"],
            "yes" if truth[own] else "no",
        )


def submit(_: Path, answers: Sequence[AnsweredQuestion], folder: Path) -> None:
    """For each category the file that POPE's own evaluate.py reads."""
    for name in CATEGORIES:
        rows = [
            {"question": one.question.text.removesuffix(SHORT_ANSWER), "answer": one.text}
            for one in answers
            if one.question.category == name
        ]
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / f"coco_pope_{name}_answers.json").write_text(text, encoding="utf-8")


def score(data: Path, predictions: Path) -> BenchmarkScore:
    """From llava_pope_test.jsonl and coco/coco_pope_*.json. Raises RelevancyError."""
    path = located(data, "llava_pope_test.jsonl")
    questions = read_rows(path)
    ids = _ids(questions, path)
    truth = _truth(data, questions)
    said = by_key(read_predictions(predictions), lambda one: one.id, ids, predictions, path)
    yes = np.array([not said_no(said[own].text) for own in ids], float)
    labels = np.array([truth[own] for own in ids], float)
    columns = yes * labels, yes * (1 - labels), (1 - yes) * labels, (1 - yes) * (1 - labels)
    board = Scoreboard([str(row.get("image")) for row in questions])
    of = np.array([row["category"] for row in questions])
    for name in CATEGORIES:
        for metric in _METRICS:
            board.function(name, metric, columns, _function(name, metric), of == name)
    each = [column * (of == name) for name in CATEGORIES for column in columns]
    for metric in _METRICS:
        board.function("mean", metric, each, _function("mean", metric))
    rights = dict(zip(ids, (yes == labels).astype(float).tolist(), strict=True))
    return board.scored("pope", PROTOCOL, FRACTION, ("mean", "f1"), rights)


def _function(group: str, metric: str) -> SumsFunction:
    return partial(_mean_of_three, _METRICS[metric]) if group == "mean" else _METRICS[metric]


def _mean_of_three(metric: SumsFunction, sums: np.ndarray) -> np.ndarray:
    return np.mean([metric(sums[start : start + 4]) for start in (0, 4, 8)], axis=0)


# Of sums of true yes, false yes, false no, true no: (4, n) -> (n,).
_METRICS: Mapping[str, SumsFunction] = {
    "accuracy": lambda sums: (sums[0] + sums[3]) / sums.sum(0),
    "precision": lambda sums: sums[0] / (sums[0] + sums[1]),
    "recall": lambda sums: sums[0] / (sums[0] + sums[2]),
    "f1": lambda sums: 2 * sums[0] / (2 * sums[0] + sums[1] + sums[2]),
    "yes_ratio": lambda sums: (sums[0] + sums[1]) / sums.sum(0),
}


def _ids(questions: list[dict[str, Any]], path: Path) -> list[str]:
    ids = [row_id(row, path) for row in questions]
    unique(ids, path)
    return ids


def _truth(data: Path, questions: list[dict[str, Any]]) -> Mapping[str, bool]:
    """Question's id -> whether yes is right. Labels stand in the questions' order, as for the official script."""
    found = {}
    for name in CATEGORIES:
        path = located(data / "coco", f"coco_pope_{name}.json")
        labels = read_rows(path)
        asked = [row for row in questions if row.get("category") == name]
        if len(labels) != len(asked):
            raise RelevancyError(
                f"{path}: has {len(labels):,} labels, llava_pope_test.jsonl {len(asked):,} questions of {name}; take "
                "both of one release."
            )
        for row, label in zip(asked, labels, strict=True):
            text, right = field(label, "text", path), field(label, "label", path)
            if (row.get("image"), row.get("text")) != (label.get("image"), text + SHORT_ANSWER):
                raise RelevancyError(
                    f"{path}: its row {label.get('question_id')} is not question {row.get('question_id')} of "
                    "llava_pope_test.jsonl; take both of one release."
                )
            if right not in ("yes", "no"):
                raise RelevancyError(f"{path}: a label is yes or no, not {right!r}.")
            found[row_id(row, path)] = right == "yes"
    strange = [row for row in questions if row_id(row, path) not in found]
    if strange:
        raise RelevancyError(
            f"{data}: question {strange[0].get('question_id')} of llava_pope_test.jsonl is of none of the categories "
            f"{', '.join(CATEGORIES)}."
        )
    return found


BENCHMARK = Benchmark(
    name="pope",
    title="POPE: objects that are or are not in the picture",
    questions="8,910 (3,000 adversarial, 3,000 popular, 2,910 random) about 500 pictures",
    layout=("llava_pope_test.jsonl", *(f"coco/coco_pope_{name}.json" for name in CATEGORIES)),
    pictures="val2014/",
    source="questions: LLaVA's eval.zip; labels: github.com/AoiDragon/POPE, output/coco; pictures: COCO val2014",
    licence="labels MIT; COCO annotations CC BY 4.0, pictures under their Flickr terms",
    size="labels 1 MB; val2014 6 GB; as Parquet (lmms-lab/POPE, data/) 255 MB",
    unchecked="licences, the size of val2014",
    protocol=PROTOCOL,
    ask=ask,
    submit=submit,
    score=score,
    function=_function,
)
