"""The measuring function: what it counts and refuses."""

import numpy as np
import pytest
import simplejpeg
import tensorflow_datasets as tfds
import written_corpus

from clipvip_jax.input_pipeline.corpus import Corpus
from clipvip_jax.input_pipeline.throughput import measure_throughput, training_batcher
from clipvip_jax.utils.errors import UserError


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
  frame = simplejpeg.encode_jpeg(np.zeros((8, 8, 3), np.uint8))
  folder = written_corpus.write(tmp_path_factory.mktemp("data"), [{"id": str(i), "frames": [frame]} for i in range(3)])
  return training_batcher(Corpus(tfds.builder_from_directory(folder)), "train", 2, 8)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_clips_are_counted_and_padding_is_not(clips, num_workers):
  found = measure_throughput(clips, batch_size=2, num_workers=num_workers, seconds=0)
  assert found.clips in (1, 2) and found.clips_per_second == found.clips / found.seconds > 0


def test_numbers_that_are_too_small_are_refused(clips):
  with pytest.raises(UserError, match="batch_size=0 must be at least 1"):
    measure_throughput(clips, batch_size=0)
