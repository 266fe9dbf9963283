"""What is kept, what is the best, and what a damaged file does."""

import pathlib
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clipvip_jax.runs import checkpoint
from clipvip_jax.runs.checkpoint import Checkpoints, abstract_state
from clipvip_jax.runs.train_state import TrainState
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.log import log


def state(step):
  params = {"w": jnp.arange(1000.0) + step, "b": jnp.full((3, 5), float(step))}
  return TrainState(jnp.int32(step), params, {"m": jnp.full(7, step * 0.5)})


def save(folder, scores, keep=2):
  checkpoints = Checkpoints(folder, keep)
  for step, score in scores.items():
    checkpoints.save(state(step), {"next_record": 10 * step}, score)
  checkpoints.close()
  return Checkpoints(folder, keep)


def assert_is(restored, step):
  found, position = restored
  assert int(found.step) == step and position == {"next_record": 10 * step}
  jax.tree.map(np.testing.assert_array_equal, found, state(step))


def test_the_newest_and_the_best_are_kept(tmp_path):
  checkpoints = save(tmp_path / "c", {1: 0.2, 2: 0.9, 3: 0.5, 4: None, 5: 0.1})
  assert checkpoints.steps() == [2, 4, 5]
  assert checkpoints.best_step() == 2
  assert_is(checkpoints.restore(2, abstract_state(state(0))), 2)
  assert_is(checkpoints.restore_latest(abstract_state(state(0))), 5)


def test_of_equal_scores_the_latest_is_the_best(tmp_path):
  assert save(tmp_path / "c", {1: 0.5, 2: 0.5, 3: 0.0}, keep=3).best_step() == 2


def test_without_scores_there_is_no_best(tmp_path):
  assert save(tmp_path / "c", {1: None, 2: None}).best_step() is None


def test_an_empty_folder_has_nothing_to_restore(tmp_path):
  assert Checkpoints(tmp_path / "c", 2).restore_latest(abstract_state(state(0))) is None


@pytest.fixture
def said(caplog, monkeypatch):
  """What the project told the user."""
  monkeypatch.setattr(log, "propagate", True)
  return caplog


def files(folder):
  return sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)


@pytest.fixture(scope="module")
def two_checkpoints(tmp_path_factory):
  folder = tmp_path_factory.mktemp("two") / "c"
  save(folder, {1: 0.5, 2: None}).close()
  return folder


def test_whatever_file_is_cut_the_run_goes_on_from_a_whole_checkpoint(two_checkpoints, tmp_path, said):
  names = [path.relative_to(two_checkpoints) for path in files(two_checkpoints / "2")]
  assert len(names) > 5
  outcomes = {}
  for number, name in enumerate(names):
    folder = tmp_path / str(number) / "c"
    shutil.copytree(two_checkpoints, folder)
    damaged = folder / name
    damaged.write_bytes(damaged.read_bytes()[: damaged.stat().st_size // 2])
    checkpoints = Checkpoints(folder, 2)
    restored = checkpoints.restore_latest(abstract_state(state(0)))
    step = int(restored[0].step)
    assert_is(restored, step)  # whole, whichever it is
    outcomes[str(name)] = step
    if step == 1:
      assert checkpoints.steps() == [1] and (folder.parent / "damaged_checkpoints" / "2").is_dir()
      assert "moved the damaged checkpoint of step 2" in said.text
      said.clear()
      checkpoints.save(state(2), {"next_record": 20}, None)
    checkpoints.close()
    assert_is(Checkpoints(folder, 2).restore_latest(abstract_state(state(0))), 2)
  assert any(step == 1 for step in outcomes.values()), outcomes


def test_a_missing_folder_of_state_falls_back(two_checkpoints, tmp_path):
  folder = tmp_path / "c"
  shutil.copytree(two_checkpoints, folder)
  shutil.rmtree(folder / "2" / "state")
  assert_is(Checkpoints(folder, 2).restore_latest(abstract_state(state(0))), 1)


def test_a_single_checkpoint_whose_score_is_damaged_is_not_forgotten(tmp_path):
  folder = tmp_path / "c"
  save(folder, {3: 0.5}).close()
  (folder / "3" / "metrics" / "metrics").write_text("{")
  with pytest.raises(UserError, match=r"none of the checkpoints.*steps 3; score file.*--workdir"):
    Checkpoints(folder, 2).restore_latest(abstract_state(state(0)))


def test_a_damaged_best_checkpoint_gives_way_to_the_next_best(tmp_path, said):
  folder = tmp_path / "c"
  save(folder, {1: 0.9, 2: 0.2, 3: 0.5, 4: None}, keep=4).close()
  shutil.rmtree(folder / "1" / "state")
  checkpoints = Checkpoints(folder, 4)
  assert int(checkpoints.restore_best(abstract_state(state(0))).step) == 3
  assert "checkpoint 1 in" in said.text and "cannot be read" in said.text
  assert checkpoints.steps() == [2, 3, 4]


def test_when_none_can_be_read_the_run_does_not_start_over_in_silence(two_checkpoints, tmp_path):
  folder = tmp_path / "c"
  shutil.copytree(two_checkpoints, folder)
  for step in ("1", "2"):
    shutil.rmtree(folder / step / "state")
  with pytest.raises(UserError, match=r"none of the checkpoints.*steps 2, 1.*--workdir"):
    Checkpoints(folder, 2).restore_latest(abstract_state(state(0)))
  assert pathlib.Path(folder / "1").is_dir()


def test_no_process_goes_on_from_a_checkpoint_that_another_cannot_read(tmp_path, monkeypatch):
  folder = tmp_path / "c"
  checkpoints = save(folder, {1: None, 2: None, 3: None}, keep=3)
  other = iter(["1", "[]"])  # the other process could read the second alone, and then lists no damaged one
  monkeypatch.setattr(checkpoint, "allgather_text", lambda text: [text, next(other)])
  assert_is(checkpoints.restore_latest(abstract_state(state(0))), 2)
  assert checkpoints.steps() == [1, 2] and (tmp_path / "damaged_checkpoints" / "3").is_dir()


def test_process_0_alone_says_which_scores_are_damaged(tmp_path, monkeypatch):
  folder = tmp_path / "c"
  save(folder, {1: 0.5, 2: 0.5}).close()
  (folder / "2" / "metrics" / "metrics").write_text("{")

  class Told(Exception):
    pass

  def tell(text):
    raise Told(text)

  monkeypatch.setattr(checkpoint, "allgather_text", tell)
  for process, damaged in enumerate(("[2]", "[]")):
    monkeypatch.setattr(jax, "process_index", lambda process=process: process)
    with pytest.raises(Told, match=re.escape(damaged)):
      Checkpoints(folder, 2)


def test_a_state_of_another_shape_is_not_restored(tmp_path):
  folder = tmp_path / "c"
  save(folder, {1: None}).close()
  other = state(0).replace(params={"w": jnp.zeros(10), "b": jnp.zeros((3, 5))})
  with pytest.raises(UserError, match="can be read"):
    Checkpoints(folder, 2).restore_latest(abstract_state(other))
