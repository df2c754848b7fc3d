"""Memory over a long export: the pipeline alone, with a stub in the models' place that gives maps of true size.

`python tests/test_export/test_export_memory.py [rows]` prints what the process held at each tenth of the rows.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))
sys.path.insert(0, str(Path(__file__).parent))

from making import Stub, stub_request

from relevancy.export.identity import ExportPlan
from relevancy.export.records import faulty
from relevancy.export.run import export
from relevancy.export.schema import table_of

SIDE, TOKENS = 24, 640  # of a LLaVA's map, and of its prompt
ROWS, GROWTH = 100_000, 32 << 20


class Maps(Stub):
    """Answers every row with a map of noise, so that nothing packs well."""

    def run(self, next_chunk: Any) -> Any:
        chance = np.random.default_rng(0)
        while (chunk := next_chunk()) is not None:
            noise = chance.random((len(chunk.items), TOKENS), np.float32)
            records = [
                faulty(item, "stub", "")
                | {"error": None, "answer": item.question, "image_map": row[: SIDE * SIDE], "relevance": row,
                   "rows": SIDE, "cols": SIDE, "tokens": ["a"] * TOKENS, "is_image": row > 0.5}
                for item, row in zip(chunk.items, noise, strict=True)
            ]  # fmt: skip
            yield chunk, table_of(records, self.columns)


def held_now() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def main(place: Path, rows: int) -> None:
    """Print the bytes held at each tenth of the rows, as a JSON list."""
    with (place / "items.jsonl").open("w") as stream:
        for row in range(rows):
            line = {"id": str(row), "image": f"{row % 997}.png", "question": "Is it?", "n": row}
            stream.write(json.dumps(line) + "\n")
    request = stub_request(place / "items.jsonl", place / "out")
    found: list[int] = []

    def report(reached: Any) -> None:
        if reached.done * 10 >= (len(found) + 1) * reached.total:
            found.append(held_now())

    export(request, report, engine=Maps(ExportPlan.of(request).schema))
    print(json.dumps(found))  # noqa: T201


def measured(place: Path, rows: int) -> list[int]:
    ran = subprocess.run([sys.executable, __file__, str(rows), str(place)], capture_output=True, text=True, check=True)
    return list(json.loads(ran.stdout))


@pytest.mark.slow
def test_memory_is_flat_over_100_000_rows(tmp_path):
    found = measured(tmp_path, ROWS)
    print([round(held / 1e6) for held in found])  # noqa: T201
    assert len(found) == 10
    assert max(found[4:]) - max(found[:2]) < GROWTH


if __name__ == "__main__":
    if len(sys.argv) > 2:
        main(Path(sys.argv[2]), int(sys.argv[1]))
    else:
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            for tenth, held in enumerate(measured(Path(folder), int(sys.argv[1]) if len(sys.argv) > 1 else ROWS)):
                print(f"{(tenth + 1) * 10} %: {held / 1e6:,.0f} MB")  # noqa: T201
