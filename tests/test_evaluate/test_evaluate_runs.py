"""End to end: each benchmark in miniature asked of both embedded models, and its scores worked out here once more."""

import csv
import json
import os
import random
import re
import signal
import subprocess
import sys
from pathlib import Path

import miniatures
import numpy as np
import pytest
import tiny
from miniatures import COGNITION, MAKERS, PERCEPTION, hub

import relevancy
from relevancy import cli
from relevancy.atomic_io import locked
from relevancy.evaluate import runner
from relevancy.evaluate.benchmarks import BENCHMARKS
from relevancy.evaluate.hub import unpacked
from relevancy.evaluate.questions import AnsweredQuestion, checked_questions, write_answers
from relevancy.evaluate.runner import EvaluationRequest, evaluate
from relevancy.evaluate.vqa_answers import tokenized
from relevancy.export.run import Request
from relevancy.models import generation
from relevancy.report.picture_use import picture_use

PAIR = ("demo-small", "demo-large")


@pytest.fixture(scope="module")
def models():
    return [relevancy.load(name) for name in PAIR]


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Every benchmark in its authors' layout."""
    place = tmp_path_factory.mktemp("sets")
    return {name: make(place / name) for name, make in MAKERS.items()}


def asked(name, data, out, models, **changes):
    answering = Request(models=models, input="", out=out)
    return evaluate(EvaluationRequest(name, data, out, **{"bare": True, "answering": answering} | changes))


def answers_in(folder):
    return [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]


def pope(data, rows):
    """Mean F1 of the categories; yes is what has no "no" in its first sentence."""
    labels = [
        json.loads(line)["label"] == "yes"
        for category in ("adversarial", "popular", "random")
        for line in (data / "coco" / f"coco_pope_{category}.json").read_text().splitlines()
    ]
    said = [not re.search(r"\b(No|not|no)\b", row["text"].split(".")[0]) for row in rows]
    scores = []
    for start in range(0, 36, 12):
        pairs = list(zip(said[start : start + 12], labels[start : start + 12], strict=True))
        right = sum(one and other for one, other in pairs)
        scores.append(2 * right / (sum(one for one, _ in pairs) + sum(other for _, other in pairs)))
    return sum(scores) / 3


def gqa(data, rows):
    truth = json.loads((data / "testdev_balanced_questions.json").read_text())
    return sum(row["text"].rstrip(".").lower() == truth[row["question_id"]]["answer"] for row in rows) / len(rows)


def mme(data, rows):
    """100 x right answers' share and 100 x right pairs' share, summed over the ten subtasks of perception."""
    total = 0.0
    for task in (*PERCEPTION, *COGNITION):
        own = [row for row in rows if row["question_id"].startswith(f"{task}/")]
        (file,) = (data / "MME_Benchmark_release_version" / task).rglob("*.txt")
        labels = [line.split("\t")[1].lower() for line in file.read_text().splitlines()]
        right = [row["text"].lower().startswith(label) for row, label in zip(own, labels, strict=True)]
        total += (100 * sum(right) / 2 + 100 * all(right)) if task in PERCEPTION else 0
    return total


def plain(text):
    return " ".join(word for word in re.sub(r"[^\w\s]", "", text.lower()).split() if word not in ("a", "an", "the"))


def of_people(data_rows, said):
    def one(answer, people):
        matches = [plain(answer) == plain(person) for person in people]
        return sum(min(1.0, sum(matches[:at] + matches[at + 1 :]) / 3) for at in range(10)) / 10

    return sum(one(said[own], people) for own, people in data_rows.items()) / len(data_rows)


def vqav2(data, rows):
    known = json.loads((data / "v2_mscoco_val2014_annotations.json").read_text())["annotations"]
    people = {row["question_id"]: [one["answer"] for one in row["answers"]] for row in known}
    return of_people(people, {row["question_id"]: row["text"] for row in rows})


def textvqa(data, rows):
    known = json.loads((data / "TextVQA_0.5.1_val.json").read_text())["data"]
    return of_people({row["image_id"]: row["answers"] for row in known}, {r["question_id"]: r["text"] for r in rows})


def mmvp(data, rows):
    with (data / "Questions.csv").open() as stream:
        right = [row["Correct Answer"] for row in csv.DictReader(stream)]
    hits = [row["text"].startswith(letter) for row, letter in zip(rows, right, strict=True)]
    return sum(one and other for one, other in zip(hits[::2], hits[1::2], strict=True)) / 3


def scienceqa(data, rows):
    letters = {
        row["id"]: row["conversations"][1]["value"] for row in json.loads((data / "llava_test_CQM-A.json").read_text())
    }
    pictured = [row for row in rows if row["question_id"] != "6"]  # which is asked in words alone
    right = [row["text"][:3] in (letters[own := row["question_id"]], f"{letters[own]}. ") for row in pictured]
    return sum(right) / 5


RECOMPUTED = {
    "pope": pope, "gqa": gqa, "mme": mme, "vqav2": vqav2, "mmvp": mmvp, "scienceqa": scienceqa, "textvqa": textvqa,
}  # fmt: skip
QUESTIONS = {
    "pope": 36, "gqa": 12, "mme": 28, "mm-vet": 4, "vqav2": 12, "mmvp": 6, "scienceqa": 6, "textvqa": 6,
}  # fmt: skip


@pytest.mark.parametrize("name", list(MAKERS))
def test_asked_answered_and_scored(name, sets, models, tmp_path):
    done = asked(name, sets[name], tmp_path / "out", models)
    assert list(done.scores) == list(PAIR)
    for model in models:
        folder = done.folders[model.name] / name
        rows = answers_in(folder)
        assert len(rows) == QUESTIONS[name]
        assert {row["model_id"] for row in rows} == {model.name}
        found = done.scores[model.name]
        if name == "mm-vet":
            assert found is None
            first = json.loads((folder / "judge.jsonl").read_text().splitlines()[0])
            assert first["messages"][0]["content"].endswith(f"ish | {rows[0]['text']} | ")
        else:
            group, score = found.headline
            assert found.estimates[group][score].value == pytest.approx(RECOMPUTED[name](sets[name], rows))
            stored = json.loads((done.folders[model.name] / f"{name}.json").read_text())
            assert stored["headline"]["value"] == found.estimates[group][score].value
            assert "without LLaVA's closing words" in stored["protocol"]["name"]
            assert set(found.rights.values()) <= {0, 1} or name in ("vqav2", "textvqa")
            assert len(found.rights) == QUESTIONS[name] - (name == "scienceqa")
    if name == "mmvp":
        return  # lies on the hub as its authors ship it
    again = asked(name, hub(name, sets[name], tmp_path / "hub"), tmp_path / "packed", models)
    for model in PAIR:
        texts = [[row["text"] for row in answers_in(one.folders[model] / name)] for one in (done, again)]
        assert sorted(texts[0]) == sorted(texts[1])
        if name != "mm-vet":
            assert again.scores[model].estimates == done.scores[model].estimates


def test_questions_without_a_picture_are_answered_in_words_alone(sets, models, tmp_path):
    model = models[1]
    done = asked("scienceqa", sets["scienceqa"], tmp_path, [model], maps="all")
    rows = answers_in(done.folders[model.name] / "scienceqa")
    (row,) = (row for row in rows if row["question_id"] == "6")
    alone = relevancy.explain(model, None, row["prompt"], max_new_tokens=1024)
    assert row["text"] == alone.answer
    result = relevancy.open_export(done.export).explanation("6", model.name)
    np.testing.assert_allclose(result.relevance, alone.relevance, atol=1e-5 * alone.relevance.max())
    assert result.pictures == ()
    found = done.scores[model.name]
    letters = {
        row["id"]: row["conversations"][1]["value"]
        for row in json.loads((sets["scienceqa"] / "llava_test_CQM-A.json").read_text())
    }
    right = [row["text"][:3] in (letters[own := row["question_id"]], f"{letters[own]}. ") for row in rows]
    assert found.estimates["all"]["accuracy"].value == pytest.approx(sum(right) / 6)
    assert found.estimates["all"]["accuracy"].rows == 6
    assert found.estimates["IMG"]["accuracy"].value == pytest.approx(sum(right[:5]) / 5)
    assert list(found.rights) == ["1", "2", "3", "4", "5"]  # what is quoted, and compared with the paper's effects
    assert len(found.pictures) == 5
    use = picture_use(done)
    assert [one.rows for one in use.models] == [5]


def test_test_dev_is_asked_and_handed_in(sets, models, tmp_path, monkeypatch, capsys):
    data = tmp_path / "data"
    val = json.loads((sets["vqav2"] / "v2_OpenEnded_mscoco_val2014_questions.json").read_text())["questions"]
    rows = [
        {"question_id": row["question_id"], "image": f"COCO_test2015_{row['image_id']:012d}.jpg",
         "text": row["question"] + miniatures.SHORT, "category": "default"}
        for row in val
    ]  # fmt: skip
    asked_rows, every = rows[:3], [*rows, {"question_id": 999, "image": "none.jpg", "text": "?"}]
    miniatures.lines(data / "llava_vqav2_mscoco_test-dev2015.jsonl", asked_rows)
    miniatures.lines(data / "llava_vqav2_mscoco_test2015.jsonl", every)
    for row in asked_rows:
        picture = row["image"].replace("test2015", "val2014")
        miniatures.put(data / "test2015" / row["image"], (sets["vqav2"] / "val2014" / picture).read_bytes())
    done = asked("vqav2", data, tmp_path / "out", models[1:], maps="all")
    assert done.scores == {"demo-large": None}
    folder = done.folders["demo-large"] / "vqav2"
    said = {row["question_id"]: tokenized(row["text"]) for row in answers_in(folder)}
    assert list(said) == [row["question_id"] for row in asked_rows]
    handed_in = json.loads((folder / "vqav2_submission.json").read_text())
    assert [one["question_id"] for one in handed_in] == [row["question_id"] for row in every]
    assert [one["answer"] for one in handed_in] == [said.get(row["question_id"], "") for row in every]
    assert picture_use(done).models[0].rows == 3
    with pytest.raises(relevancy.RelevancyError, match="wait for VQA's server"):
        BENCHMARKS["vqav2"].score(data, folder / "answers.jsonl")
    miniatures.lines(data / "llava_vqav2_mscoco_test2015.jsonl", every[1:])
    told = refused(monkeypatch, capsys, "vqav2", data, tmp_path / "again")
    assert "question 0 is not in llava_vqav2_mscoco_test2015.jsonl" in told


def test_llavas_words_reach_the_model(sets, models, tmp_path):
    done = asked("vqav2", sets["vqav2"], tmp_path, models[1:], bare=False)
    rows = answers_in(done.folders["demo-large"] / "vqav2")
    assert all(row["prompt"].endswith(miniatures.SHORT) for row in rows)
    pictures = [one.image for one in miniatures.scenes(1)] * 2
    prompt = tiny.read(models[1], pictures, [row["prompt"] for row in rows[:2]])
    said = [models[1].tokenizer.decode(ids).strip() for ids in generation.answers(models[1], prompt, 128)]
    assert [row["text"] for row in rows[:2]] == said
    assert done.scores["demo-large"].protocol == BENCHMARKS["vqav2"].protocol


def test_each_answer_is_to_its_own_question(sets, models, tmp_path):
    done = asked("gqa", sets["gqa"], tmp_path, models[1:])
    rows = answers_in(done.folders["demo-large"] / "gqa")
    pictures = [one.image for one in miniatures.scenes(6) for _ in range(2)]
    prompt = tiny.read(models[1], pictures, [row["prompt"] for row in rows])
    said = [models[1].tokenizer.decode(ids).strip() for ids in generation.answers(models[1], prompt, 128)]
    assert [row["text"] for row in rows] == said
    assert len(set(said)) > 3


def test_submissions_are_in_the_official_forms(sets, models, tmp_path):
    def of(name):
        done = asked(name, sets[name], tmp_path / name, models[:1])
        return done.folders["demo-small"] / name, answers_in(done.folders["demo-small"] / name)

    folder, rows = of("pope")
    first = json.loads((folder / "coco_pope_adversarial_answers.json").read_text().splitlines()[0])
    assert first == {"question": rows[0]["prompt"], "answer": rows[0]["text"]}
    asked_rows = (tmp_path / "pope" / "asked" / "pope" / "questions.jsonl").read_text().splitlines()
    assert [json.loads(line)["answer"] for line in asked_rows[:4]] == ["yes", "no", "yes", "no"]
    folder, rows = of("gqa")
    given = json.loads((folder / "testdev_balanced_predictions.json").read_text())
    assert given[0] == {"questionId": rows[0]["question_id"], "prediction": rows[0]["text"].rstrip(".").lower()}
    folder, rows = of("mme")
    line = (folder / "existence.txt").read_text().splitlines()[0].split("\t")
    assert line == ["0000.png", f"{rows[0]['prompt']} Please answer yes or no.", "Yes", rows[0]["text"]]
    folder, rows = of("vqav2")
    given = json.loads((folder / "vqav2_submission.json").read_text())
    assert [one["question_id"] for one in given] == [row["question_id"] for row in rows]
    assert given[0]["answer"] == rows[0]["text"].lower()
    folder, rows = of("scienceqa")
    given = json.loads((folder / "scienceqa_result.json").read_text())
    assert given["outputs"] == {row["question_id"]: row["text"] for row in rows}
    named = {row["question_id"]: row["text"][:1] if row["text"][1:3] in ("", ". ") else "" for row in rows}
    assert given["results"] == {own: "ABCDE".find(letter) if letter else -1 for own, letter in named.items()}
    assert -1 in given["results"].values()
    folder, rows = of("mm-vet")
    assert json.loads((folder / "mm-vet.json").read_text())["v1_0"] == rows[0]["text"]
    folder, rows = of("mmvp")
    last = json.loads((folder / "mmvp_answers.jsonl").read_text().splitlines()[-1])
    assert (last["question_id"], last["answer"], last["response"]) == (6, "(b)", rows[-1]["text"])
    folder, rows = of("textvqa")
    given = json.loads((folder / "textvqa_submission.json").read_text())
    assert [one["question_id"] for one in given] == list(range(34600, 34606))
    # Each is taken by `score` too, with the same result.
    for name, file in (("gqa", "testdev_balanced_predictions.json"), ("vqav2", "vqav2_submission.json"),
                       ("textvqa", "textvqa_submission.json"), ("scienceqa", "scienceqa_result.json")):  # fmt: skip
        model = tmp_path / name / "demo-small"
        again = BENCHMARKS[name].score(sets[name], model / name / file)
        assert again.to_json()["scores"] == json.loads((model / f"{name}.json").read_text())["scores"]


def refused(monkeypatch, capsys, name, data, out):
    """The one line with which the command ends, before any model is loaded."""
    arguments = ["evaluate", name, "--data", str(data), "--model", "no/such-model", "--out", str(out)]
    monkeypatch.setattr("sys.argv", ["relevancy", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    told = capsys.readouterr()
    assert (ended.value.code, told.out, told.err.count("\n")) == (2, "", 1)
    return told.err


@pytest.mark.parametrize("name", list(MAKERS))
def test_pictures_that_are_missing_are_told_first(name, tmp_path, monkeypatch, capsys):
    data = MAKERS[name](tmp_path / "data")
    pictures = sorted(file for file in data.rglob("*") if file.suffix in (".jpg", ".png"))
    pictures[0].unlink()
    pictures[-1].write_bytes(b"")
    told = refused(monkeypatch, capsys, name, data, tmp_path / "out")
    assert f"2 of {len(pictures)} pictures are not there or empty" in told
    assert not (tmp_path / "out" / "asked").exists()


def _edit(path, change):
    value = json.loads(path.read_text())
    path.write_text(json.dumps(change(value)))


@pytest.mark.parametrize(
    ("name", "spoil", "why"),
    [
        ("pope", lambda at: _twice(at / "llava_pope_test.jsonl"), "stands there twice"),
        ("pope", lambda at: _short(at / "llava_pope_test.jsonl"), "take both of one release"),
        ("pope", lambda at: (at / "coco" / "coco_pope_random.json").unlink(), "coco_pope_random.json is not there"),
        ("gqa", lambda at: _edit(at / "testdev_balanced_questions.json",
                                 lambda all_: {own: row | {"isBalanced": False} for own, row in all_.items()}),
         "none of its questions is balanced"),
        ("mme", lambda at: _short(next(at.rglob("*.txt"))), "MME asks two about each picture"),
        ("vqav2", lambda at: _edit(at / "v2_mscoco_val2014_annotations.json",
                                   lambda all_: {"annotations": all_["annotations"][1:]}), "take both of val2014"),
        ("scienceqa", lambda at: _edit(at / "pid_splits.json", lambda all_: all_ | {"test": all_["train"]}),
         "are not the test split"),
        ("scienceqa", lambda at: _edit(at / "llava_test_CQM-A.json", lambda all_: [*all_, all_[0]]),
         "stands there twice"),
        ("textvqa", lambda at: _short(at / "llava_textvqa_val_v051_ocr.jsonl"), "take both of TextVQA"),
        ("mmvp", lambda at: _short(at / "Questions.csv"), "stand in pairs"),
        ("mm-vet", lambda at: _edit(at / "mm-vet.json", lambda all_: {"v1_0": {"question": "?"}}), "has no capability"),
    ],
)  # fmt: skip
def test_what_does_not_belong_together_is_one_line(name, spoil, why, tmp_path, monkeypatch, capsys):
    data = MAKERS[name](tmp_path / "data")
    spoil(data)
    assert why in refused(monkeypatch, capsys, name, data, tmp_path / "out")


def _twice(path):
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], *lines]))


def _short(path):
    path.write_text("\n".join(path.read_text().splitlines()[:-1]))


STRANGE = (None, "", 0, -1, 1.5, float("nan"), True, [], {}, "x" * 300, ["a"], {"a": 1}, "../../x", "A\nB", "É")


def places(value, before=()):
    """The ways to everything within a value of JSON."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, own in inner:
        yield (*before, key)
        yield from places(own, (*before, key))


def spoilt(text, chance):
    """A file's JSON, or lines of it, with one value another, gone or there twice; or the text cut."""
    try:
        value, by_line = json.loads(text), False
    except ValueError:
        value, by_line = [json.loads(line) for line in text.splitlines()], True
    *way, last = chance.choice(list(places(value)))
    at = value
    for key in way:
        at = at[key]
    what = chance.choice([*STRANGE, "gone", "cut"])
    if what == "cut":
        return text[: chance.randrange(len(text))]
    if what == "gone":
        del at[last]
    else:
        at[last] = what
    return "".join(json.dumps(row) + "\n" for row in value) if by_line else json.dumps(value)


def refusal(read):
    """The line with which it is refused, or nothing."""
    try:
        read()
    except relevancy.RelevancyError as error:
        return str(error)


@pytest.mark.parametrize("name", [name for name in MAKERS if name not in ("mme", "mmvp")])  # whose files are no JSON
def test_a_spoilt_official_file_is_read_or_refused_in_one_line(name, tmp_path):
    data, chance, chosen = MAKERS[name](tmp_path / "data"), random.Random(name), BENCHMARKS[name]
    said = tmp_path / "answers.jsonl"
    write_answers([AnsweredQuestion(one, "Yes") for one in chosen.ask(data)], "m", said)

    def ask():
        questions = checked_questions(chosen.ask(data), data, chosen.pictures)
        chosen.submit(data, [AnsweredQuestion(one, "Yes") for one in questions], tmp_path)

    told = []
    for file in sorted(data.rglob("*.json*")):
        right = file.read_text()
        for _ in range(60):
            file.write_text(spoilt(right, chance))
            told += filter(None, (refusal(ask), refusal(lambda: chosen.score(data, said))))
        file.write_text(right)
    assert len(told) > 30
    assert not [one for one in told if "\n" in one]


def test_parquet_of_another_split_or_set_is_one_line(sets, tmp_path, monkeypatch, capsys):
    data = hub("scienceqa", sets["scienceqa"], tmp_path / "hub")
    (data / "data" / "test-00000-of-00001.parquet").unlink()
    assert "is it another split?" in refused(monkeypatch, capsys, "scienceqa", data, tmp_path / "out")
    assert unpacked("pope", sets["pope"], tmp_path / "unused", print) == sets["pope"]
    both = miniatures.pope(tmp_path / "both")
    (both / "more.parquet").write_bytes(b"")
    assert unpacked("pope", both, tmp_path / "unused", print) == both
    other = hub("textvqa", sets["textvqa"], tmp_path / "other")
    assert "is not vqav2 as lmms-lab packs it" in refused(monkeypatch, capsys, "vqav2", other, tmp_path / "out")
    both = hub("scienceqa", sets["scienceqa"], tmp_path / "two" / "ScienceQA-FULL").parent
    hub("scienceqa", sets["scienceqa"], both / "ScienceQA-IMG")
    told = refused(monkeypatch, capsys, "scienceqa", both, tmp_path / "out")
    assert "ScienceQA-FULL/data and ScienceQA-IMG/data hold test-*.parquet" in told


def test_an_out_with_other_answers_is_refused(sets, models, tmp_path):
    asked("mmvp", sets["mmvp"], tmp_path / "out", models[:1])
    data = miniatures.mmvp(tmp_path / "data")
    text = (data / "Questions.csv").read_text()
    (data / "Questions.csv").write_text(text.replace("Is there", "Do you see"))
    with pytest.raises(relevancy.RelevancyError, match="answers other questions than --data asks"):
        asked("mmvp", data, tmp_path / "out", models[:1])
    with pytest.raises(relevancy.RelevancyError, match="maps was"):
        asked("mmvp", sets["mmvp"], tmp_path / "out", models[:1], maps="all")


def test_a_second_process_is_refused_and_leaves_the_first_ones_files(sets, models, tmp_path):
    folder = tmp_path / "out" / "asked" / "mmvp"
    with locked(folder), pytest.raises(relevancy.RelevancyError, match=f"Another process .* works on {folder}"):
        asked("mmvp", sets["mmvp"], tmp_path / "out", models[:1])
    assert [file.name for file in folder.iterdir()] == ["lock"]
    packed = hub("pope", sets["pope"], tmp_path / "hub")
    half = tmp_path / "target" / "data.part" / "half"
    half.mkdir(parents=True)
    with locked(tmp_path / "target"), pytest.raises(relevancy.RelevancyError, match="Another process"):
        unpacked("pope", packed, tmp_path / "target" / "data", lambda _: None)
    assert half.is_dir()


def test_benchmarks_that_are_asked_at_once_take_turns_with_what_they_share(sets, models, tmp_path, monkeypatch):
    def taken(model, folder):
        with pytest.raises(relevancy.RelevancyError, match="Another process"), locked(tmp_path / "asked"):
            pass
        turns.append(model)

    turns = []
    monkeypatch.setattr(runner, "write_choices", taken)
    asked("mmvp", sets["mmvp"], tmp_path, models[:1])
    assert turns == ["demo-small"]


def test_a_picture_that_cannot_be_opened_ends_it_and_is_asked_again_once_it_is_mended(sets, tmp_path, models):
    data = miniatures.mmvp(tmp_path / "data")
    picture = data / "MMVP Images" / "3.jpg"
    whole = picture.read_bytes()
    picture.write_bytes(b"no picture")
    for _ in range(2):
        with pytest.raises(relevancy.RelevancyError, match=r"1 of 6 answers failed, first 3: .* run the same command"):
            asked("mmvp", data, tmp_path / "out", models[:1])
        assert relevancy.open_export(tmp_path / "out/asked/mmvp/export").errors()["id"].to_pylist() == ["3"]
    picture.write_bytes(whole)
    mended = asked("mmvp", data, tmp_path / "out", models[:1])
    peace = asked("mmvp", sets["mmvp"], tmp_path / "peace", models[:1])
    assert mended.scores[models[0].name].to_json() == peace.scores[models[0].name].to_json()
    manifest = json.loads((mended.export / "manifest.json").read_text())
    assert (manifest["finished"], manifest["errors"]) == (True, 0)


KILLED = """
import os, signal, sys
from pathlib import Path
from relevancy.evaluate.runner import EvaluationRequest, evaluate
from relevancy.export.run import Request

data, out = map(Path, sys.argv[1:])
answering = Request(models=["demo-small"], input="", out=out, processes=0, batch=2, chunk=4, part_rows=4)
request = EvaluationRequest("pope", data, out, "sample:3", True, answering)
for left in (1, 1, 1, 0, 0, None):
    child = os.fork()
    if not child:
        seen = 0

        def die(reached):
            global seen
            seen += 1
            if left is not None and seen > left:
                os.kill(os.getpid(), signal.SIGKILL)

        evaluate(request, die)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_killed_five_times_the_answers_are_those_of_a_run_in_peace(sets, tmp_path):
    command = [sys.executable, "-c", KILLED, str(sets["pope"]), str(tmp_path / "killed")]
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=True
    )
    assert done.stdout.split() == [str(-signal.SIGKILL)] * 5 + ["0"], done.stderr
    answering = Request(models=["demo-small"], input="", out=tmp_path, processes=0, batch=2, chunk=4)
    asked("pope", sets["pope"], tmp_path / "peace", (), maps="sample:3", answering=answering)
    for name in ("pope.json", "pope/answers.jsonl", "pope/coco_pope_random_answers.json"):
        one, other = (tmp_path / place / "demo-small" / name for place in ("killed", "peace"))
        assert one.read_bytes() == other.read_bytes()
    exports = [relevancy.open_export(tmp_path / place / "asked" / "pope" / "export") for place in ("killed", "peace")]
    assert exports[0].checksum() == exports[1].checksum()
    assert len(exports[0]) == 3


def test_the_command_names_every_benchmark():
    from relevancy.cli.evaluate import NAMES

    assert set(NAMES) == set(BENCHMARKS)


def test_the_command_asks_and_prints(sets, tmp_path, monkeypatch, capsys):
    arguments = ["evaluate", "mmvp", "--data", sets["mmvp"], "--model", "demo-small", "--model", "demo-large",
                 "--out", tmp_path / "out", "--processes", 0, "--maps", 4]  # fmt: skip
    for more in ([], ["--json"]):
        monkeypatch.setattr("sys.argv", ["relevancy", *map(str, arguments), *more])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        told = capsys.readouterr().out
        assert not ended.value.code
    assert json.loads(told)["scores"]["demo-large"]["benchmark"] == "mmvp"
    assert Path(tmp_path / "out" / "demo-small" / "mmvp.json").is_file()


def test_the_command_says_what_answers_wait_for(sets, tmp_path, monkeypatch, capsys):
    arguments = ["mm-vet", "--data", sets["mm-vet"], "--model", "demo-small", "--out", tmp_path, "--processes", 0]
    monkeypatch.setattr("sys.argv", ["relevancy", "evaluate", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code
    assert "waits for a judge's grades, which go to relevancy evaluate score mm-vet" in capsys.readouterr().out
