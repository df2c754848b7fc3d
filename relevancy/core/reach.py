"""What image tokens are made of, by gradients: which numbers of a picture, or which tokens of a tower."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


class Reach:
    """Asks what chosen image tokens are made of.

    embeddings: the image tokens as the decoder reads them, (count, width). sources: what they may be made of, in their
    graph.
    """

    def __init__(self, embeddings: Tensor, sources: Sequence[Tensor]) -> None:
        self.embeddings, self.sources = embeddings, sources
        drawn = torch.randn(embeddings.shape, generator=torch.Generator().manual_seed(0))
        self._direction = drawn.to(embeddings)

    def gradients(self, chosen: Tensor) -> list[Tensor]:
        """Of a random sum over the chosen tokens, bool (count,): by each source, zero where none of it is in them."""
        direction = self._direction * chosen.to(self.embeddings.device)[:, None]
        found = torch.autograd.grad(self.embeddings, self.sources, direction, retain_graph=True, allow_unused=True)
        return [
            torch.zeros_like(source) if one is None else one for source, one in zip(self.sources, found, strict=True)
        ]

    def reached(self, chosen: Tensor) -> list[Tensor]:
        """Whether each place of each source is part of any of the chosen tokens, bool, on the CPU."""
        return [(gradient != 0).cpu() for gradient in self.gradients(chosen)]


def owners(count: int, reached: Callable[[Tensor], Sequence[Tensor]]) -> tuple[list[Tensor], bool]:
    """Which of `count` tokens each place is part of, by 2 log2(count) questions, and whether any is part of several.

    reached: asked about chosen tokens, bool (count,), it tells the places that are part of any of them, bool tensors.
    Each of them comes back with the token's number at its places, -1 where there is none. Where any is part of several
    tokens, all that the numbers tell is whether a place is part of some.
    """
    numbers = torch.arange(count)
    found: list[Tensor] = []
    several = False
    for digit in range(max(1, (count - 1).bit_length())):
        bit = (numbers >> digit) % 2 == 1
        ones, others = reached(bit), reached(~bit)
        found = found or [(one | other).long() - 1 for one, other in zip(ones, others, strict=True)]
        for owner, one, other in zip(found, ones, others, strict=True):
            owner[one & (owner >= 0)] += 1 << digit
            several = several or bool((one & other).any())
    return found, several
