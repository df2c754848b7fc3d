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
from relevancy.export.processed import Eyes, Seen
from relevancy.parallel.worker_pool import Work, WorkerCrash, WorkerPool

Look = Callable[[Sequence[PictureSource]], list[Seen]]
_CHUNKS_AHEAD = 2


@dataclass(frozen=True)
class _PictureDecoder:
    """What a decoding process does."""

    eyes: Eyes

    def __call__(self, _: int) -> Work:
        return partial(map, self.eyes.see_all)


def seen(chunks: Iterable[Chunk], eyes: Eyes, decoders: int) -> Iterator[tuple[Chunk, dict[str, Seen]]]:
    """Each chunk with its pictures as the models need them; `decoders` processes work ahead, 0 for none."""
    if not decoders:
        for chunk in chunks:
            yield chunk, _looked(chunk, eyes.see_all)
        return
    # Each decoding process has a thread that speaks with it; one more reads chunks as they come.
    crews = [WorkerPool(1, _PictureDecoder(eyes), environment={"OMP_NUM_THREADS": "1"}) for _ in range(decoders)]
    idle: queue.Queue[WorkerPool] = queue.Queue()
    for crew in crews:
        idle.put(crew)
    begun: queue.Queue[tuple[Chunk, Future[dict[str, Seen]]] | None] = queue.Queue(_CHUNKS_AHEAD + decoders)

    def look(chunk: Chunk) -> dict[str, Seen]:
        crew = idle.get()
        try:
            return _looked(chunk, partial(_look_elsewhere, crew))
        finally:
            idle.put(crew)

    with ThreadPoolExecutor(decoders) as threads:

        def read() -> None:
            for chunk in chunks:
                begun.put((chunk, threads.submit(look, chunk)))
            begun.put(None)

        Thread(target=read, daemon=True).start()
        try:
            while (next_one := begun.get()) is not None:
                chunk, future = next_one
                yield chunk, future.result()
        finally:
            for crew in crews:
                crew.close()


def _looked(chunk: Chunk, look: Look) -> dict[str, Seen]:
    pictures = chunk.pictures()
    return dict(zip(pictures, look(list(pictures.values())), strict=True))


def _look_elsewhere(crew: WorkerPool, sources: Sequence[PictureSource]) -> list[Seen]:
    """Through another process; a picture that kills it is told from the others."""
    result: Any = crew.ask(list(sources))
    if not isinstance(result, WorkerCrash):
        return list(result)
    if len(sources) == 1:
        return [Seen(fault=f"the picture cannot be opened: {result.why}")]
    return [one for source in sources for one in _look_elsewhere(crew, [source])]
