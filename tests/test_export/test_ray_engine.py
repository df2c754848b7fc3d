"""The same rows through Ray: on this machine, and on two nodes of which one is lost."""

import time

import numpy as np
import pytest
from chaos import begun
from making import encoded, rows_over, run, write_lines

import relevancy

pytestmark = pytest.mark.engines("ray", "psutil")
ROWS = 600


@pytest.fixture(autouse=True)
def _quiet(monkeypatch):
    from nodes import QUIET

    for name, value in QUIET.items():
        monkeypatch.setenv(name, value)


def test_ray_gives_the_same_rows(saved, items, tmp_path):
    with items.open("a") as stream:
        stream.write('{"id": "bad", "image": "none.png", "question": "?"}\n')
    common = ("--model", saved, "--input", items, "--max-new-tokens", 4, "--device", "cpu", "--overlays", "sample:3")
    here = run(*common, "--out", tmp_path / "here", "--processes", 1)
    assert here.returncode == 0, here.stderr
    there = run(*common, "--out", tmp_path / "there", "--engine", "ray", "--processes", 1)
    assert there.returncode == 0, there.stderr
    one, other = relevancy.open_export(tmp_path / "here"), relevancy.open_export(tmp_path / "there")
    assert one.table(["row", "id", "answer", "error"]).equals(other.table(["row", "id", "answer", "error"]))
    for a, b in zip(one, other, strict=True):
        np.testing.assert_allclose(a.image_map, b.image_map, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(a.relevance, b.relevance, rtol=1e-5, atol=1e-5)
    overlays = [sorted(file.name for file in (tmp_path / out / "overlays").iterdir()) for out in ("here", "there")]
    assert overlays[0] == overlays[1]


@pytest.fixture(scope="module")
def nodes():
    from nodes import two_nodes

    with two_nodes() as both:
        yield both


@pytest.mark.parametrize("token", [None, "6" * 32], ids=["no token", "another token"])
def test_a_cluster_that_wants_a_token_is_told_as_that(saved, items, tmp_path, nodes, monkeypatch, token):
    monkeypatch.setenv("RAY_AUTH_MODE", "token" if token else "disabled")
    if token:
        monkeypatch.setenv("RAY_AUTH_TOKEN", token)
    done = run("--model", saved, "--input", items, "--out", tmp_path / "out", "--engine", "ray",
               "--address", nodes[0].address)  # fmt: skip
    assert done.returncode == 2
    assert "RAY_AUTH_MODE=token" in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_a_cluster_that_is_not_there_is_told_soon(saved, items, tmp_path):
    """Ray's own tries take longer than `run` waits."""
    done = run("--model", saved, "--input", items, "--out", tmp_path / "out", "--engine", "ray",
               "--address", "127.0.0.4:6379")  # fmt: skip
    assert done.returncode == 2
    assert "Ray cannot be reached at 127.0.0.4:6379" in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_a_lost_node_loses_no_row(saved, tmp_path, nodes, monkeypatch):
    """Killed once rows have come from it: each row is there once, as in an export that nothing disturbed."""
    from nodes import TOKEN

    for name, value in TOKEN.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "input").mkdir()
    for seed in range(20):
        (tmp_path / "input" / f"{seed}.png").write_bytes(encoded(seed))
    items = write_lines(tmp_path / "input" / "items.jsonl", rows_over(20, ROWS))
    arguments = {"models": [saved], "input": items, "part_rows": 16, "chunk": 16, "processes": 2}
    calm, out = tmp_path / "calm", tmp_path / "out"
    assert begun(arguments | {"out": calm}).wait(300) == 0

    head, other = nodes
    export = begun(arguments | {"out": out, "engine": "ray", "address": head.address})
    try:
        end = time.monotonic() + 120
        while len(list((out / "results").glob("part-*"))) < 4:
            assert export.poll() is None, "ended before the node was lost"
            assert time.monotonic() < end, "no part was written"
            time.sleep(0.05)
        other.kill()
        assert export.poll() is None, "ended before the node was lost"
        assert export.wait(300) == 0
    finally:
        export.kill()
        export.wait()
    found, undisturbed = relevancy.open_export(out), relevancy.open_export(calm)
    assert found.table(["row"])["row"].to_pylist() == list(range(ROWS))
    assert found.table(["error"])["error"].null_count == ROWS
    assert found.checksum() == undisturbed.checksum()
