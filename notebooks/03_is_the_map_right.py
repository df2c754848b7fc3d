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
# # Is the map right?
#
# A heatmap always looks convincing. Three questions tell whether it is worth anything. Does the answer hang on the
# patches that the map points at? Does the map change when the model's weights become random? Does it change when the
# question does? Each is asked of a random map, too, which shows what chance is.
#
# Everything runs on `demo-large`, the larger of the two small models that come with the package, and on scenes that
# its training never saw.

# %%
import matplotlib.pyplot as plt
import numpy as np

import relevancy
from relevancy.demo.evaluation import held_out

model = relevancy.load("demo-large")
asked_about = []
for drawn in held_out(40, seed=4):
    of_one = [one for one in drawn.questions if one.type in ("color", "side") and one.form == "open"]
    if of_one:
        asked_about.append((drawn, of_one[0]))
asked_about = asked_about[:30]

pictures = [drawn.image for drawn, _ in asked_about]
questions = [question.text for _, question in asked_about]
results = relevancy.explain(model, pictures, questions, target="first-relevant")
right = [number for number, (_, question) in enumerate(asked_about) if results[number].answer == question.answer]
print(f"{len(right)} of {len(results)} answers are right; these are looked at")

# %% [markdown]
# ## Which one is the model's?
#
# The map of one answer, a map of random numbers, and a blob in the middle. All three look like explanations.

# %%
from dataclasses import replace

first = results[right[0]]
rng = np.random.default_rng(0)
rows, cols = first.image_map.shape
y, x = np.mgrid[0:rows, 0:cols]
blob = np.exp(-((x - cols / 2 + 0.5) ** 2 + (y - rows / 2 + 0.5) ** 2) / (rows * cols / 16)).astype(np.float32)
noise = rng.random((rows, cols), dtype=np.float32) ** 4
maps = {"relevancy": first.image_map, "random": noise, "blob in the middle": blob}

figure, axes = plt.subplots(1, 4, figsize=(13, 3.6), layout="constrained")
axes[0].imshow(first.image)
axes[0].set_title(f"{first.question}\n{first.answer}", fontsize=10)
for axis, (name, values) in zip(axes[1:], maps.items(), strict=True):
    axis.imshow(replace(first.picture(), image_map=values).overlay())
    axis.set_title(name, fontsize=10)
for axis in axes:
    axis.set_axis_off()

# %% [markdown]
# ## Deletion: hide what the map points at
#
# The patches are hidden in the order of the map, a few more in each step. Below each picture stands how likely the
# model still finds the answer that it gave of the whole picture.

# %%
from relevancy.metrics.patch_order import order, seen

steps = (0.02, 0.05, 0.1, 0.2, 0.5)
among = seen(first.grid)
figure, axes = plt.subplots(len(maps), len(steps), figsize=(2.3 * len(steps), 2.55 * len(maps)), layout="constrained")
for line, (name, values) in zip(axes, maps.items(), strict=True):
    ordered = order(values, among)
    hidden = [relevancy.Region(patches=ordered[: round(share * len(ordered))].tolist()) for share in steps]
    for axis, share, found in zip(
        line, steps, relevancy.counterfactual(model, first.image, first.question, hidden), strict=True
    ):
        axis.imshow(found.image)
        axis.set_title(f"{share:.0%} hidden: p = {found.after.per_token:.2f}", fontsize=9)
        axis.set(xticks=[], yticks=[])
    line[0].set_ylabel(name, fontsize=10)

# %% [markdown]
# Step by step this is a curve. Deletion begins with the whole picture, insertion with nothing of it. A faithful map
# makes the first fall early and the second rise early. The grey lines are 10 random orders of the same patches.

# %%
from relevancy.metrics.deletion_insertion import curves
from relevancy.metrics.patch_order import random_order
from relevancy.metrics.teacher_forcing import GivenAnswer, TeacherForcing

sight = TeacherForcing(model, first.image, first.question, GivenAnswer.of(first, model))
orders = [order(values, sight.seen) for values in maps.values()] + [
    random_order(sight.seen, seed) for seed in range(10)
]
found = curves(sight, orders, steps=20)

figure, axes = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained", sharey=True)
for axis, kind in zip(axes, ("deletion", "insertion"), strict=True):
    for one in found[len(maps) :]:
        axis.plot(one.shares, getattr(one, kind), color="0.8", linewidth=0.8)
    for name, one, color in zip(maps, found, ("#d1495b", "#555555", "#3b6ea5"), strict=False):
        area = getattr(one, f"{kind}_auc")
        axis.plot(one.shares, getattr(one, kind), color=color, linewidth=2, label=f"{name}: area {area:.2f}")
    axis.set(title=kind, xlabel=f"share of patches {'hidden' if kind == 'deletion' else 'shown'}")
    axis.legend(fontsize=8)
_ = axes[0].set_ylabel(f"probability of {first.target.token!r}")
# %% [markdown]
# ## Over all of them, and other methods
#
# One curve is one picture. Here are the means over all right answers with 95 % bootstrap intervals, for three methods
# behind the same call and a random map. *Flips* is how often the answer changes once the top 12.5 % of the patches are
# hidden. *Pointing* is how often the peak lies on the object that is asked about: these scenes know where it is. On
# your own pictures you have the first three numbers; the last needs a mask or a box.

# %%
from relevancy.metrics.answer_flip import answer_flips
from relevancy.metrics.explainers import explainer_of, random_maps
from relevancy.metrics.localization import against_truth
from relevancy.stats.intervals import interval

kept = [(pictures[number], questions[number], results[number].answer) for number in right]
methods = {name: explainer_of(name) for name in ("relevancy", "attention-gradient", "gradcam")}
methods["random"] = random_maps()
explained = {name: explainer(model, *zip(*kept, strict=True)) for name, explainer in methods.items()}

numbers = {name: {"deletion": [], "insertion": [], "flips": [], "pointing": []} for name in methods}
for place, number in enumerate(right):
    drawn, question = asked_about[number]
    own = [explained[name][place] for name in methods]
    sight = TeacherForcing(model, drawn.image, question.text, GivenAnswer.of(explained["relevancy"][place], model))
    orders = [order(result.image_map, sight.seen) for result in own]
    drawn_curves, flips = curves(sight, orders, steps=8), answer_flips(sight, orders)
    for name, result, curve, flip in zip(methods, own, drawn_curves, flips, strict=True):
        numbers[name]["deletion"].append(curve.deletion_auc)
        numbers[name]["insertion"].append(curve.insertion_auc)
        numbers[name]["flips"].append(flip)
        numbers[name]["pointing"].append(against_truth(result, drawn.mask(*question.items))["pointing"])

titles = {
    "deletion": "deletion area, lower is better", "insertion": "insertion area, higher is better",
    "flips": "answer flips, higher is better", "pointing": "peak on the object, higher is better",
}  # fmt: skip
figure, axes = plt.subplots(1, 4, figsize=(13, 2.8), layout="constrained", sharey=True)
for axis, (measure, title) in zip(axes, titles.items(), strict=True):
    for place, name in enumerate(methods):
        mean = interval(numbers[name][measure], range(len(right)))
        color = "#d1495b" if name == "relevancy" else "#999999" if name == "random" else "#3b6ea5"
        axis.plot([mean.low, mean.high], [place, place], color=color, linewidth=2)
        axis.plot(mean.mean, place, "o", color=color)
    axis.set_title(title, fontsize=9)
    axis.set_xlim(left=0)
    axis.grid(axis="x", alpha=0.3)
axes[0].set_yticks(range(len(methods)), list(methods))
_ = axes[0].invert_yaxis()

# %% [markdown]
# ## Random weights: does the map show what was learned?
#
# Weights are replaced by random ones from the output on: the last decoder layer, then the one before, down to the
# tower. A map that stays as it was shows the picture, not the model (Adebayo and others, 2018).

# %%
from relevancy.metrics.randomization import randomised, stages

explainer = explainer_of("relevancy")
cascade = stages(model)
figure, axes = plt.subplots(1, len(cascade) + 1, figsize=(2.3 * (len(cascade) + 1), 2.9), layout="constrained")
axes[0].imshow(first.overlay())
axes[0].set_title("trained", fontsize=9)
for axis, (name, parts) in zip(axes[1:], cascade.items(), strict=True):
    with randomised(model, parts):
        (after,) = explainer(model, [first.image], [first.question], [first.answer])
    axis.imshow(after.overlay())
    axis.set_title(f"random up to {name}", fontsize=9)
for axis in axes:
    axis.set_axis_off()

# %% [markdown]
# The rank correlation of each map with the one before, mean over the answers. Grey: what two unrelated answers' maps
# have in common, that is, each map against the next row's.

# %%
from relevancy.metrics.sanity_checks import Asked, randomisation, similarities

asked = Asked(*(list(part) for part in zip(*kept, strict=True)))
before = {name: [result.image_map for result in explained[name]] for name in methods}
groups = range(len(right))
figure, axis = plt.subplots(figsize=(8, 3.6), layout="constrained")
for name, color in (("relevancy", "#d1495b"), ("gradcam", "#3b6ea5")):
    means = [interval(np.abs(found), groups) for _, found in randomisation(methods[name], model, asked, before[name])]
    axis.plot(range(len(cascade)), [mean.mean for mean in means], "o-", color=color, label=name)
    axis.fill_between(
        range(len(cascade)), [mean.low for mean in means], [mean.high for mean in means], color=color, alpha=0.2
    )
unrelated = interval(
    np.abs(similarities(before["relevancy"], before["relevancy"][1:] + before["relevancy"][:1])), groups
)
axis.axhspan(unrelated.low, unrelated.high, color="0.8", label="relevancy, another row's map")
axis.set_xticks(range(len(cascade)), [f"to {name}" for name in cascade])
axis.set(ylim=(0, 1), ylabel="similarity with the trained model's map")
_ = axis.legend()
# %% [markdown]
# ## Another question about the same picture
#
# A map that depends on the picture alone is a map of what is conspicuous. Two questions about two objects of one
# scene:

# %%
about_two = next(
    (drawn, one, other)
    for drawn, one in asked_about
    for other in drawn.questions
    if one.type == other.type == "color" and one.items != other.items and other.form == "open"
)
drawn, one, other = about_two
figure, axes = plt.subplots(1, 3, figsize=(10, 3.7), layout="constrained")
axes[0].imshow(drawn.image)
for axis, question in zip(axes[1:], (one, other), strict=True):
    result = relevancy.explain(model, drawn.image, question.text, target="first-relevant")
    axis.imshow(result.overlay())
    axis.set_title(f"{question.text} {result.answer}", fontsize=10)
for axis in axes:
    axis.set_axis_off()

# %% [markdown]
# ## All of it in one call
#
# `Check` does this for any methods on any rows, and says in words what comes of it; `relevancy check` is the same on
# the command line. To see that it can fail a method, a wrong one is planted: the blob in the middle, whatever is
# asked.

# %%
import tempfile
from pathlib import Path

from relevancy.checking.check import Check
from relevancy.checking.worker import Settings
from relevancy.demo.held_out import held_out_rows


def blobs(model, images, questions, answers, /):
    whole = explainer(model, images, questions, answers)
    return [replace(result, pictures=(replace(result.picture(), image_map=blob),)) for result in whole]


check = Check(
    model,
    held_out_rows(24),
    {"relevancy": explainer, "blob": blobs},
    Path(tempfile.mkdtemp()),
    Settings(control_rows=10, steps=6, tokens=False),
)
findings = check.run()
print(findings.heading)
for summary in findings.summaries:
    print(f"\n{summary.method}: {summary.verdict.word}")
    for reason in summary.verdict.reasons:
        print("  -", reason)

# %% [markdown]
# A map that passes is not thereby true. It says that these patches matter for this logit, that what was learned has a
# part in it, and that the question does. Why the model learned to use them is another matter.
