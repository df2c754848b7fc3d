"""However often it is killed, and whatever of it: every row once, and the same rows."""

import subprocess

import pytest
from chaos import Chaos, begun
from making import encoded, rows_over, write_lines

import relevancy


def input_of(place, rows, pictures=40):
    place.mkdir()
    for seed in range(pictures):
        (place / f"{seed}.png").write_bytes(encoded(seed))
    bad = {"id": "bad", "image": "none.png", "question": "?"}
    return write_lines(place / "items.jsonl", [*rows_over(pictures, rows - 1), bad])


def shown(out):
    return {file.name: file.read_bytes() for file in (out / "overlays").iterdir()}


def same_as_undisturbed(tmp_path, items, rows, kills, **arguments):
    arguments = {"models": arguments.pop("models"), "input": items, "overlays": "sample:40", "part_rows": 16,
                 "chunk": 16, "processes": 2, **arguments}  # fmt: skip
    calm, out = tmp_path / "calm", tmp_path / "out"
    assert begun(arguments | {"out": calm}).wait(900) == 0
    chaos = Chaos(arguments | {"out": out}, kills, seed=kills)
    chaos.run()
    print(f"{dict(chaos.killed)}; {chaos.writing} files left half-written")  # noqa: T201
    assert sum(chaos.killed.values()) == kills
    found, undisturbed = relevancy.open_export(out), relevancy.open_export(calm)
    table = found.table(["row", "model", "error"])
    assert table["row"].to_pylist() == list(range(rows))
    assert table["error"].null_count == rows - 1
    assert found.checksum() == undisturbed.checksum()
    assert found.manifest["finished"]
    assert shown(out) == shown(calm)
    assert not list(out.rglob(".unfinished-*"))


@pytest.mark.parametrize(
    ("kills", "rows", "processes"),
    [(3, 200, 1), pytest.param(50, 6000, 2, marks=pytest.mark.slow)],
    ids=["3 kills", "50 kills"],
)
def test_killed_again_and_again(saved, tmp_path, kills, rows, processes):
    items = input_of(tmp_path / "input", rows)
    same_as_undisturbed(tmp_path, items, rows, kills, models=[saved], processes=processes)


@pytest.mark.slow
@pytest.mark.engines("ray")
def test_killed_on_ray(saved, tmp_path):
    items = input_of(tmp_path / "input", 3000)
    same_as_undisturbed(tmp_path, items, 3000, 6, models=[saved], engine="ray")
    left = subprocess.run(["pgrep", "-f", str(tmp_path)], capture_output=True, text=True, check=False)
    assert left.stdout == ""
