"""Grouped sampling: each position once, micro-batches of one kind and like length or LLaVA's own, seeded."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from relevancy.errors import RelevancyError
from relevancy.train.data.sources import Dialogues
from relevancy.train.presets import CELLS, preset
from relevancy.train.run import Order
from relevancy.train.samplers import GroupedSampler, LlavaSampler


@settings(max_examples=100)
@given(
    data=st.lists(st.tuples(st.integers(0, 500), st.booleans()), max_size=80), batch=st.integers(1, 5),
    groups=st.integers(1, 4), seed=st.integers(0, 3), window=st.integers(1, 5),
)  # fmt: skip
def test_each_once_and_kinds_apart(data, batch, groups, seed, window):
    lengths, pictured = [length for length, _ in data], [kind for _, kind in data]
    sampler = GroupedSampler(lengths, pictured, batch, groups, seed, window)
    order = sampler.order(0).tolist()
    assert sorted(order) == list(range(len(data))) == sorted(sampler.order(5).tolist())
    size = batch * groups
    whole = sum(sum(kind == side for kind in pictured) // size for side in (True, False))
    for step in range(whole):  # of one kind: no device waits for another that has pictures to look at
        assert len({pictured[place] for place in order[step * size : (step + 1) * size]}) == 1
    rest = [pictured[place] for place in order[whole * size :]]
    assert rest == sorted(rest, reverse=True)  # what is left over mixes in one micro-batch at most
    assert GroupedSampler(lengths, pictured, batch, groups, seed, window).order(0).tolist() == order


def test_little_is_padded_and_no_device_waits():
    random = np.random.default_rng(0)
    lengths = random.integers(10, 1000, 3200)

    def measured(order):
        batches = lengths[order].reshape(-1, 8)
        steps = batches.sum(1).reshape(-1, 8)
        return 1 - lengths.sum() / (batches.max(1) * 8).sum(), ((steps.max(1) - steps.min(1)) / steps.mean(1)).max()

    padded, uneven = measured(random.permutation(3200))
    assert padded > 0.3
    assert uneven > 0.5
    padded, uneven = measured(GroupedSampler(lengths, np.ones(3200, bool), 8, 8).order(0))
    assert padded < 0.15
    assert uneven < 0.05
    assert measured(GroupedSampler(lengths, np.ones(3200, bool), 8, 8, window=1).order(0))[1] < 0.05


def test_epochs_and_seeds_differ():
    sampler = GroupedSampler(range(100), [True] * 100, 4)
    first = sampler.order(0).tolist()
    assert sampler.order(1).tolist() != first
    assert sampler.order(0).tolist() == first
    assert GroupedSampler(range(100), [True] * 100, 4, seed=1).order(0).tolist() != first


def test_a_loader_cuts_the_micro_batches():
    order = GroupedSampler(list(range(24)), [True] * 12 + [False] * 12, 4, 3).order(0).tolist()
    for batch in DataLoader(range(24), 4, sampler=order):
        assert len({int(place) < 12 for place in batch}) == 1


@pytest.mark.parametrize(
    ("kinds", "batch", "groups", "window"), [(1, 1, 1, 1), (2, 0, 1, 1), (2, 1, 0, 1), (2, 1, 1, 0)]
)
def test_refused(kinds, batch, groups, window):
    with pytest.raises(RelevancyError):
        GroupedSampler([1, 2], [True] * kinds, batch, groups, window=window)


def authors_order(lengths, pictured, batch, groups, random):
    """LLaVA's order by modality and length, written anew from its description, slowly, in lists."""

    def dealt(step, signed):
        if len(step) % groups:
            return [place for group in range(groups) for place in step[group::groups]]
        chunks = [[] for _ in range(groups)]
        for place in step:
            open_ones = [chunk for chunk in chunks if len(chunk) < len(step) // groups]
            min(open_ones, key=lambda chunk: sum(signed[one] for one in chunk)).append(place)
        return [place for chunk in chunks for place in chunk]

    def steps_of(places, signed):
        places = [places[number] for number in random.permutation(len(places))]
        steps = [places[first : first + batch * groups] for first in range(0, len(places), batch * groups)]
        return [dealt(sorted(step, key=lambda place: signed[place], reverse=True), signed) for step in steps]

    kinds = [[place for place, seen in enumerate(pictured) if seen == kind] for kind in (True, False)]
    if not all(kinds):
        signed = [int(length) if kinds[0] else -int(length) for length in lengths]
        return [place for step in steps_of(list(range(len(lengths))), signed) for place in step]
    drawn = [steps_of(places, [int(length) for length in lengths]) for places in kinds]
    steps = drawn[0][:-1] + drawn[1][:-1]
    order = [place for number in random.permutation(len(steps)) for place in steps[number]]
    return order + sorted(drawn[0][-1] + drawn[1][-1])


@settings(max_examples=150)
@given(
    data=st.lists(st.tuples(st.integers(1, 30), st.booleans()), min_size=1, max_size=80), batch=st.integers(1, 5),
    groups=st.integers(1, 4), seed=st.integers(0, 3), one_kind=st.sampled_from([None, True, False]),
)  # fmt: skip
def test_the_authors_order_place_by_place(data, batch, groups, seed, one_kind):
    """With the same random numbers it is the same list, ties, leftovers and data of one kind included."""
    lengths = [length for length, _ in data]
    pictured = [kind if one_kind is None else one_kind for _, kind in data]
    for epoch in (0, 3):
        found = LlavaSampler(lengths, pictured, batch, groups, seed).order(epoch).tolist()
        assert found == authors_order(lengths, pictured, batch, groups, np.random.default_rng([seed, epoch]))


def test_a_step_of_the_paper_holds_any_length_and_one_of_the_improved_flavour_a_like_one():
    random = np.random.default_rng(5)
    lengths = np.minimum(random.lognormal(4.6, 0.9, 20_000).astype(np.int64) + 4, 2000)
    pictured = random.random(20_000) < 0.94
    data = Dialogues()
    data.lengths, data.pictured = lengths, pictured

    def spread(order):
        """Standard deviation of lengths within a step of 128, mean over steps."""
        order = np.asarray(order)
        return lengths[order[: len(order) // 128 * 128]].reshape(-1, 128).std(1).mean()

    def of(flavour, seed):
        stage = preset(CELLS[0], flavour).finetune
        assert (stage.batch, stage.micro, stage.grouped) == (128, 2, True)
        return list(Order(data, replace(stage, steps=20_000 // 128), seed))

    paper = [spread(of("paper", seed)) for seed in range(4)]
    authors = spread(authors_order(lengths, pictured, 2, 64, np.random.default_rng(100)))
    assert abs(np.mean(paper) - authors) < 0.03 * authors
    assert np.std(paper) < 0.03 * authors
    assert spread(of("improved", 0)) < authors / 4
