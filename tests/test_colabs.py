"""Notebooks: no stored outputs, one install cell, complete runs on a CPU; the installation for every runtime, faked."""

import html
import os
import runpy
import shutil
import subprocess
import sys
import tomllib
import types

import nbformat
import pytest
from nbclient import NotebookClient
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from project_paths import ROOT

NOTEBOOKS = sorted((ROOT / "colabs").glob("*.ipynb"))
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
REPOSITORY = PYPROJECT["urls"]["Repository"]  # the one address of the project
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code_cells(path):
  return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def install_cell():
  return code_cells(NOTEBOOKS[0])[0].source


def test_notebooks_are_the_expected_three():
  assert [path.stem for path in NOTEBOOKS] == ["evaluate", "post_pretrain", "search_videos"]


@each_notebook
def test_notebook_has_no_stored_outputs_and_the_common_install_cell(path):
  cells = code_cells(path)
  assert all(not cell.get("outputs") and cell.get("execution_count") is None for cell in cells)
  assert cells[0].source == install_cell()


def test_install_cell_clones_from_the_address_in_pyproject():
  assert f'"{REPOSITORY}"' in install_cell()


@each_notebook
def test_readme_has_a_badge_that_opens_the_notebook_from_the_address_in_pyproject(path):
  owner_and_name = REPOSITORY.removeprefix("https://github.com/")
  link = f"https://colab.research.google.com/github/{owner_and_name}/blob/main/colabs/{path.name}"
  assert f"(https://colab.research.google.com/assets/colab-badge.svg)]({link})" in (ROOT / "README.md").read_text()


@pytest.fixture(scope="module")
def install():
  """Functions of colabs/install.py."""
  return types.SimpleNamespace(**runpy.run_path(str(ROOT / "colabs" / "install.py"), run_name="install"))


@pytest.mark.parametrize(
  ("files", "environ", "expected"),
  [
    ({}, {}, "cpu"),
    ({"dev/nvidia0": ""}, {}, "gpu"),
    ({"dev/nvidiactl": ""}, {"JAX_PLATFORMS": "cpu"}, "cpu"),
    ({"dev/accel0": ""}, {}, "tpu"),
    ({"dev/accel/accel0": ""}, {}, "cpu"),  # not a TPU: the kernel's class of compute accelerators
    ({"dev/vfio/0": "", "sys/bus/pci/devices/0000:00:05.0/vendor": "0x1ae0\n"}, {}, "tpu"),
    ({"dev/vfio/0": "", "sys/bus/pci/devices/0000:00:05.0/vendor": "0x8086\n"}, {}, "cpu"),  # a passed-through card
    ({}, {"TPU_ACCELERATOR_TYPE": "v5e-1"}, "tpu"),
    ({}, {"COLAB_TPU_ADDR": "10.0.0.2:8470"}, "tpu"),
  ],
)
def test_accelerator_is_found_by_devices_and_environment(install, files, environ, expected, tmp_path):
  for name, content in files.items():
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
  assert install.find_accelerator(tmp_path, environ) == expected


OLD_GPU = {"jax": "0.7.2", "jaxlib": "0.7.2", "jax-cuda12-plugin": "0.7.2", "jax-cuda12-pjrt": "0.7.2"}
NEW_GPU = {"jax": "0.11.0", "jaxlib": "0.11.0", "jax-cuda13-plugin": "0.11.0", "jax-cuda13-pjrt": "0.11.0"}
NEW_CPU = {"jax": "0.11.0", "jaxlib": "0.11.0"}
PINS = ["jax==0.11.0", "jaxlib==0.11.0"]
OLD_PLUGINS = ["jax-cuda12-plugin", "jax-cuda12-pjrt"]


@pytest.mark.parametrize(
  ("versions", "backend", "accelerator", "cuda", "installed", "uninstalled"),
  [
    ({}, "", "cpu", 13, ["."], []),
    ({}, "", "gpu", 13, [".[cuda]"], []),
    ({}, "", "gpu", 12, [".[cuda12]"], []),
    ({}, "", "tpu", 13, [".[tpu]"], []),
    # A JAX that fits and uses the accelerator is kept, whatever its plugin.
    (NEW_GPU, "gpu", "gpu", 13, [".", *PINS], []),
    ({**NEW_CPU, "libtpu": "0.0.43"}, "tpu", "tpu", 13, [".", *PINS], []),
    (NEW_CPU, "cpu", "cpu", 13, [".", *PINS], []),
    # One that fits but does not use the accelerator gets a plugin of its own version.
    (NEW_CPU, "cpu", "gpu", 13, [".[cuda]", *PINS], []),
    (NEW_CPU, "cpu", "tpu", 13, [".[tpu]", *PINS], []),
    ({**NEW_CPU, "jax-cuda12-plugin": "0.11.0"}, "cpu", "gpu", 13, [".[cuda]", *PINS], ["jax-cuda12-plugin"]),
    # One that the project does not accept is replaced; its plugins would not fit.
    (OLD_GPU, "gpu", "gpu", 13, [".[cuda]"], OLD_PLUGINS),
    (OLD_GPU, "gpu", "gpu", 12, [".[cuda12]"], []),
    (OLD_GPU, "cpu", "cpu", 13, ["."], OLD_PLUGINS),
  ],
)
def test_installation_fits_the_runtime(install, versions, backend, accelerator, cuda, installed, uninstalled):
  jax = install.Jax(versions.get("jax", ""), backend, "")
  plan = install.plan_installation(Requirement("jax>=0.10,<0.12"), accelerator, jax, versions, cuda)
  assert plan == (["--editable", *installed], uninstalled)


def test_extras_of_the_installation_are_defined():
  extras = PYPROJECT["optional-dependencies"]
  assert {name: extras[name] for name in ("cuda", "cuda12", "tpu")} == {
    "cuda": ["jax[cuda13]"],
    "cuda12": ["jax[cuda12]"],
    "tpu": ["jax[tpu]"],
  }


@pytest.fixture
def nvidia_smi(tmp_path, monkeypatch):
  """nvidia_smi(TEXT) puts a command of this name, which prints TEXT, in front of all others."""

  def write(text):
    command = tmp_path / "nvidia-smi"
    command.write_text(f"#!/bin/sh\ncat <<'END'\n{text}\nEND\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)

  return write


@pytest.mark.parametrize(
  ("text", "expected"),
  [
    ("| NVIDIA-SMI 550.54.15     Driver Version: 550.54.15     CUDA Version: 12.4     |", 12),
    ("| NVIDIA-SMI 580.82.07     Driver Version: 580.82.07     CUDA Version: 13.0     |", 13),
    ("something else", 13),
  ],
)
def test_cuda_version_of_the_driver(install, nvidia_smi, text, expected):
  nvidia_smi(text)
  assert install.read_cuda_version() == expected


def test_cuda_version_without_a_driver(install, tmp_path, monkeypatch):
  monkeypatch.setenv("PATH", str(tmp_path))
  assert install.read_cuda_version() == 13


def test_replaced_packages_count_only_if_they_were_imported(install):
  before = install.read_versions()
  assert before["clipvip-jax"] and before["nbclient"]
  assert install.find_replaced_imports(before, before) == []
  after = {**before, "nbclient": "99", "mypy": "99", "added": "1"}  # nbclient is imported above, mypy is not
  assert install.find_replaced_imports(before, after) == [f"nbclient {before['nbclient']} -> 99"]


def run_install_script(**environ):
  return subprocess.run(
    [sys.executable, str(ROOT / "colabs" / "install.py")],
    cwd=ROOT,
    env={**os.environ, **environ},
    capture_output=True,
    text=True,
  )


def test_installed_project_is_kept_and_the_runtime_printed():
  done = run_install_script(JAX_PLATFORMS="cpu")
  assert done.returncode == 0, done.stderr
  first, second = done.stdout.splitlines()
  assert first.startswith(f"Python {sys.version.split()[0]}, JAX ")
  assert second.startswith("cpu: ")


def test_jax_without_the_accelerator_is_an_error(tmp_path):
  """A runtime that claims to have a TPU, where nothing can be installed: pip is a module that does nothing."""
  (tmp_path / "pip.py").write_text("import sys; print(sys.argv[1:])")
  environ = {"TPU_ACCELERATOR_TYPE": "v5e-1", "JAX_PLATFORMS": "", "PYTHONPATH": str(tmp_path)}
  done = run_install_script(**environ)
  assert done.returncode == 1
  assert "the runtime has a TPU, but JAX uses " in done.stderr


def test_a_failed_installation_is_an_error(tmp_path):
  (tmp_path / "pip.py").write_text("import sys; sys.exit('ERROR: no space left on device')")
  environ = {"TPU_ACCELERATOR_TYPE": "v5e-1", "JAX_PLATFORMS": "", "PYTHONPATH": str(tmp_path)}
  done = run_install_script(**environ)
  assert done.returncode == 1
  assert "failed:\nERROR: no space left on device" in done.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """A working directory with what a clone has, shared by all notebooks."""
  folder = tmp_path_factory.mktemp("notebooks")
  for name in ("clipvip_jax", "colabs", "configs"):
    (folder / name).symlink_to(ROOT / name)
  return folder


PICTURES = {"evaluate": 2, "post_pretrain": 1, "search_videos": 0}
OUTPUTS = {
  "evaluate": "evaluation/smoke_on_smoke/report.html",
  "post_pretrain": "mine_smoke/results.json",
  "search_videos": "search.html",
}


@pytest.mark.slow
@pytest.mark.unoptimized
@each_notebook
def test_notebook_runs_from_top_to_bottom(path, folder, monkeypatch):
  monkeypatch.setenv("PYTHONPATH", os.fspath(folder))
  monkeypatch.setenv("JAX_PLATFORMS", "cpu")
  notebook = nbformat.read(path, as_version=4)
  client = NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": folder}})
  client.execute()
  outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
  printed = "".join(output.get("text", "") for output in outputs)
  assert "error:" not in printed, printed  # a command that fails does not fail its cell
  assert len([output for output in outputs if "image/png" in output.get("data", {})]) == PICTURES[path.stem]
  page = folder / "build" / "colab" / OUTPUTS[path.stem]
  assert page.stat().st_size > 1000
  if path.stem == "search_videos":
    assert page.read_text().count("data:image/jpeg") > 10  # frames of the videos
    shown = [output["data"]["text/html"] for output in outputs if "text/html" in output.get("data", {})]
    assert any(html.escape(page.read_text()) in text for text in shown)


@pytest.fixture(scope="module")
def committed(tmp_path_factory):
  """A repository with one commit: the files of the working tree, as they are now."""
  folder = tmp_path_factory.mktemp("committed")
  listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
  for name in subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0"):
    if name and os.path.lexists(ROOT / name):
      (folder / name).parent.mkdir(parents=True, exist_ok=True)
      shutil.copy2(ROOT / name, folder / name, follow_symlinks=False)
  for command in ("init -q", "add --all", "-c user.name=test -c user.email=test@localhost commit -q -m test"):
    subprocess.run(["git", *command.split()], cwd=folder, check=True)
  return folder


def colab_python():
  """Python 3.13, which Colab runs, if it starts and the project accepts it; else this one."""
  if not SpecifierSet(PYPROJECT["requires-python"]).contains("3.13.0"):
    return sys.executable
  code = "import sys, ensurepip; print(sys.executable)"
  environ = {**os.environ, "PYENV_VERSION": "3.13"}  # pyenv's commands run the versions that it selects only
  try:
    done = subprocess.run(["python3.13", "-c", code], env=environ, capture_output=True, text=True)
  except OSError:
    return sys.executable
  return sys.executable if done.returncode else done.stdout.strip()


@pytest.mark.parametrize(
  ("repository", "message"),
  [
    ("https://github.com/OWNER/clipvip_jax", "replace OWNER in REPOSITORY"),
    ("file:///missing/clipvip_jax", "file:///missing/clipvip_jax cannot be cloned"),
  ],
)
def test_install_cell_says_that_the_address_is_wrong(repository, message, tmp_path):
  cell = tmp_path / "cell.ipy"
  cell.write_text(install_cell())
  environ = {**os.environ, "CLIPVIP_JAX_REPOSITORY": repository, "IPYTHONDIR": str(tmp_path)}
  command = [sys.executable, "-m", "IPython", "--no-banner", "--colors=NoColor", str(cell)]
  done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True)
  assert f"AssertionError: {message}" in done.stdout + done.stderr, done.stdout + done.stderr


@pytest.mark.slow
def test_install_cell_in_a_fresh_environment(committed, tmp_path, monkeypatch):
  """The cell clones and installs as on Colab: JAX is preinstalled in an older version that the project accepts."""
  subprocess.run([colab_python(), "-m", "venv", "venv"], cwd=tmp_path, check=True)
  bin_folder = tmp_path / "venv" / "bin"
  monkeypatch.setenv("PIP_COMPILE", "0")  # pip compiles every module; few are imported here
  pip = [bin_folder / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
  subprocess.run([*pip, "ipykernel", "jax==0.10.2", "jaxlib==0.10.2"], check=True)
  checks = [
    "import clipvip_jax, importlib.metadata, os",
    "print('imported from', os.path.dirname(os.path.dirname(clipvip_jax.__file__)))",
    "print('metadata of', importlib.metadata.version('clipvip_jax'), 'JAX', importlib.metadata.version('jax'))",
    "!{PYTHON} -m clipvip_jax.search --index=missing.safetensors query",
  ]
  cell = tmp_path / "cell.ipy"
  cell.write_text("\n".join([install_cell(), *checks]))
  environ = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYENV_VERSION")}
  environ |= {"CLIPVIP_JAX_REPOSITORY": committed.as_uri(), "JAX_PLATFORMS": "cpu", "IPYTHONDIR": str(tmp_path)}
  done = subprocess.run(
    [bin_folder / "ipython", "--no-banner", "--colors=NoColor", cell],
    cwd=tmp_path,
    env=environ,
    capture_output=True,
    text=True,
  )
  printed = done.stdout + done.stderr
  assert done.returncode == 0, printed
  version = subprocess.run([bin_folder / "python", "--version"], check=True, capture_output=True, text=True).stdout
  assert "Installing the project" in printed and f"{version.strip()}, JAX 0.10.2" in printed, printed
  assert "cpu: " in printed, printed
  assert f"imported from {tmp_path / 'clipvip_jax'}" in printed and "JAX 0.10.2" in printed, printed
  assert "missing.safetensors" in printed and "error:" in printed, printed  # the command starts, with all packages
