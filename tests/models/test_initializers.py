"""Sinusoidal initial embeddings."""

import jax
import numpy as np
import pytest

from clipvip_jax.models import initializers


def test_position_embedding_is_zero_for_proxies_and_a_unit_of_width_for_patches():
  position = np.asarray(initializers.sincos_position(jax.random.key(0), (1 + 16, 64)))
  assert not position[0].any()
  np.testing.assert_allclose((position[1:] ** 2).mean(1), 0.25, rtol=1e-5)


@pytest.mark.parametrize("offset", [1, 4])  # to the right and down on a grid of 4 x 4
def test_neighbouring_patches_start_more_alike_than_distant_ones(offset):
  patches = np.asarray(initializers.sincos_position(jax.random.key(0), (1 + 16, 64)))[1:]
  near = patches[0] @ patches[offset]
  assert near > patches[0] @ patches[15]


def test_neighbouring_frames_start_more_alike_than_distant_ones():
  time = np.asarray(initializers.sincos_time(jax.random.key(0), (12, 64)))
  similarity = time @ time.T
  assert np.all(np.diff(similarity[0, :4]) < 0)
