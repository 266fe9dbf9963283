"""The lock file, resolved for other machines than this one."""

import pathlib
import subprocess
import sys

import pytest
from project_paths import ROOT

# promise is pure Python without a wheel; tensorflow-datasets requires it.
WITHOUT_WHEEL = "promise"
# libtpu of the tests needs glibc 2.31. Intel Macs are not supported: array-record has no wheel for them.
PLATFORMS = ("x86_64-manylinux_2_31", "aarch64-manylinux_2_28", "aarch64-apple-darwin")


@pytest.fixture(scope="module")
def uv(tmp_path_factory) -> pathlib.Path:
  folder = tmp_path_factory.mktemp("uv")
  install = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target", folder]
  subprocess.run([*install, "uv"], check=True)
  return folder / "bin" / "uv"


@pytest.mark.slow
@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
@pytest.mark.parametrize("platform", PLATFORMS)
def test_every_locked_package_has_a_wheel(uv, monkeypatch, platform, python):
  monkeypatch.setenv("MACOSX_DEPLOYMENT_TARGET", "14.0")
  options = ["--python-version", python, "--python-platform", platform, "--only-binary", ":all:"]
  options += ["--no-binary", WITHOUT_WHEEL, "--no-header", "--no-annotate", "--quiet"]
  command = [uv, "pip", "compile", *options, "requirements.lock"]
  result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
  assert result.returncode == 0, result.stderr
  pinned = [line for line in result.stdout.splitlines() if "==" in line]
  locked = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
  assert set(pinned) <= {line.partition(" ;")[0] for line in locked}, "the lock does not pin a requirement"
  assert "jax==" in result.stdout
