"""The same rows through Ray."""

import numpy as np
import pytest
from making import run

import relevancy

pytestmark = pytest.mark.slow
pytest.importorskip("ray", reason="ray is not installed: pip install 'relevancy[ray]'")


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
