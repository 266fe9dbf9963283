"""Shared fixtures: reference numbers and what "equal to the reference" means."""

import json
import os
import tempfile

import jax
import numpy as np
import pytest
from buckets import bucket, gs_bucket, quick_retries, s3_bucket  # noqa: F401, fixtures
from project_paths import GOLDEN
from safetensors.numpy import load_file

# Before the first array: several devices on one CPU, for whatever is sharded.
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
jax.devices()  # initializes them now, so that no test depends on an earlier one

# Tests, the runs that they start and the other test processes share one compilation cache; one that the environment
# names persists between sessions.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
  _COMPILED = tempfile.TemporaryDirectory(prefix="clipvip_jax_compiled_")
  os.environ["JAX_COMPILATION_CACHE_DIR"] = _COMPILED.name

os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"
jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


@pytest.fixture(scope="session", autouse=True)
def _temporary_files_in_a_folder_that_pytest_deletes(tmp_path_factory):
  """Processes that tests kill leave theirs."""
  folder = str(tmp_path_factory.mktemp("temporary"))
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv("TMPDIR", folder)
    patch.setattr(tempfile, "tempdir", folder)
    yield


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
  """Compiles without optimizations, in less time, where a test's marker says so; the processes that it starts, too."""
  unoptimized = item.get_closest_marker("unoptimized") is not None
  jax.config.update("jax_disable_most_optimizations", unoptimized)
  os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = str(unoptimized)
  return (yield)


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
