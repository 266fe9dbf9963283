"""Scores of checkpoints: order, integrity, and those of earlier versions; test_checkpoint.py uses them."""

import math

import pytest

from clipvip_jax.runs import checkpoint_scores
from clipvip_jax.utils import file_digests


@pytest.fixture
def folder(tmp_path):
  """A checkpoint of step 3."""
  (tmp_path / "3").mkdir()
  return tmp_path / "3"


def test_a_checkpoint_has_no_score_until_it_is_written(folder):
  assert checkpoint_scores.read_scores([folder]) == {}
  checkpoint_scores.write_score(folder, 0.25)
  assert checkpoint_scores.read_scores([folder]) == {3: 0.25}
  assert [path.name for path in folder.iterdir()] == ["metrics"], "nothing temporary is left"


def test_every_flipped_bit_of_a_score_and_its_digest_is_found(folder):
  checkpoint_scores.write_score(folder, 0.25)
  for path in folder.rglob("*"):
    content = path.read_bytes() if path.is_file() else b""
    for bit in range(8 * len(content)):
      changed = bytearray(content)
      changed[bit // 8] ^= 1 << bit % 8
      path.write_bytes(changed)
      assert math.isnan(checkpoint_scores.read_scores([folder])[3]), (path.name, bit)
    if content:
      path.write_bytes(content)
  assert checkpoint_scores.read_scores([folder]) == {3: 0.25}


def test_scores_that_were_committed_with_the_checkpoint_are_read(folder):
  for score, expected in ((0.5, {3: 0.5}), (-1.0, {})):
    (folder / "metrics").mkdir(exist_ok=True)
    (folder / "metrics" / "metrics").write_text(f'{{"{checkpoint_scores.SCORE}": {score}}}')
    file_digests.write_digests(folder)
    assert checkpoint_scores.read_scores([folder]) == expected


def test_the_best_is_the_latest_of_the_highest(folder):
  assert checkpoint_scores.by_score({1: 0.5, 2: 0.9, 4: 0.9, 5: 0.1}, [1, 2, 3, 4]) == [4, 2, 1]
