"""Notebooks: they have no stored outputs, and run from top to bottom on a CPU with the embedded corpus."""

import os

import nbformat
import pytest
from nbclient import NotebookClient
from project_paths import ROOT

NOTEBOOKS = sorted((ROOT / "colabs").glob("*.ipynb"))


def test_notebooks_are_the_expected_two():
  assert [path.stem for path in NOTEBOOKS] == ["evaluate", "post_pretrain"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_has_no_stored_outputs(path):
  for cell in nbformat.read(path, as_version=4).cells:
    assert not cell.get("outputs") and cell.get("execution_count") is None


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """A working directory with the repository's packages, shared by both notebooks."""
  folder = tmp_path_factory.mktemp("notebooks")
  for name in ("clipvip_jax", "configs"):
    (folder / name).symlink_to(ROOT / name)
  return folder


@pytest.mark.slow
@pytest.mark.unoptimized
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs_from_top_to_bottom(path, folder, monkeypatch):
  monkeypatch.setenv("PYTHONPATH", os.fspath(folder))
  monkeypatch.setenv("JAX_PLATFORMS", "cpu")
  notebook = nbformat.read(path, as_version=4)
  client = NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": folder}})
  client.execute()
  printed = "".join(
    output.get("text", "") for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs
  )
  assert "error:" not in printed, printed  # a command that fails does not fail its cell
  pictures = [
    output for cell in notebook.cells for output in cell.get("outputs", []) if "image/png" in output.get("data", {})
  ]
  assert len(pictures) == {"evaluate": 2, "post_pretrain": 1}[path.stem]
  output = {"evaluate": "evaluation/smoke_on_smoke/report.html", "post_pretrain": "mine_smoke/results.json"}[path.stem]
  assert (folder / "build" / "colab" / output).stat().st_size > 1000
