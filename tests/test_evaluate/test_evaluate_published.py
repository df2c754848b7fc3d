"""Published answers of LLaVA-1.5-13B give its published scores, to the last printed digit."""

from collections import Counter
from pathlib import Path

import pytest

from relevancy.evaluate import mm_vet, mme, pope, scienceqa
from relevancy.evaluate.files import read_json, read_object, read_rows

FILES = Path(__file__).parents[3] / "shared" / "data" / "llava-eval"
pytestmark = pytest.mark.skipif(not FILES.is_dir(), reason=f"the published answers are not in {FILES}")
MODEL = "llava-v1.5-13b"


def put(folder: Path, **files: str) -> Path:
    """Published files under their official names."""
    for name, source in files.items():
        path = folder / f"{name.replace('__', '/')}.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((FILES / source).read_bytes())
    return folder


def test_pope(tmp_path):
    names = {f"coco__coco_pope_{name}.json": f"pope-coco-{name}.jsonl.gz" for name in pope.CATEGORIES}
    data = put(tmp_path, **names, **{"llava_pope_test.jsonl": "pope-questions.jsonl.gz"})
    found = pope.score(data, FILES / f"pope-answers-{MODEL}.jsonl.gz").to_json()
    printed = {
        group: tuple(f"{own[name]:.4f}" for name in ("accuracy", "f1", "yes_ratio"))
        for group, own in found["scores"].items()
    }
    assert printed["adversarial"] == ("0.8550", "0.8446", "0.4330")
    assert printed["popular"] == ("0.8743", "0.8625", "0.4137")
    assert printed["random"] == ("0.8801", "0.8714", "0.4168")
    assert found["headline"]["printed"] == "0.8595"
    assert found["questions"]["random"] == 2910
    assert found["pictures"]["mean"] == 500


def test_scienceqa(tmp_path):
    data = put(
        tmp_path,
        **{"llava_test_CQM-A.json": "scienceqa-questions.json.gz", "pid_splits.json": "scienceqa-pid_splits.json.gz"},
    )
    published = FILES / f"scienceqa-result-{MODEL}.json.gz"
    found = scienceqa.score(data, published)
    assert [found.unit.printed(found.estimates[group]["accuracy"].value) for group in ("all", "IMG")] == [
        "74.39",
        "71.64",
    ]
    assert [found.estimates[group]["accuracy"].rows for group in ("all", "IMG")] == [4241, 2017]
    results = read_object(published)
    questions = read_json(data / "llava_test_CQM-A.json.gz")
    for row in questions:
        choices = scienceqa.school_question(row, data).choices
        letter = scienceqa.chosen(results["outputs"][row["id"]], choices)
        assert results["results"][row["id"]] == (-1 if letter is None else scienceqa.LETTERS.index(letter)), row["id"]


@pytest.mark.parametrize(
    ("model", "runs", "mean"),
    [(MODEL, ["36.1", "36.5", "36.3"], "36.3"), ("llava-v1.5-7b", ["31.2", "30.8", "31.2"], "31.1")],
)
def test_mm_vet(tmp_path, model, runs, mean):
    data = put(tmp_path, **{"llava-mm-vet.jsonl": "mm-vet-questions.jsonl.gz"})
    found = mm_vet.score(data, FILES / f"mm-vet-grades-{model}.json.gz")
    assert [found.unit.printed(found.estimates[f"run {number}"]["score"].value) for number in (1, 2, 3)] == runs
    assert found.to_json()["headline"]["printed"] == mean
    assert found.stand_in is None


def test_mmes_questions_are_paired():
    answers = read_rows(FILES / f"mme-answers-{MODEL}.jsonl.gz")
    asked = [mme.asked(row["question_id"], row["prompt"]) for row in answers]
    assert len(set(asked)) == len(asked) == 2374
    assert len({own[:2] for own in asked}) == 1187
    assert {own[0] for own in asked} == {*mme.PERCEPTION, *mme.COGNITION}
    said = Counter(mme.parsed(row["text"]) for row in answers)
    assert (sum(said.values()), said["other"]) == (2374, 11)  # such as Church and Portrait, which are wrong
