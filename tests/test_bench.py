"""What is measured: every variant on one model gives the same row; failures come back named."""

import json
import subprocess
from dataclasses import asdict

import pytest
import torch

from relevancy import benchmark
from relevancy.benchmark import Measurement, Workload
from relevancy.errors import RelevancyError

SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "head_dim": 8,
}
TOWER = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 28,
    "patch_size": 14,
    "projection_dim": 16,
}
SETTING = Workload("tiny", "engine", tokens=12, dtype="float32", repeats=1)


@pytest.fixture(autouse=True)
def _tiny(monkeypatch):
    monkeypatch.setitem(benchmark.SIZES, "tiny", SHAPE)
    monkeypatch.setattr(benchmark, "_TOWER", TOWER)
    monkeypatch.setattr(benchmark, "_VOCABULARY", 500)
    monkeypatch.setattr(benchmark, "_IMAGE_TOKEN", 450)
    real = torch.randint
    monkeypatch.setattr(torch, "randint", lambda low, high, *rest, **more: real(10, 400, *rest, **more))


def test_all_variants_measure_the_same_map():
    model, inputs = benchmark.random_model(SETTING), benchmark.random_inputs(SETTING)
    assert inputs["input_ids"].shape == (1, 12)
    assert int((inputs["input_ids"] == 450).sum()) == 4
    row = benchmark.engine(model, inputs)[0].detach()
    assert row.shape == (12,)
    assert float(row.sum()) > 1.01, "an idle row would make every comparison true"
    frozen = benchmark.eager_frozen(model, inputs)
    weights = benchmark.eager_weights(model, inputs)
    unit = torch.eye(12)[-1]
    for eager in (frozen, weights):
        assert float((row - eager.detach()).norm() / (eager.detach() - unit).norm()) < 1e-5
    assert all(parameter.grad is None for parameter in model.parameters())
    model.set_attn_implementation("sdpa")
    assert benchmark.engine_full(model, inputs).shape == (1, 5)
    assert benchmark.forward_only(model, inputs) is None


def test_random_weights_are_the_same_each_time_and_of_the_type_asked_for():
    one, two = (benchmark.random_model(Workload("tiny", "forward", tokens=12, layers=1)) for _ in range(2))
    assert len(one.get_decoder().layers) == 1
    assert {parameter.dtype for parameter in one.parameters()} == {torch.bfloat16}
    assert torch.get_default_dtype() == torch.float32
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert all(parameter.isfinite().all() and parameter.any() for parameter in one.parameters())


@pytest.mark.parametrize("variant", benchmark.VARIANTS)
def test_each_variant_can_be_measured_here(variant):
    measured = benchmark.measure(Workload("tiny", variant, tokens=12, dtype="float32", repeats=1))
    assert measured.setting.variant == variant
    assert measured.seconds > 0
    assert measured.peak_bytes > 0
    assert measured.parameters > 1000
    assert measured.failure is None


def test_a_sequence_must_hold_the_picture():
    with pytest.raises(RelevancyError, match="more than the picture's own 5, not 5"):
        benchmark.random_inputs(Workload("tiny", "forward", tokens=5))


def test_settings_are_every_variant_at_every_length():
    found = benchmark.settings_for("tiny", tokens=(20, 30), variants=("forward", "engine"), layers=2)
    assert [(one.tokens, one.variant, one.layers) for one in found] == [
        (20, "forward", 2), (20, "engine", 2), (30, "forward", 2), (30, "engine", 2),
    ]  # fmt: skip


def test_sizes_and_variants_that_do_not_exist():
    with pytest.raises(RelevancyError, match="no size '3b'; choose one of 2b, 7b"):
        benchmark.settings_for("3b", tokens=(601,), variants=("forward",))
    with pytest.raises(RelevancyError, match="no variant 'fast'; choose from forward, engine"):
        benchmark.settings_for("2b", tokens=(601,), variants=("forward", "fast"))
    with pytest.raises(RelevancyError, match="bfloat16"):
        benchmark.settings_for("2b", tokens=(601,), variants=("forward",), dtype="int8")


def ended(code: int, out: str = "", err: str = ""):
    return lambda *_, **__: subprocess.CompletedProcess([], code, out, err)


def test_what_cannot_fit_is_not_tried(monkeypatch):
    monkeypatch.setattr(benchmark, "available_bytes", lambda device: 1 << 20)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("was tried"))
    measured = benchmark.measure_apart(Workload("2b", "eager-weights"))
    assert "GiB (estimated), not enough is free" in measured.failure
    assert measured.seconds != measured.seconds


@pytest.mark.parametrize(
    ("code", "err", "said"),
    [(1, "Traceback\nMemoryError: no room\n", "MemoryError: no room"), (-9, "", "ended with code -9")],
)
def test_a_process_that_dies_is_named(monkeypatch, code, err, said):
    monkeypatch.setattr(subprocess, "run", ended(code, err=err))
    assert benchmark.measure_apart(SETTING).failure == said


def test_time_and_memory_come_from_processes_of_their_own(monkeypatch):
    asked: list[Workload] = []

    def answer(command, *, env, **_):
        setting = Workload(**json.loads(command[-1]))
        asked.append(setting)
        apart = "MALLOC_MMAP_THRESHOLD_" in env
        measured = Measurement(setting, 9.0 if apart else 2.0, 100 if apart else 150, 7)
        return subprocess.CompletedProcess(command, 0, "a line of another library\n" + json.dumps(asdict(measured)), "")

    monkeypatch.setattr(subprocess, "run", answer)
    (measured,) = benchmark.sweep([SETTING])
    assert [setting.repeats for setting in asked] == [1, 0]
    assert (measured.setting, measured.seconds, measured.peak_bytes, measured.heap_bytes) == (SETTING, 2.0, 100, 150)


def test_estimates_grow_as_the_variants_do(monkeypatch):
    monkeypatch.setattr(benchmark, "_VOCABULARY", 256_064)

    def needed(variant: str, tokens: int) -> int:
        return benchmark.expected_bytes(Workload("2b", variant, tokens=tokens))

    assert 5e9 < needed("forward", 601) < 7e9
    rising = [needed(variant, 601) for variant in ("forward", "engine", "eager-frozen", "eager-weights")]
    assert rising == sorted(rising)
    extra = {n: needed("engine", n) - needed("forward", n) for n in (1000, 2000)}
    assert extra[2000] == 2 * extra[1000]
    square = {n: needed("eager-frozen", n) - needed("engine", n) for n in (1000, 2000)}
    assert square[2000] == 4 * square[1000]
