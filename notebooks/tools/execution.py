"""Make the notebooks: run each script beside this folder from top to bottom, and keep its outputs, made small."""

import base64
import io
import os
import re
import sys
import tempfile
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode
from PIL import Image

CELL_SECONDS = 600  # far more than any cell takes on a machine that does nothing else
# One thread, as in the test suite; figures as a notebook shows them, whatever the caller's backend is.
SETTINGS = {"OMP_NUM_THREADS": "1", "MPLBACKEND": "module://matplotlib_inline.backend_inline"}
_WIDEST, _QUALITY = 800, 72
_WIDGET = "application/vnd.jupyter.widget-view+json"
_INLINE = re.compile(r"data:image/png;base64,([^\"]+)")


def executed(script: Path, folder: Path) -> NotebookNode:
    """The notebook of a percent script with the outputs of a fresh kernel, which works in `folder`."""
    notebook = jupytext.read(script)
    resources = {"metadata": {"path": folder}}
    NotebookClient(notebook, timeout=CELL_SECONDS, kernel_name="python3", resources=resources).execute()
    return notebook


def shrink(notebook: NotebookNode) -> None:
    """Make every picture narrow and JPEG; drop bars of progress, and what differs from run to run."""
    notebook.metadata.pop("language_info", None)
    notebook.metadata.pop("widgets", None)
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number}"
        cell.metadata.pop("execution", None)
        if "outputs" in cell:
            cell["outputs"] = [output for output in cell["outputs"] if _WIDGET not in output.get("data", {})]
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "image/png" in data:
                data["image/jpeg"] = _small(data.pop("image/png"))
            if "text/html" in data:
                data["text/html"] = _INLINE.sub(
                    lambda found: f"data:image/jpeg;base64,{_small(found[1])}", data["text/html"]
                )


def _small(png: str) -> str:
    """A picture in base64, as a small JPEG."""
    picture = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
    picture.thumbnail((_WIDEST, 10 * _WIDEST))
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=_QUALITY, optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


if __name__ == "__main__":
    os.environ.update(SETTINGS)
    for name in sys.argv[1:]:
        with tempfile.TemporaryDirectory() as scratch:
            made = executed(Path(name), Path(scratch))
        shrink(made)
        nbformat.write(made, Path(name).with_suffix(".ipynb"))
        print(f"{name}: {Path(name).with_suffix('.ipynb').stat().st_size / 1e3:.0f} kB")
