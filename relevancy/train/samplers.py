"""An epoch's order in which micro-batches hold examples of like length and of one kind, with pictures or without."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler

from relevancy.errors import RelevancyError


class GroupedSampler(Sampler[int]):
    """LLaVA's grouping, seeded: positions of the data, each once an epoch.

    An optimizer step has `batch * groups` examples of one kind, dealt out to `groups` micro-batches of about equal
    work. Steps come in random order; what is left over of both kinds comes last. The order depends on seed and epoch
    alone, so any process can take it up again at any position.

    lengths (n,), pictured (n,) bool. batch: examples of a micro-batch on one device; groups: devices * accumulation.
    window: the examples of so many steps are drawn at random and sorted by length before they are cut into steps, so
    that little is padded; 1 is LLaVA's way, in which a step's examples are of any length.
    """

    def __init__(
        self,
        lengths: Sequence[int] | np.ndarray,
        pictured: Sequence[bool] | np.ndarray,
        batch: int,
        groups: int = 1,
        seed: int = 0,
        window: int = 50,
    ) -> None:
        if len(lengths) != len(pictured):
            raise RelevancyError(f"{len(lengths)} lengths, but {len(pictured)} kinds of examples")
        if min(batch, groups, window) < 1:
            raise RelevancyError(f"a batch of {batch} in {groups} groups, window {window}: each is at least 1")
        self._lengths, self._pictured = np.asarray(lengths), np.asarray(pictured, dtype=bool)
        self._batch, self._groups, self._seed, self._window = batch, groups, seed, window
        self._epoch = self._taken = 0

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        """Positions of the present epoch, from where `resume` said, if it did."""
        taken, self._taken = self._taken, 0
        return iter(self.order(self._epoch)[taken:].tolist())

    def set_epoch(self, epoch: int) -> None:
        """The epoch that the next iteration gives; another than the present one begins at its start."""
        if epoch != self._epoch:
            self._epoch, self._taken = epoch, 0

    def resume(self, epoch: int, taken: int) -> None:
        """The next iteration goes on in `epoch` after `taken` of its positions.

        Not needed where the training loop itself passes over what it has seen, as transformers' Trainer does.
        """
        self._epoch, self._taken = epoch, taken

    def order(self, epoch: int) -> np.ndarray:
        """All positions (n,) in an epoch's order."""
        random = np.random.default_rng([self._seed, epoch])
        size = self._batch * self._groups
        steps: list[np.ndarray] = []
        rest: list[np.ndarray] = []
        for kind in (True, False):
            drawn = random.permutation(np.flatnonzero(self._pictured == kind))
            whole = len(drawn) // size * size
            for first in range(0, whole, size * self._window):
                ordered = self._longest_first(drawn[first : min(first + size * self._window, whole)])
                steps += np.split(ordered, len(ordered) // size)
            rest.append(self._longest_first(drawn[whole:]))
        parts = [self._dealt(steps[number]) for number in random.permutation(len(steps))]
        return np.concatenate([*parts, *rest])

    def _longest_first(self, positions: np.ndarray) -> np.ndarray:
        return positions[np.argsort(-self._lengths[positions].astype(np.int64), kind="stable")]

    def _dealt(self, positions: np.ndarray) -> np.ndarray:
        """One step's positions, micro-batch by micro-batch: each goes to the one with the least work that has room."""
        dealt: list[list[int]] = [[] for _ in range(self._groups)]
        work = [0] * self._groups
        for position in self._longest_first(positions).tolist():
            group = min(
                (number for number in range(self._groups) if len(dealt[number]) < self._batch), key=work.__getitem__
            )
            dealt[group].append(position)
            work[group] += int(self._lengths[position])
        return np.array([position for group in dealt for position in group], dtype=np.int64)
