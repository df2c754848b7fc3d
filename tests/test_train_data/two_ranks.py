"""Run twice, as rank 0 and 1: one step of DistributedDataParallel in which rank 0 has pictures and rank 1 none."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from test_losses import batch_of
from torch.nn.parallel import DistributedDataParallel
from training_data import small_llava
from transformers import GemmaTokenizer

from relevancy.train.losses import lean_loss
from relevancy.train.template import IGNORED


def main(folder: Path, rank: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    tokenizer = GemmaTokenizer.from_pretrained(folder / "tokenizer")
    model = small_llava(tokenizer)
    model.model.vision_tower.requires_grad_(False)
    whole = batch_of(tokenizer, [True, True, False, False])
    mine = slice(2 * rank, 2 * rank + 2)
    batch = {name: values[mine] for name, values in whole.items() if name != "pixel_values"}
    if rank == 0:
        batch["pixel_values"] = whole["pixel_values"]
    count = int((whole["labels"][:, 1:] != IGNORED).sum())
    with lean_loss(model):
        wrapped = DistributedDataParallel(model)
        loss = wrapped(**batch, num_items_in_batch=count).loss
        (loss * dist.get_world_size()).backward()  # gradients are averaged, the loss is a part of the sum
    torch.save({n: p.grad for n, p in model.named_parameters() if p.grad is not None}, folder / f"gradients-{rank}.pt")
    total = loss.detach().clone()
    dist.all_reduce(total)
    (folder / f"loss-{rank}.json").write_text(json.dumps(total.item()))
    # Not taken down in order: a reducer that outlives its group may wait for a thread that waits for the interpreter.
    os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
