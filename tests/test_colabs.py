"""The notebooks run from top to bottom, on a CPU and the embedded corpus, as they are handed out."""

import os

import nbformat
import pytest
from nbclient import NotebookClient
from project_paths import ROOT

NOTEBOOKS = sorted((ROOT / "colabs").glob("*.ipynb"))


def test_there_are_two():
  assert [path.stem for path in NOTEBOOKS] == ["evaluate", "post_pretrain"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_handed_out_without_outputs(path):
  for cell in nbformat.read(path, as_version=4).cells:
    assert not cell.get("outputs") and cell.get("execution_count") is None


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """What a user has: the repository's folders, and one to write in, which both notebooks share."""
  folder = tmp_path_factory.mktemp("notebooks")
  for name in ("clipvip_jax", "configs", "data"):
    (folder / name).symlink_to(ROOT / name)
  return folder


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_from_top_to_bottom(path, folder, monkeypatch):
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
  wanted = {"evaluate": "evaluation/smoke_on_smoke/report.html", "post_pretrain": "mine_smoke/results.json"}[path.stem]
  assert (folder / "build" / "colab" / wanted).stat().st_size > 1000
