"""Does the answer change when the map's most relevant part is hidden?"""

from __future__ import annotations

__all__ = ["answer_flips"]

from collections.abc import Sequence

import numpy as np

from relevancy.metrics.patch_order import first_of, mean_of, singly
from relevancy.metrics.teacher_forcing import Replacement, TeacherForcing

SHARE = 0.125  # of the patches: 8 of 64 cells in the published protocol


def answer_flips(
    sight: TeacherForcing, orders: Sequence[np.ndarray], *, share: float = SHARE, replacement: Replacement = "grey"
) -> np.ndarray:
    """Whether the model's greedy answer changes once the first `share` of each order is hidden: 1, 0, or NaN.

    orders: of one picture's patches, for each map one (patches,) or some (orders, patches), over which the mean is
    taken; compare with `patch_order.random_order`, a random region of the same size. NaN where the untouched picture
    does not give this answer, so that there is nothing to flip. All are read together.
    Protocol: AnswerMap's deletion test (top 12.5 % greyed, the question asked again).
    """
    single, begins = singly(orders)
    regions = [first_of(ordered, [share], sight.patches) for ordered in single]
    untouched = np.zeros((1, sight.patches), bool)
    kept = sight.hiding(np.concatenate([untouched, *regions]), replacement).kept
    return mean_of(np.where(kept[0], ~kept[1:], np.nan).astype(np.float64), begins)
