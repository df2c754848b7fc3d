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
# # Token by token
#
# An answer has many tokens, and each has a map of its own. Which one should be explained, and against what?
#
# A map belongs to one number: the logit of one token at one position, or the difference of two logits. Here are the
# ways to choose it, and what each shows.

# %%
import matplotlib.pyplot as plt
import numpy as np

import relevancy
from relevancy.demo.language import DESCRIBE
from relevancy.demo.world import HELD_OUT, scene
from relevancy.plotting.overlay import value_range

model = relevancy.load("demo-large")
drawn = scene(HELD_OUT + 17)
drawn.image

# %% [markdown]
# ## Every token of a description
#
# `target="all"` gives one result for each token of the answer, from one forward pass. Its gradients are kept apart: no
# token's map holds anything of another's.

# %%
steps = relevancy.explain(model, drawn.image, DESCRIBE, target="all", max_new_tokens=18)
print(steps[0].answer)

# %% [markdown]
# All maps are on one scale, so a dark picture means a token for which little of the picture mattered. The scale ends
# below the largest map; what lies beyond has the color of its end. `p` is the token's probability.

# %%
top = float(np.quantile([step.image_map.max() for step in steps], 0.75))
columns = 6
lines = -(-len(steps) // columns)
figure, axes = plt.subplots(lines, columns, figsize=(2.1 * columns, 2.4 * lines), layout="constrained")
for axis in axes.flat:
    axis.set_axis_off()
for axis, step in zip(axes.flat, steps, strict=False):
    axis.imshow(step.overlay(vmin=0, vmax=top))
    axis.set_title(f"{step.target.token!r}  p = {step.target.probability:.2f}", fontsize=9)

# %% [markdown]
# ## Where each word's relevance lies
#
# The share of the picture in all relevance, token by token. It differs between words that grammar dictates and words
# that only the picture tells; but a small share does not mean that the picture was not needed. Hiding it tells
# (notebook 3).

# %%
figure, axis = plt.subplots(figsize=(max(8, 0.42 * len(steps)), 3.4), layout="constrained")
places = np.arange(len(steps))
bottom = np.zeros(len(steps))
for part, color in (("image", "#d1495b"), ("text", "#3b6ea5"), ("first_token", "#bbbbbb")):
    heights = np.array([step.shares[part] for step in steps])
    axis.bar(places, heights, bottom=bottom, color=color, label=part.replace("_", " "))
    bottom += heights
axis.set_xticks(
    places, [step.target.token.strip() or repr(step.target.token) for step in steps], rotation=60, ha="right"
)
axis.set(ylabel="share of relevance", ylim=(0, 1))
_ = axis.legend(loc="upper left", bbox_to_anchor=(1, 1))
# %% [markdown]
# ## One token of an answer
#
# `target` also takes a position, or a part of the answer as text. Here two objects of the same description, by their
# words.

# %%
there = dict.fromkeys(item.kind for item in drawn.layout.items)
nouns = [kind for kind in there if f" {kind}" in steps[0].answer][:3]
figure, axes = plt.subplots(1, max(2, len(nouns)), figsize=(3.6 * max(2, len(nouns)), 3.8), layout="constrained")
for axis, noun in zip(axes, nouns, strict=False):
    result = relevancy.explain(model, drawn.image, DESCRIBE, target=noun)
    axis.imshow(result.overlay())
    axis.set_title(f"target {noun!r}: token {result.target.token!r}, position {result.target.position}", fontsize=9)
for axis in axes:
    axis.set_axis_off()

# %% [markdown]
# ## The first token is not always the one
#
# Answers to questions with options begin with a bracket. With the tokenizer of a large Gemma the first token is the
# bracket alone, which the model says because of the form of the question, whatever the picture shows.
# `first-relevant` skips brackets, quotes and line breaks; it is what the LLaVA-Gemma paper explains. In the small
# vocabulary here "(a)" is one token, so both are the same. What differs is the word that follows.

# %%
from relevancy.demo.world import duck_scene

duck = duck_scene(HELD_OUT + 3, floating=True)
with_options, openly = "Is the duck floating? (a) Yes (b) No", "Is the duck floating?"
letter = relevancy.explain(model, duck.image, with_options, target="first-relevant")
word = relevancy.explain(model, duck.image, with_options, target=-1)
free = relevancy.explain(model, duck.image, openly)
figure, axes = plt.subplots(1, 3, figsize=(11, 4.1), layout="constrained")
for axis, result in zip(axes, (letter, word, free), strict=True):
    axis.imshow(result.overlay())
    axis.set_title(
        f"{result.question}\n{result.target.token!r} of {result.answer!r}, image share {result.shares['image']:.1%}",
        fontsize=9,
    )
    axis.set_axis_off()

# %% [markdown]
# Each of these maps has a scale of its own. Where the image share is near zero, the map is one of next to nothing, and
# drawn as empty. Which words the two rest on:

# %%
for result in (letter, word):
    ranked = sorted(result.words(), key=lambda pair: -pair[1])[:5]
    print(f"{result.target.token!r:8}", ", ".join(f"{token!r} {value:.3f}" for token, value in ranked))

# %% [markdown]
# ## Why this rather than that
#
# A logit alone may be high because the model expects *some* color here. What raises all colors alike cancels out in
# the difference of two logits: `target="A|B"` explains A against B. Left the token alone, then the same token against
# the likeliest other answers.

# %%
asked = next(one for one in drawn.questions if one.type == "color")
color_question = asked.text.split(" (a)")[0]
alone = relevancy.explain(model, drawn.image, color_question)
said = alone.answer
in_scene = [item.color.title() for item in drawn.layout.items if item.color]
others = [color for color in dict.fromkeys([*in_scene, "Red", "Yellow", "White"]) if color != said][:2]
against = [relevancy.explain(model, drawn.image, color_question, target=f"{said}|{other}") for other in others]
figure, axes = plt.subplots(1, 3, figsize=(11, 4), layout="constrained")
for axis, result in zip(axes, (alone, *against), strict=True):
    target = result.target
    rather = "" if target.contrast is None else f" rather than {target.contrast.strip()}"
    axis.imshow(result.overlay())
    axis.set_title(f"{color_question}\nwhy {target.token.strip()}{rather}", fontsize=9)
    axis.set_axis_off()

# %% [markdown]
# ## An answer that the model did not give
#
# `answer=` puts words into its mouth: the map shows what speaks for them, and `probability` how little the model would
# have said so itself.

# %%
figure, axes = plt.subplots(1, 3, figsize=(11, 4), layout="constrained")
for axis, words in zip(axes, (said, *others), strict=True):
    result = relevancy.explain(model, drawn.image, color_question, answer=words)
    axis.imshow(result.overlay())
    axis.set_title(f"{color_question}\n{words}: p = {result.target.probability:.3f}", fontsize=9)
    axis.set_axis_off()

# %% [markdown]
# ## Which layers
#
# Relevance is carried from the last decoder layer to the first. `layers` leaves some out: a layer that does not take
# part is stepped over, as if each token only saw itself there. Layers count from 0. On one scale:

# %%
depth = model.model.config.text_config.num_hidden_layers
ranges = {f"layer {number}": [number] for number in range(depth)} | {"all layers": range(depth)}
by_layers = {name: relevancy.explain(model, drawn.image, color_question, layers=some) for name, some in ranges.items()}
top = value_range([result.heatmap() for result in by_layers.values()])[1]
figure, axes = plt.subplots(1, len(ranges), figsize=(2.7 * len(ranges), 3.4), layout="constrained")
for axis, (name, result) in zip(axes, by_layers.items(), strict=True):
    axis.imshow(result.overlay(vmin=0, vmax=top))
    axis.set_title(f"{name}\nimage share {result.shares['image']:.0%}", fontsize=9)
    axis.set_axis_off()

# %% [markdown]
# The last position rarely reads the picture itself in every layer. What a patch tells a word in one layer, the word
# may tell the answer in a later one: single layers miss that way round, all layers together follow it. So the maps of
# single layers do not add up to the map of all.
#
# Over many answers, each layer's share of the picture and how often its peak lies on the object that is asked about:

# %%
from relevancy.demo.evaluation import held_out
from relevancy.metrics.localization import against_truth
from relevancy.stats.intervals import interval

rows = [
    (one, question)
    for one in held_out(30, seed=5)
    for question in one.questions
    if question.type in ("color", "side") and question.form == "open"
][:40]
pictures, texts = [one.image for one, _ in rows], [question.text for _, question in rows]
masks = [one.mask(*question.items) for one, question in rows]
groups = [one.seed for one, _ in rows]

print(f"{'':12} {'image share':24} peak on the object")
for name, some in ranges.items():
    results = relevancy.explain(model, pictures, texts, layers=some)
    image = interval([result.shares["image"] for result in results], groups)
    peak = interval(
        [against_truth(result, mask)["pointing"] for result, mask in zip(results, masks, strict=True)], groups
    )
    print(f"{name:12} {image!s:24} {peak}")
chance = interval([mask.mean() for mask in masks], groups)
print(f"{'chance':12} {'':24} {chance}")
