"""The grid: its effects on numbers worked out by hand, and every cell trained in miniature."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import miniatures
import numpy as np
import pytest
from typer.testing import CliRunner

from relevancy.cli import app
from relevancy.demo.cells import Cell, CellResult, cells, read, write
from relevancy.demo.effects import FACTORS, effects, means
from relevancy.demo.grid import grid
from relevancy.demo.grid_page import save
from relevancy.demo.plan import QUICK_GRID
from relevancy.demo.questions import Question
from relevancy.errors import RelevancyError

ASKED = [
    (scene, Question(kind, "open", "?", "Yes", ()))
    for scene in range(20)
    for kind in ("color", "side", "side", "count")
]
PRETRAINED, LARGE, DINOV2 = FACTORS


def measured(seeds: int = 3) -> list[CellResult]:
    """Of each scene's four questions: "color" right where pretrained, one "side" right where large, "count" never, but
    by seed 0 with DINOv2's kind of tower.
    """
    found = []
    for cell in cells(seeds):
        right = np.zeros((20, 4), bool)
        right[:, 0] = cell.aligned
        right[:, 1] = cell.size == "large"
        right[:, 3] = cell.tower == "dinov2" and cell.seed == 0
        found.append(CellResult(cell, right.ravel(), 1.0))
    return found


def test_effects_of_what_was_put_in() -> None:
    found = {(one.factor, one.type): one for one in effects(measured(), ASKED)}
    assert len(found) == 3 * 4  # "all" and three types
    for factor, kind, by in ((PRETRAINED, "color", 1.0), (LARGE, "side", 0.5), (PRETRAINED, "all", 0.25)):
        effect = found[factor, kind]
        assert (effect.over_runs.mean, effect.over_runs.low, effect.over_runs.high) == pytest.approx((by, by, by))
        assert effect.over_runs.rows == 12
        assert effect.over_scenes.mean == pytest.approx(by)
    assert found[LARGE, "color"].over_runs.mean == 0
    by_seed = found[DINOV2, "count"].over_runs  # 4 differences of 1 among 12
    assert by_seed.mean == pytest.approx(1 / 3)
    assert by_seed.high - by_seed.mean == pytest.approx(
        2.200985 * np.std([1] * 4 + [0] * 8, ddof=1) / 12**0.5, rel=1e-5
    )
    assert np.isnan(found[DINOV2, "count"].over_scenes.low)  # all scenes are alike: nothing varies


def test_means_of_each_kind_of_model() -> None:
    found = {(one.cell, one.type): one for one in means(measured(), ASKED)}
    assert len(found) == 8 * 4
    best = found[Cell("large", "dinov2", True, 0), "all"]
    assert best.over_runs.mean == pytest.approx((0.75 + 0.5 + 0.5) / 3)
    assert best.over_runs.high > best.over_runs.mean
    assert best.chance == pytest.approx((1 / 6 + 1 / 2 + 1 / 2 + 1 / 3) / 4)
    assert found[Cell("small", "clip", False, 0), "all"].over_runs.mean == 0


def test_a_cell_is_read_as_it_was_written(tmp_path) -> None:
    one = replace(measured()[3], seconds=12.5)
    assert read(tmp_path, one.cell) is None
    write(tmp_path, one)
    again = read(tmp_path, one.cell)
    assert again is not None
    assert (again.cell, again.seconds, again.right.tolist()) == (one.cell, 12.5, one.right.tolist())


def test_the_page_says_it(tmp_path) -> None:
    save(tmp_path, QUICK_GRID, measured(), ASKED)
    page = (tmp_path / "grid.md").read_text()
    assert "| color | **+100.0 [+100.0, +100.0]** | +0.0 [+0.0, +0.0] | +0.0 [+0.0, +0.0] |" in page
    assert "| chance |  |  | 37.5 |" in page
    told = json.loads((tmp_path / "grid.json").read_text())
    assert len(told["cells"]) == 24
    assert {one["factor"] for one in told["effects"]} == set(FACTORS)
    assert (tmp_path / "grid.png").stat().st_size > 10_000


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A grid of one seed in miniature, from the command line."""
    folder = tmp_path_factory.mktemp("grid")
    done = CliRunner().invoke(app, ["train", "grid", "--out", str(folder), "--seeds", "1", "--quick"])
    assert done.exit_code == 0, (done.output, done.exception)
    assert f"{folder}/grid.md" in done.output
    assert "8/8" in done.stderr
    return folder


def test_every_cell_is_trained(made) -> None:
    told = json.loads((made / "grid.json").read_text())
    assert len(told["cells"]) == 8
    assert len(list((made / "cells").iterdir())) == 8
    assert not list((made / "stages").iterdir())
    assert (made / "grid.md").exists()
    assert (made / "grid.png").exists()


def test_what_is_finished_is_not_made_again(made) -> None:
    names = sorted((made / "cells").iterdir())
    before = {file: file.read_text() for file in names}
    names[0].unlink()
    steps, finished = [], []
    grid(made, seeds=1, quick=True, progress=lambda what, _: steps.append(what), told=lambda *one: finished.append(one))
    assert [(one.cell.name, done, of, left) for one, done, of, left in finished] == [(names[0].stem, 8, 8, 0.0)]
    assert all(what.startswith(names[0].stem) for what in steps)
    again = json.loads(names[0].read_text())
    assert again["right"] == json.loads(before[names[0]])["right"]  # and it comes out the same


def test_its_models_go_through_a_benchmark_and_its_effects(made, tmp_path) -> None:
    models = sorted((made / "models").iterdir())
    assert len(models) == 8
    data, out = miniatures.gqa(tmp_path / "data"), tmp_path / "out"
    named = [argument for one in models for argument in ("--model", str(one))]
    arguments = ["gqa", "--data", str(data), *named, "--out", str(out), "--bare", "--processes", "0"]
    done = CliRunner().invoke(app, ["evaluate", *arguments])
    assert done.exit_code == 0, (done.output, done.exception)
    # Models that learned for two steps say nothing right: some of their answers are made so, more of the large ones'.
    truth = json.loads((data / "testdev_balanced_questions.json").read_text())
    shares = {}
    for number, one in enumerate(models):
        rows = [json.loads(line) for line in (out / one.name / "gqa" / "answers.jsonl").read_text().splitlines()]
        assert [row["question_id"] for row in rows] == list(truth)
        right = 2 + number**2 % 5 + 4 * one.name.startswith("large")
        for row in rows[:right]:
            row["text"] = truth[row["question_id"]]["answer"]
        for row in rows[right:]:
            row["text"] = "nothing"
        said = tmp_path / "said.jsonl"
        said.write_text("".join(json.dumps(row) + "\n" for row in rows))
        score = ["score", "gqa", "--data", str(data), "--predictions", str(said), "--out", str(out / one.name)]
        assert CliRunner().invoke(app, ["evaluate", *score]).exit_code == 0
        shares[one.name] = right / len(rows)
    asked = ["effects", str(out), "--choices", str(made / "choices.csv"), "--interactions", "--json"]
    told = json.loads(CliRunner().invoke(app, ["evaluate", *asked]).stdout)
    found = {(one["choice"], one["also"]): one["estimate"]["value"] for one in told["effects"]}
    known = {name: ("large" in name, "dinov2" in name, "unaligned" in name) for name in shares}

    def mean(*wanted):
        return np.mean([shares[name] for name, own in known.items() if all(own[at] == value for at, value in wanted)])

    names = ("decoder", "tower", "connector")
    for at, choice in enumerate(names):
        assert found[choice, ""] == pytest.approx(mean((at, True)) - mean((at, False)))
    for one, other in itertools.combinations(range(3), 2):
        change = [mean((one, True), (other, way)) - mean((one, False), (other, way)) for way in (True, False)]
        assert found[names[one], names[other]] == pytest.approx(change[0] - change[1])
    assert found["decoder", ""] > 0.2
    assert abs(found["tower", "connector"]) > 0.01


def test_another_plan_is_refused(made) -> None:
    with pytest.raises(RelevancyError, match="another plan"):
        grid(made, seeds=1)
