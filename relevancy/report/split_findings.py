"""What an export shows in each group of one of its columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from relevancy.report.groups import Grouping
from relevancy.report.measures import Series
from relevancy.report.pair_findings import Pair
from relevancy.report.samples import FLIPS, sample_of
from relevancy.stats.clustered import Estimate, holm, means, sign_flips
from relevancy.stats.intervals import Resamples

GROUPED = ("blind_tv", "blind_drop", "image_share", "top_mass", "probability", "correct")


@dataclass(frozen=True)
class GroupDifference:
    """The paired difference of the main measure in one group, first less second; p_adjusted: Holm's over the split."""

    first: str
    second: str
    difference: Estimate
    p: float | None
    p_adjusted: float | None


@dataclass(frozen=True)
class GroupFindings:
    """One group of a split: each model's means, each pair's difference of the main measure."""

    value: str
    rows: int
    means: Mapping[str, Mapping[str, Estimate]]
    differences: tuple[GroupDifference, ...]


@dataclass(frozen=True)
class SplitFindings:
    """The groups of one column, the largest first; how many smaller ones are left out."""

    column: str
    groups: tuple[GroupFindings, ...]
    left_out: int

    def estimates(self, measure: str) -> list[Estimate]:
        """Every model's mean of a measure in every group."""
        return [means[measure] for group in self.groups for means in group.means.values()]


def split_findings(
    column: str, series: Sequence[Series], pairs: Sequence[Pair], main: str, drawn: Resamples
) -> SplitFindings:
    """Each model's means, and each pair's difference of the main measure, in each group of a column."""
    grouping = Grouping.of([one.groups[column] for one in series])
    labels = [grouping.places(one.groups[column]) for one in series]
    of_series = dict(zip([one.name for one in series], labels, strict=True))
    numbers = range(len(grouping.names))
    estimates = iter(
        means(
            [
                sample_of(one, measure, of_series[one.name] == number)
                for number in numbers
                for one in series
                for measure in GROUPED
            ],
            drawn,
        )
    )
    samples = [
        pair.difference(main, of_series[pair.first.name][pair.in_first] == number)
        for number in numbers
        for pair in pairs
    ]
    p_values = sign_flips(samples, drawn.pictures, flips=FLIPS, seed=drawn.seed + 1)
    tested = iter(zip(means(samples, drawn), p_values, holm(p_values), strict=True))
    groups = tuple(
        GroupFindings(
            value=grouping.names[number],
            rows=len(np.unique(np.concatenate([one.keys[of_series[one.name] == number] for one in series]))),
            means={one.name: {measure: next(estimates) for measure in GROUPED} for one in series},
            differences=tuple(GroupDifference(pair.first.name, pair.second.name, *next(tested)) for pair in pairs),
        )
        for number in numbers
    )
    return SplitFindings(column, groups, grouping.left_out)
