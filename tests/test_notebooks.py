"""Every notebook runs from top to bottom on the embedded models, and shows pictures."""

import base64
import io
import re
from pathlib import Path

import jupytext
import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient
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
CELL_SECONDS = 600  # far more than any cell takes on a machine that does nothing else
# One thread, as in the rest of the suite; figures as a notebook shows them, whatever the caller's backend is.
SETTINGS = {"OMP_NUM_THREADS": "1", "MPLBACKEND": "module://matplotlib_inline.backend_inline"}


def run(script: Path, folder: Path) -> NotebookNode:
    """The notebook of a percent script with the outputs of a fresh kernel."""
    notebook = jupytext.read(script)
    client = NotebookClient(
        notebook, timeout=CELL_SECONDS, kernel_name="python3", resources={"metadata": {"path": folder}}
    )
    client.execute()
    return notebook


def pictures(notebook: NotebookNode) -> list[np.ndarray]:
    """Every picture that the notebook shows, as an output of its own or inside HTML, RGB."""
    found: list[str] = []
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            found += [data["image/png"]] if "image/png" in data else []
            found += re.findall(r"data:image/png;base64,([^\"]+)", data.get("text/html", ""))
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")) for data in found]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_notebook_runs_and_shows_pictures(script, tmp_path, monkeypatch):
    for name, value in SETTINGS.items():
        monkeypatch.setenv(name, value)
    notebook = run(script, tmp_path)
    executed = KEPT / "notebooks"
    executed.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, executed / f"{script.stem}.ipynb")  # to be looked at
    shown = pictures(notebook)
    assert len(shown) >= LEAST[script.stem]
    for picture in shown:
        assert picture.std() > 1, "a picture of one color shows nothing"
    warned = [output for cell in notebook.cells for output in cell.get("outputs", []) if output.get("name") == "stderr"]
    assert not warned


def test_the_notebooks_kept_beside_the_scripts_are_theirs():
    for script in SCRIPTS:
        kept = jupytext.read(script.with_suffix(".ipynb"))
        made = jupytext.read(script)
        assert [(cell.cell_type, cell.source) for cell in kept.cells] == [
            (cell.cell_type, cell.source) for cell in made.cells
        ], f"{script.name} changed: run `make notebooks`"
        assert not any(cell.get("outputs") for cell in kept.cells), f"{script.stem}: outputs are not kept"
