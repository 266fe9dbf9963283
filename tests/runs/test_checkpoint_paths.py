"""Which characters a path of checkpoints may have."""

import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clipvip_jax.runs.checkpoint import Checkpoints, read_params
from clipvip_jax.runs.checkpoint_paths import NOT_READABLE, NOT_WRITABLE
from clipvip_jax.runs.run_folder import open_run_folder
from clipvip_jax.runs.train_state import TrainState
from clipvip_jax.utils.errors import UserError
from clipvip_jax.weights import source_paths

CHARACTERS = sorted({chr(code) for code in range(0x20, 0x7F)} - {os.sep})
REFUSED = ["run[lr=1e-3]", "a[1]*b", "a*", "a?b", "[", "a\\b"]


def save(folder):
  params = {"w": jnp.arange(12.0).reshape(3, 4)}
  checkpoints = Checkpoints(folder, 2)
  checkpoints.save(TrainState(jnp.int32(1), params, {"m": jnp.full(7, 0.5)}), {"next_record": 10})
  checkpoints.set_score(1, 0.5)
  checkpoints.close()


def is_read(folder):
  params, step = read_params(folder)
  return step == 1 and np.array_equal(params["w"], np.arange(12.0).reshape(3, 4))


def accepted(refused):
  return "".join(character for character in CHARACTERS if character not in refused)


def test_checkpoints_are_saved_and_restored_where_a_path_has_all_other_characters(tmp_path):
  name = accepted(NOT_WRITABLE)
  workdir = tmp_path / name / f"a{name[::-1]}"
  with open_run_folder(workdir) as folder:
    save(folder.path / "checkpoints")
  assert is_read(workdir / "checkpoints") and list(tmp_path.iterdir()) == [tmp_path / name]
  state = TrainState(jnp.zeros((), jnp.int32), {"w": jnp.zeros((3, 4))}, {"m": jnp.zeros(7)})
  abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)
  restored, position = Checkpoints(workdir / "checkpoints", 2).restore_latest(abstract)
  assert position == {"next_record": 10} and np.all(restored.opt_state["m"] == 0.5)


def test_checkpoints_are_read_where_a_path_was_given_patterns_later(tmp_path):
  save(tmp_path / "saved" / "checkpoints")
  name = accepted(NOT_READABLE)
  shutil.copytree(tmp_path / "saved", tmp_path / name / "run[lr=1e-3]")
  assert set("[*?") < set(name) and is_read(tmp_path / name / "run[lr=1e-3]" / "checkpoints")


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("folder", ["", "parent"])
def test_other_paths_are_refused_in_one_line_before_anything_is_written(tmp_path, monkeypatch, name, folder):
  character = next(character for character in name if character in NOT_WRITABLE)
  with pytest.raises(UserError) as refused, open_run_folder(tmp_path / name / folder):
    pass
  assert f"{name}{'/' * bool(folder)}{folder} has a {character} in its path" in str(refused.value)
  assert str(refused.value).startswith(f"--workdir={tmp_path}") and "\n" not in str(refused.value)
  assert not list(tmp_path.iterdir())
  (tmp_path / name).mkdir()
  monkeypatch.chdir(tmp_path / name)
  with pytest.raises(UserError, match="cannot be saved; choose a path without any of"), open_run_folder("relative"):
    pass


@pytest.mark.parametrize("name", ["a\\b", "\\"])
@pytest.mark.parametrize("suffix", ["", "@3", "@raw"])
def test_a_run_at_a_path_that_cannot_be_read_is_refused(tmp_path, name, suffix):
  run = tmp_path / name / "run"
  (run / "checkpoints").mkdir(parents=True)
  (run / "config.json").write_text('{"model": {}, "data": {}, "train": {}}')
  (tmp_path / "link").symlink_to(run)
  for path in (run, tmp_path / "link"):  # which Orbax is given resolved
    with pytest.raises(UserError, match=r"has a \\ in its path, with which checkpoints cannot be read") as refused:
      source_paths.check_source(f"{path}{suffix}")
    assert "\n" not in str(refused.value)
