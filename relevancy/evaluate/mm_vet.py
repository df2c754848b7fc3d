"""MM-Vet: open questions of six capabilities, graded by GPT-4. Yu et al., ICML 2024; scored as its evaluator does."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from relevancy.errors import RelevancyError, shortened
from relevancy.evaluate.benchmark import Benchmark
from relevancy.evaluate.files import (
    Prediction,
    by_key,
    field,
    located,
    read_entries,
    read_predictions,
    read_rows,
    read_text,
    row_id,
)
from relevancy.evaluate.judges import JudgeRequest, read_grades
from relevancy.evaluate.questions import AnsweredQuestion, BenchmarkQuestion, write_json
from relevancy.evaluate.scores import TENTHS, BenchmarkScore, Protocol, Scoreboard

PROTOCOL = Protocol(
    name="MM-Vet, graded by GPT-4 from its few-shot prompt",
    version="MM-Vet v1 (218 questions), mm-vet_evaluator.py",
    prompt="<image>\n{question}",
    max_new_tokens=1024,
    rules="A grade from 0.0 to 1.0 for each answer; the mean over answers, of each run and over the runs. Another "
    "judge's grades are not comparable with GPT-4's.",
)
_EVALUATOR = "mm-vet_evaluator.py"


def ask(data: Path) -> Iterator[BenchmarkQuestion]:
    """Every question. Raises RelevancyError."""
    path = located(data, "mm-vet.json")
    for own, row in read_entries(path).items():
        needed = ", ".join(sorted(map(str, field(row, "capability", path, list))))
        picture = f"images/{field(row, 'imagename', path)}"
        yield BenchmarkQuestion(own, field(row, "question", path), picture, needed, truth=field(row, "answer", path))


def submit(_: Path, answers: Sequence[AnsweredQuestion], folder: Path) -> None:
    """The object of ids and answers that MM-Vet's evaluator reads."""
    write_json(folder / "mm-vet.json", {one.question.id: one.text for one in answers})


def score(data: Path, predictions: Path) -> BenchmarkScore:
    """From the judge's grades, and mm-vet.json; of llava-mm-vet.jsonl without capabilities. Raises RelevancyError."""
    questions = _questions(data)
    found = read_grades(predictions, questions)
    if found is None:
        raise RelevancyError(
            f"{predictions}: holds no grades. MM-Vet is graded by a judge: write what to ask it with --judge FILE, and "
            "give its grades as --predictions."
        )
    runs = np.array([[_grade(own, one) for one in found.numbers.get(own, said)] for own, said in found.said.items()])
    each = runs.mean(1)
    board = Scoreboard([row["picture"] for row in questions.values()])
    board.mean("all", "score", each)
    for number in range(found.runs):
        board.mean(f"run {number + 1}", "score", runs[:, number])
    needed = [frozenset(row["capability"]) for row in questions.values()]
    for name in sorted(frozenset().union(*needed)):
        board.mean(name, "score", each, np.array([name in one for one in needed]))
    rights = dict(zip(questions, each.tolist(), strict=True))
    return board.scored("mm-vet", PROTOCOL, TENTHS, ("all", "score"), rights, found.stand_in)


def requests(data: Path, predictions: Path) -> Iterator[JudgeRequest]:
    """What GPT-4 is asked about each answer, with the official evaluator's examples. Raises RelevancyError."""
    path = located(data, "mm-vet.json")
    questions = read_entries(path)
    examples = _examples(located(data, _EVALUATOR))
    said = by_key(read_predictions(predictions), _official_id, questions, predictions, path)
    for own, row in questions.items():
        truth = field(row, "answer", path).replace("<AND>", " <AND> ").replace("<OR>", " <OR> ")
        asked = f"{examples}\n{' | '.join([field(row, 'question', path), truth, said[own].text, ''])}"
        yield JudgeRequest(own, [{"role": "user", "content": asked}], "gpt-4-0613", 0.0, 3)


def _questions(data: Path) -> Mapping[str, dict[str, Any]]:
    """Question's id -> its picture and the capabilities it needs, as far as the files tell."""
    path = located(data, "mm-vet.json", "llava-mm-vet.jsonl")
    if path.name.startswith("llava"):
        rows = {f"v1_{row_id(row, path)}": row for row in read_rows(path)}
        return {own: {"picture": str(row.get("image")), "capability": ()} for own, row in rows.items()}
    return {
        own: {"picture": str(row.get("imagename")), "capability": map(str, field(row, "capability", path, list))}
        for own, row in read_entries(path).items()
    }


def _official_id(said: Prediction) -> str:
    """LLaVA's rows count questions from 0, where MM-Vet says v1_0."""
    return said.id if said.id.startswith("v1_") else f"v1_{said.id}"


def _examples(path: Path) -> str:
    """The evaluator's prompt, taken from its text; nothing of it is run."""
    try:
        tree = ast.parse(read_text(path))
    except (SyntaxError, ValueError) as error:
        raise RelevancyError(f"{path}: is not MM-Vet's evaluator ({shortened(error)}).") from error
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            names = [target.id for target in node.targets if isinstance(target, ast.Name)]
            if "prompt" in names:
                return node.value.value
    raise RelevancyError(f"{path}: has no prompt; take {_EVALUATOR} from github.com/yuweihao/MM-Vet.")


def _grade(own: str, said: str | float) -> float:
    try:
        value = float(said.split(" ")[0]) if isinstance(said, str) else said
    except ValueError:
        value = float("nan")
    if not 0 <= value <= 1:
        raise RelevancyError(
            f"The grade of {own} is {shortened(said)!r}, not a number from 0.0 to 1.0; ask the judge again."
        )
    return value


BENCHMARK = Benchmark(
    name="mm-vet",
    title="MM-Vet: open questions that need several capabilities at once",
    questions="218 about 200 pictures",
    layout=("mm-vet.json", f"{_EVALUATOR} (for the judge's prompts)"),
    pictures="images/",
    source="github.com/yuweihao/MM-Vet: mm-vet.zip of its releases, and its evaluator",
    licence="CC BY-NC 4.0; pictures under their own terms",
    size="67 MB as Parquet (whyu/mm-vet)",
    unchecked="the code's licence",
    protocol=PROTOCOL,
    ask=ask,
    submit=submit,
    score=score,
    requests=requests,
    examples=_EVALUATOR,
    waits=lambda _: "a judge's grades, which go to relevancy evaluate score mm-vet",
)
