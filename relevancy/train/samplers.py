"""An epoch's order in which a step's examples are of one kind, with pictures or without; by length, or LLaVA's own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from relevancy.errors import RelevancyError


class GroupedSampler:
    """LLaVA's grouping carried on to lengths, seeded: positions of the data, each once an epoch.

    An optimizer step has `batch * groups` examples of one kind, dealt out to `groups` micro-batches of about equal
    work. Steps come in random order; what is left over of both kinds comes last. The order depends on seed and epoch
    alone, so any process can take it up again at any position.

    lengths (n,), pictured (n,) bool. batch: examples of a micro-batch on one device; groups: devices * accumulation.
    window: the examples of so many steps are drawn at random and sorted by length before they are cut into steps, so
    that little is padded; with 1 a step's examples are of any length, as in LLaVA's own order (`LlavaSampler`).
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
        parts = [
            self._dealt(self._longest_first(steps[number]), self._batch) for number in random.permutation(len(steps))
        ]
        return np.concatenate([*parts, *rest])

    def _longest_first(self, positions: np.ndarray) -> np.ndarray:
        return positions[np.argsort(-self._lengths[positions].astype(np.int64), kind="stable")]

    def _dealt(self, positions: np.ndarray, room: int) -> np.ndarray:
        """One step's positions, longest first, micro-batch by micro-batch: each goes to the one with the least work.

        A micro-batch has room for so many.
        """
        dealt: list[list[int]] = [[] for _ in range(self._groups)]
        work = [0] * self._groups
        for position in positions.tolist():
            group = min((number for number in range(self._groups) if len(dealt[number]) < room), key=work.__getitem__)
            dealt[group].append(position)
            work[group] += int(self._lengths[position])
        return np.array([position for group in dealt for position in group], dtype=np.int64)


class LlavaSampler(GroupedSampler):
    """The order of LLaVA's own code, seeded: a step's examples are drawn at random from one kind, of any length.

    Within a step they are dealt out to micro-batches of about equal work. The last step of each kind, whole or not, is
    held back; both come at the end together, in the order of the data. Data of one kind has no such end. Without any
    picture that code counts lengths as negative, so that a micro-batch is filled before the next gets its first.
    """

    def __init__(
        self,
        lengths: Sequence[int] | np.ndarray,
        pictured: Sequence[bool] | np.ndarray,
        batch: int,
        groups: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__(lengths, pictured, batch, groups, seed, window=1)
        if not self._pictured.any():
            self._lengths = -self._lengths.astype(np.int64)

    def order(self, epoch: int) -> np.ndarray:
        """All positions (n,) in an epoch's order."""
        random = np.random.default_rng([self._seed, epoch])
        kinds = [found for kind in (True, False) if len(found := np.flatnonzero(self._pictured == kind))]
        drawn = [self._steps(random.permutation(positions)) for positions in kinds]
        if not drawn:
            return np.empty(0, np.int64)
        if len(drawn) == 1:
            return np.concatenate(drawn[0])
        steps = [step for own in drawn for step in own[:-1]]
        parts = [steps[number] for number in random.permutation(len(steps))]
        return np.concatenate([*parts, np.sort(np.concatenate([own[-1] for own in drawn]))])

    def _steps(self, positions: np.ndarray) -> list[np.ndarray]:
        """The positions cut into steps, each dealt out; a last one that does not divide is dealt out like cards."""
        size = self._batch * self._groups
        steps = []
        for step in np.split(positions, range(size, len(positions), size)):
            ordered = self._longest_first(step)
            room, over = divmod(len(ordered), self._groups)
            cards = [ordered[group :: self._groups] for group in range(self._groups)]
            steps.append(np.concatenate(cards) if over else self._dealt(ordered, room))
        return steps
