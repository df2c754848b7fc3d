"""Training in processes of their own, which may be killed."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.distributed.fsdp import fully_shard

from relevancy.errors import RelevancyError
from relevancy.train import trainer
from relevancy.train.composition import assembled
from relevancy.train.losses import lean_loss
from relevancy.train.parts import parts_of
from relevancy.train.presets import Preset
from relevancy.train.run import RunOptions, TrainingSource, train
from relevancy.train.stages import freeze
from relevancy.train.trainer import LlavaTrainer, StoppedError

Kill = tuple[str, int, int]  # in which stage, before which step, by which signal
STOPPED, REFUSED = 143, 2


def trained(preset: Preset, data: Path, out: Path, *, resume: bool = False, **options: Any) -> Path:
    """Train here."""
    sources = {stage.name: TrainingSource(str(data)) for stage in preset.stages()}
    return train(preset, sources, out, RunOptions(resume=resume, log_every=1, **options))


def forked(preset: Preset, data: Path, out: Path, *, resume: bool = False, kill: Kill | None = None) -> int:
    """Train in a child of this process; returns how it ended, negative if by a signal."""
    return _ended([_child(_trains, preset, data, out, resume, kill, {})])[0]


def together(
    preset: Preset, data: Path, out: Path, *, resume: bool = False, kill: Kill | None = None, **engine: str
) -> list[int]:
    """Train in two children that share each step; `engine`: what `accelerate launch` puts into the environment."""
    return _ended([_child(_trains, preset, data, out, resume, kill, rank | engine) for rank in _ranks()])


def sharded(preset: Preset) -> list[int]:
    """One step in two children under FSDP2, the second with text alone; 0 where the gradients are one process's."""
    return _ended([_child(_shards, preset, rank) for rank in _ranks()])


def _ranks() -> list[dict[str, str]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(2)]


def losses(out: Path, stage: str) -> dict[int, float]:
    """The loss of each step."""
    lines = (out / stage / "metrics.jsonl").read_text().splitlines()
    return {line["step"]: line["loss"] for line in map(json.loads, lines)}


def _child(target: Callable, *arguments: Any) -> multiprocessing.process.BaseProcess:
    """Forked from a server that has imported and nothing else: a fork of pytest's own process, with the threads that
    a whole suite has left there, may wait for a lock for ever.
    """
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["deepspeed", "relevancy.train.run", "relevancy.train.trainer"])
    child = server.Process(target=target, args=arguments)
    child.start()
    return child


def _ended(children: list[multiprocessing.process.BaseProcess]) -> list[int]:
    for child in children:
        child.join(200)
        if child.exitcode is None:
            child.kill()
            child.join()
    return [child.exitcode or 0 for child in children]


def _trains(preset: Preset, data: Path, out: Path, resume: bool, kill: Kill | None, ranks: dict[str, str]) -> None:
    os.environ.update(ranks)
    torch.set_num_threads(1)
    if kill is not None:
        trainer.LlavaTrainer = _killed(*kill)  # type: ignore[misc]
    try:
        trained(preset, data, out, resume=resume)
    except StoppedError:
        os._exit(STOPPED)
    except RelevancyError as error:
        os.write(2, f"{error}\n".encode())
        os._exit(REFUSED)
    os._exit(0)


def _shards(preset: Preset, ranks: dict[str, str]) -> None:
    os.environ.update(ranks)
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    rank, parts = int(ranks["RANK"]), parts_of(preset)
    image = parts.tokenizer.convert_tokens_to_ids("<image>")
    ids = torch.tensor([[2, *[image] * 16, 9, 10, 11], [2, *range(20, 39)]])
    labels = torch.where((ids == image) | (ids == 2), -100, ids)
    pixels = torch.randn(1, 3, preset.image_size, preset.image_size, generator=torch.Generator().manual_seed(0))
    whole, spread = (assembled(preset, parts) for _ in range(2))
    for model in (whole, spread):
        freeze(model, preset.finetune)
    with lean_loss(whole, 4):
        for row, picture in ((0, pixels), (1, None)):
            loss = whole(input_ids=ids[row : row + 1], labels=labels[row : row + 1], pixel_values=picture).loss / 2
            loss.backward()
    with lean_loss(spread, 4, idle_tower=True):
        for layer in (*spread.model.language_model.layers, *spread.model.vision_tower.encoder.layers):
            fully_shard(layer)
        fully_shard(spread)
        mine = slice(rank, rank + 1)
        spread(input_ids=ids[mine], labels=labels[mine], pixel_values=None if rank else pixels).loss.backward()
    for (name, one), other in zip(whole.named_parameters(), spread.parameters(), strict=True):
        if one.requires_grad and not torch.allclose(one.grad, other.grad.full_tensor(), atol=1e-5):
            os.write(2, f"{name} differs\n".encode())
            os._exit(1)
    os._exit(0)


def _killed(stage: str, step: int, by: int) -> type[LlavaTrainer]:
    class Killed(LlavaTrainer):
        def training_step(self, *arguments: Any, **options: Any) -> Any:
            if self.stage.name == stage and self.state.global_step == step:
                os.kill(os.getpid(), by)
            return super().training_step(*arguments, **options)

    return Killed


KILL, TERM = signal.SIGKILL, signal.SIGTERM
