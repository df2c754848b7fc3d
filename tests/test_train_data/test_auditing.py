"""The audit finds every fault that was planted, by name and count, and nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter

import pytest
from planted import plant
from training_data import entry, write

from relevancy.errors import RelevancyError
from relevancy.train.data.examples import Encoder
from relevancy.train.template import IMAGE
from relevancy.train.validation import KINDS, NAMED, WHOLE, audit


def listed(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("threads", [0, 3])
def test_every_planted_fault_is_found(tmp_path, processor, threads):
    planted = plant(tmp_path, 5000, every=100)
    found = audit(
        str(tmp_path / "data.json"), tmp_path / "images", encoder=Encoder(processor, max_length=120), threads=threads,
        out=tmp_path / "faults.jsonl",
    )  # fmt: skip
    assert found.entries == 5000
    assert {(one["position"], one["kind"]) for one in listed(tmp_path / "faults.jsonl")} == set(planted.items())
    assert found.counts == dict(Counter(planted.values()))
    assert found.counts.keys() == KINDS.keys() - {"unreadable rest"}
    assert found.lost == sum(kind in WHOLE for kind in planted.values())
    assert found.longest > 120
    for kind, named in found.named.items():
        first = sorted(place for place, planted_kind in planted.items() if planted_kind == kind)
        assert [one.position for one in named] == first[:NAMED]
        assert all(one.id == f"entry-{one.position}" for one in named)


def test_memory_is_flat(tmp_path):
    """Peak memory of a process that reads 2,000 entries, and of one that reads 40,000."""

    def peak(count: int) -> int:
        folder = tmp_path / str(count)
        folder.mkdir()
        planted = plant(folder, count, every=50)
        script = (
            "import resource, sys; from pathlib import Path; from relevancy.train.auditing import audit\n"
            "found = audit(sys.argv[1] + '/data.json', Path(sys.argv[1]) / 'images', threads=2)\n"
            "print(sum(found.counts.values()), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
        )
        done = subprocess.run([sys.executable, "-c", script, folder], capture_output=True, text=True, check=True)
        faults, kilobytes = map(int, done.stdout.split())
        lengths = ("over-long", "no answer left")  # not looked at without an encoder
        assert faults == sum(kind not in lengths for kind in planted.values())
        return kilobytes

    assert peak(40_000) - peak(2000) < 20_000


def test_a_good_data_set(tmp_path, pictures):
    entries = [entry("a", f"{IMAGE}What?", "A duck.", image="wide.png"), entry("b", "Hello", "Hi", "And?", "Bye")]
    found = audit(str(write(tmp_path / "data.json", entries)), pictures)
    assert (found.counts, found.lost) == ({}, 0)
    assert (found.entries, found.pictured, found.pictures, found.turns) == (2, 1, 1, 6)
    assert found.tokens is None


def test_a_file_that_breaks_off(tmp_path):
    path = write(tmp_path / "data.json", [entry("a", "b", "c")] * 3)
    path.write_text(path.read_text().rstrip()[:-1] + ", {")
    found = audit(str(path))
    assert (found.entries, found.lost) == (3, 0)
    assert found.counts == {"unreadable rest": 1}
    assert found.named["unreadable rest"][0].position == 3


def test_garbage_after_the_end(tmp_path):
    path = write(tmp_path / "data.json", [entry("a", "b", "c")] * 3)
    path.write_text(path.read_text() + "garbage")
    found = audit(str(path))
    assert found.entries == 3
    assert "there is more: remove it" in found.named["unreadable rest"][0].why


def test_lines_and_saved_folders(tmp_path, pictures):
    datasets = pytest.importorskip("datasets")
    lines = tmp_path / "data.jsonl"
    lines.write_text(json.dumps(entry("a", "b", "")) + "\n{broken\n" + json.dumps(entry("a", "b", "c")) + "\n")
    assert audit(str(lines)).counts == {"empty answer": 1, "no dialogue": 1}
    rows = [{"question": "a", "answer": "b", "image": name} for name in ("wide.png", "none.png", "text.png")]
    datasets.Dataset.from_list(rows).save_to_disk(str(tmp_path / "saved"))
    found = audit(str(tmp_path / "saved"), pictures)
    assert found.counts == {"missing picture": 1, "unreadable picture": 1}


def test_a_picture_whose_name_no_file_can_have_is_missing(tmp_path, pictures):
    entries = [entry("long", f"{IMAGE}What?", "A.", image="x" * 300 + ".jpg")]
    found = audit(str(write(tmp_path / "data.json", entries)), pictures)
    assert found.counts == {"missing picture": 1}


def test_pictures_may_only_be_looked_for(tmp_path, pictures):
    entries = [entry(name, f"{IMAGE}What?", "A.", image=name) for name in ("broken.jpg", "none.jpg")]
    path = str(write(tmp_path / "data.json", entries))
    assert audit(path, pictures, open_pictures=False).counts == {"missing picture": 1}


@pytest.mark.parametrize("text", [None, "", "[]"])
def test_nothing_to_audit(tmp_path, text):
    if text is not None:
        (tmp_path / "data.json").write_text(text)
    with pytest.raises(RelevancyError):
        audit(str(tmp_path / "data.json"))


def check(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "relevancy.cli", "train", "check", *map(str, arguments)],
        capture_output=True, text=True, env=os.environ | {"COLUMNS": "200"}, check=False,
    )  # fmt: skip


def test_the_command(tmp_path):
    planted = plant(tmp_path, 400, every=20)
    out = tmp_path / "faults.jsonl"
    done = check("--data", tmp_path / "data.json", "--images", tmp_path / "images", "--model", "demo-small",
                 "--max-length", 400, "--out", out)  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "400 entries" in done.stdout
    missing = sorted(place for place, kind in planted.items() if kind == "missing picture")
    assert f"{len(missing)} x missing picture" in done.stdout
    assert f"{missing[0]} (entry-{missing[0]}): " in done.stdout
    assert {(one["position"], one["kind"]) for one in listed(out)} == set(planted.items())
    as_json = check("--data", tmp_path / "data.json", "--images", tmp_path / "images", "--json")
    assert json.loads(as_json.stdout)["counts"]["missing picture"] == len(missing)
    wrong = check("--data", tmp_path / "nothing.json")
    assert wrong.returncode == 2
    assert wrong.stderr.count("\n") == 1
    assert "no such file" in wrong.stderr


def test_the_command_says_when_nothing_is_wrong(tmp_path):
    done = check("--data", write(tmp_path / "data.json", [entry("a", "b", "c")]))
    assert done.returncode == 0, done.stderr
    assert "nothing is wrong" in done.stdout
