"""The command line end to end on a tiny model in a folder: results, codes, and one line for every mistake."""

import base64
import errno
import json
import os
import re
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
import typer
from PIL import Image
from transformers import GemmaConfig, GemmaForCausalLM

from relevancy import cli
from relevancy.cli import options
from relevancy.explanations.explanation import Explanation

FILES = {"explanation.json", "overlay.png", "figure.png", "heatmap.npy", "picture.png"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, built) -> Path:
    """A saved model, and around it what users give by mistake."""
    place = tmp_path_factory.mktemp("cli")
    model, processor = built["llama-clip"]
    model.save_pretrained(place / "model")
    processor.save_pretrained(place / "model")
    GemmaForCausalLM(tiny.text(GemmaConfig, 60)).save_pretrained(place / "words")
    (place / "bare").mkdir()
    (place / "bare" / "config.json").write_bytes((place / "model" / "config.json").read_bytes())
    picture = tiny.picture()
    picture.save(place / "ok.png")
    (place / "cut.png").write_bytes((place / "ok.png").read_bytes()[:300])
    (place / "zero.png").touch()
    (place / "page.png").write_text("<html>")
    (place / "drawing.png").write_text('<svg xmlns="http://www.w3.org/2000/svg"/>')
    Image.new("1", (20_000, 20_000)).save(place / "bomb.png")
    picture.convert("CMYK").save(place / "cmyk.jpg")
    frames = [tiny.picture(seed=seed).convert("P") for seed in (0, 1)]
    frames[0].save(place / "moving.gif", save_all=True, append_images=frames[1:])
    Image.fromarray(np.arange(4800, dtype=np.uint16).reshape(60, 80) * 13).save(place / "deep.png")
    Image.new("RGB", (1, 1)).save(place / "dot.png")
    Image.new("RGB", (1, 20_000)).save(place / "thin.png")
    return place


def arguments(place: Path, **changes: str | None) -> list[str]:
    asked = {
        "model": "model", "image": "ok.png", "question": "Is it a duck?", "max-new-tokens": "3", "device": "cpu",
        "out": str(place),
    } | changes  # fmt: skip
    return ["explain", *(part for name, value in asked.items() if value is not None for part in (f"--{name}", value))]


@pytest.fixture
def run(folder, monkeypatch, capsys):
    """Runs the entry point in this process: exit code, standard output, standard error."""
    monkeypatch.chdir(folder)

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["relevancy", *words])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        captured = capsys.readouterr()
        return ended.value.code, captured.out, captured.err

    return call


def every_command(command, path=()):
    """All commands and groups, each with the words that call it."""
    yield path, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from every_command(inner, (*path, name))


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(one, id=" ".join(words) or "relevancy")
        for words, one in every_command(typer.main.get_command(cli.app))
    ],
)
def test_an_option_that_takes_one_value_is_refused_when_it_is_given_twice(command):
    for option in command.params:
        if option.param_type_name == "option" and not option.multiple and not option.is_eager:
            names = [option.opts[0], (option.secondary_opts or option.opts)[-1]]
            given = [part for name in names for part in ([name] if option.is_flag else [name, "x"])]
            with pytest.raises(cli._USAGE_ERROR, match=rf"^{names[0]}\S* is given 2 times and takes one value"):
                command.make_context(None, given)  # reads what is given, and does nothing


def test_an_option_given_twice_is_told_in_one_line(run):
    told = "relevancy: --out is given 2 times and takes one value: give it once; see relevancy train align --help\n"
    assert run("train", "align", "--out", "a", "--out=b") == (2, "", told)


def test_options_that_take_several_values_are_given_again(run):
    _, _, told = run("check", "--model", "a", "--model", "b", "--data", "demo:none")
    assert "give a number of scenes" in told
    _, _, told = run("train", "align", "--set", "seed=1", "--set", "align.batch=none", "--out", "x")
    assert "align.batch" in told


def test_a_name_too_long_for_a_file_is_one_short_line(run):
    code, _, told = run("train", "check", "--data", "x" * 300)
    assert code == 2
    assert "too long for a file" in told
    assert len(told.splitlines()) == 1
    assert len(told) < 300


def test_a_data_url_is_explained_and_never_printed_whole(run, tmp_path):
    stream = BytesIO()
    Image.new("RGB", (64, 64), "red").save(stream, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"
    code, _, _ = run(*arguments(tmp_path / "out", image=url))
    assert code == 0
    code, _, told = run(*arguments(tmp_path / "out", image=url.replace("png;", "png-") + "A" * 5000))
    assert (code, len(told.splitlines())) == (2, 1)
    assert len(told) < 400


def test_what_each_head_adds(run, tmp_path):
    code, out, _ = run(*arguments(tmp_path / "out", heads="1"))
    assert code == 0
    folders = sorted(place.name for place in (tmp_path / "out").iterdir())
    assert folders == ["000", "001", "002", "003"]
    heads = [json.loads((tmp_path / "out" / name / "explanation.json").read_text()) for name in folders]
    assert [one["head"] for one in heads] == [[1, number] for number in range(4)]
    on_picture = [sum(map(sum, one["image_map"])) for one in heads]
    largest = f"{max(on_picture) / sum(on_picture):.1%}"
    assert largest in out
    assert "evidence" not in out


def test_a_map_in_a_process_of_its_own(folder, tmp_path):
    words = arguments(tmp_path / "out", question="Is it 水 😀?")
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "relevancy.cli", *words, "--json"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    printed = json.loads(done.stdout)
    assert {file.name for file in (tmp_path / "out").iterdir()} == FILES
    assert printed == json.loads((tmp_path / "out" / "explanation.json").read_text(encoding="utf-8"))
    assert printed["question"] == "Is it 水 😀?"


def test_a_mistake_in_a_process_of_its_own(folder, tmp_path):
    command = [sys.executable, "-m", "relevancy.cli", *arguments(tmp_path / "out", image="zero.png")]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "relevancy: zero.png: the file is empty (0 bytes)\n"


def test_plain_words_and_files(run, tmp_path):
    code, out, err = run(*arguments(tmp_path / "out"))
    assert (code, err) == (0, "")
    result = Explanation.load(tmp_path / "out")
    assert result.summary() in out
    assert f"→ {tmp_path / 'out' / 'figure.png'}" in out
    np.testing.assert_array_equal(np.load(tmp_path / "out" / "heatmap.npy"), result.heatmap())


def test_options_reach_the_explanation(run, tmp_path):
    words = arguments(tmp_path, scope="full", layers="0-1", answer="No boats", target="1", framing="crop")
    assert run(*words)[0] == 0
    result = Explanation.load(tmp_path)
    assert (result.scope, result.layers, result.answer, result.target.position) == ("full", (0, 1), "No boats", 1)


def test_all_writes_a_folder_per_token_and_a_list(run, tmp_path):
    code, out, _ = run(*arguments(tmp_path / "out", target="all"), "--json")
    printed = json.loads(out)
    assert code == 0
    assert [one["target"]["position"] for one in printed] == list(range(len(printed)))
    assert {place.name for place in (tmp_path / "out").iterdir()} == {f"{index:03d}" for index in range(len(printed))}
    assert Explanation.load(tmp_path / "out" / "001").target.id == printed[1]["target"]["id"]


def test_a_result_set_takes_the_place_of_the_one_before(run, tmp_path):
    out = tmp_path / "out"
    for tokens in ("4", "2"):
        assert run(*arguments(out, target="all", **{"max-new-tokens": tokens}))[0] == 0
        assert len(list(out.iterdir())) <= int(tokens)
    assert {place.name for place in out.iterdir()} == {"000", "001"}
    (out / "001" / "mine.txt").write_text("kept")
    (out / "007").mkdir()
    (out / "007" / "notes.txt").write_text("kept")
    assert run(*arguments(out))[0] == 0
    assert {file.name for file in out.iterdir() if file.is_file()} == FILES
    assert {str(file.relative_to(out)) for file in out.glob("*/*")} == {"001/mine.txt", "007/notes.txt"}
    assert run(*arguments(out, target="all", **{"max-new-tokens": "1"}))[0] == 0
    assert {str(file.relative_to(out)) for file in out.rglob("*") if file.is_file()} == {
        "001/mine.txt", "007/notes.txt", *(f"000/{name}" for name in FILES)
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "read"),
    [(None, None), ("3", [3]), ("6-8", [6, 7, 8]), ("0, 4,8", [0, 4, 8]), ("-1", [-1]), ("0-1,-2", [0, 1, -2])],
)
def test_layers_as_written(text, read):
    assert options.layer_numbers(text) == read


@pytest.mark.parametrize(
    ("image", "note"),
    [
        ("cmyk.jpg", "CMYK converted"),
        ("moving.gif", "first of 2 frames used"),
        ("deep.png", "16-bit reduced"),
        ("dot.png", ""),
        ("thin.png", ""),
    ],
)
def test_odd_pictures_are_handled_and_said(run, tmp_path, image, note):
    code, out, err = run(*arguments(tmp_path, image=image))
    assert (code, err) == (0, "")
    assert note in out


def test_control_tokens_are_neutralized_and_said(run, tmp_path):
    code, out, _ = run(*arguments(tmp_path, question="a <image> <start_of_turn>"))
    assert code == 0
    assert out.count("passed on as plain text") == 2


def test_digits_are_a_position_and_word_names_the_string(run, tmp_path):
    code, out, _ = run(*arguments(tmp_path), "--answer", "There are 2", "--target", "word:2", "--json")
    assert code == 0
    assert "2" in json.loads(out)["target"]["token"]
    code, _, err = run(*arguments(tmp_path), "--answer", "2", "--target", "2")
    assert code == 2
    assert "word:2" in " ".join(err.split())


def test_control_tokens_in_an_answer_are_refused(run, tmp_path):
    code, _, err = run(*arguments(tmp_path), "--answer", "Yes<end_of_turn>")
    assert code == 2
    assert "leave it out" in " ".join(err.split())


def test_an_empty_map_has_a_code_of_its_own(run, tmp_path, built, monkeypatch):
    broken, processor = tiny.gemma_clip()
    with torch.no_grad():
        broken.get_decoder().layers[1].mlp.down_proj.weight.fill_(3e38)  # numbers, but no product of them is one
    broken.save_pretrained(tmp_path / "broken")
    processor.save_pretrained(tmp_path / "broken")
    code, out, _ = run(*arguments(tmp_path / "out", model=str(tmp_path / "broken")), "--json")
    assert code == 3
    printed = json.loads(out, parse_constant=pytest.fail)
    assert printed["image_map"][0][0] is None
    assert any("not a number" in note for note in printed["notes"])


def test_a_span_is_one_result_and_each_of_its_tokens_one(run, tmp_path):
    asked = {"answer": "Yes, the duck is floating."}
    code, out, _ = run(*arguments(tmp_path / "span", target="1:3", **asked), "--json", "--no-evidence")
    assert code == 0
    assert json.loads(out)["target"]["length"] == 2
    code, out, _ = run(*arguments(tmp_path / "each", target="each:1:3", **asked), "--json", "--no-evidence")
    assert [one["target"]["position"] for one in json.loads(out)] == [1, 2]
    assert {place.name for place in (tmp_path / "each").iterdir()} == {"000", "001"}


@pytest.fixture(scope="module")
def second(folder, built) -> str:
    """The name of another model in the folder."""
    model, processor = built["gemma-clip"]
    model.save_pretrained(folder / "second")
    processor.save_pretrained(folder / "second")
    return "second"


def comparison(place: Path, *models: str, **changes: str) -> list[str]:
    words = arguments(place, **changes)
    return ["compare", "--models", *models, *words[words.index("--image") :]]


def test_a_comparison_writes_and_prints_what_each_model_says(run, second, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    code, out, err = run(*comparison(tmp_path / "out", "model", second))
    assert (code, err) == (0, "")
    names = {"comparison.json", "side-by-side.png", "side-by-side.pdf", "0-model", "1-second"}
    assert {place.name for place in (tmp_path / "out").iterdir()} == names
    stored = json.loads((tmp_path / "out" / "comparison.json").read_text(encoding="utf-8"))
    assert [one["model"] for one in stored["models"]] == ["model", "second"]
    rows = [line.split() for line in out.splitlines()]
    assert rows[0][-2:] == ["p(1)", "p(2)"]
    for number, name in enumerate(("model", "second")):
        read = [one["per_token"] for one in stored["probabilities"] if one["model"] == name]
        assert any(
            row[:2] == [str(number + 1), name] and row[-2:] == [f"{value:.3f}" for value in read] for row in rows if row
        )
    assert f"rank correlation {stored['agreement'][0]['rank_correlation']:.2f}" in out
    for one in stored["models"]:
        assert f"{one['model']}: {one['evidence']['sentence']}" in out
    assert f"→ {tmp_path / 'out' / 'side-by-side.png'}" in out


def test_what_is_cut_off_the_picture_is_said_on_the_terminal(run, second, folder, tmp_path):
    Image.new("RGB", (90, 30)).save(folder / "wide.png")
    code, out, _ = run(*arguments(tmp_path / "one", image="wide.png"))
    assert code in (0, 3)
    assert "note: 67% of the picture, hatched on the map, is cut off before it comes to the model; " in out
    code, out, _ = run(*comparison(tmp_path / "both", "model", second, image="wide.png"))
    assert code in (0, 3)
    assert "note: model: 67% of the picture" in out
    assert "note: second: 67% of the picture" in out
    Image.new("RGB", (30, 30)).save(folder / "square.png")
    assert "cut off" not in run(*arguments(tmp_path / "whole", image="square.png"))[1]


def test_options_reach_the_comparison(run, second, tmp_path):
    repeated = ["compare", "--model", "model", "--model", second]
    words = comparison(tmp_path / "out", scope="full", layers="0-1", answer="No boats", target="1", framing="crop")
    code, out, err = run(*repeated, *words[words.index("--image") :], "--one-at-a-time", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out) == json.loads((tmp_path / "out" / "comparison.json").read_text(encoding="utf-8"))
    for name in ("0-model", "1-second"):
        result = Explanation.load(tmp_path / "out" / name)
        found = (result.scope, result.layers, result.answer, result.target.position)
        assert found == ("full", (0, 1), "No boats", 1)


def test_a_result_takes_the_place_of_whatever_result_is_there(run, second, tmp_path):
    """One map, the maps of all tokens, and a comparison, over each other; a file of the user's own stays."""
    place = tmp_path / "out"
    place.mkdir()
    (place / "mine.txt").touch()
    single, both = arguments(place), comparison(place, "model", second)
    left = []
    for words in (both, single, both, [*single, "--target", "all"], both):
        assert run(*words)[0] == 0
        left.append(written(place))
    assert left[0] == left[2] == left[4]
    assert left[1] == FILES | {"mine.txt"}
    folders = {name for name in left[3] if "/" not in name} - {"mine.txt"}
    assert left[3] == {"mine.txt", *folders, *(f"{folder}/{name}" for folder in folders for name in FILES)}
    assert all(re.fullmatch(r"\d{3}", folder) for folder in folders)


def written(place: Path) -> set[str]:
    return {str(file.relative_to(place)) for file in place.rglob("*")}


def test_a_comparison_with_an_empty_map_says_so(run, tmp_path):
    broken, processor = tiny.gemma_clip()
    with torch.no_grad():
        broken.get_decoder().layers[1].mlp.down_proj.weight.fill_(3e38)
    broken.save_pretrained(tmp_path / "broken")
    processor.save_pretrained(tmp_path / "broken")
    code, out, _ = run(*comparison(tmp_path / "out", "model", str(tmp_path / "broken")))
    assert code == 3
    assert "not a number" in out
    assert "nothing to compare" in out


@pytest.mark.parametrize(
    ("models", "changes", "said"),
    [
        (["model"], {}, "at least two models"),
        (["model", "nonsense"], {}, "demo-small, demo-large, demo-gemma, 2b, 7b"),
        (["model", "model"], {"target": "all"}, "one map of each answer"),
        (["model", "model"], {"image": "cut.png"}, "damaged or cut short"),
        (["model", "model"], {"layers": "9"}, "0 to 2"),
        (["model", "model"], {"max-pixels": "10"}, "more than the limit of 10"),
        (["model", "model"], {"out": "ok.png"}, "Choose another --out"),
    ],
)
def test_mistakes_in_a_comparison_are_one_line(run, tmp_path, models, changes, said):
    code, out, err = run(*comparison(tmp_path / "out", *models, **changes))
    assert (code, out) == (2, "")
    assert err.startswith("relevancy: ")
    assert err.count("\n") == 1
    assert said in err
    assert list(tmp_path.iterdir()) == []


MISTAKES = [
    ({"image": "none.png"}, "none.png: no such file"),
    ({"image": "cut.png"}, "damaged or cut short"),
    ({"image": "zero.png"}, "empty (0 bytes)"),
    ({"image": "page.png"}, "not a picture"),
    ({"image": "drawing.png"}, "not a picture"),
    ({"image": "bomb.png"}, "--max-pixels"),
    ({"image": "."}, "is a directory"),
    ({"image": "-"}, "no such file"),
    ({"image": "a\0b"}, "cannot be read"),
    ({"image": "x" * 5000}, "cannot be read"),
    ({"image": "https://example.com/a.png"}, "download the picture first"),
    ({"question": ""}, "question is empty"),
    ({"question": "\n "}, "question is empty"),
    ({"question": "x" * 10_000}, "question is too long"),
    ({"question": "\udcff"}, "UTF-8"),
    ({"question": None}, "Give a --question, or a conversation with --messages"),
    ({"model": "nonsense"}, "demo-small, demo-large, demo-gemma, 2b, 7b"),
    ({"model": "no/such/folder"}, "there is no folder"),
    ({"model": "bare"}, "has no weights"),
    ({"model": "words"}, "takes no pictures"),
    ({"model": "ok.png"}, "is a file"),
    ({"target": "水水"}, "does not contain"),
    ({"target": "Yes|水"}, 'no token for "水"'),
    ({"target": ""}, "target is empty"),
    ({"target": "99"}, "there is no 99"),
    ({"answer": " "}, "given answer is empty"),
    ({"answer": "\udcff"}, "the answer is not valid text: give it in UTF-8"),
    ({"answer": "x" * 10_000}, "the answer is too long"),
    ({"layers": "x"}, "--layers takes numbers"),
    ({"layers": "9"}, "0 to 2"),
    ({"layers": "2-0"}, "smaller number first"),
    ({"heads": "x"}, "--heads takes a layer's number or all"),
    ({"heads": "9"}, "0 to 2"),
    ({"heads": "1", "layers": "0,2"}, "add it to layers"),
    ({"heads": "1", "method": "rollout"}, "does not say what each head adds"),
    ({"heads": "1", "scope": "full"}, "leave --scope out"),
    ({"heads": "1", "target": "all"}, "name one token"),
    ({"layers": "0-99999999999"}, "--layers takes numbers"),
    ({"max-new-tokens": "-1"}, "'--max-new-tokens'"),
    ({"max-new-tokens": "some"}, "'--max-new-tokens'"),
    ({"device": "nonsense"}, "unknown device 'nonsense'"),
    ({"device": "meta"}, "do not run on device 'meta'"),
    ({"model": ""}, "name is empty"),
    ({"max-pixels": "0"}, "max-pixels"),
    ({"dtype": "int8"}, "unknown dtype 'int8'"),
    ({"scope": "vision"}, "'language', 'full'"),
    ({"method": "guess"}, "there is relevancy"),
    ({"quantization": "3bit"}, "'4bit', '8bit'"),
    ({"max-pixels": "10"}, "more than the limit of 10"),
    ({"nope": "1"}, "No such option: --nope"),
    ({"out": "ok.png"}, "is not a folder. Choose another --out"),
    ({"out": "ok.png/below"}, "is not a folder. Choose another --out"),
    ({"out": "x" * 5000}, "Choose another --out"),
]


@pytest.mark.parametrize(("changes", "said"), MISTAKES, ids=[next(iter(one)) for one, _ in MISTAKES])
def test_every_mistake_is_one_line_and_leaves_nothing(run, folder, tmp_path, changes, said):
    before = {file: file.stat().st_mtime_ns for file in folder.rglob("*")}
    code, out, err = run(*arguments(tmp_path / "out", **changes))
    assert code == 2
    assert out == ""
    assert err.startswith("relevancy: ")
    assert err.count("\n") == 1
    assert err.endswith("\n")
    assert said in err
    assert list(tmp_path.iterdir()) == []
    assert {file: file.stat().st_mtime_ns for file in folder.rglob("*")} == before


@pytest.mark.parametrize("command", [["demo"], ["train", "demo"], ["evaluate", "demo"], ["check"]])
def test_a_seed_beyond_what_can_be_drawn_from_is_refused_at_once(run, command, tmp_path):
    code, _, err = run(*command, "--seed", "9" * 20, "--out", str(tmp_path / "out"))
    assert code == 2
    assert "'--seed'" in err
    assert list(tmp_path.iterdir()) == []


def test_no_right_to_write(run, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)
    code, _, err = run(*arguments(tmp_path / "out"))
    assert (code, err) == (
        2,
        f"relevancy: --out {tmp_path / 'out'}: no right to write in {tmp_path}. Choose another --out.\n",
    )


def test_no_room_to_write(run, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    code, _, err = run(*arguments(tmp_path / "out"))
    assert code == 2
    assert (
        err == f"relevancy: Cannot write to {tmp_path / 'out'}: No space left on device. Free room, or another --out.\n"
    )
    assert not any(tmp_path.rglob("*.*"))


def test_out_of_memory(run, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")

    monkeypatch.setattr("relevancy.models.model.Model.prepare", fail)
    code, _, err = run(*arguments(tmp_path / "out"))
    assert code == 2
    assert err.startswith("relevancy: Out of memory: ")
    assert err.count("\n") == 1


def test_without_a_command_there_is_help(run):
    code, out, err = run()
    assert (code, err) == (2, "")
    assert "explain" in out


def test_an_unknown_command(run):
    assert run("nope") == (2, "", "relevancy: No such command 'nope'; see relevancy --help\n")


def test_stopped_by_the_user(run, tmp_path, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("relevancy.explanations.explain.explain", stop)
    code, _, err = run(*arguments(tmp_path / "out"))
    assert code == 130
    assert err == "relevancy: stopped\n"


def test_probe_shows_where_image_tokens_lie_and_how_far_the_rule_is_from_that(run):
    code, shown, _ = run("probe", "--model", "demo-small", "--size", "64x48", "--size", "30x90")
    assert code == 0
    assert "by rule (grid_for)" in shown
    assert "scope full: exact, rows 1 x 101" in shown
    code, stored, _ = run("probe", "--model", "demo-small", "--size", "64x48", "--json")
    found = json.loads(stored)
    (picture,) = found["pictures"]
    assert code == 0
    assert (picture["width"], picture["image_tokens"], picture["refused"]) == (64, 100, None)
    assert 0 < picture["away"] < 0.5
    assert [view["name"] for view in picture["views"]] == ["whole"]
    for wrong in ("64", "0x48", "axb"):
        code, _, said = run("probe", "--model", "demo-small", "--size", wrong)
        assert code == 2
        assert f"--size takes width x height such as 640x480, not '{wrong}'" in said
