"""`relevancy train ... --evaluate`: scores of checkpoints and of the model, and training that feels nothing of it."""

from __future__ import annotations

import json

import miniatures
import pytest
from typer.testing import CliRunner

from relevancy.cli import app, run_scores
from relevancy.errors import RelevancyError
from relevancy.train.card import CardScore, with_scores

FEW = [part for one in ("align", "finetune") for part in ("--set", f"{one}.steps=2", "--set", f"{one}.batch=2")]


def asked(data, out, *more):
    arguments = ["train", "both", "--preset", "demo-small", "--out", out, "--workers", 0, "--align-data", data,
                 "--finetune-data", data, *FEW, "--set", "finetune.save_every=1", *more]  # fmt: skip
    done = CliRunner().invoke(app, [str(part) for part in arguments])
    assert done.exit_code == 0, (done.output, done.exception)
    return done.output


def test_checkpoints_and_the_model_are_scored(data, tmp_path, monkeypatch) -> None:
    def here(*arguments: str) -> str:
        """As in a process of its own, without the time that one takes."""
        more = ("--processes", "0") if arguments[0] == "evaluate" else ()
        done = CliRunner().invoke(app, [*arguments, *more])
        if isinstance(done.exception, RelevancyError):
            raise done.exception
        assert done.exit_code == 0, done.exception
        return done.stdout

    monkeypatch.setattr(run_scores, "_done", here)
    sets = miniatures.mmvp(tmp_path / "mmvp")
    told = asked(data, tmp_path / "run", "--evaluate", f"mmvp:{sets}")
    lines = [json.loads(line) for line in (tmp_path / "run" / "evaluation" / "scores.jsonl").read_text().splitlines()]
    assert [line["of"].rpartition("-")[0] for line in lines] == ["finetune-checkpoint", "finished"]
    headline = lines[-1]["headline"]
    card = (tmp_path / "run" / "model" / "README.md").read_text()
    assert f"| mmvp | accuracy, pairs | {headline['printed']} |  | MMVP, graded by GPT-4" in card
    assert "stand-in: the option's letter" in card
    assert "not measured" not in card
    assert f"mmvp: accuracy, pairs {headline['printed']}" in told
    assert not (tmp_path / "run" / "evaluation" / "finetune-checkpoint-1" / "model").exists()
    asked(data, tmp_path / "plain")
    weights = [(tmp_path / name / "model" / "model.safetensors").read_bytes() for name in ("run", "plain")]
    assert weights[0] == weights[1]
    assert "It was not measured on any benchmark" in (tmp_path / "plain" / "model" / "README.md").read_text()


def test_each_finished_model_is_asked_in_a_folder_of_its_own(tmp_path, monkeypatch) -> None:
    asked_in = []

    def unscored(*arguments: str) -> str:
        asked_in.append(arguments[arguments.index("--out") + 1])
        return json.dumps({"scores": {"model": None}})

    monkeypatch.setattr(run_scores, "_done", unscored)
    scores = run_scores.RunScores(tmp_path, [("mmvp", tmp_path)])
    model = tmp_path / "model"
    model.mkdir()
    (model / "README.md").write_text("# m\n\n## Scores\n\nNone.\n")
    for weights in ("of align", "of align", "of finetune"):
        (model / "model.safetensors").write_text(weights)
        scores.of_model(model)
    first, again, second = asked_in
    assert first == again != second


def test_a_checkpoint_that_cannot_be_scored_costs_its_scores_alone(tmp_path, monkeypatch, capsys) -> None:
    def fails(*_: str) -> str:
        raise RelevancyError("no room")

    monkeypatch.setattr(run_scores, "_done", fails)
    scores = run_scores.RunScores(tmp_path, [("mmvp", tmp_path)])
    assert scores.saved is not None
    scores.saved(tmp_path / "finetune" / "checkpoint-7")
    assert capsys.readouterr().err == "finetune-checkpoint-7: not scored: no room\n"
    with pytest.raises(RelevancyError, match="no room"):
        scores.of_model(tmp_path)


def test_a_checkpoint_whose_scores_cannot_be_written_costs_them_alone(tmp_path, monkeypatch, capsys) -> None:
    score = {"headline": {}, "protocol": {}}
    monkeypatch.setattr(run_scores, "_done", lambda *_: json.dumps({"scores": {"model": score}}))
    (tmp_path / run_scores.FOLDER / run_scores.JOURNAL).mkdir(parents=True)  # a folder cannot be written to as a file
    run_scores.RunScores(tmp_path, [("mmvp", tmp_path)])._score_checkpoint(tmp_path / "finetune" / "checkpoint-7")
    assert capsys.readouterr().err.startswith("finetune-checkpoint-7: not scored: Cannot write to")


@pytest.mark.parametrize("given", ["pope", "pope:", "nothing:{}", "pope:{}/nowhere"])
def test_what_is_no_benchmark_is_refused_before_training(given, tmp_path) -> None:
    with pytest.raises(RelevancyError, match="give BENCHMARK:DIR"):
        run_scores.benchmarks_wanted([given.format(tmp_path)])


def test_scores_take_the_place_of_earlier_ones() -> None:
    text = "# m\n\n## Scores\n\nIt was not.\n\nWeights follow the licenses.\n"
    one, other = (CardScore("pope", "f1, mean", printed, "", "POPE") for printed in ("0.8", "0.9"))
    again = with_scores(with_scores(text, [one]), [other])
    assert again.count("## Scores") == 1
    assert "| pope | f1, mean | 0.9 |  | POPE |" in again
    assert "0.8" not in again
    assert again.endswith("\nWeights follow the licenses.\n")


def test_a_command_that_fails_gives_its_line() -> None:
    with pytest.raises(RelevancyError, match="There is no benchmark 'none'"):
        run_scores._done("evaluate", "score", "none", "--data", ".", "--predictions", "x")
