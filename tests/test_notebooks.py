"""The committed notebooks are short, carry clean outputs and run from top to bottom."""

import json
import os
import re
import sys
from pathlib import Path

import nbformat
import pytest
from conftest import SHIPPED, write_model

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
MODELS = {"sevennet-0": None, "sevennet-l3i5": None, "sevennet-mf-0": ["PBE", "R2SCAN"], "nequix-mp-1": None}
MOST_LINES = 110  # of code: "about 100"
FOREIGN_PATH = re.compile(r"(?<![\w.:/])/(?:home|root|tmp|work|usr|opt|mnt|Users|private|var)/|[A-Z]:\\\\")

every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code_cells(path):
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def code_lines(path):
    lines = [line.strip() for cell in code_cells(path) for line in cell.source.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def streams(path, name):
    return [o.text for cell in code_cells(path) for o in cell.outputs if o.output_type == "stream" and o.name == name]


def test_there_are_notebooks():
    assert NOTEBOOKS


@every_notebook
def test_notebook_is_valid_and_has_at_most_about_100_lines_of_code(path):
    nbformat.validate(nbformat.read(path, as_version=4))
    assert 0 < len(code_lines(path)) <= MOST_LINES


@every_notebook
def test_notebook_was_run_from_top_to_bottom_and_has_numbers_and_figures(path):
    cells = code_cells(path)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert streams(path, "stdout")


@every_notebook
def test_notebook_has_no_warnings_in_its_outputs(path):
    assert not streams(path, "stderr")


@every_notebook
def test_notebook_names_no_path_of_somebody_s_computer(path):
    text = path.read_text()
    assert "../examples/" in text, "the search below must have something to look at"
    assert not FOREIGN_PATH.findall(text)


def test_foreign_paths_are_recognised():
    assert FOREIGN_PATH.search('"/home/me/x.cif"') and FOREIGN_PATH.search("in /tmp/x")
    assert not FOREIGN_PATH.search("../examples/CeO2.cif") and not FOREIGN_PATH.search("https://doi.org/work/x")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A small model of random weights for each model of the notebooks, whose networks take minutes to compile."""
    folder = tmp_path_factory.mktemp("models")
    species = json.loads((SHIPPED / "config.json").read_text())["species"]
    for name, modalities in MODELS.items():
        write_model(folder / name, species, modalities)
    return folder


@pytest.mark.slow
@every_notebook
@pytest.mark.filterwarnings("default")  # of the libraries that talk to the kernel, in this process
def test_notebook_runs_in_smoke_mode(path, models, tmp_path, monkeypatch):
    from nbclient import NotebookClient

    monkeypatch.setenv("ALCHEMJAX_SMOKE", "1")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), *sys.path]))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    notebook = nbformat.read(path, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert '"sevennet-0"' in "".join(cell.source for cell in cells)
    for cell in cells:
        cell.outputs, cell.execution_count = [], None
        for name in MODELS:
            cell.source = cell.source.replace(f'"{name}"', repr(str(models / name)))
    # the kernel of this very Python, whatever is registered
    client = NotebookClient(notebook, timeout=900, kernel_name="python3", resources={"metadata": {"path": path.parent}})
    client.execute()
    assert all(cell.execution_count for cell in cells)
    assert not [o for cell in cells for o in cell.outputs if o.output_type == "error"]
