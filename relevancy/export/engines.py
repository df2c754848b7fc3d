"""Where the models work: in this process, or in several of this machine's."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import torch

from relevancy.data.arrow import pa
from relevancy.errors import RelevancyError
from relevancy.explanations.map_batch import ExplainConfig, require_known
from relevancy.export import prefetch
from relevancy.export.chunks import Chunk
from relevancy.export.overlays import Wanted
from relevancy.export.processed import ImageProcessors
from relevancy.export.records import ExplainBatches, RecordMaker
from relevancy.export.schema import table_of
from relevancy.models import adapters, checkpoints
from relevancy.models.model import Model, load
from relevancy.parallel.worker_pool import Work, WorkerCrash, WorkerPool

SMALL = 300_000_000
"""Parameters below which every core gets a process of its own; a larger model fills several cores by itself."""

_QUIET_HEAP = {
    # Activations of a few megabytes come and go: kept by the process, they need no new pages each time.
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
}

Results = Iterator[tuple[Chunk, pa.Table | WorkerCrash]]


class Engine(Protocol):
    """Turns chunks into tables."""

    @property
    def size(self) -> int:
        """How many chunks it works on at once."""

    def run(self, next_chunk: Callable[[], Chunk | None]) -> Results:
        """Each chunk with its table, in any order; `next_chunk` gives None when there is none for now."""


@dataclass(frozen=True)
class WorkerSpec:
    """What a working process needs to know: models by name, and how they explain."""

    models: tuple[str, ...]
    options: Mapping[str, Any]
    wish: ExplainConfig
    batch: int
    max_pixels: int
    columns: pa.Schema
    decoders: int = 0
    threads: int | None = None
    devices: tuple[str, ...] = field(default=())
    maps: Wanted = field(default=Wanted(every=True))

    def __call__(self, number: int) -> Work:
        """Load the models and be ready. Raises RelevancyError for what none of them could explain."""
        _quieten()
        if self.threads:
            torch.set_num_threads(self.threads)
        options = dict(self.options)
        if self.devices:
            options["device"] = self.devices[number % len(self.devices)]
        return self.with_models([load(name, **options) for name in self.models])

    def with_models(self, models: Sequence[Model]) -> Work:
        """The work of models that are in memory."""
        for model in models:
            rehearse(model, self.wish)
        processors = ImageProcessors.of(models, self.max_pixels)
        maker = RecordMaker(models, processors, ExplainBatches(self.wish, self.batch, self.maps))
        return partial(self._tables, maker, processors)

    def _tables(self, maker: RecordMaker, processors: ImageProcessors, chunks: Iterable[Chunk]) -> Iterator[pa.Table]:
        for chunk, pictures in prefetch.with_pictures(chunks, processors, self.decoders):
            yield table_of(maker.records(chunk.items, pictures), self.columns)


@dataclass(frozen=True)
class Here:
    """In this process, one chunk after the other."""

    work: Work
    size: int = 1

    def run(self, next_chunk: Callable[[], Chunk | None]) -> Results:
        """As in `Engine`."""
        while (chunk := next_chunk()) is not None:
            (table,) = self.work([chunk])
            yield chunk, table


def processes(size: int, make: Callable[[int], Work], *, threads: int | None) -> WorkerPool:
    """`size` processes of this machine, each with `threads` (all where None); a Crew is an Engine."""
    environment = dict(_QUIET_HEAP)
    if threads:
        environment |= {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    return WorkerPool(size, make, ahead=2, environment=environment)


def rehearse(model: Model, wish: ExplainConfig) -> None:
    """Raise RelevancyError for a model or layers that would turn every row into an error."""
    if model.takes_pictures:
        model.layout(64, 64)
    require_known(model, wish, pictures=int(model.takes_pictures))
    count = model.model.config.get_text_config().num_hidden_layers
    wrong = [layer for layer in wish.layers or () if not -count <= layer < count]
    if wrong:
        raise RelevancyError(
            f"{model.name} has decoder layers 0 to {count - 1}, not {wrong[0]}: choose other --layers."
        )


def parameters_of(name: str, revision: str | None) -> int:
    """How large a model is, told from its files. Raises RelevancyError where there is none of this name."""
    return checkpoints.parameters_in(adapters.located(name, revision).weights, name)


def _quieten() -> None:
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
