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
# # A first heatmap
#
# Which parts of the picture, and which words, made a vision-language model say what it said?
#
# Everything here runs on the two small models that come with the package: no download, no GPU. For your own model, put
# its name into `relevancy.load`: `"2b"`, `"7b"`, a hub id, or a folder. The picture is drawn by a program, with a seed
# that training never saw; a path, a Pillow image or an array will do as well.

# %%
import relevancy
from relevancy.demo.world import HELD_OUT, duck_scene

scene = duck_scene(HELD_OUT + 3, floating=True)
scene.image

# %% [markdown]
# ## Five lines

# %%
model = relevancy.load("demo-large")
result = relevancy.explain(model, scene.image, "What color is the duck?")
print(result.summary())
result

# %% [markdown]
# The figure has the picture, the heat over it with its raw scale, and the words on a scale of their own. Most of the
# time only the overlay is wanted:

# %%
result.overlay()

# %% [markdown]
# ## The words
#
# `result.relevance` has one number per input token, image tokens included. It is the row of the relevance matrix that
# belongs to the explained position. `result.shares` says how its mass falls to the picture, the words, and the first
# token. The first token is apart because attention that has nothing to do rests there. How large the picture's share is
# does not say how much the picture was used; but a map with less than a thousandth of the relevance mostly points at
# the wrong place, and is drawn as empty, with the reason on it (`overlay(floor=0)` draws it all the same).

# %%
print({part: round(share, 3) for part, share in result.shares.items()})

words = [
    (float(score), token)
    for token, score, is_image in zip(result.tokens, result.relevance, result.is_image, strict=True)
    if not is_image
]
for score, token in sorted(words, reverse=True)[:6]:
    print(f"{score:.5f}  {token!r}")

# %% [markdown]
# ## Another target
#
# Not "why this token", but "why this one rather than that one": the difference of two logits is explained, so that
# what raises both alike does not count.

# %%
rather = relevancy.explain(model, scene.image, "Is the duck floating?", target="Yes|No")
print(rather.summary())
rather.overlay()

# %% [markdown]
# An answer such as "(a) Yes" has several tokens. `"all"` gives one result for each; `"first-relevant"` skips brackets
# and quotes; a number is a position; a string is the token that holds it, or all of its
# tokens together.

# %%
question = "Is the duck floating? (a) Yes (b) No"
for step in relevancy.explain(model, scene.image, question, target="all"):
    print(f"{step.target.token!r:8} p = {step.target.probability:.3f}   image {step.shares['image']:.0%}")

# %% [markdown]
# ## How far back: language or full
#
# `scope="language"` stops at the decoder's image tokens. `scope="full"` goes on through the vision tower, which has
# moved information between patches. Both are exact for what they describe. They differ in scale, so each has its own.

# %%
import matplotlib.pyplot as plt

full = relevancy.explain(model, scene.image, "Is the duck floating?", scope="full")
figure, axes = plt.subplots(1, 2, figsize=(9, 4.8), layout="constrained")
for axis, shown in zip(axes, (result, full), strict=True):
    axis.imshow(shown.overlay())
    axis.set_title(f"scope = {shown.scope}, largest value {shown.image_map.max():.2g}")
    axis.set_axis_off()

# %% [markdown]
# ## Keep it
#
# `save` writes JSON, the overlay, the figure, and the map in the picture's own pixels; `load` brings the result back.

# %%
import tempfile
from pathlib import Path

import numpy as np

folder = Path(tempfile.mkdtemp()) / "duck"
result.save(folder)
again = relevancy.Explanation.load(folder)
assert np.array_equal(again.image_map, result.image_map)
sorted(file.name for file in folder.iterdir())
