"""The audit finds every fault that was planted, by name and count, and nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import pytest
from PIL import Image
from planted import plant
from training_data import entry, write
from typer.testing import CliRunner

from relevancy.cli import app
from relevancy.data.fields import NAMES
from relevancy.errors import RelevancyError
from relevancy.train.data.dialogues import dialogue_of
from relevancy.train.data.examples import Encoder, Examples
from relevancy.train.data.sources import open_data
from relevancy.train.presets import CELLS, FLAVOURS, preset
from relevancy.train.template import END, IGNORED, IMAGE
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
    assert found.counts.keys() == KINDS.keys() - {"unreadable rest", "lost by the authors"}
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
            "import resource, sys; from pathlib import Path; from relevancy.train.validation import audit\n"
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
    with pytest.raises(RelevancyError, match="cannot be read on"):
        open_data(str(path))
    told = check("--data", path)
    assert told.returncode == 1, told.stderr
    assert told.stdout.splitlines()[-1].startswith("nothing would be trained on: ")


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
    with pytest.raises(RelevancyError, match=rf"^{tmp_path}/data\.json: (no such file|holds no entries)"):
        audit([str(tmp_path / "data.json")])


def test_a_list_that_is_cut_in_its_first_entry_is_said_to_be_cut(tmp_path):
    (tmp_path / "data.json").write_text('[{"id": "a", "conv')
    with pytest.raises(RelevancyError, match=r"entry 0 .* cannot be read on"):
        audit(str(tmp_path / "data.json"))


@pytest.mark.parametrize("faults", [1, 1000])
def test_a_full_disk_is_one_line(tmp_path, full_disk, faults):
    path = str(write(tmp_path / "data.json", [{"id": str(number)} for number in range(faults)]))
    with full_disk(), pytest.raises(RelevancyError, match="is full: make room"):
        audit(path, out=tmp_path / "faults.jsonl")


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


LONG = "word " * 60
QUESTION = f"{IMAGE}What?"


def odd_entries() -> list:
    """Every kind of entry that a flavour cuts, leaves out, loses or reads in its own way."""
    return [
        entry("good", QUESTION, "Red.", image="wide.png"),
        entry("cut", "What?", "Red.", "And?", LONG, "So?", "Blue."),
        entry("cut before a picture", "What?", "Red.", f"{LONG}{IMAGE}", "Blue.", image="wide.png"),
        entry("broken, but left out", "What?", "Red.", "And?", LONG, QUESTION, "Blue.", image="broken.jpg"),
        entry("broken, but unanswered", "What?", "Red.", QUESTION, image="none.png"),
        entry("broken", QUESTION, "Red.", image="broken.jpg"),
        entry("missing", QUESTION, "Red.", image="none.png"),
        entry("a name no file has", QUESTION, "Red.", image="n" * 300 + ".jpg"),
        entry("too long", LONG, "Red."),
        entry("long answer", "What?", LONG),
        entry("spaces", "  What? ", " Red.\n"),
        entry("unicode", "What\u2028is\u00a0it?\x85", "Red\u2029."),
        entry("empty answer", "What?", ""),
        entry("empty question", "", "Red."),
        entry("odd", "What?", "Red.", "And?"),
        {
            "id": "answer first",
            "conversations": [{"from": "gpt", "value": "Hi"}, *entry("", "a", "b")["conversations"]],
        },
        entry("control", "What?", f"Red.{END}"),
        entry("control and line", "What?", f"Red.{END}\nBlue."),
        entry("unknown", "What <unk>?", "Red."),
        entry("mark in an answer", "What?", f"{IMAGE}Red.", image="wide.png"),
        entry("mark without a picture", QUESTION, "Red."),
        entry("picture without a mark", "What?", "Red.", image="wide.png"),
        entry("marked twice", f"{IMAGE} What {IMAGE} is it?", "Red.", image="wide.png"),
        entry("two", f"{IMAGE}{IMAGE}Same?", "No.", images=["wide.png", "square.png"]),
        entry("two, one broken", f"{IMAGE}{IMAGE}Same?", "No.", images=["wide.png", "broken.jpg"]),
        entry("photo", "What?", "Red.", photo="wide.png"),
        {"id": "no turns", "conversations": []},
        {"id": "wrong turns", "conversations": [{"from": "human", "value": "a"}] * 2},
    ]


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_the_audit_counts_what_training_then_reads(tmp_path, pictures, processor, flavour):
    """For both flavours: the same entries are lost, and of the others the same tokens, labels and pictures are read."""
    stage = replace(preset(CELLS[0], flavour).finetune, max_tokens=50)
    encoder, path = Encoder.of_stage(processor, stage), write(tmp_path / "data.json", odd_entries())
    examples = Examples(open_data(path, pictures), encoder)
    read = [examples[place] for place in range(len(examples))]
    trained = [one for one in read if set(one["labels"]) != {IGNORED}]
    found = audit(path, pictures, encoder=encoder, out=tmp_path / "faults.jsonl")
    assert found.entries == len(read)
    assert found.lost == len(examples.skipped) == len(read) - len(trained)
    assert {one["id"] for one in listed(tmp_path / "faults.jsonl") if one["kind"] in WHOLE} == {
        one["id"] for one in examples.skipped.all()
    }
    assert found.trained_tokens == sum(len(one["input_ids"]) for one in trained)
    assert found.trained_labels == sum(label != IGNORED for one in trained for label in one["labels"])
    assert found.trained_pictures == sum(len(one.get("pixel_values", ())) for one in trained)
    lost = {"empty answer", "empty question", "odd", "control and line", "unknown"}
    assert found.counts.get("lost by the authors", 0) == (len(lost) + 1 if flavour == "paper" else 0)
    assert found.noted == {"unmarked": 2, "marked again": 1, "several": 2, "control token": 3}
    whys = [one["why"] for one in listed(tmp_path / "faults.jsonl") if one["kind"] == "over-long"]
    assert whys
    assert all(("are cut" if flavour == "paper" else "are left out") in why for why in whys)


def test_without_a_tokenizer_only_pictures_that_are_asked_about_are_missed(tmp_path, pictures):
    entries = [entry("a", "What?", "Red.", QUESTION, image="none.png"), entry("b", QUESTION, "Red.", image="none.png")]
    path = write(tmp_path / "data.json", entries)
    assert audit(path, pictures).counts == {"unanswered": 1, "missing picture": 1}
    assert audit(path, pictures, style="authors").counts == {
        "lost by the authors": 1, "missing picture": 1
    }  # fmt: skip


@pytest.mark.parametrize("name", ["image", "images", *NAMES["picture"]])
def test_a_picture_is_found_under_every_usual_name(name, pictures):
    found = dialogue_of({"question": "What?", "answer": "Red.", name: "wide.png"}, 0, pictures)
    assert found.images == (pictures / "wide.png",)
    assert found.turns[0].text == f"{IMAGE}\nWhat?"


@pytest.mark.parametrize(
    "given", ["wide.png", ["WIDE.JPG"], {"bytes": b"x", "path": None}, b"\x89PNG", Image.new("L", (1, 1))]
)
def test_a_picture_under_another_name_is_counted_and_said(given, tmp_path, pictures, caplog):
    found = dialogue_of({"question": "What?", "answer": "Red.", "photo": given}, 0, pictures)
    assert (found.unread, found.images, found.fault) == (("photo",), (), None)
    if isinstance(given, str):
        path = write(tmp_path / "data.json", [entry("a", "What?", "Red.", photo=given), entry("b", "What?", "Red.")])
        assert audit(path, pictures).counts == {"unread picture": 1}
        with pytest.raises(RelevancyError, match="they seem to have one under 'photo'"):
            open_data(path, pictures)
        pictured = entry("b", QUESTION, "Red.", image="wide.png")
        open_data(write(tmp_path / "more.json", [entry("a", "What?", "Red.", photo=given), pictured]), pictures)
        assert "1 entries have what looks like a picture under 'photo'" in caplog.text


def test_several_data_sets_are_read_one_after_the_other(tmp_path, pictures, processor):
    first = write(
        tmp_path / "first.json", [entry("a", QUESTION, "Red.", image="wide.png"), entry("b", "What?", "Red.")]
    )
    second = write(tmp_path / "second.json", [entry("c", "What?", ""), entry("d", QUESTION, "No.", image="0.png")])
    other = tmp_path / "other"
    other.mkdir()
    data = open_data([first, second], [pictures, other])
    assert [one.id for one in data] == ["a", "b", "c", "d"]
    assert data[3].images == (other / "0.png",)
    assert data[-4].images == (pictures / "wide.png",)
    assert data.lengths.tolist() == [2, 2, 1, 2]
    assert data.pictured.tolist() == [True, False, False, True]
    found = audit([first, second], [pictures, other], out=tmp_path / "faults.jsonl")
    assert [(one["position"], one["kind"]) for one in listed(tmp_path / "faults.jsonl")] == [
        (2, "empty answer"), (3, "missing picture")
    ]  # fmt: skip
    assert found.entries == 4
    with pytest.raises(RelevancyError, match="2 folders of pictures for 3 data sets"):
        open_data([first] * 3, [pictures, other])


def test_a_name_of_any_letters_keeps_the_faults_one_a_line(tmp_path):
    path = write(tmp_path / "data.json", [entry("a\u2028b", "What?", "")])
    path.write_text(path.read_text().replace("a\u2028b", "a\u2028\\ud800b"))
    audit(path, out=tmp_path / "faults.jsonl")
    assert [one["id"] for one in listed(tmp_path / "faults.jsonl")] == ["a\u2028\ud800b"]


def test_the_command_reads_as_the_preset_and_flavour_train(tmp_path, pictures):
    path = str(write(tmp_path / "data.json", odd_entries()))
    given = [
        "train",
        "check",
        "--data",
        path,
        "--data",
        path,
        "--images",
        str(pictures),
        "--max-length",
        "150",
        "--json",
    ]
    told = {}
    for flavour in FLAVOURS:
        done = CliRunner().invoke(app, [*given, "--model", "demo-small", "--flavour", flavour])
        told[flavour] = json.loads(done.stdout)
        assert told[flavour]["entries"] == 2 * len(odd_entries())
    assert told["paper"]["lost"] > told["improved"]["lost"]
    demo = CliRunner().invoke(app, [*given, "--preset", "demo-small"])  # whose stages cut
    assert json.loads(demo.stdout)["longest"] == told["improved"]["longest"]
    assert json.loads(demo.stdout)["lost"] < told["improved"]["lost"]
    refused = CliRunner().invoke(app, [*given, "--preset", "llava-gemma-2b-clip-unaligned", "--stage", "align"])
    assert "has no stage 'align'" in str(refused.exception)
