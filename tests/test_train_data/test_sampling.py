"""Grouped sampling: each position once, micro-batches of one kind and like length, seeded, resumable."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from relevancy.errors import RelevancyError
from relevancy.train.samplers import GroupedSampler


@settings(max_examples=100, deadline=None)
@given(
    data=st.lists(st.tuples(st.integers(0, 500), st.booleans()), max_size=80), batch=st.integers(1, 5),
    groups=st.integers(1, 4), seed=st.integers(0, 3), window=st.integers(1, 5),
)  # fmt: skip
def test_each_once_and_kinds_apart(data, batch, groups, seed, window):
    lengths, pictured = [length for length, _ in data], [kind for _, kind in data]
    sampler = GroupedSampler(lengths, pictured, batch, groups, seed, window)
    order = list(sampler)
    assert sorted(order) == list(range(len(data))) == sorted(sampler.order(5).tolist())
    assert len(sampler) == len(data)
    size = batch * groups
    whole = sum(sum(kind == side for kind in pictured) // size for side in (True, False))
    for step in range(whole):  # of one kind: no device waits for another that has pictures to look at
        assert len({pictured[place] for place in order[step * size : (step + 1) * size]}) == 1
    rest = [pictured[place] for place in order[whole * size :]]
    assert rest == sorted(rest, reverse=True)  # what is left over mixes in one micro-batch at most
    assert list(GroupedSampler(lengths, pictured, batch, groups, seed, window)) == order


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
    first = list(sampler)
    sampler.set_epoch(1)
    assert list(sampler) != first
    sampler.set_epoch(0)
    assert list(sampler) == first
    assert list(GroupedSampler(range(100), [True] * 100, 4, seed=1)) != first


def test_an_epoch_is_taken_up_at_any_position():
    lengths, pictured = list(range(37)), [place % 3 > 0 for place in range(37)]
    whole = GroupedSampler(lengths, pictured, 2, 2, seed=4).order(3).tolist()
    for taken in range(38):
        sampler = GroupedSampler(lengths, pictured, 2, 2, seed=4)
        sampler.resume(3, taken)
        sampler.set_epoch(3)  # a training loop says it again
        assert list(sampler) == whole[taken:]
        sampler.set_epoch(4)
        assert len(list(sampler)) == 37


def test_another_epoch_begins_at_its_start():
    sampler = GroupedSampler(range(10), [True] * 10, 2)
    sampler.resume(0, 5)
    sampler.set_epoch(1)
    assert len(list(sampler)) == 10


def test_a_loader_cuts_the_micro_batches():
    lengths = list(range(24))
    loader = DataLoader(range(24), 4, sampler=GroupedSampler(lengths, [True] * 12 + [False] * 12, 4, 3))
    for batch in loader:
        assert len({int(place) < 12 for place in batch}) == 1


@pytest.mark.parametrize(
    ("kinds", "batch", "groups", "window"), [(1, 1, 1, 1), (2, 0, 1, 1), (2, 1, 0, 1), (2, 1, 1, 0)]
)
def test_refused(kinds, batch, groups, window):
    with pytest.raises(RelevancyError):
        GroupedSampler([1, 2], [True] * kinds, batch, groups, window=window)
