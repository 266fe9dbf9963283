"""Position embeddings resized to other sizes."""

import cv2
import numpy as np
import pytest
from numeric import assert_close

from clipvip_jax.weights.position_embedding import resize_grid, resize_text


@pytest.mark.parametrize(("old", "new"), [(7, 14), (14, 7), (7, 10), (4, 5), (3, 1)])
def test_grid_is_resized_bicubically_and_class_token_kept(old, new):
  position = np.random.default_rng(0).normal(size=(1 + old * old, 6)).astype(np.float32)
  resized = resize_grid(position, new)
  # OpenCV's kernel, centres and borders are PyTorch's.
  expected = cv2.resize(position[1:].reshape(old, old, 6), (new, new), interpolation=cv2.INTER_CUBIC)
  assert_close(resized[1:], expected.reshape(new * new, 6), 1e-5)
  np.testing.assert_array_equal(resized[0], position[0])
  assert resized.dtype == np.float32


def test_equal_size_is_not_copied():
  position = np.ones((50, 3), np.float32)
  assert resize_grid(position, 7) is position
  assert resize_text(position, 50).base is position


def test_shorter_text_is_truncated_and_longer_text_interpolated():
  position = np.arange(10, dtype=np.float32)[:, None] * np.ones(3, np.float32)
  np.testing.assert_array_equal(resize_text(position, 4), position[:4])
  longer = resize_text(position, 20)
  assert longer.shape == (20, 3) and longer[0, 0] == 0 and longer[-1, 0] == 9
  np.testing.assert_allclose(np.diff(longer[1:-1, 0]), 0.5)
