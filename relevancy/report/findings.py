"""What an export shows: estimates per model, between models and by group, with intervals and what they rest on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from relevancy.report.measures import Measures
from relevancy.report.model_findings import (
    Localisation,
    ModelFindings,
    Rightness,
    has_truth,
    localisation,
    model_findings,
    rightness,
)
from relevancy.report.pair_findings import Pair, PairFindings, pair_findings
from relevancy.report.samples import FLIPS, frequent_forms
from relevancy.report.split_findings import SplitFindings, split_findings
from relevancy.stats.intervals import Resamples


@dataclass(frozen=True)
class ReportFindings:
    """Everything that is counted; by model name where a mapping is given.

    main: the measure that models are compared by, the picture's use; the image share where a model has no evidence.
    """

    main: str
    models: tuple[ModelFindings, ...]
    pairs: tuple[PairFindings, ...]
    splits: tuple[SplitFindings, ...]
    rightness: Mapping[str, Mapping[str, Rightness]]
    localisation: Mapping[str, Localisation]
    pictures: int
    resamples: int
    flips: int
    seed: int
    tests: int
    failed: int
    errors: Mapping[str, int]
    repeated: int
    unreadable_masks: int


def find(
    measured: Measures,
    *,
    by: Sequence[str] = (),
    resamples: int = 2000,
    seed: int = 0,
    progress: Callable[[str, float], None] = lambda *_: None,
) -> ReportFindings:
    """All estimates of what was measured."""
    drawn = Resamples(measured.pictures, resamples, seed)
    series = measured.series
    pairs = [Pair.of(*two) for two in combinations(series, 2)]
    main = "blind_tv" if all(np.isfinite(one.measures["blind_tv"]).any() for one in series) else "image_share"
    forms = frequent_forms(series)
    progress("means", 0.0)
    models = model_findings(series, forms, drawn)
    progress("differences", 0.2)
    compared = pair_findings(pairs, forms, main, drawn)
    progress("groups", 0.5)
    splits = tuple(split_findings(column, series, pairs, main, drawn) for column in by)
    progress("right and wrong", 0.7)
    return ReportFindings(
        main=main,
        models=models,
        pairs=compared,
        splits=splits,
        rightness={one.name: rightness(one, drawn) for one in series if np.isfinite(one.measures["correct"]).any()},
        localisation={one.name: localisation(one, drawn) for one in series if has_truth(one)},
        pictures=measured.pictures,
        resamples=resamples,
        flips=FLIPS,
        seed=seed,
        tests=sum(each.p is not None for pair in compared for each in pair.differences.values()),
        failed=measured.failed,
        errors=measured.errors,
        repeated=measured.repeated,
        unreadable_masks=measured.unreadable_masks,
    )
