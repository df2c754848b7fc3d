"""What holds for every method behind `explain`: batches, targets, a model given back, refusals, the list."""

import json
import subprocess
import sys

import numpy as np
import pytest
import tiny
from observers import State
from typer.testing import CliRunner

import relevancy
from relevancy.cli import app, terminal
from relevancy.errors import RelevancyError
from relevancy.explanations.explain import explain
from relevancy.methods import perturbation, registry
from relevancy.methods.registry import METHODS
from relevancy.models.model import wrap

QUESTIONS = ["Is the duck floating? (a) Yes (b) No", "red"]
ALL = [pytest.param(name, scope, id=f"{name}-{scope}") for name, one in METHODS.items() for scope in one.scopes]
DEMO_SIDE = 10


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    """As few passes as each algorithm can do with; what it finds is tested elsewhere."""
    for name, number in (("ORDERS", 1), ("SETS", 40), ("STEPS", 4), ("GROUPS", 2), ("WINDOWS", 2)):
        monkeypatch.setattr(perturbation, name, number)


@pytest.fixture
def _installed(request):
    method = METHODS[request.getfixturevalue("method")]
    if method.missing:
        pytest.skip(f"needs {', '.join(method.missing)}")


@pytest.fixture
def gemma(built):
    return wrap(*built["gemma-clip"], name="tiny")


@pytest.fixture(scope="module")
def demo():
    return relevancy.load("demo-small")


def alike(one: relevancy.Explanation, other: relevancy.Explanation, bound: float = 2e-4) -> None:
    assert (one.tokens, one.target.id, one.target.position) == (other.tokens, other.target.id, other.target.position)
    for found, expected in ((one.relevance, other.relevance), (one.image_map, other.image_map)):
        assert np.abs(found - expected).max() <= bound * np.abs(expected).max() + 1e-6


@pytest.mark.parametrize(("method", "scope"), ALL)
@pytest.mark.usefixtures("_installed")
def test_a_batch_of_unequal_length_equals_one_by_one_at_every_token(gemma, method, scope):
    pictures = [tiny.picture(80, 60, seed=1), tiny.picture(50, 90, seed=2)]
    options = {"method": method, "scope": scope, "max_new_tokens": 2}
    together = explain(gemma, pictures, QUESTIONS, target="all", **options)
    for picture, question, found in zip(pictures, QUESTIONS, together, strict=True):
        for position, one in enumerate(found):
            assert one.method == method
            assert not one.empty
            alike(one, explain(gemma, picture, question, target=position, **options))


@pytest.mark.parametrize(("method", "scope"), ALL)
@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.usefixtures("_installed")
def test_the_model_is_given_back_unchanged(gemma, picture, method, scope, fails, monkeypatch):
    hf = gemma.model
    explain(gemma, picture, QUESTIONS[1], max_new_tokens=1)  # transformers adds hooks on the first forward
    parameters = list(hf.parameters())
    parameters[0].requires_grad_(False)
    hf.train()
    before = State(hf)
    options = {"method": method, "scope": scope, "max_new_tokens": 2}
    try:
        if fails:
            monkeypatch.setattr(
                "relevancy.methods.base.TargetBatch.here", lambda *_: (_ for _ in ()).throw(KeyError("planted"))
            )
            monkeypatch.setattr(
                "relevancy.methods.perturbation.Subject.score", lambda *_: (_ for _ in ()).throw(KeyError("planted"))
            )
            with pytest.raises(KeyError, match="planted"):
                explain(gemma, picture, QUESTIONS[1], **options)
        else:
            explain(gemma, picture, QUESTIONS[1], **options)
        assert vars(State(hf)) == vars(before)
    finally:
        parameters[0].requires_grad_(True)
        hf.eval()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.usefixtures("_installed")
def test_every_method_explains_the_embedded_pair(demo, method, tmp_path):
    found = explain(demo, tiny.picture(96, 80), "What color is the ball?", method=method, max_new_tokens=2)
    assert found.image_map.shape == (DEMO_SIDE, DEMO_SIDE)
    assert np.isfinite(found.relevance).all()
    assert found.method == method
    assert relevancy.Explanation.load(found.save(tmp_path)).method == method


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.usefixtures("_installed")
def test_the_answer_does_not_depend_on_the_method(gemma, picture, method):
    expected = explain(gemma, picture, QUESTIONS[0], max_new_tokens=3)
    found = explain(gemma, picture, QUESTIONS[0], method=method, max_new_tokens=3)
    assert found.answer_tokens == expected.answer_tokens
    assert found.target.logit == pytest.approx(expected.target.logit, rel=1e-4)
    assert found.tokens == expected.tokens


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"method": "guess"}, "Unknown method 'guess'; there is relevancy, relevancy-magnitude, attention"),
        ({"method": "rollout", "scope": "full"}, "Method rollout has no scope full: use language"),
        ({"method": "gradcam", "scope": "full"}, "Method gradcam has no scope full"),
        ({"method": "occlusion", "layers": [0]}, "Method occlusion reads no layer's attention: leave layers out"),
        ({"method": "input-gradient", "layers": [0]}, "Method input-gradient reads no layer's attention"),
    ],
)
def test_what_a_method_cannot_do_is_refused_by_name(gemma, picture, options, said):
    with pytest.raises(RelevancyError, match=said):
        explain(gemma, picture, QUESTIONS[0], **options)


@pytest.mark.parametrize(("method", "absent"), [("shapley", "captum"), ("lime", "sklearn")])
def test_a_package_that_is_missing_is_named_with_what_to_do(gemma, picture, method, absent, monkeypatch):
    monkeypatch.setattr(registry, "find_spec", lambda name: None if name == absent else object())
    install = {"captum": r'needs captum: pip install "relevancy\[captum\]"', "sklearn": "pip install scikit-learn"}
    with pytest.raises(RelevancyError, match=f"Method {method} .*{install[absent]}"):
        explain(gemma, picture, QUESTIONS[0], method=method)
    assert "(missing)" in CliRunner().invoke(app, ["methods"], env={"COLUMNS": "200"}).stdout


def test_the_list_names_every_method_with_its_cost():
    plain = CliRunner().invoke(app, ["methods"], env={"COLUMNS": "200"}).stdout
    listed = json.loads(CliRunner().invoke(app, ["methods", "--json"]).stdout)
    assert [one["name"] for one in listed] == list(METHODS)
    for one in listed:
        assert one["name"] in plain
        assert str(METHODS[one["name"]].cost) in plain
        assert all(one[key] for key in ("summary", "formula", "source", "cost", "weaknesses", "scopes"))
        assert "home" not in one


def test_a_method_by_name_says_what_speaks_against_it(monkeypatch):
    monkeypatch.setattr(terminal.out, "_width", 300)
    told = CliRunner().invoke(app, ["methods", "rollout", "tam"]).stdout
    for name in ("rollout", "tam"):
        assert all(said in told for said in (METHODS[name].formula, METHODS[name].source, METHODS[name].weaknesses))
    assert METHODS["lime"].summary not in told
    assert METHODS["rollout"].weaknesses not in CliRunner().invoke(app, ["methods"]).stdout
    (one,) = json.loads(CliRunner().invoke(app, ["methods", "tam", "--json"]).stdout)
    assert one["name"] == "tam"
    unknown = CliRunner().invoke(app, ["methods", "nope"])
    assert isinstance(unknown.exception, RelevancyError)


def test_comparing_takes_a_method(built, picture):
    pair = [wrap(*built[name], name=name) for name in ("gemma-clip", "llama-clip")]
    found = relevancy.compare(pair, picture, QUESTIONS[0], method="rollout", target="first", max_new_tokens=2)
    for model, result in zip(pair, found.explanations, strict=True):
        alone = explain(model, picture, QUESTIONS[0], method="rollout", max_new_tokens=2)
        assert np.array_equal(result.image_map, alone.image_map)


def test_the_list_loads_nothing_heavy():
    script = "import sys, relevancy.methods.registry; sys.exit(bool({'torch', 'captum', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", script], timeout=300).returncode == 0
