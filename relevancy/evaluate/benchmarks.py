"""All benchmarks, by name."""

from __future__ import annotations

from collections.abc import Mapping

from relevancy.errors import RelevancyError, shortened
from relevancy.evaluate import gqa, mm_vet, mme, mmvp, pope, scienceqa, textvqa, vqav2
from relevancy.evaluate.benchmark import Benchmark

BENCHMARKS: Mapping[str, Benchmark] = {
    module.BENCHMARK.name: module.BENCHMARK for module in (pope, gqa, mme, mm_vet, vqav2, mmvp, scienceqa, textvqa)
}


def benchmark(name: str) -> Benchmark:
    """The benchmark of this name. Raises RelevancyError."""
    if name not in BENCHMARKS:
        raise RelevancyError(f"There is no benchmark {shortened(name)!r}: one of {', '.join(BENCHMARKS)}.")
    return BENCHMARKS[name]
