"""Measuring throughput."""

import numpy as np
import pytest
import simplejpeg
import tensorflow_datasets as tfds
import written_corpus

from clipvip_jax.input_pipeline.corpus import Corpus
from clipvip_jax.input_pipeline.throughput import measure_throughput, training_batcher
from clipvip_jax.utils.errors import UserError


@pytest.fixture(scope="module")
def batcher(tmp_path_factory):
  frame = simplejpeg.encode_jpeg(np.zeros((8, 8, 3), np.uint8))
  folder = written_corpus.write(tmp_path_factory.mktemp("data"), [{"id": str(i), "frames": [frame]} for i in range(3)])
  return training_batcher(Corpus(tfds.builder_from_directory(folder)), "train", 2, 8)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_counts_clips_without_padding(batcher, num_workers):
  result = measure_throughput(batcher, batch_size=2, num_workers=num_workers, seconds=0)
  assert result.clips in (1, 2) and result.clips_per_second == result.clips / result.seconds > 0


def test_a_number_that_is_too_small_is_rejected(batcher):
  with pytest.raises(UserError, match="batch_size=0 must be at least 1"):
    measure_throughput(batcher, batch_size=0)
