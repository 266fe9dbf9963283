"""--help of all commands."""

import subprocess
import sys

import pytest
from project_paths import ROOT


@pytest.mark.slow  # each case starts Python
@pytest.mark.parametrize("command", sorted(path.stem for path in (ROOT / "clipvip_jax").glob("[a-z]*.py")))
def test_help_exits_with_0(command):
  done = subprocess.run(
    [sys.executable, "-m", f"clipvip_jax.{command}", "--help"], cwd=ROOT, capture_output=True, text=True, timeout=120
  )
  assert done.returncode == 0 and not done.stderr, done.stderr
  assert f"python -m clipvip_jax.{command}" in done.stdout
