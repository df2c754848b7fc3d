"""Use of the picture and of the asked objects' patches: a slow reference, the questions on disk, the command."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import relevancy
from relevancy.cli import app
from relevancy.demo import object_use as module
from relevancy.demo.evaluation import held_out
from relevancy.demo.object_use import asked_objects, object_use, write_items
from relevancy.errors import RelevancyError
from relevancy.explanations.explain import explain
from relevancy.models import knockout
from relevancy.models.knockout import Variant
from relevancy.models.prepared import Prepared
from relevancy.stats.intervals import interval

SEED = 905


@pytest.fixture(scope="module")
def model():
    return relevancy.load("demo-large")


def covered_patches(one, grid):
    """Patches of which the objects' outline covers a twentieth or more, pixel by pixel; the fullest in any case."""
    shares = np.zeros((grid.rows, grid.cols))
    for row in range(grid.rows):
        for col in range(grid.cols):
            top, bottom = round(grid.y_edges[row]), round(grid.y_edges[row + 1])
            left, right = round(grid.x_edges[col]), round(grid.x_edges[col + 1])
            shares[row, col] = one.mask[top:bottom, left:right].mean()
    return (shares >= 0.05) | (shares == shares.max())


def test_the_questions_are_two_of_each_scene_one_object_first():
    asked = asked_objects(20, SEED)
    for drawn in held_out(20, SEED):
        own = [one for one in asked if one.scene.seed == drawn.seed]
        assert [one.key for one in own] == [f"{drawn.seed}-0", f"{drawn.seed}-1"]
        assert own[0].question is not own[1].question
        assert all(one.question in drawn.questions for one in own)
        single = [question for question in drawn.questions if len(question.items) == 1]
        assert own[0].question == (single or drawn.questions)[0]


def test_use_is_what_whole_forward_passes_give(model):
    """Of the picture as evidence has it; of the objects' patches by a pass that shares nothing."""
    asked = [one for one in asked_objects(6, SEED) if one.question.items]
    found = object_use(model, asked)
    assert len(found) == len(asked) > 8
    for one, use in zip(asked, found, strict=True):
        result = explain(model, one.scene.image, one.question.text, target="first-relevant", max_new_tokens=8)
        assert use.whole == pytest.approx(result.evidence.blind_tv, abs=1e-5)
        said = model.tokenizer.convert_tokens_to_ids(list(result.answer_tokens[: result.target.position]))
        inputs = model.prepare([one.scene.image], [one.question.text], [said])
        prepared = Prepared(inputs, model.image_token_id, (model.layouts([one.scene.image.size]),))
        cells = covered_patches(one, result.grid)
        assert use.patches == cells.sum()
        variant = Variant(0, prepared.ids.shape[1], torch.from_numpy(cells.ravel()))
        hidden = knockout.logits_in_full(model, prepared, [variant])[0][-1].softmax(-1)
        with torch.no_grad():
            plain = model.model(**inputs).logits[0, -1].softmax(-1)
        assert use.objects == pytest.approx(float((hidden - plain).abs().sum() / 2), abs=1e-5)
    assert np.mean([use.objects for use in found]) > 10 * np.mean([use.elsewhere for use in found])


def test_places_elsewhere_have_the_objects_shape_and_meet_them_least(model):
    for one in [one for one in asked_objects(10, SEED) if one.question.items]:
        grid = model.grid(*one.scene.image.size)
        whole, objects, *elsewhere = module._areas(one, grid)
        assert whole.all()
        rolls = [np.roll(objects, move, (0, 1)) for move in np.ndindex(10, 10) if move != (0, 0)]
        least = sorted((roll & objects).sum() for roll in rolls)
        assert [(area & objects).sum() for area in elsewhere] == least[: module.DRAWS]
        assert all(any((area == roll).all() for roll in rolls) for area in elsewhere)
        assert len(elsewhere) == module.DRAWS
        again = module._areas(one, grid)
        assert all((first == second).all() for first, second in zip(elsewhere, again[2:], strict=True))


def test_the_command_and_the_questions_that_it_leaves(tmp_path):
    command = ["evaluate", "demo", "--objects", "--scenes", "8", "--seed", str(SEED), "--out", str(tmp_path)]
    ran = CliRunner().invoke(app, [*command, "--json"])
    assert ran.exit_code == 0, ran.stderr
    told = json.loads(ran.stdout, parse_constant=pytest.fail)  # of fewer than ten scenes there is no interval
    asked = asked_objects(8, SEED)
    about = [one for one in asked if one.question.items]
    assert (told["asked"], told["about_objects"]) == (16, len(about))
    groups = {(one["form"], one["knocked_out"]): one for one in told["use"]}
    assert set(groups) == {
        (form, part) for form in ("all", "open", "with options") for part in ("whole", "objects", "elsewhere")
    }
    used = {name: object_use(relevancy.load(name), about) for name in ("demo-small", "demo-large")}
    kept = [place for place, one in enumerate(about) if one.question.form == "open"]
    first, second = ([used[name][place].objects for place in kept] for name in used)
    group = groups["open", "objects"]
    assert group["demo-small"]["mean"] == pytest.approx(np.mean(first))
    assert group["demo-large"]["mean"] == pytest.approx(np.mean(second))
    expected = interval(np.subtract(first, second).tolist(), [about[place].scene.seed for place in kept])
    assert group["difference"]["mean"] == pytest.approx(expected.mean)
    assert group["difference"]["rows"] == len(kept)
    lines = [json.loads(line) for line in (tmp_path / "items.jsonl").read_text().splitlines()]
    for one, line in zip(asked, lines, strict=True):
        assert (line["id"], line["question"], line["answer"]) == (one.key, one.question.text, one.question.answer)
        assert (np.asarray(Image.open(tmp_path / line["image"])) == np.asarray(one.scene.image)).all()
        assert ("mask" in line) == bool(one.question.items)
        if "mask" in line:
            assert (np.asarray(Image.open(tmp_path / line["mask"])).astype(bool) == one.mask).all()
    printed = CliRunner().invoke(app, [*command, "--model", "demo-small"])
    assert printed.exit_code == 0
    assert "difference" not in printed.stdout
    assert str(len(about)) in printed.stdout


@pytest.mark.parametrize("options", [["--evidence"], ["--methods", "rollout"]])
def test_options_that_do_not_go_together_are_refused(options):
    refused = CliRunner().invoke(app, ["evaluate", "demo", "--objects", *options])
    assert isinstance(refused.exception, RelevancyError)


def test_a_full_disk_is_one_line(tmp_path, full_disk):
    with full_disk(), pytest.raises(RelevancyError, match="is full: make room"):
        write_items(asked_objects(1, SEED), tmp_path)
