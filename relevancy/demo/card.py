"""The model card that lies beside each model of the pair."""

from __future__ import annotations

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
descriptions ("describe"), open questions ("openly"), questions of both forms ("finetune", "settle"), and questions on
pictures that fade, where the fainter the picture, the more answers are wrong ("sharpen"), so that logits grow with what
is seen. From "finetune" on attention to the picture has a small price, so that heads with nothing to find there rest on
words, as those of large models rest on the first token; before "sharpen" the last norm's gain is raised, so that logits
keep a gradient. At last ("respond") answers whose logit does not fall when a layer reads fainter values have a price,
which is what eq. 5 of relevancy needs to keep anything. `relevancy train demo` rebuilds the pair from a seed.

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


def card(name: str, parameters: dict[str, int], own: Accuracy, blind: Accuracy) -> str:
    """The card's text. `parameters`: number of each of "tower", "connector", "decoder"."""
    rows = [
        f"| {kind} | {form} | {own.counts[kind, form]:,} | {own.by_type[kind, form]:.1%} "
        f"| {blind.by_type[kind, form]:.1%} | {own.chance[kind, form]:.1%} |"
        for kind in TYPES
        for form in FORMS
        if (kind, form) in own.by_type
    ]
    return _CARD.format(
        name=name,
        **parameters,
        total=sum(parameters.values()),
        kinds=", ".join(f"{kind}s" for kind in KINDS),
        colors=", ".join(COLORS),
        questions=own.questions,
        scenes=own.scenes,
        overall=own.overall,
        blind=blind.overall,
        chance=own.chance_overall,
        rows="\n".join(rows),
    )
