"""The Makefile's choice of an interpreter, with fakes of Python and pyenv."""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest
from project_paths import ROOT

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
UNSUPPORTED = "is missing or unsupported: install Python 3.11, 3.12 or 3.13, or run make PYTHON=/path/to/python"


def executable(path: pathlib.Path, content: str) -> None:
  path.write_text(f"#!/bin/sh\n{content}\n")
  path.chmod(0o755)


def make(path: pathlib.Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
  """Runs make with the executables in `path` before those of the system."""
  variables = {"PATH": f"{path}:{os.defpath}", "HOME": str(path), **environment}
  (path / "show.mk").write_text("show: ; @echo $(PYTHON) $$PYENV_VERSION\n")
  command = ["make", "--no-print-directory", "-f", "Makefile", "-f", str(path / "show.mk"), *arguments]
  return subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True)


def test_the_newest_python_that_runs_is_the_default(tmp_path):
  executable(tmp_path / "pyenv", "echo unused")
  for name, content in (("python3.13", "exit 127"), ("python3.12", "exit 0"), ("python3.11", "exit 0")):
    executable(tmp_path / name, content)
  assert make(tmp_path, "show").stdout.split() == ["python3.12"]
  executable(tmp_path / "python3.13", "exit 0")
  assert make(tmp_path, "show").stdout.split() == ["python3.13"]
  assert make(tmp_path, "show", PYTHON="python3.11").stdout.split() == ["python3.11"]


def test_pythons_of_pyenv_run_under_their_names(tmp_path):
  versions = "2.7.18 3.10.13 3.11.7 3.12.9 3.12.10 3.12.9/envs/work 3.13.0 3.13t-dev 3.14.0 miniconda3-latest work"
  executable(tmp_path / "pyenv", f'[ "$*" = "versions --bare" ] && printf "%s\\n" {versions}')
  executable(tmp_path / "python3.13", '[ "$PYENV_VERSION" = 3.13.0:3.12.10:3.12.9:3.11.7 ]')  # a shim
  assert make(tmp_path, "show").stdout.split() == ["python3.13", "3.13.0:3.12.10:3.12.9:3.11.7"]
  assert make(tmp_path, "show", PYENV_VERSION="3.11.7").stdout.split()[1] == "3.11.7"


@pytest.mark.parametrize("version", ["missing", "3, 10", "3, 14", "2, 7"])
def test_another_python_is_refused_in_one_line(tmp_path, version):
  python = tmp_path / "python"
  if version != "missing":
    # Evaluates the condition of the Makefile with this version.
    executable(python, f'exec {sys.executable} -c "import sys; sys.version_info = ({version}, 1); $2"')
  environment = tmp_path / "environment"
  result = make(tmp_path, f"PYTHON={python}", f"VENV={environment}", f"{environment}/.installed")
  assert (result.returncode, result.stdout) == (2, f"{python} {UNSUPPORTED} VENV=.venv_new\n")
  assert not environment.exists()


def test_an_environment_keeps_its_python(tmp_path):
  environment = tmp_path / "environment"
  (environment / "bin").mkdir(parents=True)
  executable(environment / "bin" / "python", f'echo "$*" >> {tmp_path}/calls')
  result = make(tmp_path, "PYTHON=none", f"VENV={environment}", f"{environment}/.installed")
  assert result.returncode == 0, result.stderr
  calls = (tmp_path / "calls").read_text().splitlines()
  assert [call.split()[:3] for call in calls[1:]] == [["-m", "pip", "install"]] * 2


def test_an_environment_of_another_python_is_refused(tmp_path):
  environment = tmp_path / "environment"
  (environment / "bin").mkdir(parents=True)
  executable(environment / "bin" / "python", "exit 1")
  result = make(tmp_path, "PYTHON=true", f"VENV={environment}", f"{environment}/.installed")
  assert (result.returncode, result.stdout) == (2, f"{environment}/bin/python {UNSUPPORTED} VENV=.venv_new\n")


def test_the_ablation_skips_generated_captions_without_their_extra(tmp_path):
  environment = tmp_path / "environment"
  (environment / "bin").mkdir(parents=True)
  executable(
    environment / "bin" / "python", f'[ "$2" != "import torch, transformers" ] && echo "$*" >> {tmp_path}/calls'
  )
  options = (f"VENV={environment}", f"INSTALLED={environment}/bin/python")
  message = (
    f"generated captions need the extra \"caption\": {environment}/bin/python -m pip install --editable '.[caption]'"
  )
  result = make(tmp_path, *options, "ablation")
  assert result.returncode == 0 and result.stdout.splitlines()[-1] == f"Skipped: {message}", result.stderr
  assert [call.split()[1] for call in (tmp_path / "calls").read_text().splitlines()] == ["clipvip_jax.study"]
  result = make(tmp_path, *options, "generated-captions")
  assert (result.returncode, result.stdout) == (2, f"{message}\n")


def test_the_ablation_includes_generated_captions_with_their_extra(tmp_path):
  environment = tmp_path / "environment"
  (environment / "bin").mkdir(parents=True)
  executable(environment / "bin" / "python", f'echo "$*" >> {tmp_path}/calls')
  result = make(tmp_path, f"VENV={environment}", f"INSTALLED={environment}/bin/python", "ablation")
  assert result.returncode == 0, result.stderr
  calls = [call.split() for call in (tmp_path / "calls").read_text().splitlines()]
  studies = [call[2].removeprefix("--config=configs/") for call in calls if call[1] == "clipvip_jax.study"]
  assert studies == ["replication.py", "generated_captions.py"]
  editions = {call[-1].rpartition("_")[2] for call in calls if "add-captions" in call}
  assert editions == {call[-2].partition("=")[2] for call in calls if call[1] == "benchmarks.captioner"} and editions


def test_a_captioner_that_fails_ends_the_ablation(tmp_path):
  environment = tmp_path / "environment"
  (environment / "bin").mkdir(parents=True)
  executable(environment / "bin" / "python", f'echo "$*" >> {tmp_path}/calls; [ "$2" != benchmarks.captioner ]')
  result = make(tmp_path, f"VENV={environment}", f"INSTALLED={environment}/bin/python", "ablation")
  assert result.returncode == 2
  assert (tmp_path / "calls").read_text().splitlines()[-1].startswith("-m benchmarks.captioner")
