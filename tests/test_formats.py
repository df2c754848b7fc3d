"""What 0.1.0 wrote still opens, what a later version wrote is refused, and what is saved comes back as it was.

The fixtures were written by relevancy 0.1.0 on two drawn scenes; only pictures that are never read were left out.
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny

import relevancy
from relevancy.checking import tables
from relevancy.errors import RelevancyError
from relevancy.explanations.comparison import Comparison
from relevancy.train import records

OLD = Path(__file__).parent / "fixtures" / "v0.1.0"
QUESTION = "Is the duck floating? (a) Yes (b) No"


@pytest.fixture
def old(tmp_path):
    return Path(shutil.copytree(OLD, tmp_path / "old"))


def test_an_old_explanation_opens(old):
    """The weights that made it are others now; what its prompt is made of, and how its map is drawn, are not."""
    found = relevancy.Explanation.load(old / "explanation")
    again = relevancy.explain("demo-large", old / "input" / "0.png", found.question, answer=found.answer)
    assert (found.answer, found.tokens) == (again.answer, again.tokens)
    assert (found.grid.rows, found.grid.cols) == (again.grid.rows, again.grid.cols)
    np.testing.assert_array_equal(found.grid.boxes(), again.grid.boxes())
    assert found.target.probability == pytest.approx(0.699004054069519)
    assert found.image_map.sum() / found.relevance.sum() == pytest.approx(found.shares["image"], rel=1e-5)
    assert found.heatmap().shape == (48, 48)


def test_an_old_comparison_opens(old):
    found = Comparison.load(old / "comparison")
    assert [result.model for result in found.explanations] == ["demo-small", "demo-large"]
    assert found.explanations[1].answer == "No"
    assert found.likelihoods[1][0].per_token == pytest.approx(0.6990040690338446)
    assert found.agreement[0].models == ("demo-small", "demo-large")
    assert found.figure()


def test_an_old_export_opens(old, monkeypatch):
    monkeypatch.chdir(old)
    found = relevancy.open_export("export")
    assert [result.question for result in found] == [
        json.loads(line)["question"] for line in (old / "input" / "rows.jsonl").read_text().splitlines()
    ]
    first = relevancy.Explanation.load(old / "comparison" / "0-demo-small")
    np.testing.assert_allclose(found[0].image_map, first.image_map, rtol=1e-3, atol=1e-7)


def test_an_old_check_opens(old):
    (found,) = tables.load(old / "check")
    assert found.heading == "demo-small: 2 of 2 rows"
    assert [one.method for one in found.summaries] == ["relevancy", "random"]
    assert found.summaries[0].numbers["deletion"].mean == pytest.approx(0.5840574279427528)
    assert found.summaries[0].verdict.word == "undecided"


def changed(file: Path, **values: object) -> None:
    stored = json.loads(file.read_text())
    for one in stored if isinstance(stored, list) else [stored]:
        one |= values
    file.write_text(json.dumps(stored))


@pytest.mark.parametrize(
    ("file", "load"),
    [
        ("explanation/explanation.json", lambda old: relevancy.Explanation.load(old / "explanation")),
        ("comparison/comparison.json", lambda old: Comparison.load(old / "comparison")),
        ("comparison/1-demo-large/explanation.json", lambda old: Comparison.load(old / "comparison")),
        ("check/table.json", lambda old: tables.load(old / "check")),
    ],
    ids=lambda one: one if isinstance(one, str) else "",
)
def test_later_formats_are_refused_in_one_line(old, file, load):
    changed(old / file, format=2)
    with pytest.raises(RelevancyError, match=r"has format 2, and this version of relevancy reads up to 1: install"):
        load(old)
    (old / file).write_text("[3]")
    with pytest.raises(RelevancyError, match="read"):
        load(old)


def test_a_later_training_run_is_refused(tmp_path):
    (tmp_path / records.FILE).write_text('{"format": 2}')
    with pytest.raises(RelevancyError, match="has format 2"):
        records.read(tmp_path)


def test_a_comparison_comes_back_as_it_was(built, tmp_path):
    models = [relevancy.wrap(*built[name], name=name) for name in ("gemma-clip", "llama-clip")]
    both = relevancy.compare(models, tiny.picture(), QUESTION, max_new_tokens=3)
    nothing = replace(both.agreement[0], divergence=float("nan"))
    both = replace(both, agreement=(nothing,), likelihoods=(both.likelihoods[0], (None, both.likelihoods[1][1])))
    found = Comparison.load(both.save(tmp_path / "both"))
    assert found.to_json() == both.to_json()
    assert found.likelihoods == both.likelihoods
    assert np.isnan(found.agreement[0].divergence)
    for one, other in zip(found.explanations, both.explanations, strict=True):
        assert one.to_json() == other.to_json()
    assert both.to_json()["format"] == one.to_json()["format"] == 1
    without = replace(both, likelihoods=())
    assert Comparison.load(without.save(tmp_path / "without")).likelihoods == ()


def test_a_table_comes_back_as_it_was(old, tmp_path):
    found = tables.load(old / "check")
    again = tables.load(tables.save(tmp_path / "again", found).parent)
    assert list(map(tables.as_json, again)) == list(map(tables.as_json, found))
