"""MME: yes or no, twice about each picture. Fu et al., arXiv 2306.13394; scored as its calculation.py does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from relevancy.errors import RelevancyError, shortened
from relevancy.evaluate.benchmark import SHORT_ANSWER, Benchmark
from relevancy.evaluate.files import by_key, read_predictions
from relevancy.evaluate.questions import AnsweredQuestion, BenchmarkQuestion
from relevancy.evaluate.scores import POINTS, BenchmarkScore, Protocol, Scoreboard

PERCEPTION = (
    "existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR",
)  # fmt: skip
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
YES_OR_NO = "Please answer yes or no."
_KINDS = (".jpg", ".png", ".jpeg")
PROTOCOL = Protocol(
    name="MME, as LLaVA-1.5 is scored",
    version="MME_Benchmark_release_version, eval_tool/calculation.py; LLaVA convert_answer_to_mme.py",
    prompt=f"<image>\n{{question}}{SHORT_ANSWER}",
    max_new_tokens=128,
    rules="In lower case, yes or no by itself, else by the first four characters: yes if they hold yes, no if they "
    "hold no, else wrong. A subtask is 100 x accuracy + 100 x the share of pictures with both questions right; "
    "perception sums ten of them (2,000 at most), cognition four (800).",
)
Question = tuple[str, str, str]
"""Subtask, picture without its ending, question."""


def parsed(answer: str) -> str:
    """yes, no or other, as the official calculator takes it."""
    said = answer.lower()
    head = said if said in ("yes", "no") else said[:4]
    return "yes" if "yes" in head else "no" if "no" in head else "other"


def asked(question_id: str, prompt: str) -> Question:
    """Which question of the official files an answer is to. prompt: as it was asked, in LLaVA's words or MME's."""
    folder, _, file = question_id.partition("/")
    words = prompt.replace(SHORT_ANSWER.strip(), "").replace(YES_OR_NO, "").strip()
    return folder, file.rpartition("/")[2].split(".")[0], words


def ask(data: Path) -> Iterator[BenchmarkQuestion]:
    """Every question, in LLaVA's words. Raises RelevancyError."""
    for task, stem, words, label in ((*own, label) for own, label in _truth(data).items()):
        picture = _picture(data, task, stem)
        yield BenchmarkQuestion(
            "/".join((task, stem, words)), words + SHORT_ANSWER, picture, task, f"{task}/{Path(picture).name}", label
        )


def submit(_: Path, answers: Sequence[AnsweredQuestion], folder: Path) -> None:
    """A file for each subtask as calculation.py reads it: picture, question, truth and answer between tabs."""
    for task in (*PERCEPTION, *COGNITION):
        lines = [
            (str(asked.given).partition("/")[2], f"{asked.text.removesuffix(SHORT_ANSWER)} {YES_OR_NO}",
             str(asked.truth).capitalize(), " ".join(one.text.split()))
            for one in answers
            if (asked := one.question).category == task
        ]  # fmt: skip
        text = "".join("\t".join(line) + "\n" for line in lines)
        (folder / f"{task}.txt").write_text(text, encoding="utf-8")


def score(data: Path, predictions: Path) -> BenchmarkScore:
    """From a folder for each subtask. Raises RelevancyError."""
    truth = _truth(data)
    given = read_predictions(predictions)
    if not all(one.prompt for one in given):
        raise RelevancyError(
            f"{predictions}: the two questions about a picture differ in prompt alone; give it in rows."
        )
    found = by_key(given, lambda one: asked(one.id, one.prompt), truth, predictions, data)
    right = np.array([parsed(found[own].text) == label for own, label in truth.items()], float)
    pictures = [own[:2] for own in truth]
    times = Counter(own for own, one in zip(pictures, right, strict=True) if one)
    first = np.array([place % 2 == 0 for place in range(len(pictures))], float)
    both = first * np.array([times[own] == 2 for own in pictures], float)
    columns = right, np.ones_like(right), both, first
    of = np.array([own[0] for own in truth])
    board = Scoreboard(pictures)
    for title, tasks in (("perception", PERCEPTION), ("cognition", COGNITION)):
        board.function(title, "score", [one * (of == task) for task in tasks for one in columns], _points)
        for task in tasks:
            board.function(task, "score", columns, _points, of == task)
    rights = dict(zip(map("/".join, truth), right.tolist(), strict=True))
    return board.scored("mme", PROTOCOL, POINTS, ("perception", "score"), rights)


def _points(sums: np.ndarray) -> np.ndarray:
    """Of each subtask's right answers, questions, pictures with both right, pictures: (4 x subtasks, n) -> (n,)."""
    rights, questions, both, pictures = (sums[place::4] for place in range(4))
    return 100 * (rights / questions + both / pictures).sum(0)


def _truth(data: Path) -> Mapping[Question, str]:
    """Question -> yes or no, the two of a picture one after the other."""
    root = _root(data)
    found: dict[Question, str] = {}
    for task in (*PERCEPTION, *COGNITION):
        folder = root / task
        texts = sorted((folder / "questions_answers_YN").glob("*.txt")) or sorted(folder.glob("*.txt"))
        if not texts:
            raise RelevancyError(
                f"--data {data}: {task} with its text files is not there; see relevancy evaluate --list."
            )
        for path in texts:
            own = _pair(path, task)
            if len(own) != 2:
                raise RelevancyError(f"{path}: holds {len(own)} different questions; MME asks two about each picture.")
            found |= own
    return found


def _root(data: Path) -> Path:
    inner = data / "MME_Benchmark_release_version"
    return inner if inner.is_dir() else data


def _picture(data: Path, task: str, stem: str) -> str:
    """The picture of this name, beside its questions or in a folder images."""
    folder = _root(data) / task
    places = (folder / "images", folder)
    found = next((one for place in places for kind in _KINDS if (one := place / f"{stem}{kind}").is_file()), None)
    return str((found or folder / f"{stem}.jpg").relative_to(data))


def _pair(path: Path, task: str) -> dict[Question, str]:
    found = {}
    for line in path.read_text(encoding="utf-8-sig", errors="replace").splitlines():
        if not line.strip():
            continue
        question, _, label = line.strip().partition("\t")
        if label.strip().lower() not in ("yes", "no"):
            raise RelevancyError(f"{path}: a line is a question, a tab, and Yes or No, not {shortened(line)!r}.")
        found[asked(f"{task}/{path.name}", question)] = label.strip().lower()
    return found


BENCHMARK = Benchmark(
    name="mme",
    title="MME: perception and cognition, by yes or no",
    questions="2,374 in 14 subtasks, two about each of 1,187 pictures",
    layout=("SUBTASK/*.txt or SUBTASK/questions_answers_YN/*.txt, for " + ", ".join((*PERCEPTION, *COGNITION)),),
    pictures="SUBTASK/ or SUBTASK/images/",
    source="github.com/BradyFU/Awesome-Multimodal-Large-Language-Models, branch Evaluation",
    licence="academic research, nothing commercial; pictures of landmark and artwork are fetched by hand (its readme)",
    size="about 1 GB with pictures",
    unchecked="size",
    protocol=PROTOCOL,
    ask=ask,
    submit=submit,
    score=score,
    function=lambda _group, _score: _points,
)
