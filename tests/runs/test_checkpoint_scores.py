"""Scores of checkpoints: order, integrity, and those of earlier versions; test_checkpoint.py uses them."""

import math

import pytest

from clipvip_jax.runs import checkpoint_scores
from clipvip_jax.utils import file_digests
from clipvip_jax.utils.errors import UserError


@pytest.fixture
def folder(tmp_path):
  """A checkpoint of step 3."""
  folder = tmp_path / "3"
  folder.mkdir()
  (folder / "state").write_text("x")
  file_digests.write_digests(folder)
  return folder


def test_a_checkpoint_has_no_score_until_it_is_written(folder):
  assert checkpoint_scores.read_scores([folder]) == {}
  checkpoint_scores.write_score(folder, 0.25)
  assert checkpoint_scores.read_scores([folder]) == {3: 0.25}
  assert sorted(path.name for path in folder.rglob("*")) == ["digests.json", "metrics", "metrics", "state"]
  assert set(file_digests.read_digests(folder)) == {"state", "metrics/metrics"}


def test_every_flipped_bit_of_a_score_and_its_digest_is_found(folder):
  checkpoint_scores.write_score(folder, 0.25)
  for path in (folder / "metrics" / "metrics", folder / file_digests.NAME):
    content = path.read_bytes()
    for bit in range(8 * len(content)):
      changed = bytearray(content)
      changed[bit // 8] ^= 1 << bit % 8
      path.write_bytes(changed)
      score = checkpoint_scores.read_scores([folder])[3]
      # White space of the list is harmless; a list that is not known as one is verified with the checkpoint.
      assert math.isnan(score) or (score == 0.25 and path.name == file_digests.NAME), (path.name, bit)
    path.write_bytes(content)
  assert checkpoint_scores.read_scores([folder]) == {3: 0.25}


@pytest.mark.parametrize("whole_folder", [True, False])
def test_a_score_that_was_deleted_is_corrupt(folder, whole_folder):
  checkpoint_scores.write_score(folder, 0.25)
  (folder / "metrics" / "metrics").unlink()
  if whole_folder:
    (folder / "metrics").rmdir()
  assert math.isnan(checkpoint_scores.read_scores([folder])[3])


def test_an_interrupted_write_is_no_score_and_is_repeated(folder, monkeypatch):
  with monkeypatch.context() as patch, pytest.raises(OSError, match="full"):
    patch.setattr(file_digests, "add_digest", lambda *_: (_ for _ in ()).throw(OSError("full")))
    checkpoint_scores.write_score(folder, 0.75)
  assert checkpoint_scores.read_scores([folder]) == {}
  checkpoint_scores.write_score(folder, 0.25)
  assert checkpoint_scores.read_scores([folder]) == {3: 0.25}


def test_a_checkpoint_whose_digests_are_corrupt_takes_no_score(folder):
  (folder / file_digests.NAME).write_text("{")
  with pytest.raises(UserError, match=r"3: digests\.json is corrupt; run the same command"):
    checkpoint_scores.write_score(folder, 0.25)


def test_scores_that_were_committed_with_the_checkpoint_are_read(folder):
  for score, expected in ((0.5, {3: 0.5}), (-1.0, {})):
    (folder / "metrics").mkdir(exist_ok=True)
    (folder / "metrics" / "metrics").write_text(f'{{"{checkpoint_scores.SCORE}": {score}}}')
    file_digests.write_digests(folder)
    assert checkpoint_scores.read_scores([folder]) == expected


def test_the_best_is_the_latest_of_the_highest(folder):
  assert checkpoint_scores.by_score({1: 0.5, 2: 0.9, 4: 0.9, 5: 0.1}, [1, 2, 3, 4]) == [4, 2, 1]
