"""The notebooks of the documentation: they run from top to bottom, and their stored outputs are fit for the site."""

import json
import re
import runpy

import pytest

from digitlab.config.compose import ROOT

FOLDER = ROOT / "docs" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
# The notebook that installs a wheel needs an environment without digitlab.
RUNNABLE = [path for path in NOTEBOOKS if path.stem != "0_colab"]
_MOST_SECONDS, _MOST_BYTES = 60, 400_000
_CPU_SECONDS = "import time; print(time.process_time())"


@pytest.mark.parametrize("path", RUNNABLE, ids=lambda path: path.stem)
def test_a_notebook_runs_from_top_to_bottom_in_a_minute(path, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    run_notebook = runpy.run_path(str(ROOT / "docs" / "run_notebooks.py"))["run_notebook"]
    notebook = run_notebook(path, tmp_path, last_cell=_CPU_SECONDS)
    assert len(list((tmp_path / "outputs").iterdir())) > 0
    # Time on the processor, because other programs may hold the cores.
    assert float(notebook.cells[-1].outputs[0]["text"]) < _MOST_SECONDS
    warned = [output for cell in notebook.cells for output in cell.get("outputs", ()) if output.get("name") == "stderr"]
    assert warned == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_a_notebook_stores_is_small_current_and_names_no_machine(path):
    text = path.read_text(encoding="utf-8")
    assert len(text) < _MOST_BYTES
    cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] == "error"]
    drawn = [cell["outputs"] for cell in cells if re.search(r"\.(figure|explain)\(|plt\.show", "".join(cell["source"]))]
    assert all(any("image/png" in output.get("data", {}) for output in each) for each in drawn)
    assert not re.search(r"/(home|root|work|tmp|Users)/", json.dumps(outputs))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_links_of_a_notebook_lead_to_files(path):
    cells = [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "markdown"]
    links = re.findall(r"\]\(([^)\s]+)\)", "\n".join("".join(cell["source"]) for cell in cells))
    assert [link for link in links if not (path.parent / link).is_file()] == []


def test_every_notebook_is_in_the_site():
    pages = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert NOTEBOOKS
    assert all(f"notebooks/{path.name}" in pages for path in NOTEBOOKS)
