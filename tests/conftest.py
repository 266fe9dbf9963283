"""Shared fixtures: reference numbers and what "equal to the reference" means."""

import json
import os
import pathlib
import tempfile

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

# Before the first array: several devices on one CPU, for whatever is sharded.
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)

# What one test has compiled, neither another nor a run that it starts compiles again; nor another process of tests,
# which inherits the variable of the one that starts it.
if "PYTEST_XDIST_WORKER" not in os.environ:
  _COMPILED = tempfile.TemporaryDirectory(prefix="clipvip_jax_compiled_")
  os.environ["JAX_COMPILATION_CACHE_DIR"] = _COMPILED.name
  os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"
jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)

GOLDEN = pathlib.Path(__file__).parent / "golden"


def assert_close(actual, expected, relative=1e-5, name=""):
  """Fails where `actual` departs from `expected` by more than `relative` of its largest magnitude."""
  actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
  assert actual.shape == expected.shape, f"{name}: shape {actual.shape}, expected {expected.shape}"
  error = np.abs(actual - expected).max(initial=0.0)
  bound = relative * np.abs(expected).max(initial=0.0)
  assert error <= bound, f"{name}: off by {error:.3g}, allowed {bound:.3g}"


@pytest.fixture(scope="session")
def golden():
  """golden("name.npz" | "name.json" | "name.safetensors") -> its content."""

  def load(name):
    path = GOLDEN / name
    if path.suffix == ".npz":
      with np.load(path) as file:
        return dict(file)
    if path.suffix == ".json":
      return json.loads(path.read_text(encoding="utf-8"))
    return load_file(path)

  return load
