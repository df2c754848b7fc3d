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
# # Your own model, your own data
#
# How do I get maps from a model that I hold, of pictures that I have, as a table that I can work with?
#
# Three steps: make the model known (`wrap` or `load`), list pictures and questions in a file, run `relevancy export`.
# What comes out are Parquet files, which pandas reads.

# %% [markdown]
# ## A model that you hold
#
# `wrap` takes any LLaVA of transformers with its processor. Here one is built on the spot, with a Llama decoder, a
# CLIP tower of 12 x 12 patches, and **random weights**: it has learned nothing, and is called so. Only the tokenizer
# is taken from the embedded pair.

# %%
import torch
from transformers import (
    AutoTokenizer,
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)
from transformers.utils import logging

import relevancy

logging.disable_progress_bar()

tokenizer = AutoTokenizer.from_pretrained(relevancy.MODELS["demo-small"].source)
processor = LlavaProcessor(
    CLIPImageProcessorPil(size={"shortest_edge": 96}, crop_size={"height": 96, "width": 96}),
    tokenizer,
    patch_size=8,
    vision_feature_select_strategy="default",
    num_additional_image_tokens=1,
    chat_template=tokenizer.chat_template,
)
config = LlavaConfig(
    vision_config=CLIPVisionConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=3, num_attention_heads=4, image_size=96, patch_size=8
    ),
    text_config=LlamaConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=3, num_attention_heads=4, vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.convert_tokens_to_ids("<end_of_turn>"),
    ),
    image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
)  # fmt: skip
torch.manual_seed(0)
untrained = relevancy.wrap(LlavaForConditionalGeneration(config).eval(), processor, name="random")

# %% [markdown]
# It answers nonsense, and there is a map of it all the same. That is the first thing to know about maps: they show
# what raised a logit, in a model that knows something and in one that does not.

# %%
from relevancy.demo.world import HELD_OUT, scene

picture = scene(HELD_OUT + 31).image
relevancy.explain(untrained, picture, "What color is the ball?", max_new_tokens=6)

# %% [markdown]
# ## A model in a folder
#
# `load` takes a folder as transformers writes it, or the id of a model on the hub. Yours may be a fine-tuned one; here
# it is a copy of `demo-large`.

# %%
import shutil
import tempfile
from pathlib import Path

work = Path(tempfile.mkdtemp())
shutil.copytree(relevancy.MODELS["demo-large"].source, work / "my-model")
untrained.model.save_pretrained(work / "random")
untrained.processor.save_pretrained(work / "random")
sorted(file.name for file in (work / "my-model").iterdir())

# %%
mine = relevancy.load(work / "my-model")
print(f"{mine.model.num_parameters():,} parameters, {mine.dtype}, on {mine.device}")

# %% [markdown]
# ## Pictures and questions in a file
#
# One JSON object a line; CSV, Parquet, WebDataset shards and folders of pictures do as well. `image` and `question`
# are needed, an `answer` tells right from wrong, and any other column is carried along. The pictures are scenes again,
# some of them cut to a wide format, and one line names a picture that is not there.

# %%
import json

(work / "pictures").mkdir()
with (work / "items.jsonl").open("w") as lines:
    for number in range(100):
        drawn = scene(HELD_OUT + 500 + number)
        wide = number % 5 == 0
        image = drawn.image.crop((0, 50, 400, 350)) if wide else drawn.image
        image.save(work / "pictures" / f"{number:03}.jpg")
        for question in [one for one in drawn.questions if one.type in ("side", "color") and one.form == "open"][:2]:
            row = {
                "image": f"pictures/{number:03}.jpg", "question": question.text, "answer": question.answer,
                "type": question.type, "format": "wide" if wide else "square",
            }  # fmt: skip
            lines.write(json.dumps(row) + "\n")
    lines.write(json.dumps({"image": "pictures/lost.jpg", "question": "What color is the duck?"}) + "\n")
items = (work / "items.jsonl").read_text().splitlines()
print(len(items), "lines, such as", items[0])

# %% [markdown]
# ## Export
#
# On the command line. A dry run first: it explains a sample, estimates time and size, and writes nothing.
# (The pipe at the end is for the notebook: without a terminal, progress is told in lines.)

# %%
import sys

arguments = "--model my-model --model random --input items.jsonl --out maps --processes 0 --max-new-tokens 8"
command = f"cd {work} && {sys.executable} -m relevancy.cli export {arguments}"
# !{command} --dry-run 2>&1 | cat

# %%
# !{command} 2>&1 | cat

# %% [markdown]
# It may be stopped at any moment, and the same command goes on from there. Said again, it has nothing left to do. In
# Python the same is `relevancy.export.run.export(Request(models=..., input=..., out=...))`, with models by name or
# in memory.

# %% [markdown]
# ## The results in pandas
#
# A line for each row and model: answer, token, probability, whether it is right, the shares, the map with its shape,
# and your own columns with `in_` before their names. What could not be explained is a line with its reason.

# %%
opened = relevancy.open_export(work / "maps")
opened.errors().to_pandas()[["row", "model", "picture", "error"]]

# %%
frame = opened.table().to_pandas()
frame = frame[frame["error"].isna()]
frame[["id", "model", "question", "answer", "probability", "correct", "share_image", "in_type", "in_format"]].head(8)

# %%
frame["correct"] = frame["correct"].astype(float)
frame.groupby(["model", "in_type", "in_format"])[["correct", "probability", "share_image"]].agg("mean").round(3)

# %% [markdown]
# A large image share is no proof of seeing: compare that of random weights.

# %% [markdown]
# ## Maps as numbers
#
# `image_map` is a list of raw relevance, row by row. Maps of one model have one unit, so they can be averaged. Here is
# the mean map of all answers "Left" and of all answers "Right": if the model looks at what it is asked about, the one
# lies on the left, the other on the right. The model of random weights serves as the control; its answers are
# nonsense, so its maps are sorted by the right answer.

# %%
import matplotlib.pyplot as plt
import numpy as np

square = frame[(frame["in_format"] == "square") & (frame["in_type"] == "side")]
figure, axes = plt.subplots(1, 4, figsize=(12, 3.4), layout="constrained")
for pair, model in zip((axes[:2], axes[2:]), ("my-model", "random"), strict=True):
    means = {}
    for side in ("Left", "Right"):
        chosen = square[(square["model"] == model) & (square["expected"] == side)]
        shape = int(chosen["rows"].iloc[0]), int(chosen["cols"].iloc[0])
        means[side] = np.mean(np.stack(chosen["image_map"]), axis=0).reshape(shape)
    highest = max(mean.max() for mean in means.values())
    for axis, (side, mean) in zip(pair, means.items(), strict=True):
        axis.imshow(mean, cmap="inferno", vmin=0, vmax=highest)
        axis.set(title=f"{model}: \u201c{side}\u201d", xticks=[], yticks=[])

# %% [markdown]
# ## Back to pictures
#
# Any line becomes the result it was, with its picture: `opened[number]`, or by id and model. Below are the rows of
# which the model was least sure. Hatched is what it never saw: its processor cuts the middle out of a wide picture.

# %%
unsure = frame[frame["model"] == "my-model"].sort_values("probability").head(8)
figure, axes = plt.subplots(2, 4, figsize=(12, 6.6), layout="constrained")
for axis, line in zip(axes.flat, unsure.itertuples(), strict=True):
    result = opened.explanation(line.id, line.model)
    axis.imshow(result.overlay())
    axis.set_title(
        f"{result.question}\n{result.answer} (p = {line.probability:.2f}, right: {line.expected})", fontsize=8
    )
    axis.set_axis_off()

# %% [markdown]
# `relevancy report maps --by format` makes a page of these statistics, with intervals and a gallery; notebook 2 reads
# one. `relevancy check --model my-model --data items.jsonl` asks whether the maps are better than chance, and more;
# notebook 3 says how.
