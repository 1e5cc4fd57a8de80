"""Runs the notebooks in ``docs/notebooks`` and stores their outputs in them: ``make notebooks``.

The outputs are in the repository, so that GitHub and the documentation show figures and tables without running
anything. A test runs all notebooks again. Runs go to a temporary folder, so that the outputs name no place of this
machine.
"""

import argparse
import base64
import io
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from PIL import Image

NOTEBOOKS = Path(__file__).parent / "notebooks"
ROOT = NOTEBOOKS.parents[1]
_CELL_SECONDS = 300

# Executed before the first cell: runs and own images then go to the current directory, not into the project.
_SETUP = """
from pathlib import Path
import digitlab.config.compose
digitlab.config.compose.ROOT = Path.cwd()
"""


def run_notebook(path: Path, folder: Path, *, last_cell: str | None = None) -> nbformat.NotebookNode:
    """Return the notebook at ``path`` with the outputs of a run in ``folder``; ``last_cell`` is code to add at its end.

    Raises ``CellExecutionError``, whose message contains the cell and its error.
    """
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.insert(0, nbformat.v4.new_code_cell(_SETUP))
    if last_cell is not None:
        notebook.cells.append(nbformat.v4.new_code_cell(last_cell))
    client = NotebookClient(
        notebook, timeout=_CELL_SECONDS, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    )
    with client.setup_kernel():
        for index, cell in enumerate(notebook.cells):
            # Without history the first cell of the reader has the number 1.
            client.execute_cell(cell, index, store_history=index > 0)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times, which would differ each time
    del notebook.cells[0]
    return notebook


def with_palette(picture: str) -> str:
    """Return a PNG in base64 with 256 colours, enough for figures: it takes less than half of the bytes."""
    file = io.BytesIO()
    with Image.open(io.BytesIO(base64.b64decode(picture))) as image:
        image.convert("RGB").quantize(256).save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="file names without .ipynb; by default all notebooks")
    names = parser.parse_args().names
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        if names and path.stem not in names:
            continue
        with tempfile.TemporaryDirectory() as folder:
            notebook = run_notebook(path, Path(folder))
        for cell in notebook.cells:
            for output in cell.get("outputs", ()):
                if "image/png" in output.get("data", {}):
                    output.data["image/png"] = with_palette(output.data["image/png"])
        text = nbformat.writes(notebook) + "\n"
        if str(ROOT) in text or folder in text:
            sys.exit(f"{path}: an output names a folder of this machine")
        path.write_text(text, encoding="utf-8")
        print(f"{path.relative_to(ROOT)}: {len(text) / 1000:.0f} kB")


if __name__ == "__main__":
    main()
