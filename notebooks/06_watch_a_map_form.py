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
# # Watch a map form
#
# What does training do to a map?
#
# A vision-language model of the LLaVA kind is a vision tower, a decoder, and a connector between them. Here tower and
# decoder come from `demo-small`, and the connector starts from random weights: the decoder can talk, the tower can
# see, but nothing that the tower says makes sense to the decoder. One short stage of training mends that. Its
# checkpoints are explained one after the other.

# %% [markdown]
# ## Data
#
# Training data in LLaVA's own format: a JSON list of conversations about pictures. 300 scenes, each with the questions
# that can be asked about it.

# %%
import json
import tempfile
from pathlib import Path

from transformers.utils import logging

from relevancy.demo.world import scene

logging.disable_progress_bar()
work = Path(tempfile.mkdtemp())
entries = []
for seed in range(1, 301):
    drawn = scene(seed)
    drawn.image.save(work / f"{seed}.jpg", quality=95)
    turns = []
    for question in drawn.questions[:8]:
        turns += [{"from": "human", "value": question.text}, {"from": "gpt", "value": question.answer}]
    turns[0]["value"] = "<image>\n" + turns[0]["value"]
    entries.append({"id": str(seed), "image": f"{seed}.jpg", "conversations": turns})
(work / "train.json").write_text(json.dumps(entries))
drawn.image

# %% [markdown]
# ## One stage
#
# A preset says which decoder and tower, and what each stage trains. `overridden` changes settings of it, as `--set`
# does on the command line. While the stage runs, `export` makes a whole model of the last checkpoint: the same that
# `relevancy train export-hub` does, so a long run can be watched in this way, too.

# %%
from relevancy.train.presets import overridden, preset
from relevancy.train.run import RunOptions, TrainingSource, export, train

STEPS, EVERY = 240, 20
plan = overridden(
    preset("demo-small"),
    [
        "align=none",
        f"finetune.steps={STEPS}",
        f"finetune.save_every={EVERY}",
        "finetune.learning_rate=1e-3",
        "vocabulary_multiple=1",
    ],
)
print("trains:", ", ".join(plan.finetune.trains))

# %%
import relevancy

marks = [40, 80, 100, 120, 140, 160, 200]
folders = {}


def watch(stage, share):
    """Called after every step; the checkpoint of the step before is whole by then."""
    step = round(share * STEPS) - 1
    if stage == "finetune" and step in marks:
        folders[step] = work / f"step-{step}"
        export(work / "run", folders[step])


source = {"finetune": TrainingSource(str(work / "train.json"))}
folders[STEPS] = train(plan, source, work / "run", RunOptions(cache=True, log_every=5, progress=watch))

# %% [markdown]
# Before the first step there is no checkpoint. The same parts, put together as the run put them:

# %%
from relevancy.train.composition import assembled
from relevancy.train.parts import parts_of

models = {step: relevancy.load(folder) for step, folder in sorted(folders.items())}
untrained = assembled(plan, parts_of(plan)).eval()
models = {0: relevancy.wrap(untrained, models[STEPS].processor, name="step 0")} | models
print(*models)

# %% [markdown]
# ## Three questions, checkpoint by checkpoint
#
# 40 scenes that are not in the data, with a question about one object each. The map explains the right answer, whatever
# the model says itself. The first three are drawn, each line on a scale of its own. `p` is the probability of the right
# answer.

# %%
import matplotlib.pyplot as plt
import numpy as np

from relevancy.demo.evaluation import held_out
from relevancy.plotting.overlay import value_range

rows = []
for one in held_out(60, seed=6):
    fitting = [asked for asked in one.questions if asked.type in ("color", "side") and asked.form == "open"]
    rows += [(one, asked) for asked in fitting[:1]]
rows = rows[:40]
pictures, texts = [one.image for one, _ in rows], [asked.text for _, asked in rows]
truths, masks = [asked.answer for _, asked in rows], [one.mask(*asked.items) for one, asked in rows]
maps = {step: relevancy.explain(model, pictures, texts, answer=truths) for step, model in models.items()}

shown = [0, 80, 100, 120, 160, STEPS]
figure, axes = plt.subplots(3, len(shown), figsize=(2.4 * len(shown), 8.1), layout="constrained")
for number, line in enumerate(axes):
    top = value_range([results[number].heatmap() for results in maps.values()])[1]
    for axis, step in zip(line, shown, strict=True):
        result = maps[step][number]
        axis.imshow(result.overlay(vmin=0, vmax=top))
        axis.set_title(f"step {step}: p = {result.target.probability:.2f}", fontsize=9)
        axis.set(xticks=[], yticks=[])
    line[0].set_ylabel(f"{texts[number]}\n{truths[number]}", fontsize=8)

# %% [markdown]
# ## All of them
#
# A few questions may be luck. Over all 40: the loss while training, the probability of the right answer, how much of
# the relevance lies on the picture, and how much of the map lies on the object that is asked about. Bands are 95 %
# intervals. Dotted is chance, the object's share of the picture.

# %%
from relevancy.metrics.localization import against_truth
from relevancy.stats.intervals import interval

curves = {"probability of the right answer": [], "image share": [], "mass of the map on the object": []}
for results in maps.values():
    found = (
        [result.target.probability for result in results],
        [result.shares["image"] for result in results],
        [against_truth(result, mask)["energy"] for result, mask in zip(results, masks, strict=True)],
    )
    for line, values in zip(curves.values(), found, strict=True):
        line.append(interval(values, range(len(rows))))

journal = [json.loads(line) for line in (work / "run" / "finetune" / "metrics.jsonl").read_text().splitlines()]
figure, axes = plt.subplots(1, 4, figsize=(14, 3.3), layout="constrained")
axes[0].plot([entry["step"] for entry in journal], [entry["loss"] for entry in journal], color="#555555")
axes[0].set(title="loss", ylim=(0, None))
for axis, (title, line) in zip(axes[1:], curves.items(), strict=True):
    axis.plot(list(models), [one.mean for one in line], "o-", color="#d1495b")
    axis.fill_between(list(models), [one.low for one in line], [one.high for one in line], color="#d1495b", alpha=0.2)
    axis.set(title=title, ylim=(0, 1))
axes[3].axhline(float(np.mean([mask.mean() for mask in masks])), color="black", linestyle=":", linewidth=1)
for axis in axes:
    axis.set_xlabel("step")

# %% [markdown]
# Read the four together. The loss falls at once while the decoder learns how often each answer comes; that needs no
# picture. Where it falls a second time, the right answers become likely. Compare at which step they do, and at which
# step relevance arrives on the picture, and on the object.
