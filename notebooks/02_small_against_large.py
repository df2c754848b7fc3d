# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Small against large
#
# Does the smaller of two models look at the picture less?
#
# Figure 2 of the LLaVA-Gemma paper ([arXiv 2404.01331](https://arxiv.org/abs/2404.01331)) shows one picture and one
# question, "Is the duck floating? (a) Yes (b) No", which the model with Gemma 2B gets wrong and the one with Gemma 7B
# gets right. Its caption says that the smaller model does not attend to the visual input. The picture was chosen by
# that outcome. Here the figure is drawn again, and then the same is measured on 500 pictures that were not chosen.
#
# The two models are the demonstration pair of this package. They are LLaVA-Gemma in miniature, trained on drawn
# scenes. They are **not** LLaVA-Gemma-2B and 7B, and what is found here is about them alone. The last section says how
# to ask the real ones.

# %%
import matplotlib.pyplot as plt
import numpy as np

import relevancy
from relevancy.demo.world import HELD_OUT, duck_scene

small, large = relevancy.load("demo-small"), relevancy.load("demo-large")
for model in (small, large):
    print(f"{model.name}: {model.model.num_parameters():,} parameters")

# %% [markdown]
# ## One picture, the paper's question
#
# Scenes with one duck, the question of the paper, both models. Taken is the first scene about which only the larger
# model is right, as the paper chose its figure; where there is none among these 24, the first scene.

# %%
scenes = [duck_scene(HELD_OUT + 200 + number, floating=number % 2 == 0) for number in range(24)]
pictures = [drawn.image for drawn in scenes]
asked = [drawn.questions[1] for drawn in scenes]  # with options


def rights(model):
    results = relevancy.explain(model, pictures, [question.text for question in asked], target="first-relevant")
    return [result.answer == question.answer for result, question in zip(results, asked, strict=True)]


right = list(zip(rights(small), rights(large), strict=True))
for outcome in sorted(set(right)):
    of_small, of_large = ("right" if hit else "wrong" for hit in outcome)
    print(f"small {of_small}, large {of_large}: {right.count(outcome)}")
chosen = right.index((False, True)) if (False, True) in right else 0

# %% [markdown]
# Explained is the first token of each answer that carries meaning: the letter, not the bracket before it. Both maps
# are on one scale of raw relevance, or each on its own where one would be dark. The bars below say how much of all
# relevance lies on the picture, on the words, and on the first token.

# %%
both = relevancy.compare([small, large], pictures[chosen], asked[chosen].text, target="first-relevant")
both

# %% [markdown]
# What it shows holds for this picture. Whether it holds in general
# cannot be seen in it.

# %% [markdown]
# ## 500 pictures, not chosen
#
# One question about each of 500 held-out scenes goes into a file of lines, with the right answer and the outline of
# the object that it asks about. `export` explains every line by both models.

# %%
import json
import tempfile
from itertools import islice
from pathlib import Path

from PIL import Image

from relevancy.demo.evaluation import held_out

work = Path(tempfile.mkdtemp())
about_one = (
    (drawn, question)
    for drawn in held_out(2000, seed=3)
    for question in [one for one in drawn.questions if len(one.items) == 1][:1]
)
with (work / "items.jsonl").open("w") as lines:
    for drawn, question in islice(about_one, 500):
        drawn.image.save(work / f"{drawn.seed}.jpg")
        Image.fromarray(drawn.mask(*question.items)).convert("L").save(work / f"{drawn.seed}-mask.png")
        row = {
            "id": str(drawn.seed), "image": f"{drawn.seed}.jpg", "mask": f"{drawn.seed}-mask.png",
            "question": question.text, "answer": question.answer, "type": question.type,
            "form": "with options" if question.form == "ab" else "open",
        }  # fmt: skip
        lines.write(json.dumps(row) + "\n")
print((work / "items.jsonl").read_text().splitlines()[0])

# %%
from relevancy.explanations.explain import ExplainConfig
from relevancy.export.run import Request, export

asked_for = Request(
    models=[small, large],
    input=str(work / "items.jsonl"),
    out=work / "maps",
    wish=ExplainConfig(target="first-relevant"),
)
done = export(asked_for)
print(f"{done.count:,} results, {done.errors} errors")

# %% [markdown]
# `make_report` reads the export. Every row is there twice, once for each model, so differences are taken in pairs. The
# intervals are 95 % bootstrap intervals; pictures are drawn anew, not rows. The claim is not read from where the maps
# glow, but from what becomes of each answer when the picture is knocked out of attention: that came with every map.

# %%
from relevancy.report.build import make_report, save

report = make_report(work / "maps", by=["type", "form"])
print(report.reading.headline)
for sentence in report.reading.sentences:
    print("-", sentence)

# %% [markdown]
# Left, each point is a row: how much of the next token's probability moves without the picture, in the small model and
# in the large one. Right, the paired difference with its interval, for all rows and for parts of them. Left of zero the
# small model uses the picture less.

# %%
opened = relevancy.open_export(work / "maps")
table = opened.table(["id", "model", "evidence_blind_tv", "correct"]).to_pylist()
used = {
    name: np.array([row["evidence_blind_tv"] for row in table if row["model"] == name])
    for name in (small.name, large.name)
}
correct = {
    name: np.array([row["correct"] for row in table if row["model"] == name]) for name in (small.name, large.name)
}

(pair,) = report.findings.pairs
outcomes = {
    (True, True): ("both right", "#3b6ea5"),
    (False, True): ("only large right", "#d1495b"),
    (True, False): ("only small right", "#e0a030"),
    (False, False): ("both wrong", "#999999"),
}
estimates = [("all rows", pair.differences["blind_tv"].difference)]
estimates += [(outcomes[one.first_right, one.second_right][0], one.differences["blind_tv"]) for one in pair.outcomes]
for split in report.findings.splits:
    estimates += [(group.value, group.differences[0].difference) for group in split.groups]
estimates = [(name, estimate) for name, estimate in estimates if estimate.low is not None]

figure, (left, middle) = plt.subplots(1, 2, figsize=(11, 4.8), layout="constrained", width_ratios=(1, 1.15))
for (of_small, of_large), (name, color) in outcomes.items():
    of_kind = (correct[small.name] == of_small) & (correct[large.name] == of_large)
    label = f"{name} ({of_kind.sum()})"
    left.scatter(used[small.name][of_kind], used[large.name][of_kind], s=12, alpha=0.6, color=color, label=label)
left.axline((0, 0), slope=1, color="black", linewidth=0.8, linestyle=":")
left.set(xlabel=f"use of the picture, {small.name}", ylabel=f"use of the picture, {large.name}", aspect="equal")
left.legend(fontsize=8)
for place, (_, estimate) in enumerate(estimates):
    middle.plot([estimate.low, estimate.high], [place, place], color="#3b6ea5", linewidth=2)
    middle.plot(estimate.value, place, "o", color="#3b6ea5", markersize=6 if place else 9)
middle.axvline(0, color="black", linewidth=0.8)
middle.set_yticks(range(len(estimates)), [f"{name} (n = {estimate.rows})" for name, estimate in estimates])
middle.invert_yaxis()
_ = middle.set_xlabel(f"use of the picture, {small.name} less {large.name}")

# %% [markdown]
# ## Which maps to believe
#
# Each map was tested by the same means: *words alone* where the picture changes nothing, *confirmed* where the map's
# best places matter more than others, *unconfirmed* where the picture may matter, and the map does not show where.

# %%
for model in report.findings.models:
    print(
        f"{model.name}: image share and use of the picture have a rank correlation of {model.share_and_use.value:.2f}"
    )
    for part in model.evidence:
        shares = ", ".join(f"{name} {share.value:.0%}" for name, share in part.verdicts.items())
        print(f"   {part.name:28} {shares}   (n = {part.verdicts['confirmed'].rows})")

# %% [markdown]
# ## Does it need its own picture?
#
# Knocked out, there is no picture; with another one, a wrong picture. Below, questions about 40 other scenes, once with
# their own picture and once with another scene's. What is left then is what can be guessed.

# %%
from relevancy.demo.evaluation import accuracy

for model in (small, large):
    own, other = (accuracy(model, scenes=40, seed=4, picture=picture) for picture in ("own", "other"))
    print(
        f"{model.name}: {own.questions} questions, right with their own picture {own.overall:.0%}, "
        f"with another {other.overall:.0%}; at best without seeing {own.chance_overall:.0%}"
    )

# %% [markdown]
# ## Dispersed and unfocused?
#
# The paper also calls the small model's map dispersed. That is another question than whether the picture is used: a map
# may hold little and still be sharp. Two measures of the map alone, and two against the true
# outline of the object that is asked about.

# %%
from relevancy.report.words import MEASURES

for name in ("image_share", "top_mass", "entropy", "correct"):
    found = pair.differences[name]
    estimate = found.difference
    print(
        f"{MEASURES[name].title:20} small {found.first:.3f}   large {found.second:.3f}   "
        f"difference {estimate.value:+.3f} [{estimate.low:+.3f}, {estimate.high:+.3f}]"
    )
print()
for name, found in report.findings.localisation.items():
    for place, estimate, chance in (
        ("peak on the object", found.pointing, found.pointing_chance),
        ("mass on the object", found.energy, found.energy_chance),
    ):
        print(f"{name}: {place} {estimate.value:.0%} [{estimate.low:.0%}, {estimate.high:.0%}], chance {chance:.0%}")

# %% [markdown]
# ## The rows in which the two differ most
#
# Numbers say how often; pictures say how. Each column is one row of the export, read back without a model: the small
# model above, the large one below, in each column on one scale or, where that leaves one dark, each on its own. Left
# the rows in which the small model uses the picture more, right those in which it uses it less.

# %%
from relevancy.explanations.comparison import compared

difference = used[large.name] - used[small.name]
names = [row["id"] for row in table if row["model"] == small.name]
order = np.argsort(difference)
shown = [names[place] for place in (order[0], order[1], order[-2], order[-1])]

figure, axes = plt.subplots(2, len(shown), figsize=(3.1 * len(shown), 7.2), layout="constrained")
for column, name in zip(axes.T, shown, strict=True):
    two = compared([opened.explanation(name, model.name) for model in (small, large)])
    for axis, result, drawn in zip(column, two.explanations, two.overlays(), strict=True):
        axis.imshow(drawn)
        axis.set_axis_off()
        axis.set_title(f"{result.model}: {result.answer}\n{result.evidence.verdict}", fontsize=9)
    column[0].text(0.5, 1.18, two.explanations[0].question, ha="center", fontsize=9, transform=column[0].transAxes)

# %% [markdown]
# ## The whole report, and your own models
#
# `save` writes the report as one HTML page, with a gallery of the rows worth looking at. On the command line, with the
# published models (a download of 5 and 17 GB) and with your own pictures, the same is
#
# ```bash
# relevancy export --model 2b --model 7b --input items.jsonl --target first-relevant --out maps
# relevancy report maps
# ```

# %%
page = save(report, work / "report")
print(page.name, f"{page.stat().st_size / 1e6:.1f} MB")
