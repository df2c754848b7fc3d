"""What is measured: ways to one map, rows that are sums of what was timed, failures that come back named."""

import json
import math
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, replace

import pytest
import torch

from relevancy.benchmark import gpu, measurement, probes, variants, workloads
from relevancy.benchmark.busy import BusyShare
from relevancy.benchmark.measurement import PeakMemory, measured
from relevancy.benchmark.processes import apart
from relevancy.benchmark.random_models import random_model, random_picture, random_question
from relevancy.benchmark.setting import SHAPES, VARIANTS, WORKLOADS, CostPlan, CostRow, CostStep, Setting
from relevancy.benchmark.workloads import TimedStep, Trial
from relevancy.errors import RelevancyError
from relevancy.models.model import Model

TOY = Setting(size="demo", tokens=(110,), layers=2, dtype="float32", repeats=1, answer=3, rows=3, pictures=2)


@pytest.fixture(scope="module")
def toy() -> Model:
    return random_model(TOY.shape, torch.float32, "cpu", 110)


def inputs_of(model: Model, tokens: int = 110) -> dict:
    question = random_question(model, TOY.shape, tokens, seed=0)
    return model.prepare([random_picture(TOY.shape, 0)], [question])


def rows_of(setting: Setting) -> list[CostRow]:
    return [event for event in measured(setting) if isinstance(event, CostRow)]


def test_prompts_have_the_length_that_was_asked_for(toy):
    for tokens in (TOY.least_tokens, 131):
        inputs = inputs_of(toy, tokens)
        assert inputs["input_ids"].shape == (1, tokens)
        assert int((inputs["input_ids"] == toy.image_token_id).sum()) == SHAPES["demo"].patches == 100
        assert inputs["attention_mask"].all()
    assert toy.tokenizer.unk_token_id not in inputs["input_ids"]


def test_a_qwen_reads_its_picture_at_its_own_size():
    """One layer of decoder and tower, narrower than any true one: 43 x 29 tokens, and as many beside as asked for."""
    shape = SHAPES["qwen2.5-vl-3b"].cut(1)
    assert shape.tower["depth"] == 1
    assert shape.tower["fullatt_block_indexes"] == [0]
    assert SHAPES["qwen2.5-vl-3b"].cut(40).tower["depth"] == 32
    narrow = {"hidden_size": 64, "num_attention_heads": 1, "num_key_value_heads": 1, "intermediate_size": 64}
    tower = {"hidden_size": 32, "num_heads": 2, "intermediate_size": 32, "out_hidden_size": 64}
    small = replace(shape, text={**shape.text, **narrow}, tower={**shape.tower, **tower}, vocabulary=640)
    small.text["head_dim"] = 128
    model = random_model(small, torch.float32, "cpu", 1300)
    inputs = model.prepare([random_picture(small, 0)], [random_question(model, small, 1300, seed=0)])
    assert inputs["input_ids"].shape == (1, 1300)
    assert int((inputs["input_ids"] == model.image_token_id).sum()) == small.patches == 1247
    assert model.tokenizer.unk_token_id not in inputs["input_ids"]


def test_all_variants_are_ways_to_the_same_map(toy):
    inputs = inputs_of(toy)
    row = variants.map_row(toy.model, inputs)[0].detach()
    assert float(row.sum()) > 1.01, "an idle row would make every comparison true"
    unit = torch.eye(110)[-1]
    for eager in (variants.eager_frozen(toy.model, inputs), variants.eager_weights(toy.model, inputs)):
        assert float((row - eager[0]).norm() / (eager[0] - unit).norm()) < 1e-5
    assert all(parameter.grad is None and parameter.requires_grad for parameter in toy.model.parameters())
    assert toy.model.config.text_config._attn_implementation == "sdpa"
    assert variants.map_row_full(toy.model, inputs).shape == (1, 101)
    assert variants.forward_only(toy.model, inputs).shape[1] == 1
    assert variants.RUNS.keys() == variants.PASSES.keys() == VARIANTS.keys()


def test_random_weights_are_the_same_each_time_and_of_the_type_asked_for():
    one, two = (random_model(TOY.shape, torch.bfloat16, "cpu", 110).model for _ in range(2))
    assert len(one.get_decoder().layers) == 2
    assert {parameter.dtype for parameter in one.parameters()} == {torch.bfloat16}
    assert torch.get_default_dtype() == torch.float32
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert all(parameter.isfinite().all() and parameter.any() for parameter in one.parameters())


def test_a_shape_tells_how_many_parameters_its_model_has(toy):
    decoder = sum(parameter.numel() for parameter in toy.model.get_decoder().parameters())
    assert abs(decoder - TOY.shape.parameters) < 0.01 * decoder
    assert 2.4e9 < SHAPES["2b"].parameters < 2.6e9
    assert 8.4e9 < SHAPES["7b"].parameters < 8.7e9


@pytest.mark.parametrize("workload", WORKLOADS)
def test_every_workload_gives_rows_beside_its_bare_forward_pass(workload):
    events = list(measured(replace(TOY, workload=workload, variants=tuple(VARIANTS))))
    rows = [event for event in events if isinstance(event, CostRow)]
    (plan,) = (event for event in events if isinstance(event, CostPlan))
    assert plan.seconds > 0
    assert f"workload {workload}, demo, 2 layers, float32" in plan.text
    first = next(place for place, event in enumerate(events) if isinstance(event, CostStep) and "warming" in event.text)
    assert events.index(plan) < first
    assert rows[0].variant == "forward"
    assert rows[0].x_forward == 1
    assert [row.failure for row in rows] == [None] * len(rows)
    assert all(row.workload == workload and row.weights == "random" and row.repeats == 1 for row in rows)
    assert all(row.peak_bytes > 1e8 and row.parameters > 1e5 for row in rows)
    for row in rows:
        assert row.x_forward == pytest.approx(row.seconds / rows[0].seconds)
        json.dumps(asdict(row), allow_nan=False)
    expected = {
        "map": list(VARIANTS),
        "question": ["forward", "first", "first-remembered", "next", "next-in-list"],
        "token": ["forward", "first", "next", "whole-answer", "answer-together"],
        "evidence": ["forward", "map", "evidence", "map-with-evidence"],
        "export": ["forward", "row"],
    }
    assert [row.variant for row in rows] == expected[workload]
    if workload == "export":
        assert rows[1].rows_per_second == pytest.approx(1 / rows[1].seconds)
        assert 0 < rows[1].busy <= 1
    if workload in ("question", "token"):
        assert rows[2].x_first == pytest.approx(rows[2].seconds / rows[1].seconds)


def test_questions_after_the_first_are_about_the_same_picture_through_the_public_call(toy, monkeypatch):
    asked = []

    def noted(model, image, question, **_):
        asked.append((image, question, model.prefixes.budget))

    monkeypatch.setattr(workloads, "explain", noted)
    trial = workloads.question_trial(toy, TOY, 110)
    for _ in range(2):
        trial.renew()
        for name in ("first", "first-remembered", "next", "list"):
            trial.steps[name].run()
    (alone, zero, nothing), (first, one, kept), (again, two, still), (listed, many, none), _, (other, *_), *_ = asked
    assert first is again
    assert kept == still > 0 == nothing == none
    assert one == zero != two
    assert alone not in (first, other)
    assert listed not in (first, other)
    assert first != other
    assert len(set(many)) == workloads.QUESTIONS
    assert trial.rows["next-in-list"] == {"list": 1 / 3, "first": -1 / 3}


def test_evidence_is_timed_by_itself_on_one_whole_prompt(toy, monkeypatch):
    found = []
    real = workloads.evidence_for
    monkeypatch.setattr(workloads, "evidence_for", lambda *asked: found.append((asked[3], real(*asked))))
    trial = workloads.evidence_trial(toy, TOY, 110)
    for _ in range(2):
        trial.steps["evidence"].run()
    (((first,), (evidence,)), (_, (again,))) = found
    assert (first.length, first.image_maps[0].shape) == (110, (10, 10))
    assert evidence == again
    assert evidence.shared
    assert not math.isnan(evidence.elsewhere)
    assert trial.rows["map-with-evidence"] == {"map": 1, "evidence": 1}


def slow(seconds: float):
    return TimedStep(lambda: time.sleep(seconds), 1)


@pytest.fixture
def timed(monkeypatch):
    """Rows of a trial that is made of these steps."""

    def rows(steps: dict[str, TimedStep], made: dict[str, dict[str, float]], **changes) -> dict[str, CostRow]:
        monkeypatch.setitem(workloads.TRIALS, "map", lambda *_: Trial({"forward": slow(0.01), **steps}, made))
        return {row.variant: row for row in rows_of(replace(TOY, **changes))}

    return rows


def test_rows_are_sums_of_steps(timed):
    steps = {"first": slow(0.05), "all": slow(0.2)}
    rows = timed(steps, {"forward": {"forward": 1}, "next": {"all": 1 / 3, "first": -1 / 3}}, repeats=3)
    assert rows["next"].seconds == pytest.approx(0.05, abs=0.02)
    assert rows["next"].x_forward == pytest.approx(5, abs=2)
    assert rows["next"].x_first == pytest.approx(1, abs=0.4)


def test_the_median_of_rounds_counts_and_the_first_one_does_not(timed):
    naps = iter([0.5, 0.02, 0.5, 0.02, 0.0])  # to warm up, three rounds, to be weighed
    rows = timed({"one": TimedStep(lambda: time.sleep(next(naps)), 1)}, {"one": {"one": 1}}, repeats=3)
    assert rows["one"].seconds < 0.1


def test_a_step_that_fails_is_told_and_the_others_go_on(timed):
    def full() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate all of it.")

    steps = {"bad": TimedStep(full, 1), "vast": TimedStep(lambda: pytest.fail("was tried"), 1, bytes=1 << 60)}
    made = {"forward": {"forward": 1}, "bad": {"bad": 1}, "sum": {"forward": 1, "bad": 1}, "vast": {"vast": 1}}
    rows = timed(steps, made)
    assert rows["forward"].seconds > 0.009
    assert rows["bad"].failure == rows["sum"].failure == "CUDA out of memory."
    assert re.fullmatch(
        r"needs 1073741824.0 GiB beside the weights \(estimated\), .* GiB is free", rows["vast"].failure
    )
    assert rows["bad"].seconds is None


def test_a_step_elsewhere_tells_its_own_seconds_and_is_not_weighed(timed):
    calls = []
    step = TimedStep(lambda: calls.append(1) or {"seconds": 7.0, "busy": 0.5}, 1, elsewhere=True)
    rows = timed({"export": step}, {"row": {"export": 1 / 7}}, repeats=2)
    assert len(calls) == 2
    assert (rows["row"].seconds, rows["row"].busy, rows["row"].rows_per_second) == (pytest.approx(1), 0.5, 1)
    assert rows["row"].peak_bytes is None


def test_growth_is_the_power_of_the_length(monkeypatch):
    taken = {"forward": lambda n: 0, "line": lambda n: n << 12, "square": lambda n: n * n << 4}

    def trial(_model, _setting, tokens: int) -> Trial:
        steps = {name: TimedStep(lambda: None, 1) for name in taken}
        return Trial(steps, {name: {name: 1} for name in taken})

    class Asked:  # the exact size in place of the process's
        def __init__(self, _: str) -> None:
            self.bytes = next(sizes)

        def __enter__(self) -> "Asked":
            return self

        def __exit__(self, *_: object) -> None:
            return None

    sizes = iter([(1 << 30) + size(tokens) for tokens in (110, 440, 880) for size in taken.values()])
    monkeypatch.setattr(measurement, "PeakMemory", Asked)
    monkeypatch.setitem(workloads.TRIALS, "map", trial)
    rows = rows_of(replace(TOY, tokens=(110, 440, 880)))
    assert [row.growth for row in rows[:4]] == [None] * 4
    assert [row.growth for row in rows[4:]] == [pytest.approx(1), pytest.approx(2), None, *map(pytest.approx, (1, 2))]


def test_memory_is_the_largest_size_inside_the_block():
    with PeakMemory("cpu") as before:
        pass
    with PeakMemory("cpu") as peak:
        torch.ones(50_000_000)  # 200 MB, gone at once
    assert 1.5e8 < peak.bytes - before.bytes < 4e8


def test_the_share_in_which_a_model_computes():
    layer = torch.nn.Linear(1000, 1000)
    rows = torch.ones(2000, 1000)
    with BusyShare.of(TOY) as idle:
        time.sleep(0.1)
    assert idle.share == 0
    with BusyShare.of(TOY) as half:
        end = time.monotonic() + 0.4
        while time.monotonic() < end:
            layer(rows)
        time.sleep(0.4)
    assert 0.2 < half.share < 0.8
    with BusyShare.of(replace(TOY, apart=True)) as unknown:
        pass
    assert unknown.share is None


def test_a_card_is_asked_for_its_share(tmp_path, monkeypatch):
    driver = tmp_path / "nvidia-smi"
    driver.write_text("#!/bin/sh\necho 100\necho 50\nexec sleep 60\n")
    driver.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with BusyShare.of(replace(TOY, device="cuda:1")) as busy:
        time.sleep(0.5)
    assert busy.share == 0.75
    monkeypatch.setenv("PATH", str(tmp_path / "none"))
    with BusyShare.of(replace(TOY, device="cuda")) as unknown:
        pass
    assert unknown.share is None


def test_an_export_by_name_works_in_a_process_of_its_own_and_its_start_does_not_count(monkeypatch):
    asked = []

    def export(request, report):
        asked.append(request)
        report(workloads.Progress(2, 10, 0, 1.0, None))
        time.sleep(0.1)
        report(workloads.Progress(10, 10, 0, 1.0, None))
        return type("Done", (), {"errors": 0})

    monkeypatch.setattr(workloads, "export", export)
    model = random_model(TOY.shape, torch.float32, "cpu", 110)
    trial = workloads.export_trial(model, replace(TOY, workload="export", rows=10, apart=True), 110)
    told = trial.steps["export"].run()
    (request,) = asked
    assert (request.models[0], request.processes) == (str(request.out.parent / "model"), 1)
    assert (request.out.parent / "model" / "model.safetensors").exists()
    assert told["seconds"] == pytest.approx(0.1 / 8 * 10, rel=0.3)
    lines = (request.out.parent / "items.jsonl").read_text().splitlines()
    assert len({json.loads(line)["question"] for line in lines}) == 10


def test_lengths_are_a_picture_and_a_short_question_by_default():
    assert (Setting().tokens, Setting(size="demo").tokens) == ((601,), (125,))


def test_settings_that_there_are_not():
    for wrong, message in (
        ({"workload": "speed"}, "no workload 'speed'; choose from map, question, token, evidence, export"),
        ({"size": "3b"}, "no size '3b'; choose from 2b, 7b, qwen2.5-vl-3b, demo"),
        ({"variants": ("fast",)}, "no variant 'fast'; choose from forward, map, map-full"),
        ({"dtype": "int8"}, "no dtype 'int8'"),
        ({"tokens": (601, 583)}, "must be 584 or more at size 2b, not 583"),
    ):
        with pytest.raises(RelevancyError, match=re.escape(message)):
            Setting(**wrong)


def test_weights_that_do_not_fit_are_not_made(monkeypatch):
    monkeypatch.setattr(measurement, "available_bytes", lambda device: 1 << 30)
    with pytest.raises(RelevancyError, match="2b in float32 takes 9 GiB at least, 1 GiB is free on cpu"):
        list(measured(Setting(dtype="float32")))


def test_estimates_grow_as_the_variants_do():
    def needed(variant: str, tokens: int) -> int:
        return variants.bytes_beside(variant, SHAPES["2b"], tokens, 2)

    rising = [needed(variant, 601) for variant in ("forward", "map", "eager-frozen", "eager-weights")]
    assert rising == sorted(rising)
    assert needed("map", 2000) == 2 * needed("map", 1000)
    square = {n: needed("eager-frozen", n) - needed("map", n) for n in (1000, 2000)}
    assert square[2000] == 4 * square[1000]


@pytest.mark.parametrize(("half", "chosen"), [(0.5, "bfloat16"), (2.0, "float32")])
def test_a_cpu_that_is_slow_in_bfloat16_measures_in_float32_and_says_so(monkeypatch, half, chosen):
    clock = iter([moment for _ in range(4) for moment in (0, 1, 0, half)] * 9)
    monkeypatch.setattr(measurement.time, "perf_counter", lambda: next(clock))
    assert measurement.fast_dtype("cpu") == chosen
    assert measurement.fast_dtype("cuda") == "bfloat16"
    said = measurement.described(replace(TOY, dtype="float32"))
    assert ("(this CPU is not faster in bfloat16)" in said) == (chosen == "float32")


def two(argument: str) -> Iterator[str]:
    yield argument
    time.sleep(0.4)
    yield argument * 2


def refused(_: object) -> Iterator[None]:
    yield None
    raise RelevancyError("no, because")


def broken(_: object) -> Iterator[None]:
    yield None
    raise ValueError("a mistake\nin two lines")


def dies(_: object) -> Iterator[None]:
    yield None
    os.kill(os.getpid(), 9)


def stays(_: object) -> Iterator[None]:
    time.sleep(60)
    yield None


def test_work_in_a_process_of_its_own_is_heard_as_it_goes():
    heard = list(apart(two, "a", beat=0.1))
    assert [one for one in heard if one] == ["a", "aa"]
    assert None in heard[heard.index("a") :], "silence is heard too"


@pytest.mark.parametrize(
    ("work", "message"),
    [
        (refused, "no, because"),
        (broken, "ValueError: a mistake"),
        (dies, "ended with code -9, as one that is out of memory does"),
    ],
)
def test_work_that_fails_says_why(work, message):
    with pytest.raises(RelevancyError, match=message):
        list(apart(work, None))


def test_work_that_takes_too_long_is_ended():
    begun = time.monotonic()
    with pytest.raises(RelevancyError, match="took longer than its 1 s"):
        list(apart(stays, None, limit=1))
    assert time.monotonic() - begun < 20


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "relevancy.cli", "bench", *arguments], capture_output=True, text=True)


def test_the_command_prints_rows_and_tells_its_progress():
    done = command(
        "--size", "demo", "--layers", "1", "--tokens", "110,220", "--repeats", "1", "--variants", "map", "--json"
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert [(row["tokens"], row["variant"]) for row in rows] == [
        (110, "forward"), (110, "map"), (220, "forward"), (220, "map"),
    ]  # fmt: skip
    assert all(row.keys() >= {"workload", "seconds", "x_forward", "peak_bytes"} for row in rows)
    assert re.search(r"workload map, demo, 1 layers, .*; bare forward pass .* s; about \d+ s to go", done.stderr)
    assert done.stderr.startswith("starting")


def test_the_process_that_waits_stays_light():
    code = "import sys, relevancy.benchmark.processes; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_the_command_refuses_in_one_line():
    done = command("--tokens", "many")
    assert (done.returncode, done.stderr) == (2, "relevancy: --tokens takes numbers such as 601,2048, not 'many'.\n")
    assert (
        command("--size", "3b").stderr == "relevancy: There is no size '3b'; choose from 2b, 7b, qwen2.5-vl-3b, demo.\n"
    )


# The way over a GPU, at toy size on the CPU.


def test_parts_fit_their_eight_minutes():
    assert sum(part.limit for part in gpu.PARTS) <= gpu.BUDGET == 480
    assert len({part.name for part in gpu.PARTS}) == len(gpu.PARTS)
    assert all(part.setting.device == "cuda" and part.toy.device == "cpu" for part in gpu.PARTS)


PATIENT = 600  # seconds: on a CPU that others use, too, exactness takes longer than on a card


def test_a_dry_run_goes_on_after_a_part_that_fails(tmp_path, monkeypatch, capsys):
    named = {part.name: part for part in gpu.PARTS}
    chosen = (
        replace(named["exactness"], name="stuck", work=stays, limit=1),
        replace(named["exactness"], limit=PATIENT),
        replace(named["map-7b"], name="broken", work=dies),
        replace(named["profile-2b"], limit=PATIENT),
    )
    monkeypatch.setattr(gpu, "PARTS", chosen)
    assert gpu.main(["--dry-run", "--out", str(tmp_path / "gpu.json")]) == 1
    said = capsys.readouterr()
    report = json.loads(said.out)
    assert report == json.loads((tmp_path / "gpu.json").read_text())
    assert report["dry_run"]
    assert report["machine"]["torch"] == torch.__version__
    stuck, exact, broke, profile = report["parts"]
    assert stuck["failure"] == "took longer than its 1 s"
    assert "code -9" in broke["failure"]
    assert "\n" not in broke["failure"]
    assert exact["failure"] is profile["failure"] is None
    single, half = exact["rows"]
    assert single["dtype"] == "float32"
    assert single["error"] < probes.EXACT
    assert 1e-4 < half["error"] < 1.5 * half["eager_error"]
    assert set(exact["expected"].values()) == {None}, "a dry run judges nothing"
    assert len(profile["rows"]) == 5
    assert profile["rows"][0]["share"] >= profile["rows"][-1]["share"] > 0
    assert "stuck: took longer than its 1 s" in said.err


@pytest.mark.slow
def test_a_dry_run_of_all_parts(tmp_path, capsys):
    assert gpu.main(["--dry-run", "--out", str(tmp_path / "gpu.json")]) == 0
    parts = {part["part"]: part for part in json.loads(capsys.readouterr().out)["parts"]}
    assert parts.keys() == {part.name for part in gpu.PARTS}
    assert all(part["rows"] and not part["failure"] for part in parts.values())
    assert all(row.get("failure") is None for part in parts.values() for row in part["rows"])


def test_without_a_card_one_line_says_what_to_do(tmp_path, monkeypatch, capsys):
    if torch.cuda.is_available():
        pytest.skip("there is a card")
    assert gpu.main(["--out", str(tmp_path / "gpu.json")]) == 2
    assert "there is no cuda on this machine" in capsys.readouterr().err


def test_what_is_expected_of_a_card_is_checked():
    exact, half = gpu.PARTS[0].expected
    row = {"dtype": "float32", "error": 1e-6, "eager_error": 0.0}
    assert exact.holds([row])
    assert not exact.holds([row, row | {"error": 2e-5}])
    row = {"dtype": "bfloat16", "error": 0.015, "eager_error": 0.01}
    assert half.holds([row])
    assert not half.holds([row | {"error": 0.0151}])
    (fast,) = next(part for part in gpu.PARTS if part.name == "map-7b").expected
    row = {"variant": "map", "tokens": 601, "x_forward": 1.8}
    other = {"variant": "map", "tokens": 2048, "x_forward": 2.5}
    assert fast.holds([row, other])
    assert not fast.holds([row | {"x_forward": 1.81}])
    assert not fast.holds([row | {"x_forward": None}])
    assert not fast.holds([other])
    (linear,) = next(part for part in gpu.PARTS if part.name == "growth-2b").expected
    sizes = {2048: 10, 8192: 41, 32768: 160}
    rows = [{"variant": "map", "tokens": tokens, "over_forward_bytes": size} for tokens, size in sizes.items()]
    assert linear.holds(rows)
    assert not linear.holds([*rows[:2], rows[2] | {"over_forward_bytes": 640}])
    assert not linear.holds(rows[:1])
