"""Which checkpoints are kept and restored, and what corrupt files do."""

import json
import pathlib
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clipvip_jax.runs import checkpoint, checkpoint_scores
from clipvip_jax.runs.checkpoint import Checkpoints
from clipvip_jax.runs.train_state import AveragedTrainState, TrainState
from clipvip_jax.utils import file_digests
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.log import log


def abstract_state(state):
  """Shapes, dtypes and shardings of a state."""
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)


def state(step):
  params = {"w": jnp.arange(1000.0) + step, "b": jnp.full((3, 5), float(step))}
  return TrainState(jnp.int32(step), params, {"m": jnp.full(7, step * 0.5)})


def save(folder, scores, keep=2):
  checkpoints = Checkpoints(folder, keep)
  for step, score in scores.items():
    checkpoints.save(state(step), {"next_record": 10 * step})
    if score is not None:
      checkpoints.set_score(step, score)
  checkpoints.close()
  return Checkpoints(folder, keep)


def assert_is(restored, step):
  found, position = restored
  assert int(found.step) == step and position == {"next_record": 10 * step}
  jax.tree.map(np.testing.assert_array_equal, found, state(step))


def test_keeps_the_newest_and_the_best(tmp_path):
  checkpoints = save(tmp_path / "c", {1: 0.2, 2: 0.9, 3: 0.5, 4: None, 5: 0.1})
  assert checkpoints.steps() == [2, 4, 5]
  assert checkpoints.best_step() == 2
  assert_is(checkpoints.restore(2, abstract_state(state(0))), 2)
  assert_is(checkpoints.restore_latest(abstract_state(state(0))), 5)


def test_the_latest_of_equal_scores_is_the_best(tmp_path):
  assert save(tmp_path / "c", {1: 0.5, 2: 0.5, 3: 0.0}, keep=3).best_step() == 2


def test_without_scores_there_is_no_best(tmp_path):
  assert save(tmp_path / "c", {1: None, 2: None}).best_step() is None


def test_an_empty_directory_restores_nothing(tmp_path):
  assert Checkpoints(tmp_path / "c", 2).restore_latest(abstract_state(state(0))) is None


@pytest.fixture
def logged(caplog, monkeypatch):
  """The project's log."""
  monkeypatch.setattr(log, "propagate", True)
  return caplog


def files(folder):
  return sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)


@pytest.fixture(scope="module")
def two_checkpoints(tmp_path_factory):
  folder = tmp_path_factory.mktemp("two") / "c"
  save(folder, {1: 0.5, 2: None}).close()
  return folder


@pytest.mark.slow
def test_resumes_from_the_previous_checkpoint_whichever_file_is_truncated(two_checkpoints, tmp_path, logged):
  names = [path.relative_to(two_checkpoints) for path in files(two_checkpoints / "2")]
  assert len(names) > 5
  for number, name in enumerate(names):
    folder = tmp_path / str(number) / "c"
    shutil.copytree(two_checkpoints, folder)
    cut = folder / name
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    checkpoints = Checkpoints(folder, 2)
    assert_is(checkpoints.restore_latest(abstract_state(state(0))), 1)
    assert checkpoints.steps() == [1] and (folder.parent / "corrupt_checkpoints" / "2").is_dir()
    assert "moved the corrupt checkpoint of step 2" in logged.text
    logged.clear()
    checkpoints.save(state(2), {"next_record": 20})
    checkpoints.close()
    assert_is(Checkpoints(folder, 2).restore_latest(abstract_state(state(0))), 2)


def copy_of(folder, target):
  shutil.copytree(folder, target)
  return target


def flip_bit(path, seed):
  rng, content = np.random.default_rng(seed), bytearray(path.read_bytes())
  content[rng.integers(len(content))] ^= 1 << rng.integers(8)
  path.write_bytes(content)


def test_a_flipped_bit_in_any_file_is_never_restored_or_loaded(two_checkpoints, tmp_path):
  for number, path in enumerate(files(two_checkpoints / "2")):
    folder = copy_of(two_checkpoints, tmp_path / str(number) / "c")
    flip_bit(folder / path.relative_to(two_checkpoints), number)
    with pytest.raises(UserError, match=r"step 2 .* cannot be restored \(.*digest"):
      checkpoint.read_params(folder, 2)
    assert_is(Checkpoints(folder, 2).restore_latest(abstract_state(state(0))), 1)


def test_a_missing_file_is_corrupt(two_checkpoints, tmp_path, logged):
  folder = copy_of(two_checkpoints, tmp_path / "c")
  (folder / "2" / "data" / "metadata").unlink()
  assert_is(Checkpoints(folder, 2).restore_latest(abstract_state(state(0))), 1)
  assert "data/metadata is missing" in logged.text


def test_a_checkpoint_without_digests_is_restored_with_a_warning(two_checkpoints, tmp_path, logged):
  folder = copy_of(two_checkpoints, tmp_path / "c")
  (folder / "2" / file_digests.NAME).unlink()
  assert_is(Checkpoints(folder, 2).restore_latest(abstract_state(state(0))), 2)
  assert "c/2 has no digests.json" in logged.text


@pytest.mark.parametrize(
  ("position", "reason"),
  [
    ({"next_record": 10}, "its data position is record 10, but 2 steps of 10 end at 20"),
    ({"next_record": 990}, "record 990, but 2 steps of 10 end at 20"),
    ({"next_recore": 20}, "its data position is invalid"),
    ({"next_record": "20"}, "its data position is invalid"),
    ({"next_record": -20}, "its data position is invalid"),
    ([20], "its data position is invalid"),
    ({}, "its data position is invalid"),
  ],
)
def test_a_position_of_another_step_is_corrupt_even_if_digests_match(
  two_checkpoints, tmp_path, logged, position, reason
):
  folder = copy_of(two_checkpoints, tmp_path / "c")
  (folder / "2" / "data" / "metadata").write_text(json.dumps(position))
  file_digests.write_digests(folder / "2")
  assert_is(Checkpoints(folder, 2, batch_size=10).restore_latest(abstract_state(state(0))), 1)
  assert reason in logged.text


@pytest.mark.parametrize("swapped", [True, False])
def test_parameters_are_not_read_from_a_checkpoint_of_another_step(two_checkpoints, tmp_path, swapped):
  folder = copy_of(two_checkpoints, tmp_path / "c")
  (folder / "2").rename(folder / "3")
  if swapped:
    (folder / "1").rename(folder / "2")
    (folder / "3").rename(folder / "1")
  step = 1 if swapped else 3
  with pytest.raises(UserError, match=f"named {step}, but its state is of step 2"):
    checkpoint.read_params(folder, step)


def test_a_folder_with_the_number_of_another_step_is_corrupt(two_checkpoints, tmp_path, logged):
  folder = copy_of(two_checkpoints, tmp_path / "c")
  shutil.copytree(folder / "2", folder / "700")
  assert_is(Checkpoints(folder, 2, batch_size=10).restore_latest(abstract_state(state(0))), 2)
  assert "it is named 700, but its state is of step 2" in logged.text


@pytest.mark.parametrize("score", ["9.0", "-0.5", "NaN", "[]", "null", "1e400"])
def test_a_score_that_is_no_recall_is_corrupt(two_checkpoints, tmp_path, score):
  folder = copy_of(two_checkpoints, tmp_path / "c")
  (folder / "2" / "metrics").mkdir()
  (folder / "2" / "metrics" / "metrics").write_text(f'{{"{checkpoint_scores.SCORE}": {score}}}')
  file_digests.write_digests(folder / "2")
  checkpoints = Checkpoints(folder, 2)
  assert checkpoints.steps() == [1] and checkpoints.best_step() == 1


def test_a_changed_score_does_not_decide_the_best(tmp_path, logged):
  folder = tmp_path / "c"
  save(folder, {1: 0.5, 2: 0.75}).close()
  path = folder / "2" / "metrics" / "metrics"
  path.write_text(path.read_text().replace("0.75", "0.25"))
  assert checkpoint.read_params(folder)[1] == 1
  assert "the scores of steps [2] are corrupt; step 1 is the best of the others" in logged.text
  assert Checkpoints(folder, 2).best_step() == 1


def test_falls_back_if_the_state_is_missing(two_checkpoints, tmp_path):
  folder = tmp_path / "c"
  shutil.copytree(two_checkpoints, folder)
  shutil.rmtree(folder / "2" / "state")
  assert_is(Checkpoints(folder, 2).restore_latest(abstract_state(state(0))), 1)


@pytest.mark.parametrize("damage", ["changed", "missing", "9.0"])
def test_a_corrupt_score_does_not_cost_the_only_checkpoint(tmp_path, logged, damage):
  folder = tmp_path / "c"
  save(folder, {3: 0.5}).close()
  path = folder / "3" / "metrics" / "metrics"
  path.unlink() if damage == "missing" else path.write_text(f'{{"{checkpoint_scores.SCORE}": 9.0}}')
  if damage == "9.0":
    file_digests.write_digests(folder / "3")
  checkpoints = Checkpoints(folder, 2)
  assert "the score of the checkpoint of step 3" in logged.text and not (tmp_path / "corrupt_checkpoints").exists()
  assert not checkpoints.has_score(3), "it is evaluated again"
  assert_is(checkpoints.restore_latest(abstract_state(state(0))), 3)
  checkpoints.set_score(3, 0.5)
  assert Checkpoints(folder, 2).best_step() == 3


@pytest.mark.parametrize("name", ["digests.json", "data/metadata"])
def test_an_only_checkpoint_that_is_corrupt_is_an_error_each_time(tmp_path, name):
  folder = tmp_path / "c"
  save(folder, {3: 0.5}).close()
  (folder / "3" / name).write_text("{")
  for _ in range(2):
    with pytest.raises(UserError, match=r"none of the checkpoints.*steps 3;.*choose another --workdir"):
      Checkpoints(folder, 2).restore_latest(abstract_state(state(0)))


def test_restores_the_next_best_if_the_best_is_corrupt(tmp_path, logged):
  folder = tmp_path / "c"
  save(folder, {1: 0.9, 2: 0.2, 3: 0.5, 4: None}, keep=4).close()
  shutil.rmtree(folder / "1" / "state")
  checkpoints = Checkpoints(folder, 4)
  assert int(checkpoints.restore_best(abstract_state(state(0))).step) == 3
  assert "checkpoint 1 in" in logged.text and "cannot be restored" in logged.text
  assert checkpoints.steps() == [2, 3, 4]


def test_does_not_start_over_if_no_checkpoint_can_be_restored(two_checkpoints, tmp_path):
  folder = tmp_path / "c"
  shutil.copytree(two_checkpoints, folder)
  for step in ("1", "2"):
    shutil.rmtree(folder / step / "state")
  with pytest.raises(UserError, match=r"none of the checkpoints.*steps 2, 1;.*choose another --workdir"):
    Checkpoints(folder, 2).restore_latest(abstract_state(state(0)))
  assert pathlib.Path(folder / "1").is_dir()


def test_all_processes_resume_from_a_checkpoint_that_each_can_restore(tmp_path, monkeypatch):
  folder = tmp_path / "c"
  checkpoints = save(folder, {1: None, 2: None, 3: None}, keep=3)
  other = iter(["1", "[]"])  # the other process can restore only the second, and then lists no corrupt one
  monkeypatch.setattr(checkpoint, "allgather_text", lambda text: [text, next(other)])
  assert_is(checkpoints.restore_latest(abstract_state(state(0))), 2)
  assert checkpoints.steps() == [1, 2] and (tmp_path / "corrupt_checkpoints" / "3").is_dir()


def test_only_process_0_decides_which_scores_are_corrupt(tmp_path, monkeypatch):
  folder = tmp_path / "c"
  save(folder, {1: 0.5, 2: 0.5}).close()
  (folder / "2" / "metrics" / "metrics").write_text("{")

  class Gathered(Exception):
    pass

  def gather(text):
    raise Gathered(text)

  monkeypatch.setattr(checkpoint, "allgather_text", gather)
  for process, steps in enumerate(("[2, NaN]", "[]")):
    monkeypatch.setattr(jax, "process_index", lambda process=process: process)
    with pytest.raises(Gathered, match=re.escape(steps)):
      Checkpoints(folder, 2)


def test_a_state_of_other_shapes_is_not_restored(tmp_path):
  folder = tmp_path / "c"
  save(folder, {1: None}).close()
  other = state(0).replace(params={"w": jnp.zeros(10), "b": jnp.zeros((3, 5))})
  with pytest.raises(UserError, match=r"none of the checkpoints.*can be restored \(steps 1;.*choose another --workdir"):
    Checkpoints(folder, 2).restore_latest(abstract_state(other))


def test_reads_the_parameters_of_the_best_checkpoint_without_touching_the_directory(tmp_path):
  folder = tmp_path / "c"
  save(folder, {1: 0.2, 2: 0.9, 3: None}, keep=3).close()
  before = files(folder)
  for step, expected in ((None, 2), (3, 3)):
    params, read = checkpoint.read_params(folder, step)
    assert read == expected
    jax.tree.map(np.testing.assert_array_equal, params, state(expected).params)
  assert files(folder) == before


def test_an_average_is_read_in_place_of_the_parameters(tmp_path):
  averaged = AveragedTrainState(jnp.int32(1), {"w": jnp.ones(3), "b": jnp.full(2, 5.0)}, {}, {"w": jnp.full(3, 0.25)})
  checkpoints = Checkpoints(tmp_path / "c", 2)
  checkpoints.save(averaged, {"next_record": 10})
  restored, _ = checkpoints.restore(1, abstract_state(averaged))
  checkpoints.close()
  assert isinstance(restored, AveragedTrainState)
  jax.tree.map(np.testing.assert_array_equal, restored, averaged)
  for raw, expected in ((False, averaged.eval_params), (True, averaged.params)):
    params, _ = checkpoint.read_params(tmp_path / "c", raw=raw)
    jax.tree.map(np.testing.assert_array_equal, dict(sorted(params.items())), dict(sorted(expected.items())))


def test_a_state_without_an_average_has_the_same_parameters_with_and_without_raw(two_checkpoints):
  params, raw = (checkpoint.read_params(two_checkpoints, raw=raw)[0] for raw in (False, True))
  jax.tree.map(np.testing.assert_array_equal, params, raw)


def test_parameters_that_cannot_be_read_are_named_with_the_steps_that_exist(two_checkpoints, tmp_path):
  with pytest.raises(UserError, match=r"none has no checkpoint yet; wait"):
    checkpoint.read_params(tmp_path / "none")
  folder = tmp_path / "c"
  shutil.copytree(two_checkpoints, folder)
  with pytest.raises(UserError, match=r"has no checkpoint of step 7; choose one of: 1, 2"):
    checkpoint.read_params(folder, 7)
  shutil.rmtree(folder / "2" / "state")
  with pytest.raises(UserError, match=r"checkpoint of step 2 in .* cannot be restored .*choose another step"):
    checkpoint.read_params(folder, 2)
  assert (folder / "2").is_dir(), "reading quarantines nothing"


def test_a_step_is_saved_once(tmp_path):
  folder = tmp_path / "c"
  checkpoints = save(folder, {1: 0.5})
  checkpoints.save(state(1), {"next_record": 99})
  checkpoints.close()
  assert_is(Checkpoints(folder, 2).restore_latest(abstract_state(state(0))), 1)
