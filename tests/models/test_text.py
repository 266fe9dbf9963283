"""Text tower: pooling at the end token and padding."""

import functools

import numpy as np
import pytest
import tiny
from numeric import assert_close


def test_padding_does_not_reach_the_features(golden):
  ids = golden("forward.npz")["T1/input_ids"]
  padded = np.concatenate([ids, np.full((len(ids), 4), 7)], axis=1)
  embed = functools.partial(tiny.model().apply, {"params": tiny.params(golden)}, method="embed_text")
  assert_close(embed(padded), embed(ids), 1e-6)


@pytest.mark.slow
def test_pools_the_first_position_of_the_largest_id(golden):
  embed = functools.partial(tiny.model().apply, {"params": tiny.params(golden)}, method="embed_text")
  ids = np.array([[98, 5, 99, 99, 99]])
  assert_close(embed(ids), embed(ids[:, :3]), 1e-6)
  assert np.abs(embed(ids) - embed(np.array([[98, 5, 6, 99, 99]]))).max() > 1e-3


def test_text_longer_than_the_position_embedding_is_rejected(golden):
  with pytest.raises(ValueError, match="text of 17 tokens exceeds the text tower's 16 positions"):
    tiny.model().apply({"params": tiny.params(golden)}, np.ones((1, 17), int), method="embed_text")
