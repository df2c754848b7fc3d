"""Table 1 and Figure 1 of the LLaVA-Gemma paper (arXiv 2404.01331v2), as printed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

COLUMNS = ("GQA", "MME cog.", "MME per.", "MM-Vet", "POPE acc.", "POPE F1", "VQAv2", "MMVP", "SciQA-IMG")
IN_POINTS = frozenset({"MME cog.", "MME per.", "MM-Vet", "VQAv2"})
"""Columns of points or percent; the others are shares."""


@dataclass(frozen=True)
class PublishedRow:
    """A row of Table 1; scores are the printed text, None where the paper has none."""

    decoder: str
    tower: str
    pretrained: bool
    scores: tuple[str | None, ...]

    @property
    def name(self) -> str:
        """In one line."""
        return f"{self.decoder}, {self.tower}" + ("" if self.pretrained else ", connector not pretrained")


def _row(decoder: str, tower: str, pretrained: bool, scores: str) -> PublishedRow:
    return PublishedRow(decoder, tower, pretrained, tuple(None if one == "-" else one for one in scores.split()))


GRID = (
    _row("gemma-2b-it", "CLIP", True, "0.531 236 1130 17.7 0.850 0.839 70.7 0.287 0.564"),
    _row("gemma-2b-it", "CLIP", False, "0.481 249 935 13.1 0.784 0.762 61.7 0.180 0.549"),
    _row("gemma-2b-it", "DinoV2", True, "0.587 307 1133 19.1 0.853 0.838 71.4 0.227 0.555"),
    _row("gemma-2b-it", "DinoV2", False, "0.501 309 959 14.5 0.793 0.772 61.7 0.180 0.568"),
    _row("gemma-7b-it", "CLIP", True, "0.472 254 895 18.2 0.848 0.829 68.7 0.327 0.625"),
    _row("gemma-7b-it", "CLIP", False, "0.472 278 857 19.1 0.782 0.734 65.1 0.240 0.636"),
    _row("gemma-7b-it", "DinoV2", True, "0.519 257 1021 14.3 0.794 0.762 65.2 0.327 0.628"),
    _row("gemma-7b-it", "DinoV2", False, "0.459 226 771 12.2 0.693 0.567 57.4 0.267 0.598"),
)
"""The eight runs of the ablation: two decoders, two towers, connector pretrained or not."""

OTHERS = (
    _row("Phi-2b (self-reported)", "CLIP", True, "- - 1335 28.9 - 0.850 71.4 - 0.684"),
    _row("Llama-2-7b (self-reported)", "CLIP", True, "0.620 348 1511 30.6 0.850 0.859 78.5 46.1 0.704"),
)

FIGURE_1: Mapping[str, Mapping[str, float]] = {
    "skip pretraining": {"GQA": -0.049, "MME": -0.014, "POPE acc.": -0.073, "SciQA-IMG": -0.005},
    "DinoV2 for CLIP": {"GQA": 0.027, "MME": 0.029, "POPE acc.": -0.032, "SciQA-IMG": -0.006},
    "7B for 2B": {"GQA": -0.045, "MME": -0.076, "POPE acc.": -0.041, "SciQA-IMG": 0.063},
}
"""Choice -> benchmark -> change of the probability of a right answer, as the figure prints it.

Which of two labels in the figure is POPE's and which ScienceQA's is read from Table 1: the paper's text does not say.
"""
