"""The table of methods: planted maps, what it counts, what it keeps, and the page it writes."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from typer.testing import CliRunner

import relevancy
from relevancy.cli import app
from relevancy.core.targets import Choice
from relevancy.demo import standings
from relevancy.demo.held_out import held_out_rows
from relevancy.errors import RelevancyError
from relevancy.explanations.explain import explain
from relevancy.methods.base import TargetBatch
from relevancy.methods.functions import MapRequest
from relevancy.methods.registry import METHODS
from relevancy.metrics.localization import against_truth
from relevancy.metrics.sanity_checks import similarity

SEED = 905
METHODS_HERE = ["relevancy", "relevancy contrast", "rollout"]


@pytest.fixture(scope="module")
def model():
    return relevancy.load("demo-small")


@pytest.fixture(scope="module")
def found(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("standings")
    shares: list[float] = []
    rows = standings.standings(model, folder, scenes=6, seed=SEED, methods=METHODS_HERE, progress=shares.append)
    assert shares == sorted(shares)
    return folder, {one.name: one for one in rows}


@pytest.fixture(scope="module")
def right(model):
    """Rows that the model answers rightly, with its own answers."""
    told = [(row, explain(model, row.picture(), row.question, evidence=False)) for row in held_out_rows(6, SEED)]
    return [(row, result.answer) for row, result in told if result.answer == row.expected]


def test_every_number_is_the_mean_over_the_right_answers(model, found, right):
    assert 0 < len(right) < 7
    for name in METHODS_HERE:
        method, _, target = name.partition(" ")
        own = [
            explain(model, row.picture(), row.question, method=method, target=target or "first-relevant")
            for row, _ in right
        ]
        truth = [against_truth(result, row.mask()) for result, (row, _) in zip(own, right, strict=True)]
        numbers = found[1][name].numbers
        assert numbers["pointing"].rows == len(right)
        for number in ("pointing", "energy"):
            assert numbers[number].mean == pytest.approx(np.mean([one[number] for one in truth]), abs=1e-6)
        confirmed = [result.evidence.verdict == "confirmed" for result in own]
        assert numbers["confirmed"].mean == pytest.approx(np.mean(confirmed))
        hits = [one["pointing"] for one, known in zip(truth, confirmed, strict=True) if known]
        assert numbers["confirmed right"].rows == len(hits)
        assert not hits or numbers["confirmed right"].mean == pytest.approx(np.mean(hits))


def test_the_other_answer_is_the_next_best_token_in_its_place(model, found, right):
    expected = []
    for row, answer in right:
        against = explain(model, row.picture(), row.question, target="contrast", evidence=False)
        spelled = model.tokenizer.decode([against.target.contrast_id])
        before = answer[: answer.index(against.target.token.strip())]
        own, other = (
            explain(model, row.picture(), row.question, target="first-relevant", answer=said, evidence=False)
            for said in (answer, before + spelled)
        )
        if other.target.id == against.target.contrast_id and other.target.position == own.target.position:
            expected.append(similarity(own.image_map, other.image_map))
    assert expected
    assert found[1]["relevancy"].numbers["other answer"].mean == pytest.approx(np.mean(expected), abs=1e-5)
    assert found[1]["rollout"].numbers["other answer"].mean == pytest.approx(1)
    assert not found[1]["relevancy contrast"].numbers["other answer"].rows


def test_another_token_or_another_place_is_no_rival(model, right):
    row, answer = right[0]
    own = explain(model, row.picture(), row.question, answer=answer, evidence=False)
    rival = replace(own, target=replace(own.target, id=own.target.id + 1))
    later = replace(own, target=replace(rival.target, position=own.target.position + 1))
    assert standings._likeness(own, rival, rival.target.id)["other answer"] == pytest.approx(1)
    for other, wanted in ((rival, rival.target.id + 1), (rival, None), (later, rival.target.id), (None, 1)):
        assert standings._likeness(own, other, wanted) == {}


def test_costs_are_told_of_methods_alone(found):
    costs = {name: one.cost for name, one in found[1].items()}
    assert costs["relevancy"] > costs["rollout"] > 0.8
    assert costs["centre prior"] is costs["random"] is costs["relevancy contrast"] is None


def test_fewer_scenes_are_told_of_alone(model, found, right, monkeypatch):
    monkeypatch.setattr(standings, "_costs", lambda *_: {})
    rows = standings.standings(model, found[0], scenes=3, seed=SEED, methods=["relevancy"])
    asked = {row.key for row in held_out_rows(3, SEED)}
    assert [one.numbers["pointing"].rows for one in rows] == [sum(row.key in asked for row, _ in right)] * 3
    assert rows[0].numbers["pointing"].rows < found[1]["relevancy"].numbers["pointing"].rows


def test_what_other_weights_said_is_refused(model, found, monkeypatch):
    weight = next(model.model.parameters())
    monkeypatch.setattr(weight, "data", weight.data + 1e-3)
    with pytest.raises(RelevancyError, match=r"other settings \(weights\)"):
        standings.standings(model, found[0], scenes=6, seed=SEED, methods=METHODS_HERE)


def test_what_is_found_is_kept_and_further_methods_are_added(model, found, monkeypatch):
    folder, before = found
    asked = []

    def counting(*args, **options):
        asked.append(options["method"])
        return explain(*args, **options)

    monkeypatch.setattr(standings, "explain", counting)
    again = standings.standings(model, folder, scenes=6, seed=SEED, methods=METHODS_HERE)
    assert not asked
    assert [str(one.numbers) for one in again] == [str(one.numbers) for one in before.values()]
    more = standings.standings(model, folder, scenes=6, seed=SEED, methods=[*METHODS_HERE, "attention"])
    assert set(asked) == {"attention"}
    assert [one.name for one in more] == [*METHODS_HERE, "attention", "centre prior", "random"]


def test_stopped_within_a_part_it_goes_on_with_the_next_method(model, found, tmp_path, monkeypatch):
    asked: list[str] = []
    refused = {"rollout"}

    def stopping(*args, **options):
        if options["method"] in refused:
            raise KeyboardInterrupt
        asked.append(options["method"])
        return explain(*args, **options)

    monkeypatch.setattr(standings, "explain", stopping)
    ask = {"scenes": 6, "seed": SEED, "methods": METHODS_HERE}
    with pytest.raises(KeyboardInterrupt):
        standings.standings(model, tmp_path, **ask)
    assert "relevancy" in asked
    asked.clear()
    refused.clear()
    rows = standings.standings(model, tmp_path, **ask)
    assert "rollout" in asked
    assert "relevancy" not in asked
    assert [str(one.numbers) for one in rows] == [str(one.numbers) for one in found[1].values()]


def test_the_planted_maps_look_at_no_answer(model):
    inputs = model.prepare([tiny.picture()] * 2, ["red", "What color is the ball?"])
    round_ = TargetBatch([Choice(0, 1)] * 2, [-1, -1], [True, True])
    request = MapRequest(model, inputs, round_, 4, 5)
    bump, drawn = standings.middle(request), standings.noise(request)
    assert bump.shape == drawn.shape == (2, 4, 5)
    assert np.array_equal(bump[0], bump[1])
    assert np.array_equal(bump[0], bump[0][::-1, ::-1])
    assert bump[0].argmax() in (7, 12)  # the middle column's two middle patches
    assert np.array_equal(drawn, standings.noise(request))


def test_by_default_all_quick_methods_and_three_contrasts():
    quick = [name for name, method in METHODS.items() if method.quick]
    assert [name for name in standings.usual() if " " not in name] == quick
    assert sum(" contrast" in name for name in standings.usual()) == 3


def test_an_empty_map_points_nowhere(found, model, right):
    row, _ = right[0]
    result = explain(model, row.picture(), row.question, method=lambda request: torch.zeros(1, request.rows, 10))
    told = standings._scores(result, row.mask())
    assert (told["pointing"], told["energy"], told["confirmed"]) == (0, 0, 0)
    assert math.isnan(told["confirmed right"])


def test_the_command_writes_its_place_on_a_page(tmp_path, found):
    page = tmp_path / "page.md"
    page.write_text(
        "before\n<!-- relevancy evaluate methods: from here -->\n"
        "old\n<!-- relevancy evaluate methods: to here -->\nafter\n"
    )
    arguments = ["evaluate", "methods", "--model", "demo-small", "--methods", "rollout", "--scenes", "2"]
    arguments += ["--seed", str(SEED), "--out", str(tmp_path / "out"), "--page", str(page)]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert "### demo-small:" in text
    assert "| rollout |" in text
    assert "| centre prior |" in text
    stored = (tmp_path / "out" / "demo-small" / "results.jsonl").read_text().splitlines()
    assert {json.loads(line)["method"] for line in stored} == {"", "rollout", "centre prior", "random"}


def test_of_a_model_in_a_folder_it_is_kept_beside_the_others_and_not_in_it(tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(Path(relevancy.__file__).parent / "demo" / "weights" / "demo-small", folder)
    before = sorted(folder.iterdir())
    arguments = ["evaluate", "methods", "--model", str(folder), "--methods", "rollout", "--scenes", "1"]
    done = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert sorted(folder.iterdir()) == before
    assert len(list((tmp_path / "out").rglob("results.jsonl"))) == 1
