"""Miniature sets in each official layout, scored by the command and worked by hand; every fault is one line."""

import json
from pathlib import Path

import numpy as np
import pytest

from relevancy import cli
from relevancy.evaluate.scores import Scoreboard

SHORT = "\nAnswer the question using a single word or phrase."


def lines(path: Path, rows: list) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def whole(path: Path, value: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    return path


def run(monkeypatch, capsys, *arguments: object) -> tuple[int, str, str]:
    monkeypatch.setattr("sys.argv", ["relevancy", "evaluate", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    told = capsys.readouterr()
    return ended.value.code or 0, told.out, told.err


@pytest.fixture
def scored(monkeypatch, capsys):
    """Scores of a benchmark's predictions, from the pinned command."""

    def scored(name: str, data: Path, predictions: Path) -> dict:
        code, out, error = run(
            monkeypatch, capsys, "score", name, "--data", data, "--predictions", predictions, "--json"
        )
        assert (code, error) == (0, "")
        return json.loads(out)

    return scored


@pytest.fixture
def refused(monkeypatch, capsys):
    """The one line of a refusal."""

    def refused(name: str, data: Path, predictions: Path, *more: object) -> str:
        code, out, error = run(monkeypatch, capsys, "score", name, "--data", data, "--predictions", predictions, *more)
        assert (code, out, error.count("\n")) == (2, "", 1)
        assert error.startswith("relevancy: ")
        return error

    return refused


def pope_set(folder: Path, each: int = 4) -> Path:
    asked = []
    for start, name in ((0, "adversarial"), (20000000, "popular"), (10000000, "random")):
        labels = [
            {"question_id": at, "image": f"{at // 2}.jpg", "text": f"Is there a {at}?", "label": ("yes", "no")[at % 2]}
            for at in range(each)
        ]
        lines(folder / "coco" / f"coco_pope_{name}.json", labels)
        asked += [
            {"question_id": start + row["question_id"], "image": row["image"], "text": row["text"] + SHORT,
             "category": name}
            for row in labels
        ]  # fmt: skip
    lines(folder / "llava_pope_test.jsonl", asked)
    return folder


def pope_answers(path: Path, *said: str) -> Path:
    ids = [start + at for start in (0, 20000000, 10000000) for at in range(4)]
    return lines(path, [{"question_id": own, "text": text} for own, text in zip(ids, said * 3, strict=False)])


def test_pope(tmp_path, scored):
    data = pope_set(tmp_path)
    # Right answers are yes, no, yes, no: one true yes, one false yes, one false no, one true no.
    found = scored("pope", data, pope_answers(tmp_path / "a.jsonl", "Yes", "Yes, a dog.", "no", "No"))
    assert found["scores"]["random"] == {"accuracy": 0.5, "precision": 0.5, "recall": 0.5, "f1": 0.5, "yes_ratio": 0.5}
    assert found["scores"]["mean"]["f1"] == found["headline"]["value"] == 0.5
    assert found["questions"] == {"adversarial": 4, "popular": 4, "random": 4, "mean": 12}
    assert found["pictures"]["mean"] == 2
    assert found["intervals"]["random"]["f1"] is None  # two pictures are too few
    assert found["stand_in"] is None
    assert "2023-05" in found["protocol"]["version"]


def test_popes_mean_is_of_the_categories_f1(tmp_path, scored):
    data = pope_set(tmp_path)
    ids = [start + at for start in (0, 20000000, 10000000) for at in range(4)]
    said = ["yes", "no", "yes", "no"] + ["yes"] * 4 + ["no", "no", "yes", "yes"]
    path = lines(tmp_path / "a.jsonl", [{"question_id": own, "text": one} for own, one in zip(ids, said, strict=True)])
    found = scored("pope", data, path)["scores"]
    assert [found[name]["f1"] for name in ("adversarial", "popular", "random")] == pytest.approx([1, 2 / 3, 1 / 2])
    assert found["mean"]["f1"] == pytest.approx((1 + 2 / 3 + 1 / 2) / 3)


def test_pope_without_a_single_yes_has_no_precision(tmp_path, scored):
    found = scored("pope", pope_set(tmp_path), pope_answers(tmp_path / "a.jsonl", "no", "no", "no", "no"))
    assert found["scores"]["popular"]["precision"] is None
    assert found["scores"]["popular"]["f1"] == 0


def test_popes_intervals_are_over_pictures(tmp_path, scored):
    data = pope_set(tmp_path, each=40)
    ids = [start + at for start in (0, 20000000, 10000000) for at in range(40)]
    said = [{"question_id": own, "text": "yes" if own % 40 % 3 else "no"} for own in ids]
    found = scored("pope", data, lines(tmp_path / "a.jsonl", said))
    for own in found["intervals"].values():
        for ends in own.values():
            assert ends[0] < ends[1]
    low, high = found["intervals"]["mean"]["f1"]
    assert low < found["headline"]["value"] < high


def test_an_interval_of_sums_is_that_of_a_mean():
    rng = np.random.default_rng(3)
    pictures = np.repeat(np.arange(80), 5)
    right = (rng.random(400) < 0.4 + 0.4 * (pictures % 2)).astype(float)
    board = Scoreboard(pictures.tolist())
    board.mean("all", "mean", right)
    board.function("all", "ratio", (right, np.ones(400)), lambda sums: sums[0] / sums[1])
    mean, ratio = board.estimates()["all"].values()
    assert mean.value == pytest.approx(ratio.value)
    assert [ratio.low, ratio.high] == pytest.approx([mean.low, mean.high], abs=0.005)
    assert (ratio.rows, ratio.pictures) == (mean.rows, mean.pictures) == (400, 80)


def test_intervals_hold_the_true_f1():
    rng = np.random.default_rng(5)
    pictures = np.repeat(np.arange(60), 6)
    labels = np.tile([1.0, 0.0], 180)
    ease = np.repeat(rng.uniform(-0.15, 0.15, (300, 60)), 6, axis=1)  # of a picture, to all its questions
    yes = (rng.random((300, 360)) < np.where(labels > 0, 0.75, 0.25) + ease * np.where(labels > 0, 1, -1)).astype(float)
    truth = 2 * 0.75 / (0.75 + 0.25 + 1)  # as many yes as no are right
    held = 0
    for said in yes:
        board = Scoreboard(pictures.tolist())
        counts = said * labels, said * (1 - labels), (1 - said) * labels
        board.function("all", "f1", counts, lambda sums: 2 * sums[0] / (2 * sums[0] + sums[1] + sums[2]))
        one = board.estimates()["all"]["f1"]
        held += one.low <= truth <= one.high
    assert 0.92 <= held / 300 <= 0.98


def test_popes_faults_are_one_line_each(tmp_path, refused):
    data = pope_set(tmp_path / "data")
    right = pope_answers(tmp_path / "a.jsonl", "yes", "no", "yes", "no")
    rows = [json.loads(line) for line in right.read_text().splitlines()]
    twice, short = lines(tmp_path / "twice.jsonl", [*rows, rows[0]]), lines(tmp_path / "short.jsonl", rows[:-2])
    strange = lines(tmp_path / "strange.jsonl", [*rows, {"question_id": 99, "text": "no"}])
    assert "question 0 is answered twice" in refused("pope", data, twice)
    assert "2 of 12 answers are missing, the first to 10000002" in refused("pope", data, short)
    assert "to no question of llava_pope_test.jsonl, the first to 99; is it another split" in refused(
        "pope", data, strange
    )
    broken = tmp_path / "broken.jsonl"
    broken.write_text(right.read_text() + '{"question_id": 3,\n')
    assert "broken.jsonl, line 13: is no JSON" in refused("pope", data, broken)
    broken.write_text('{"question_id": 3}\n')
    assert "row 1: has no answer" in refused("pope", data, broken)
    broken.write_text('{"text": "yes"}\n{"text": "no"}\n')
    assert "row 1: has no question_id" in refused("pope", data, broken)
    broken.write_text("[1, 2]\n")
    assert "row 1 is no JSON object" in refused("pope", data, broken)
    assert "cannot be read" in refused("pope", data, tmp_path / "nothing.jsonl")
    assert "llava_pope_test.jsonl is not there" in refused("pope", tmp_path, right)
    assert "There is no benchmark 'pop'" in refused("pop", data, right)
    assert "needs no judge" in refused("pope", data, right, "--judge", tmp_path / "j.jsonl")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"question_id": float("nan")}, "row 1: has no question_id that is text or a whole number"),
        ({"question_id": 0.5}, "row 1: has no question_id that is text or a whole number"),
        ({"question_id": True}, "row 1: has no question_id that is text or a whole number"),
        ({"question_id": None}, "row 1: has no question_id that is text or a whole number"),
        ({"question_id": "none"}, "1 of 12 answers are to no question of llava_pope_test.jsonl, the first to none"),
        ({"text": float("nan")}, "row 1: has no answer, as text,"),
        ({"text": 1}, "row 1: has no answer, as text,"),
        ({"text": None, "answer": ["yes"]}, "row 1: has no answer, as text,"),
    ],
)
def test_an_answer_of_another_program_that_is_none_is_one_line(tmp_path, refused, change, told):
    data = pope_set(tmp_path)
    first, *others = map(
        json.loads, pope_answers(tmp_path / "a.jsonl", "yes", "no", "yes", "no").read_text().split("\n")[:-1]
    )
    assert told in refused("pope", data, lines(tmp_path / "b.jsonl", [first | change, *others]))


@pytest.mark.parametrize("spoil", [
    lambda text: "\ufeff" + text,
    lambda text: text.replace("\n", "\r\n"),
    lambda text: text.replace("\n", "\n\n"),
    lambda text: json.dumps([json.loads(line) for line in text.splitlines()], indent=1),
    lambda text: lines_of(text, lambda row: row | {"question_id": float(row["question_id"])}),  # as pandas writes them
    lambda text: lines_of(text, lambda row: row | {"question_id": str(row["question_id"]), "score": None, "tags": [1]}),
])  # fmt: skip
def test_other_programs_ways_of_writing_the_same_are_read(tmp_path, scored, spoil):
    data = pope_set(tmp_path)
    plain = pope_answers(tmp_path / "a.jsonl", "yes", "no", "no", "no")
    other = tmp_path / "b.jsonl"
    other.write_bytes(spoil(plain.read_text()).encode())
    assert scored("pope", data, other) == scored("pope", data, plain)


def lines_of(text, change):
    return "".join(json.dumps(change(json.loads(line))) + "\n" for line in text.splitlines())


def test_popes_releases_are_not_mixed(tmp_path, refused):
    data = pope_set(tmp_path)
    answers = pope_answers(tmp_path / "a.jsonl", "yes", "no", "yes", "no")
    labels = data / "coco" / "coco_pope_random.json"
    rows = [json.loads(line) for line in labels.read_text().splitlines()]
    lines(labels, [*rows, rows[0]])
    assert "has 5 labels, llava_pope_test.jsonl 4 questions of random" in refused("pope", data, answers)
    lines(labels, [*rows[:3], rows[3] | {"text": "Is there a cat?"}])
    assert "is not question 10000003" in refused("pope", data, answers)
    lines(labels, [*rows[:3], rows[3] | {"label": "maybe"}])
    assert "yes or no, not 'maybe'" in refused("pope", data, answers)


def gqa_set(folder: Path) -> Path:
    def row(answer: str, picture: str, structural: str, *, balanced: bool = True) -> dict:
        kinds = {"structural": structural, "semantic": "attr"}
        return {"answer": answer, "imageId": picture, "isBalanced": balanced, "types": kinds, "question": "?"}

    rows = [
        row("red", "n1", "query"),
        row("dog", "n1", "query"),
        row("yes", "n2", "verify"),
        row("no", "n2", "logical"),
    ]
    whole(
        folder / "testdev_balanced_questions.json",
        {str(at): one for at, one in enumerate([*rows, row("x", "n3", "query", balanced=False)])},
    )
    return folder


def test_gqa(tmp_path, scored, refused):
    data = gqa_set(tmp_path)
    said = ["Red.", "cat", "Yes", "no..", "ignored"]
    found = scored(
        "gqa", data, lines(tmp_path / "a.jsonl", [{"question_id": str(at), "text": one} for at, one in enumerate(said)])
    )["scores"]
    assert [found[name]["accuracy"] for name in ("all", "open", "binary")] == [0.75, 0.5, 1.0]
    assert found["structural: verify"]["accuracy"] == 1
    submission = whole(
        tmp_path / "b.json",
        [{"questionId": str(at), "prediction": one} for at, one in enumerate(["Red", "dog", "yes", "no"])],
    )
    assert scored("gqa", data, submission)["scores"]["all"]["accuracy"] == 0.75  # a submission is not normalized
    missing = whole(tmp_path / "c.json", [{"questionId": "0", "prediction": "red"}])
    assert "3 of 4 answers are missing" in refused("gqa", data, missing)


def mme_set(folder: Path) -> Path:
    from relevancy.evaluate.mme import COGNITION, PERCEPTION

    for number, task in enumerate((*PERCEPTION, *COGNITION)):
        place = folder / task / "questions_answers_YN" if number % 2 else folder / task
        place.mkdir(parents=True)
        for picture in ("1", "2"):
            (place / f"{picture}.txt").write_text(
                f"Is it {picture}? Please answer yes or no.\tYes\nIs it a cat? Please answer yes or no.\tNo\n"
            )
    return folder


def mme_answers(path: Path, said: dict) -> Path:
    from relevancy.evaluate.mme import COGNITION, PERCEPTION

    rows = [
        {"question_id": f"{task}/{picture}.png", "prompt": question + SHORT,
         "text": said.get((task, picture, question), right)}
        for task in (*PERCEPTION, *COGNITION)
        for picture in "12"
        for question, right in ((f"Is it {picture}?", "Yes"), ("Is it a cat?", "No"))
    ]  # fmt: skip
    return lines(path, rows)


def test_mme_counts_answers_and_pictures(tmp_path, scored):
    data = mme_set(tmp_path)
    assert scored("mme", data, mme_answers(tmp_path / "a", {}))["headline"]["printed"] == "2000.00"
    one = scored("mme", data, mme_answers(tmp_path / "b", {("count", "1", "Is it 1?"): "no"}))["scores"]
    assert one["count"]["score"] == 75 + 50  # three of four answers, one of two pictures
    assert (one["perception"]["score"], one["cognition"]["score"]) == (2000 - 75, 800)
    both = scored(
        "mme",
        data,
        mme_answers(tmp_path / "c", {("count", "1", "Is it 1?"): "no", ("count", "1", "Is it a cat?"): "yes"}),
    )["scores"]
    assert both["count"]["score"] == 50 + 50
    apart = scored(
        "mme",
        data,
        mme_answers(tmp_path / "d", {("count", "1", "Is it 1?"): "no", ("count", "2", "Is it a cat?"): "Maybe"}),
    )["scores"]
    assert apart["count"]["score"] == 50 + 0
    assert apart["code_reasoning"]["score"] == 200


def test_mmes_faults(tmp_path, refused):
    data = mme_set(tmp_path / "data")
    answers = mme_answers(tmp_path / "a", {})
    lost = lines(tmp_path / "b", [json.loads(line) for line in answers.read_text().splitlines()][1:])
    assert "1 of 56 answers are missing, the first to existence / 1 / Is it 1?" in refused("mme", data, lost)
    (data / "count" / "questions_answers_YN" / "1.txt").write_text("Is it 1?\tYes\n")
    assert "holds 1 different questions" in refused("mme", data, answers)
    (data / "count" / "questions_answers_YN" / "1.txt").write_text("Is it 1? Yes\n")
    assert "a tab, and Yes or No" in refused("mme", data, answers)
    for file in (data / "OCR").rglob("*.txt"):
        file.unlink()
    (data / "count" / "questions_answers_YN" / "1.txt").write_text("Is it 1?\tYes\nIs it a cat?\tNo\n")
    assert "OCR with its text files is not there" in refused("mme", data, answers)


def school_set(folder: Path) -> Path:
    def row(own: str, right: str, picture: bool) -> dict:
        asked = "Context: A. this line is no choice\nWhich?\nA. one\nB. two"
        turns = [{"from": "human", "value": asked}, {"from": "gpt", "value": right}]
        return {"id": own, "conversations": turns} | ({"image": f"{own}/image.png"} if picture else {})

    rows = [row("1", "A", True), row("2", "B", True), row("3", "A", False)]
    whole(folder / "llava_test_CQM-A.json", rows)
    whole(folder / "pid_splits.json", {"test": ["1", "2", "3"]})
    whole(folder / "problems.json", {"1": {"subject": "natural science"}, "2": {"subject": "social science"}, "3": {}})
    return folder


def test_scienceqa(tmp_path, scored, refused):
    data = school_set(tmp_path)
    answers = [{"question_id": own, "text": text} for own, text in (("1", "A"), ("2", "C"), ("3", "A. one"))]
    found = scored("scienceqa", data, lines(tmp_path / "a.jsonl", answers))
    assert found["scores"]["all"]["accuracy"] == pytest.approx(2 / 3)
    assert found["headline"]["group"] == "IMG"
    assert found["headline"]["value"] == 0.5
    assert found["scores"]["IMG: natural science"]["accuracy"] == 1
    assert (
        "all" not in scored("scienceqa", data, lines(tmp_path / "b.jsonl", answers[:2]))["scores"]
    )  # pictures alone were asked about
    assert scored("scienceqa", data, whole(tmp_path / "c.json", {"outputs": {"1": "A", "2": "B", "3": "B"}}))["scores"][
        "all"
    ]["accuracy"] == pytest.approx(2 / 3)
    assert "1 of 3 answers are missing, the first to 2" in refused(
        "scienceqa", data, lines(tmp_path / "d.jsonl", [answers[0], answers[2]])
    )
    whole(data / "pid_splits.json", {"test": ["1", "2"]})
    assert "are not the test split" in refused("scienceqa", data, tmp_path / "a.jsonl")


def people(*said: str) -> list[dict]:
    return [{"answer": one, "answer_id": number} for number, one in enumerate(said, 1)]


def test_vqav2(tmp_path, scored, refused):
    def row(own: int, kind: str, *said: str) -> dict:
        return {
            "question_id": own,
            "image_id": own // 2,
            "answer_type": kind,
            "question_type": "is",
            "answers": people(*said),
        }

    rows = [
        row(1, "yes/no", *["yes"] * 10),
        row(2, "number", *["two"] * 3, *["3"] * 7),
        row(3, "other", *["a dog"] * 10),
    ]
    whole(tmp_path / "v2_mscoco_val2014_annotations.json", {"annotations": rows})
    said = lines(
        tmp_path / "a.jsonl", [{"question_id": own, "text": text} for own, text in ((1, "Yes"), (2, "2"), (3, "dog"))]
    )
    found = scored("vqav2", tmp_path, said)["scores"]
    # All ten people say "a dog", so letters are compared, and "dog" is none of theirs.
    assert [found[f"answer_type: {kind}"]["accuracy"] for kind in ("yes/no", "number", "other")] == pytest.approx(
        [1, 0.9, 0]
    )
    assert found["all"]["accuracy"] == pytest.approx(1.9 / 3)
    handed = whole(
        tmp_path / "b.json",
        [{"question_id": own, "answer": text} for own, text in ((1, "Yes"), (2, "2"), (3, "a dog"))],
    )
    assert scored("vqav2", tmp_path, handed)["scores"]["all"]["accuracy"] == pytest.approx(
        1.9 / 3
    )  # "Yes" is not "yes"
    assert "v2_mscoco_val2014_annotations.json is not there" in refused("vqav2", tmp_path / "none", said)


def test_textvqa(tmp_path, scored, refused):
    rows = [
        {"question_id": 5, "image_id": "p", "question": "What Brand?", "answers": ["nokia"] * 9 + ["Sony"]},
        {"question_id": 6, "image_id": "p", "question": "What time?", "answers": ["ten"] * 2 + ["5"] * 8},
    ]
    whole(tmp_path / "TextVQA_0.5.1_val.json", {"data": rows})
    tail = "\nReference OCR token: NOKIA" + SHORT
    said = [
        {"question_id": "p", "prompt": "What time?" + tail, "text": "10"},
        {"question_id": "p", "prompt": "What Brand?" + tail, "text": "Nokia"},
    ]
    assert scored("textvqa", tmp_path, lines(tmp_path / "a.jsonl", said))["scores"]["all"]["accuracy"] == pytest.approx(
        0.8
    )
    handed = whole(tmp_path / "b.json", [{"question_id": 5, "answer": "Nokia"}, {"question_id": 6, "answer": "10"}])
    assert scored("textvqa", tmp_path, handed)["scores"]["all"]["accuracy"] == pytest.approx(0.8)
    twice = lines(tmp_path / "c.jsonl", [said[0], said[0]])
    assert "question p / what time? is answered twice" in refused("textvqa", tmp_path, twice)


def vet_set(folder: Path) -> Path:
    whole(
        folder / "mm-vet.json",
        {
            "v1_0": {"imagename": "a.png", "question": "x?", "answer": "1<AND>2", "capability": ["ocr", "math"]},
            "v1_1": {"imagename": "a.png", "question": "y?", "answer": "3<OR>4", "capability": ["ocr"]},
        },
    )
    (folder / "mm-vet_evaluator.py").write_text('import openai\n\nprompt = """Compare.\n"""\nraise SystemExit\n')
    return folder


def test_mm_vet_is_graded_by_a_judge(tmp_path, scored, refused, monkeypatch, capsys):
    data = vet_set(tmp_path)
    answers = whole(tmp_path / "a.json", {"v1_0": "one", "v1_1": "3"})
    assert "write what to ask it with --judge FILE" in refused("mm-vet", data, answers)
    code, _, _ = run(
        monkeypatch,
        capsys,
        "score",
        "mm-vet",
        "--data",
        data,
        "--predictions",
        answers,
        "--judge",
        tmp_path / "j.jsonl",
    )
    assert code == 0
    asked = [json.loads(line) for line in (tmp_path / "j.jsonl").read_text().splitlines()]
    assert [one["messages"][0]["content"] for one in asked] == [
        "Compare.\n\nx? | 1 <AND> 2 | one | ", "Compare.\n\ny? | 3 <OR> 4 | 3 | "
    ]  # fmt: skip
    assert (asked[0]["model"], asked[0]["temperature"], asked[0]["max_tokens"]) == ("gpt-4-0613", 0.0, 3)
    counted = lines(tmp_path / "b.jsonl", [{"question_id": 0, "text": "one"}, {"question_id": 1, "text": "3"}])
    run(
        monkeypatch,
        capsys,
        "score",
        "mm-vet",
        "--data",
        data,
        "--predictions",
        counted,
        "--judge",
        tmp_path / "k.jsonl",
    )
    assert (tmp_path / "k.jsonl").read_text() == (tmp_path / "j.jsonl").read_text()
    rows = [
        {"id": one["id"], "model": "gpt-4-0613", "content": text}
        for one, text in zip(asked, ("0.5", "1.0"), strict=True)
    ]
    found = scored("mm-vet", data, lines(tmp_path / "g.jsonl", rows))
    assert (found["headline"]["printed"], found["scores"]["math"]["score"], found["stand_in"]) == ("75.0", 0.5, None)


def test_grades_of_runs_and_of_other_judges(tmp_path, scored, refused):
    data = vet_set(tmp_path)

    def grades(*own: list, judge: str = "gpt-4", content: str = "0.0") -> Path:
        entries = {
            f"v1_{at}": {"model": [judge] * len(one), "content": [content] * len(one), "score": one}
            for at, one in enumerate(own)
        }
        return whole(tmp_path / "g.json", entries)

    found = scored("mm-vet", data, grades([0.0, 0.5], [1.0, 0.5]))["scores"]
    assert [found[name]["score"] for name in ("all", "run 1", "run 2", "math")] == [0.5, 0.5, 0.5, 0.25]
    assert "judged by llama in GPT-4's place" in scored("mm-vet", data, grades([1], [1], judge="llama"))["stand_in"]
    assert "judged by gpt-4o" in scored("mm-vet", data, grades([1], [1], judge="gpt-4o"))["stand_in"]
    assert "1 of 2 grades are missing, the first of v1_1" in refused("mm-vet", data, grades([1]))
    assert "not 1 to 2 times" in refused("mm-vet", data, grades([1], [1, 0]))
    assert "not a number from 0.0 to 1.0" in refused("mm-vet", data, grades([2], [0]))
    assert "v1_2 is graded, but no question" in refused("mm-vet", data, grades([1], [1], [1]))
    rows = [{"id": f"v1_{at}", "model": ("gpt-4", "llama")[at], "content": "1.0"} for at in (0, 1)]
    assert "grades of gpt-4 and llama in one file" in refused("mm-vet", data, lines(tmp_path / "m.jsonl", rows))


def mmvp_set(folder: Path) -> Path:
    rows = [f"{at},Is it open?,(a) Open (b) Closed,({'ab'[at % 2]})" for at in range(1, 5)]
    (folder / "Questions.csv").write_text("\n".join(["Index,Question,Options,Correct Answer", *rows]) + "\n")
    return folder


def test_mmvps_stand_in_is_named_and_pairs_count(tmp_path, scored, refused, monkeypatch, capsys):
    data = mmvp_set(tmp_path)  # right are b, a, b, a
    said = [
        {"question_id": at, "response": one, "answer": "(x)"}
        for at, one in enumerate(("(b)", "Open", "Closed", "(b)"), 1)
    ]
    answers = lines(tmp_path / "a.jsonl", said)
    found = scored("mmvp", data, answers)
    assert (found["scores"]["pairs"]["accuracy"], found["scores"]["questions"]["accuracy"]) == (0.5, 0.75)
    assert "stood in for GPT-4" in found["stand_in"]
    assert run(
        monkeypatch, capsys, "score", "mmvp", "--data", data, "--predictions", answers, "--judge", tmp_path / "j.jsonl"
    )[0] == 0  # fmt: skip
    asked = [json.loads(line) for line in (tmp_path / "j.jsonl").read_text().splitlines()]
    assert asked[1]["messages"][1]["content"].endswith("the correct answer is (a). Does the following answer correctly "
        "answers the question, answer:Open?")  # fmt: skip
    rows = [
        {"id": one["id"], "model": "gpt-4-0314", "content": text}
        for one, text in zip(asked, ("Yes", "yes", "no", "Yes."), strict=True)
    ]
    graded = scored("mmvp", data, lines(tmp_path / "g.jsonl", rows))
    assert (graded["scores"]["pairs"]["accuracy"], graded["stand_in"]) == (0.5, None)
    assert graded["scores"]["questions"]["accuracy"] == 0.5  # "Yes." is neither yes nor no to the official grader
    (data / "Questions.csv").write_text("Index,Question,Options,Correct Answer\n2,?,(a) x (b) y,(a)\n")
    assert "pairs need the order" in refused("mmvp", data, answers)


def test_the_list_and_the_printed_scores(tmp_path, monkeypatch, capsys):
    code, out, _ = run(monkeypatch, capsys, "--list")
    assert code == 0
    assert all(
        out.count(f"\n  {name}") == 8 for name in ("questions", "DIR holds", "pictures", "from", "licence", "size")
    )
    assert "Unchecked is what this list says without having seen it at its source." in out
    answers = pope_answers(tmp_path / "a.jsonl", "yes", "no", "yes", "no")
    code, out, _ = run(monkeypatch, capsys, "score", "pope", "--data", pope_set(tmp_path), "--predictions", answers)
    assert code == 0
    assert "Quoted: f1 of mean, 1.0000." in out
    assert "Protocol: POPE" in out


@pytest.mark.parametrize(
    ("name", "file", "value", "told"),
    [
        ("vqav2", "v2_mscoco_val2014_annotations.json", {"annotations": []}, "holds no rows"),
        ("vqav2", "v2_mscoco_val2014_annotations.json", {"annotations": [1]}, "row 1 is no JSON object but int"),
        ("vqav2", "v2_mscoco_val2014_annotations.json", [], "holds no JSON object but list"),
        ("textvqa", "TextVQA_0.5.1_val.json", {}, "a row has no data"),
        ("gqa", "testdev_balanced_questions.json", {"1": {"isBalanced": False}}, "none of its questions is balanced"),
        ("gqa", "testdev_balanced_questions.json", {"1": "red"}, "row 1 is no JSON object but str"),
        ("mm-vet", "mm-vet.json", {"v1_0": {}}, "a row has no capability"),
        ("scienceqa", "llava_test_CQM-A.json", {}, "is one list of questions"),
        ("scienceqa", "llava_test_CQM-A.json", [{"id": "1"}], "a row is no question with choices"),
    ],
)
def test_a_file_that_is_not_the_official_one_is_one_line(tmp_path, refused, name, file, value, told):
    whole(tmp_path / file, value)
    assert told in refused(name, tmp_path, lines(tmp_path / "a.jsonl", [{"question_id": "1", "text": "x"}]))
