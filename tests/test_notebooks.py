"""Every notebook runs from top to bottom on the embedded models, shows pictures, and is kept with small outputs."""

import base64
import io
import re
from pathlib import Path

import execution
import jupytext
import nbformat
import numpy as np
import pytest
from nbformat import NotebookNode
from PIL import Image
from screens import KEPT

FOLDER = Path(__file__).parent.parent / "notebooks"
SCRIPTS = sorted(FOLDER.glob("*.py"))
LEAST = {  # pictures
    "01_first_heatmap": 5,  # picture, figure, overlay, contrast, the two scopes
    "02_small_against_large": 3,  # the pair, 500 rows, where they differ
    "03_is_the_map_right": 7,  # three maps, hidden parts, curves, methods, random weights twice, two questions
    "04_token_by_token": 8,  # picture, tokens, words, nouns, first tokens, contrasts, other answers, layers
    "05_your_own_model_and_data": 3,  # a figure, mean maps, unsure rows
    "06_watch_a_map_form": 3,  # picture, checkpoints, curves
}
MOST = 2_000_000  # bytes of all notebooks together, as they are kept


def pictures(notebook: NotebookNode) -> list[np.ndarray]:
    """Every picture that the notebook shows, as an output of its own or inside HTML, RGB."""
    found: list[str] = []
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            found += [data[kind] for kind in ("image/png", "image/jpeg") if kind in data]
            found += re.findall(r"data:image/(?:png|jpeg);base64,([^\"]+)", data.get("text/html", ""))
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")) for data in found]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_notebook_runs_and_shows_pictures(script, tmp_path, monkeypatch):
    for name, value in execution.SETTINGS.items():
        monkeypatch.setenv(name, value)
    notebook = execution.executed(script, tmp_path)
    folder = KEPT / "notebooks"
    folder.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, folder / f"{script.stem}.ipynb")  # to be looked at
    assert_it_shows_pictures(notebook, script.stem)


def assert_it_shows_pictures(notebook: NotebookNode, name: str) -> None:
    """As many pictures as the notebook speaks of, none of one color, and no warning."""
    shown = pictures(notebook)
    assert len(shown) >= LEAST[name]
    for picture in shown:
        assert picture.std() > 1, "a picture of one color shows nothing"
    warned = [output for cell in notebook.cells for output in cell.get("outputs", []) if output.get("name") == "stderr"]
    assert not warned


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_the_notebook_kept_beside_a_script_is_its_own(script):
    kept, made = jupytext.read(script.with_suffix(".ipynb")), jupytext.read(script)
    assert [(cell.cell_type, cell.source) for cell in kept.cells] == [
        (cell.cell_type, cell.source) for cell in made.cells
    ], f"{script.name} changed: run `make notebooks`"
    assert_it_shows_pictures(kept, script.stem)


def test_the_notebooks_kept_are_small():
    assert sum(script.with_suffix(".ipynb").stat().st_size for script in SCRIPTS) < MOST
