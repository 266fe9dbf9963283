"""The user's cache of compiled programs."""

import os
import subprocess
import sys

import miniature
import pytest
from project_paths import ROOT

from clipvip_jax.evaluation.language_gap import MIN_TEXTS
from clipvip_jax.utils.compiled_programs import keep_compiled_programs


def test_a_command_keeps_its_programs(tmp_path):
  (tmp_path / "clip").mkdir()
  miniature.write_clip(tmp_path / "clip")
  texts = tmp_path / "texts.txt"
  texts.write_text("word1 moves\n" * MIN_TEXTS)
  environment = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
  environment |= {"XDG_CACHE_HOME": str(tmp_path / "cache"), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
  command = [sys.executable, "-m", "clipvip_jax.language_gap", texts, texts, f"--model={tmp_path / 'clip'}"]
  subprocess.run(command, env=environment, cwd=ROOT, check=True, capture_output=True)
  assert list((tmp_path / "cache/clipvip_jax/compiled").glob("jit_*"))


@pytest.mark.parametrize("case", ["named", "unwritable"])
def test_leaves_the_environment_alone(monkeypatch, tmp_path, case):
  (tmp_path / "file").touch()
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / ("cache" if case == "named" else "file")))
  if case == "named":
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "mine")
  else:
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
  keep_compiled_programs()
  assert os.environ.get("JAX_COMPILATION_CACHE_DIR") == ("mine" if case == "named" else None)
