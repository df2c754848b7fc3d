"""Models by size: what is kept of an answer, means and differences against slow loops, resuming, the command."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch
from typer.testing import CliRunner

from relevancy import RelevancyError, explain, wrap
from relevancy.cli import app
from relevancy.data.answer_match import correct
from relevancy.demo import size, size_page
from relevancy.demo.evaluation import held_out
from relevancy.demo.questions import TYPES, chance
from relevancy.demo.size import ALL, FORMS, MEASURES, ModelRun, model_run, scene_questions, size_findings, sized_models
from relevancy.models import knockout
from relevancy.models.knockout import Variant
from relevancy.models.prepared import Prepared
from relevancy.stats.intervals import student

SEED, SCENES = 909, 12
MARKS = "<!-- relevancy evaluate demo --size: {} here -->"


def made(seed: int, **changes: int):
    """A tiny random model; all of one size but for changes of its decoder."""
    return wrap(*tiny.gemma_clip(seed, **changes), name=f"tiny-{seed}")


@pytest.fixture(scope="module")
def models():
    """Two trainings of a smaller kind and one of a larger one, the larger first."""
    return sized_models([("big", made(7, num_hidden_layers=4)), ("mini", made(5)), ("mini", made(6))])


def asking(sized, folder, scenes=SCENES, method="relevancy", **options):
    return model_run(sized, folder, scenes=scenes, seed=SEED, method=method, **options)


@pytest.fixture(scope="module")
def read(models, tmp_path_factory):
    folder = tmp_path_factory.mktemp("size")
    return folder, [asking(one, folder) for one in models]


# -- the questions


def test_each_scene_is_asked_one_question_openly_and_with_options():
    pairs = list(scene_questions(200, SEED))
    for drawn, (openly, optional) in zip(held_out(200, SEED), pairs, strict=True):
        assert openly.scene.seed == optional.scene.seed == drawn.seed
        assert (openly.question.form, optional.question.form) == ("open", "ab")
        assert optional.question.text.startswith(f"{openly.question.text} (a) ")
        assert optional.question.answer[4:] == openly.question.answer
        assert optional.question.items == openly.question.items
    again = [one.question for pair in scene_questions(5, SEED) for one in pair]
    assert again == [one.question for pair in pairs[:5] for one in pair]
    drawn = Counter(openly.question.type for openly, _ in pairs)
    asked = Counter(one.type for scene in held_out(200, SEED) for one in scene.questions)
    for kind in TYPES:  # as often as among all questions
        expected = 200 * asked[kind] / asked.total()
        assert abs(drawn[kind] - expected) < 3.5 * expected**0.5, kind


# -- one answer


def test_what_is_kept_of_an_answer_is_what_one_explanation_says(models, read):
    """Asked alone; use of the picture by a whole pass without it, the peak by the pixel in its patch's middle."""
    model, run = models[0].model, read[1][0]
    asked = [one for pair in scene_questions(SCENES, SEED) for one in pair]
    assert {len(one.question.items) for one in asked} >= {0, 1, 2}
    pointed = 0
    for one, kept in zip(asked, run.answers, strict=True):
        question, image = one.question, one.scene.image
        result = explain(model, image, question.text, target="first-relevant", max_new_tokens=16)
        assert kept["right"] == correct(result.answer, question.answer)
        assert kept["share"] == pytest.approx(
            result.relevance[result.is_image].sum() / result.relevance.sum(), abs=1e-5
        )
        said = model.tokenizer.convert_tokens_to_ids(list(result.answer_tokens[: result.target.position]))
        inputs = model.prepare([image], [question.text], [said])
        prepared = Prepared(inputs, model.image_token_id, (model.layouts([image.size]),))
        variant = Variant(0, prepared.ids.shape[1], torch.ones(16, dtype=torch.bool))
        blind = knockout.logits_in_full(model, prepared, [variant])[0][-1].softmax(-1)
        with torch.no_grad():
            plain = model.model(**inputs).logits[0, -1].softmax(-1)
        assert kept["blind_tv"] == pytest.approx(float((blind - plain).abs().sum() / 2), abs=1e-5)
        assert kept["peak_tv"] == pytest.approx(result.evidence.peak_tv, abs=1e-5)
        assert ("pointing" in kept) == (len(question.items) == 1)
        if len(question.items) == 1:
            mask, grid = one.scene.mask(*question.items), result.grid
            row, col = np.unravel_index(result.image_map.argmax(), result.image_map.shape)
            middle = [int((edges[at] + edges[at + 1]) / 2) for edges, at in ((grid.y_edges, row), (grid.x_edges, col))]
            assert kept["pointing"] == mask[tuple(middle)]
            heat = result.heatmap(smooth=False)
            assert kept["energy"] == pytest.approx(heat[mask].sum() / heat.sum(), abs=0.02)
            assert kept["object"] == pytest.approx(mask.mean(), abs=0.005)
            pointed += 1
    assert pointed > 5


def test_who_answers_nothing_is_wrong_and_explained_all_the_same(tmp_path, monkeypatch):
    openly, _ = next(scene_questions(1, SEED))
    said = explain(made(7), openly.scene.image, openly.question.text, evidence=False).target.id
    own, asked = made(7), []
    own.model.generation_config.eos_token_id = [said]

    def watched(model, images, questions, *, target, **options):
        results = explain(model, images, questions, target=target, **options)
        asked.extend((target, result.answer) for result in results)
        return results

    monkeypatch.setattr(size, "explain", watched)
    silent = asking(sized_models([("silent", own)])[0], tmp_path, scenes=3).answers[0]
    assert silent["right"] == 0
    assert silent["blind_tv"] == pytest.approx(
        explain(own, openly.scene.image, openly.question.text).evidence.blind_tv, abs=1e-5
    )
    assert len(asked) == 6
    assert all((target == "first") == (not answer) for target, answer in asked)
    assert {target for target, _ in asked} == {"first", "first-relevant"}
    with pytest.raises(RelevancyError, match="answer is empty"):
        explain(own, openly.scene.image, openly.question.text, target="first-relevant")


def test_verdicts_count_where_they_are_told_to():
    told = dict.fromkeys(("probability", "blind", "best", "peak", "elsewhere"), 0.5)
    told |= {"blind_tv": 0.4, "best_tv": 0.3, "peak_tv": 0.3, "elsewhere_tv": 0.1, "right": 1.0, "share": 0.2}
    counted = {name: one.read(told) for name, one in MEASURES.items()}
    assert counted["needed"] == counted["confirmed"] == counted["confirmed_needed"] == counted["right"] == 1
    assert (counted["use"], counted["share"], counted["says_needed"]) == (0.4, 0.2, 1)
    assert MEASURES["says_needed"].read(told | {"share": 0.01}) == 0
    assert math.isnan(counted["pointing"])
    words = told | {"blind_tv": 0.09}
    assert (MEASURES["needed"].read(words), MEASURES["confirmed"].read(words)) == (0, 0)
    assert all(math.isnan(MEASURES[one].read(words)) for one in ("confirmed_needed", "says_needed"))
    wrong = told | {"right": 0.0, "pointing": 1.0}
    assert MEASURES["confirmed"].read(wrong) == 1
    for one in ("confirmed_needed", "says_needed", "pointing"):
        assert math.isnan(MEASURES[one].read(wrong))
    assert MEASURES["confirmed_needed"].read(told | {"elsewhere_tv": 0.2}) == 0
    unknown = told | dict.fromkeys(("probability", "blind_tv", "best_tv"), math.nan)
    assert all(math.isnan(MEASURES[name].read(unknown)) for name in ("needed", "use", "confirmed", "confirmed_needed"))


# -- all answers


def planted(models, scenes: int = 60) -> list[ModelRun]:
    """Answers of three trainings by a die, better ones of the larger kind; one question in three has no object."""
    rng = np.random.default_rng(0)
    runs = []
    for one in models:
        better = 0.25 * (one.kind == "big")
        answers = []
        for number in range(2 * scenes):
            tv = rng.random(4)
            values = dict(zip(("blind_tv", "best_tv", "peak_tv", "elsewhere_tv"), tv.tolist(), strict=True))
            values |= dict.fromkeys(("probability", "blind", "best", "peak", "elsewhere"), 0.5)
            values |= {"right": float(rng.random() < 0.5 + better), "share": float(rng.random() * tv[0])}
            values |= {"seconds": 0.25}
            if number // 2 % 3:
                values |= {"pointing": float(rng.random() < 0.4 + better), "energy": float(rng.random())}
                values["object"] = 0.1
            answers.append(values)
        runs.append(ModelRun(one, answers))
    return runs


def counted(run: ModelRun, form: str, measure: str, scenes: int) -> dict[tuple[int, str], float]:
    """What each question of a form counts, by scene and form; those that count."""
    found = {}
    for number, values in enumerate(run.answers):
        own = ("open", "with options")[number % 2]
        value = MEASURES[measure].read(values)
        if form in (own, "all") and not math.isnan(value):
            found[number // 2, own] = value
    assert all(scene < scenes for scene, _ in found)
    return found


def resampled(rows: list[tuple[int, float]], draws: int = 1500) -> tuple[float, float]:
    """A bootstrap-t interval of the mean of (scene, value), drawing scenes with all their rows, one draw at a time."""
    scenes = {scene: np.array([value for own, value in rows if own == scene]) for scene, _ in rows}
    names, rng = list(scenes), np.random.default_rng(5)

    def mean_and_error(chosen: list[int]) -> tuple[float, float]:
        values = [scenes[name] for name in chosen]
        count = sum(map(len, values))
        mean = sum(own.sum() for own in values) / count
        return mean, sum((own - mean).sum() ** 2 for own in values) ** 0.5 / count

    mean, error = mean_and_error(names)
    scores = []
    for _ in range(draws):
        own, off = mean_and_error([names[one] for one in rng.integers(len(names), size=len(names))])
        scores.append((own - mean) / off)
    low, high = np.quantile(scores, [0.025, 0.975])
    return mean - high * error, mean - low * error


@pytest.fixture(scope="module")
def found(models):
    runs, shares = planted(models), []
    told = size_findings(runs, scenes=60, seed=SEED, method="relevancy", progress=shares.append)
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1)
    return runs, told


def test_kinds_stand_from_the_smallest_to_the_largest(found):
    _, told = found
    assert [(one.name, one.runs, one.seconds) for one in told.kinds] == [
        ("mini", ("tiny-5", "tiny-6"), 0.25), ("big", ("tiny-7",), 0.25),
    ]  # fmt: skip
    mini = tiny.gemma_clip(5)[0]
    assert told.kinds[0].parameters == sum(one.numel() for one in set(mini.parameters()))
    assert told.kinds[0].embeddings == mini.get_input_embeddings().weight.numel()


@pytest.mark.parametrize("form", [*FORMS.values(), ALL])
def test_means_and_differences_are_those_of_slow_loops(found, form):
    runs, told = found
    kinds = {"mini": runs[:2], "big": runs[2:]}
    assert [one.of.kind for one in runs] == ["mini", "mini", "big"]
    for measure in MEASURES:
        by_kind = {kind: [counted(run, form, measure, 60) for run in own] for kind, own in kinds.items()}
        for kind, own in by_kind.items():
            number = told.number(kind, form, measure)
            values = [value for run in own for value in run.values()]
            assert number.over_scenes.mean == pytest.approx(sum(values) / len(values))
            assert number.over_scenes.rows == len(values)
            assert number.over_scenes.pictures == len({scene for run in own for scene, _ in run})
            means = [sum(run.values()) / len(run) for run in own]
            assert number.runs == pytest.approx(tuple(means))
            assert number.over_runs.mean == pytest.approx(sum(means) / len(means))
            assert number.over_runs.rows == len(own)
        ends = told.number("mini", form, measure).over_runs
        first, second = (sum(run.values()) / len(run) for run in by_kind["mini"])
        assert ends.high - ends.mean == pytest.approx(student(1) * abs(first - second) / 2)
        mini: dict[tuple[int, str], list[float]] = {}
        for run in by_kind["mini"]:
            for key, value in run.items():
                mini.setdefault(key, []).append(value)
        (big,) = by_kind["big"]
        apart = [big[key] - sum(mini[key]) / len(mini[key]) for key in big if key in mini]
        (own,) = (one for one in told.differences if (one.form, one.measure) == (form, measure))
        assert (own.larger, own.smaller) == ("big", "mini")
        assert own.over_scenes.mean == pytest.approx(sum(apart) / len(apart))
        assert own.over_scenes.rows == len(apart)
        assert own.over_scenes.pictures == len({scene for scene, _ in big.keys() & mini.keys()})
        assert own.over_runs.mean == pytest.approx(sum(big.values()) / len(big) - (first + second) / 2)
        assert math.isnan(own.over_runs.low)  # the larger kind has one training


@pytest.mark.parametrize("measure", ["right", "use", "energy"])
def test_intervals_are_those_of_scenes_drawn_one_by_one(found, measure):
    runs, told = found
    rows = [(key[0], value) for run in runs[:2] for key, value in counted(run, "all", measure, 60).items()]
    low, high = resampled(rows)
    own = told.number("mini", ALL, measure).over_scenes
    assert (own.low, own.high) == pytest.approx((low, high), abs=0.12 * (high - low))
    one, other = (counted(run, "open", measure, 60) for run in (runs[2], runs[0]))
    told = size_findings([runs[0], runs[2]], scenes=60, seed=SEED, method="relevancy")
    (own,) = (found for found in told.differences if (found.form, found.measure) == ("open", measure))
    low, high = resampled([(key[0], one[key] - other[key]) for key in one if key in other])
    assert (own.over_scenes.low, own.over_scenes.high) == pytest.approx((low, high), abs=0.12 * (high - low))


def test_chance_is_that_of_the_questions_and_of_the_objects_size(found):
    _, told = found
    pairs = list(scene_questions(60, SEED))
    openly = [chance(one.question.type, "open") for one, _ in pairs]
    assert told.chance["open", "right"] == pytest.approx(sum(openly) / 60)
    assert told.chance["with options", "right"] == 0.5
    assert told.chance[ALL, "right"] == pytest.approx((sum(openly) / 60 + 0.5) / 2)
    assert told.chance["open", "pointing"] == pytest.approx(0.1)
    assert told.chance[ALL, "energy"] == pytest.approx(0.1)


def test_what_nothing_is_counted_of_is_a_dash(models):
    runs = [replace(one, answers=[values | {"right": 0.0} for values in one.answers]) for one in planted(models)]
    told = size_findings(runs, scenes=60, seed=SEED, method="relevancy")
    assert told.number("big", ALL, "pointing").over_scenes.rows == 0
    text = size_page.page(told)
    assert "| peak on the object | 10.0 | – | – |" in text
    assert "nan" not in text
    json.dumps(size_page.as_json(told), allow_nan=False)
    size_page.figure(told)


# -- what is kept


def test_a_stopped_run_goes_on_and_asks_nothing_twice(models, read, tmp_path, monkeypatch):
    folder, (run, *_) = read
    asked: list[str] = []

    def counting(model, images, questions, **options):
        asked.extend(questions)
        return explain(model, images, questions, **options)

    def stopped(share):
        raise KeyboardInterrupt

    monkeypatch.setattr(size, "explain", counting)
    with pytest.raises(KeyboardInterrupt):
        asking(models[0], tmp_path, progress=stopped)
    assert len(asked) == 16  # eight scenes
    (results,) = tmp_path.rglob("results.jsonl")
    whole = results.read_bytes()
    results.write_bytes(whole[: whole.rindex(b"\n", 0, -1) + 30])  # killed within the last line
    shares: list[float] = []
    again = asking(models[0], tmp_path, progress=shares.append)
    assert shares == [8 / 12, 1]
    assert len(asked) == 16 + 1 + 8
    for one, other in zip(again.answers, run.answers, strict=True):
        assert one.keys() == other.keys()
        assert all(one[name] == pytest.approx(other[name], abs=1e-5) for name in one.keys() - {"seconds"})
    asked.clear()
    asking(models[0], folder)
    assert not asked
    assert len(asking(models[0], folder, scenes=14).answers) == 28
    assert len(asked) == 4
    asking(models[0], folder, scenes=2, method="rollout")
    assert len(asked) == 8
    assert asking(models[0], folder, scenes=2).answers == run.answers[:4]


def test_other_weights_are_other_answers(read):
    folder, runs = read
    assert len(list(folder.rglob("results.jsonl"))) == len(runs) == 3
    shares = {tuple(one["share"] for one in run.answers) for run in runs}
    assert len(shares) == 3


# -- pages, the figure, the command


def test_the_figure_shows_the_means(found):
    _, told = found
    panels = size_page.figure(told).axes
    assert [one.get_title(loc="left") for one in panels] == [
        "answered right", "need the picture", "maps confirmed", "peak on the object",
    ]  # fmt: skip
    for axes, measure in zip(panels, ("right", "needed", "confirmed_needed", "pointing"), strict=True):
        for form in FORMS.values():
            (points,) = (one for one in axes.lines if one.get_label() == f"asked {form}".replace("open", "openly"))
            numbers = [told.number(kind, form, measure) for kind in ("mini", "big")]
            assert list(points.get_ydata()) == pytest.approx([100 * one.over_scenes.mean for one in numbers])
            drawn = [tuple(one.get_ydata()) for one in axes.lines]
            assert all((100 * one.over_scenes.low, 100 * one.over_scenes.high) in drawn for one in numbers)
            assert tuple(100 * run for run in numbers[0].runs) in drawn  # two trainings; of the other there is one
            assert (100 * numbers[1].runs[0],) not in drawn
        assert {one.get_text() for one in axes.texts} == {
            f"{told.number(kind, form, measure).over_scenes.rows:,}"
            for kind in ("mini", "big")
            for form in FORMS.values()
        }


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Folders of tiny models: two trainings of each of two kinds."""
    folder = tmp_path_factory.mktemp("saved")
    for name, seed, layers in (("a1", 5, 3), ("a2", 6, 3), ("b1", 7, 4), ("b2", 8, 4)):
        model, processor = tiny.gemma_clip(seed, num_hidden_layers=layers)
        model.save_pretrained(folder / name)
        processor.save_pretrained(folder / name)
    return folder


def command(*options: object) -> list[str]:
    return ["evaluate", "demo", "--size", "--seed", str(SEED), *map(str, options)]


def test_the_command(saved, tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{MARKS.format('from')}\noverwritten\n{MARKS.format('to')}\nafter\n")
    named = [f"--model={kind}={saved / name}" for kind, name in zip("BABA", ("b1", "a1", "b2", "a2"), strict=True)]
    options = [*named, "--scenes", 11, "--out", tmp_path / "out", "--page", page]
    ran = CliRunner().invoke(app, command(*options, "--json"))
    assert ran.exit_code == 0, ran.output
    told = json.loads(ran.stdout)
    assert told == json.loads((tmp_path / "out" / "size.json").read_text())
    assert [(one["name"], len(one["runs"])) for one in told["kinds"]] == [("A", 2), ("B", 2)]
    number = next(one for one in told["numbers"] if (one["kind"], one["form"], one["measure"]) == ("B", "all", "use"))
    assert number["over_scenes"]["rows"] == 44
    assert number["over_scenes"]["pictures"] == 11
    assert number["over_runs"]["mean"] == pytest.approx(number["over_scenes"]["mean"])
    assert number["over_runs"]["low"] < min(number["runs"]) < max(number["runs"]) < number["over_runs"]["high"]
    (apart,) = (one for one in told["differences"] if (one["form"], one["measure"]) == ("all", "use"))
    assert (apart["larger"], apart["smaller"]) == ("B", "A")
    assert apart["over_runs"]["low"] < apart["over_runs"]["mean"] < apart["over_runs"]["high"]
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "overwritten" not in text
    tables = "\n".join((tmp_path / "out" / "size.md").read_text().splitlines()[2:-2])
    assert tables.strip() in text
    assert "| A | 2 | " in text
    assert (tmp_path / "out" / "size.png").read_bytes()[:4] == b"\x89PNG"
    printed = CliRunner().invoke(app, command(*named[:1], "--scenes", 2, "--out", tmp_path / "out"))
    assert printed.exit_code == 0, printed.output
    assert "answers that need" in printed.stdout


def test_a_folder_with_an_equals_sign_is_a_folder(saved, tmp_path):
    (tmp_path / "a=b").symlink_to(saved / "a1")
    ran = CliRunner().invoke(app, command("--model", tmp_path / "a=b", "--scenes", 1, "--out", tmp_path, "--json"))
    assert ran.exit_code == 0, ran.output
    assert [one["name"] for one in json.loads(ran.stdout)["kinds"]] == [str(tmp_path / "a=b")]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--model", "small="], "KIND=MODEL"),
        (["--model", "=demo-small"], "KIND=MODEL"),
        (["--model", "s=demo-small", "--model", "s=demo-small"], "hold the same weights"),
        (["--model", "s=demo-small", "--model", "s=demo-large"], "differ by their seeds alone"),
        (["--model", "s=no-such-model"], "no-such-model"),
        (["--methods", "relevancy,rollout"], "relevancy,rollout"),
        (["--methods", "nonsense"], "nonsense"),
        (["--evidence"], "--evidence and --size measure different things"),
        (["--page", "no-such-page.md"], "no-such-page.md"),
    ],
)
def test_wrong_input_is_told_before_anything_is_asked(options, said, tmp_path, monkeypatch):
    monkeypatch.setattr(size, "explain", None)
    refused = CliRunner().invoke(app, [*command("--scenes", 2, "--out", tmp_path / "out"), *options])
    assert isinstance(refused.exception, RelevancyError)
    assert said in str(refused.exception)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("options", [["--page", "x.md"], ["--page", "x.md", "--evidence"], ["--methods", "rollout"]])
def test_options_of_another_measurement_are_refused(options):
    refused = CliRunner().invoke(app, ["evaluate", "demo", *options])
    assert isinstance(refused.exception, RelevancyError)
    assert f"{options[0]} belongs to" in str(refused.exception)
