"""The examples of docs/extending.md as a package outside the tree: Python, command line, export, check and app."""

import importlib
import json
import os
import re
import shlex
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from typer.testing import CliRunner

import relevancy
from relevancy.checking.check import Check
from relevancy.checking.worker import Settings
from relevancy.cli import app
from relevancy.cli.terminal import EMPTY_MAP
from relevancy.data.inputs import READERS
from relevancy.errors import RelevancyError
from relevancy.export.run import Request, export
from relevancy.methods.registry import METHODS, Method, function_method
from relevancy.metrics.registry import METRICS
from relevancy.plugins import Plugins

PAGE = (Path(__file__).parent.parent / "docs" / "extending.md").read_text()
QUESTION = "Is the duck floating? (a) Yes (b) No"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """A folder as pip would leave it: the page's module, and its entry points."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "map_extras.py").write_text("\n".join(one for one in blocks("python") if one.startswith("# map_extras")))
    declared = re.search(r"(\[project\.entry-points.*)", blocks("toml")[0], flags=re.DOTALL).group(1)
    points = re.sub(r'\[project\.entry-points\."(.*)"\]', r"[\1]", declared).replace('"', "")
    points = points.replace(
        "[relevancy.metrics]", "signed-gradient = map_extras:signed_gradient\n\n[relevancy.metrics]"
    )
    info = folder / "map_extras-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: map-extras\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(points)
    return folder


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder with what the page's commands name."""
    folder = tmp_path_factory.mktemp("work")
    tiny.picture().save(folder / "picture.png")
    row = {"image": "picture.png", "question": "Is the duck floating?"}
    (folder / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for _ in range(2)))
    (folder / "items.lines").write_text("picture.png\tIs the duck floating?\npicture.png\tWhere is the dog?\n")
    return folder


def outside(package: Path, work: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """A command where the package is installed."""
    search = os.pathsep.join([str(package), *filter(None, sys.path)])
    return subprocess.run(
        command, cwd=work, env=os.environ | {"PYTHONPATH": search}, capture_output=True, text=True, timeout=300
    )


@pytest.fixture
def installed(package, monkeypatch):
    """The package in this process, whose tables are as they were afterwards."""
    monkeypatch.syspath_prepend(str(package))
    importlib.invalidate_caches()
    tables = (METHODS, METRICS, READERS)
    for table in tables:
        monkeypatch.setattr(table, "_declared", None)
        monkeypatch.setattr(table, "_loaded", {})
        monkeypatch.setattr(table, "_added", {})


@pytest.fixture(scope="module")
def model(built):
    return relevancy.wrap(*built["gemma-clip"], name="tiny")


def test_the_pages_commands_run(installed, work, monkeypatch):
    monkeypatch.chdir(work)
    commands = [line for block in blocks("bash") for line in block.splitlines()]
    assert len(commands) == 5
    for command in commands:
        done = CliRunner().invoke(app, shlex.split(command)[1:])
        assert done.exit_code in (0, EMPTY_MAP), (command, done.output)
        if command == "relevancy methods":
            assert "pixel-gradient" in done.output
    assert json.loads((work / "explained" / "explanation.json").read_text())["method"] == "pixel-gradient"
    exported = relevancy.open_export(work / "exported")
    assert [result.method for result in exported] == ["pixel-gradient"] * 2
    assert not len(exported.errors())
    (checked,) = json.loads((work / "checked" / "table.json").read_text())
    assert 0.1 <= checked["methods"]["pixel-gradient"]["numbers"]["metric sharpness"]["mean"] <= 1
    assert "### Metrics of other packages" in (work / "checked" / "table.md").read_text()
    lined = relevancy.open_export(work / "lined")
    assert [result.question for result in lined] == ["Is the duck floating?", "Where is the dog?"]
    assert lined.manifest["configuration"]["input"]["kind"] == "lines"


def test_the_app_offers_it_and_draws_its_map(installed, model, work, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "app"))
    gradio = pytest.importorskip("gradio")
    layout, library, session, settings, wiring, board = (
        importlib.import_module(f"relevancy_app.{name}")
        for name in ("layout", "library", "session", "settings", "wiring", "board")
    )
    offered, picture = library.library([model]), work / "picture.png"
    with gradio.Blocks():
        page = layout.page(offered, settings.Settings(), ())
    assert "pixel-gradient" in [value for _, value in page.question.method.choices]
    handlers = wiring.Handlers(offered, settings.Settings(), (), "")
    ask = ("Is it?", ["tiny"], "first", "language", "pixel-gradient", 0, -1)
    *_, whole = handlers.explain(session.Controls(), str(picture), [], gradio.Request(), lambda share, desc: None, *ask)
    alone = relevancy.explain(model, picture, "Is it?", target="first", method="pixel-gradient")
    drawn = board.board(whole[0].screen)
    values = re.search(r"data-values='(.*?)'", drawn)[1]
    np.testing.assert_allclose(json.loads(values), alone.image_map.ravel(), rtol=1e-5)
    assert "method pixel-gradient" in drawn


def test_help_names_it_and_loads_nothing_of_it(package, work):
    script = (
        "import sys; from relevancy.cli import main; sys.argv = ['relevancy', 'explain', '--help']\n"
        "try: main()\nfinally: sys.stderr.write(str('map_extras' in sys.modules))"
    )
    done = outside(package, work, sys.executable, "-c", script)
    assert done.stderr == "False"
    assert "signed-gradient" in re.sub(r"[\s│]", "", done.stdout)


def test_the_pages_notebook_runs(installed, picture):
    (block,) = [one for one in blocks("python") if one.startswith("# in a notebook")]
    names = {"picture": picture}
    exec(compile(block, "extending.md", "exec"), names)
    assert METHODS["my-gradient"].source == "Simonyan et al., 2013"


def test_a_function_equals_its_name_and_batches_equal_single_maps(installed, model, picture):
    import map_extras

    pictures = [picture, tiny.picture(seed=1)]
    named = relevancy.explain(model, pictures, QUESTION, method="pixel-gradient", target="first-relevant")
    for source, result in zip(pictures, named, strict=True):
        alone = relevancy.explain(model, source, QUESTION, method=map_extras.pixel_gradient, target="first-relevant")
        assert alone.method == "pixel_gradient"
        np.testing.assert_allclose(alone.image_map, result.image_map, rtol=1e-4, atol=1e-7)
        assert result.shares == {"image": 1.0, "text": 0.0, "first_token": 0.0}
        assert result.image_map.any()
    assert METHODS["signed-gradient"].signed
    several = relevancy.explain(model, picture, QUESTION, method="pixel-gradient", target="all", max_new_tokens=3)
    assert len({result.image_map.tobytes() for result in several}) == len(several)


def test_words_and_shapes(model, picture):
    def everywhere(request):
        return torch.ones_like(request.inputs["input_ids"]) * request.inputs["attention_mask"]

    def transposed(request):
        return np.zeros((1, 2, 3))

    def text(request):
        return "nothing"

    words = function_method("everywhere", everywhere, words=True)
    METHODS.add("everywhere", words)
    try:
        result = relevancy.explain(model, picture, QUESTION, method="everywhere")
    finally:
        METHODS.remove("everywhere")
    assert (result.relevance == 1).all()
    assert result.image_map.shape == (4, 4)
    for wrong, message in (
        (transposed, r"returned the shape \(1, 2, 3\) where \(1, 4, 4\) was due: \(batch, rows, cols\)"),
        (text, "Method text must return numbers, not str"),
    ):
        with pytest.raises(RelevancyError, match=message):
            relevancy.explain(model, picture, QUESTION, method=wrong)
    with pytest.raises(RelevancyError, match="method takes a name or a function, not 3"):
        relevancy.explain(model, picture, QUESTION, method=3)


def test_names_are_taken_once(model, picture):
    def rollout(request):
        pytest.fail("it is refused")

    with pytest.raises(RelevancyError, match="There is a method rollout already: choose another name"):
        relevancy.register_method("rollout", rollout)
    with pytest.raises(RelevancyError, match="There is a method rollout already: give your function another name"):
        relevancy.explain(model, picture, QUESTION, method=rollout)
    assert not METHODS["rollout"].function


def test_working_processes_are_not_promised_what_only_this_process_knows(work, tmp_path):
    def mine(request):
        return torch.ones(len(request.inputs["input_ids"]), request.rows, request.cols)

    asked = {"models": ["demo-small"], "input": str(work / "items.jsonl")}
    wish = relevancy.explanations.explain.ExplainConfig(method=mine)
    with pytest.raises(RelevancyError, match="Method mine is known to this process only"):
        export(Request(**asked, out=tmp_path / "refused", wish=wish, processes=1))
    done = export(Request(**asked, out=tmp_path / "here", wish=wish, processes=0))
    assert (done.count, done.errors) == (2, 0)
    METRICS.add("mine", lambda result, reading, mask: 0.0)
    try:
        with pytest.raises(RelevancyError, match="Metric mine is known to this process only"):
            Check(None, [], {}, tmp_path / "check", Settings(metrics=("mine",)), processes=2).run()
    finally:
        METRICS.remove("mine")
    with pytest.raises(RelevancyError, match="Unknown metric 'mine'; there is none"):
        Check(None, [], {}, tmp_path / "check", Settings(metrics=("mine",))).run()


def declare(folder: Path, name: str, *points: str, group: str = "relevancy.methods") -> None:
    info = folder / f"{name}-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
    (info / "entry_points.txt").write_text("\n".join([f"[{group}]", *points]))


def table(own: dict[str, object] | None = None) -> Plugins[Method]:
    return Plugins("method", "relevancy.methods", own or {}, METHODS.made)


def test_bad_packages_cost_their_own_names_only(tmp_path, monkeypatch):
    declare(tmp_path, "one", "twice = math:sqrt", "rollout = math:sqrt", "gone = no_such_module:x", "pi = math:pi")
    declare(tmp_path, "two", "twice = math:cos", "root = math:sqrt")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    found = table({"rollout": METHODS["rollout"]})
    with pytest.warns(RuntimeWarning, match="one has a method rollout, a name of relevancy's own: left out"):
        names = set(found)
    assert names == {"rollout", "twice", "gone", "pi", "root"}
    assert found["rollout"] is METHODS["rollout"]
    with pytest.raises(RelevancyError, match="both have a method twice: uninstall one of them"):
        found["twice"]
    with pytest.raises(RelevancyError, match=r"The method gone of one cannot be used \(ModuleNotFoundError"):
        found["gone"]
    with pytest.raises(RelevancyError, match=r"The method pi of one cannot be used \(it is neither a function nor"):
        found["pi"]
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        assert set(found.usable()) == {"rollout", "root"}
    assert len(told) == 3
    with pytest.raises(RelevancyError, match="No method root was added here"):
        found.remove("root")
