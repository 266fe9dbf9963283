"""The user's cache of compiled programs."""

import os
import re
import subprocess
import sys
import warnings

import jax
import miniature
import pytest
from project_paths import ROOT

from clipvip_jax.evaluation.language_gap import MIN_TEXTS
from clipvip_jax.utils.compiled_programs import keep_compiled_programs, report_cache_errors
from clipvip_jax.utils.log import log

CORRUPT = {"truncated": lambda content: content[:20], "zeros": lambda content: bytes(len(content))}


def test_a_command_keeps_its_programs_and_compiles_corrupt_ones_once_again(tmp_path):
  (tmp_path / "clip").mkdir()
  miniature.write_clip(tmp_path / "clip")
  texts = tmp_path / "texts.txt"
  texts.write_text("word1 moves\n" * MIN_TEXTS)
  environment = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
  environment |= {"XDG_CACHE_HOME": str(tmp_path / "cache"), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
  command = [sys.executable, "-m", "clipvip_jax.language_gap", texts, texts, f"--model={tmp_path / 'clip'}"]

  def run():
    done = subprocess.run(command, env=environment, cwd=ROOT, check=True, capture_output=True, text=True)
    assert "compilation cache" not in done.stderr, done.stderr
    return done.stdout

  output = run()
  programs = [path for path in (tmp_path / "cache/clipvip_jax/compiled").glob("jit_*") if path.suffix != ".atime"]
  assert programs
  for corrupt in CORRUPT.values():
    for path in programs:
      path.write_bytes(corrupt(path.read_bytes()))
    (reported,) = re.findall(r"^\S+ (a compiled program .*)\n", again := run(), re.MULTILINE)
    assert re.fullmatch(r"a compiled program cannot be read in the cache \(.*\); it is compiled again", reported)
    assert again.splitlines()[-1] == output.splitlines()[-1]
  assert "compiled program" not in output + run()


def test_errors_of_the_cache_are_logged_once_and_other_warnings_are_shown(caplog, monkeypatch):
  monkeypatch.setattr(log, "propagate", True)
  shown = []
  monkeypatch.setattr(warnings, "showwarning", lambda message, *_: shown.append(str(message)))
  report_cache_errors()
  for name in ("f", "g"):
    warnings.warn(
      f"Error writing persistent compilation cache entry for 'jit_{name}': OSError: full\n more", stacklevel=1
    )
    warnings.warn(f"{name} is deprecated", stacklevel=1)
  assert caplog.messages == [
    "a compiled program cannot be saved in the cache (OSError: full); later runs compile it again"
  ]
  assert shown == ["f is deprecated", "g is deprecated"]


def test_programs_that_cannot_be_read_are_deleted_and_those_that_cannot_be_written_kept(tmp_path, monkeypatch):
  monkeypatch.setattr(warnings, "showwarning", None)
  for name in ("jit_f", "jit_f[x]", "jit_g"):
    (tmp_path / f"{name}-0a1-cache").touch()
    (tmp_path / f"{name}-0b2-cache").touch()
  report_cache_errors()
  folder = jax.config.values["jax_compilation_cache_dir"]
  try:
    for cache in (None, str(tmp_path / "none"), str(tmp_path)):
      jax.config.update("jax_compilation_cache_dir", cache)
      for verb, name in (("reading", "jit_f"), ("reading", "jit_f[x]"), ("writing", "jit_g")):
        warnings.warn(f"Error {verb} persistent compilation cache entry for '{name}': {cache}", stacklevel=1)
  finally:
    jax.config.update("jax_compilation_cache_dir", folder)
  assert sorted(path.name for path in tmp_path.iterdir()) == ["jit_g-0a1-cache", "jit_g-0b2-cache"]


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
