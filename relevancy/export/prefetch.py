"""Pictures opened and resized in processes of their own, ahead of the model that waits for them."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from threading import Thread
from typing import Any

from relevancy.data.items import PictureSource
from relevancy.export.chunks import Chunk
from relevancy.export.processed import ImageProcessors, OpenedPicture
from relevancy.parallel.worker_pool import Work, WorkerCrash, WorkerPool

Open = Callable[[Sequence[PictureSource]], list[OpenedPicture]]
_CHUNKS_AHEAD = 2


@dataclass(frozen=True)
class _PictureDecoder:
    """What a decoding process does."""

    processors: ImageProcessors

    def __call__(self, _: int) -> Work:
        return partial(map, self.processors.all_opened)


def with_pictures(
    chunks: Iterable[Chunk], processors: ImageProcessors, decoders: int
) -> Iterator[tuple[Chunk, dict[str, OpenedPicture]]]:
    """Each chunk with its pictures as the models need them; `decoders` processes work ahead, 0 for none."""
    if not decoders:
        for chunk in chunks:
            yield chunk, _opened(chunk, processors.all_opened)
        return
    # Each decoding process has a thread that speaks with it; one more reads chunks as they come.
    crews = [WorkerPool(1, _PictureDecoder(processors), environment={"OMP_NUM_THREADS": "1"}) for _ in range(decoders)]
    idle: queue.Queue[WorkerPool] = queue.Queue()
    for crew in crews:
        idle.put(crew)
    begun: queue.Queue[tuple[Chunk, Future[dict[str, OpenedPicture]]] | None] = queue.Queue(_CHUNKS_AHEAD + decoders)

    def open_pictures(chunk: Chunk) -> dict[str, OpenedPicture]:
        crew = idle.get()
        try:
            return _opened(chunk, partial(_opened_elsewhere, crew))
        finally:
            idle.put(crew)

    with ThreadPoolExecutor(decoders) as threads:

        def read() -> None:
            for chunk in chunks:
                begun.put((chunk, threads.submit(open_pictures, chunk)))
            begun.put(None)

        Thread(target=read, daemon=True).start()
        try:
            while (next_one := begun.get()) is not None:
                chunk, future = next_one
                yield chunk, future.result()
        finally:
            for crew in crews:
                crew.close()


def _opened(chunk: Chunk, opening: Open) -> dict[str, OpenedPicture]:
    pictures = chunk.pictures()
    return dict(zip(pictures, opening(list(pictures.values())), strict=True))


def _opened_elsewhere(crew: WorkerPool, sources: Sequence[PictureSource]) -> list[OpenedPicture]:
    """Through another process; a picture that kills it is told from the others."""
    result: Any = crew.ask(list(sources))
    if not isinstance(result, WorkerCrash):
        return list(result)
    if len(sources) == 1:
        return [OpenedPicture(fault=f"the picture cannot be opened: {result.why}")]
    return [one for source in sources for one in _opened_elsewhere(crew, [source])]
