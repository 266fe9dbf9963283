"""Faults of object stores while corpora and annotations are read: nothing is lost, and no wrong bytes are read."""

import json
import random

import numpy as np
import pytest
import simplejpeg
import written_corpus
from bucket_faults import KINDS
from buckets import with_faults
from ml_collections import ConfigDict

from clipvip_jax.data.video_manifest.video_manifest_dataset_builder import read_items
from clipvip_jax.input_pipeline.open_corpus import open_corpus
from clipvip_jax.utils import file_digests, storage
from clipvip_jax.utils.errors import UserError

COUNT = 130  # clips, in three files
ALL_KINDS = (*KINDS, "short")

pytestmark = pytest.mark.usefixtures("quick_retries")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
  """A dataset directory with a corpus, and the clips of it."""
  rng = np.random.default_rng(0)
  clips = [
    {
      "id": f"clip{number}",
      "frames": [simplejpeg.encode_jpeg(rng.integers(0, 256, (8, 8, 3), np.uint8)) for _ in range(2)],
      "description": [f"text {number}"],
      "caption": f"caption {number}",
    }
    for number in range(COUNT)
  ]
  data_dir = tmp_path_factory.mktemp("corpora")
  metadata = {"coverage": {"train": {"expected": COUNT + 1, "found": COUNT}}}
  file_digests.write_digests(
    written_corpus.write(data_dir, clips, "msrvtt", "9k", metadata=metadata), lambda name: ".array_record" not in name
  )
  return data_dir, clips


def open_it(data_dir, **fields):
  return open_corpus(ConfigDict({"name": "msrvtt", "config": "9k", "data_dir": str(data_dir), **fields}))


def cache_in(folder):
  return {"cache_dir": str(folder), "cache_gb": 1.0}


def check_clips(opened, clips, indices):
  """Compares clips of a corpus with those that were written."""
  assert opened.coverage("train") == {"expected": COUNT + 1, "missing": 1}
  records = opened.records("train")
  assert len(records) == COUNT
  for index in indices:
    record, clip = records[index], clips[index]
    assert record["id"].decode() == clip["id"] and list(record["frames"]) == clip["frames"]
    assert [text.decode() for text in record["description"]] == clip["description"]


def test_corpora_through_a_cache(bucket, corpus, tmp_path):
  data_dir, clips = corpus
  bucket.upload(data_dir, "corpora")

  def read(seed, folder):
    opened = open_it(bucket / "corpora", **cache_in(tmp_path / folder))
    check_clips(opened, clips, random.Random(seed).sample(range(COUNT), 60))
    assert opened.texts("train").queries == [f"text {number}" for number in range(COUNT)]

  with_faults(bucket, read, kinds=ALL_KINDS)


@pytest.mark.parametrize("seeds", [range(2), pytest.param(range(2, 20), marks=pytest.mark.slow)])
def test_corpora_without_a_cache(gs_bucket, corpus, seeds):
  """ArrayRecord reads from the store, and waits a second and more before it repeats a request."""
  data_dir, clips = corpus
  gs_bucket.upload(data_dir, "corpora")

  def read(seed, folder):
    check_clips(open_it(gs_bucket / "corpora"), clips, random.Random(seed).sample(range(COUNT), 20))

  with_faults(gs_bucket, read, seeds, 1, kinds=KINDS, rate=0.1)


@pytest.mark.parametrize("seeds", [range(2), pytest.param(range(2, 20), marks=pytest.mark.slow)])
def test_objects_cut_on_the_way_are_not_read_as_clips_without_a_cache(gs_bucket, corpus, seeds):
  """ArrayRecord does not repeat requests with an answer that is complete by its header: the record is corrupt."""
  data_dir, clips = corpus
  gs_bucket.upload(data_dir, "corpora")

  def read(seed, folder):
    opened = open_it(gs_bucket / "corpora")
    for index in random.Random(seed).sample(range(COUNT), 20):
      try:
        check_clips(opened, clips, [index])
      except UserError as error:
        assert f"record {index}: {gs_bucket / 'corpora'}" in str(error) and "restore the file" in str(error)

  with_faults(gs_bucket, read, seeds, 1, kinds=["short"], rate=0.1)


def test_annotations(bucket):
  rows = [json.dumps({"video": f"{number}.mp4", "text": f"text {number}"}) for number in range(300)]
  bucket.write("raw/m.jsonl", "\n".join(rows).encode())

  def read(seed, folder):
    path = storage.absolute(bucket / "raw/m.jsonl")
    assert [item.descriptions for item in read_items(path)] == [(f"text {number}",) for number in range(300)]

  with_faults(bucket, read, kinds=ALL_KINDS, rate=0.4, fewest=1)


@pytest.mark.parametrize("cached", [True, False])
def test_objects_that_lost_their_ends_are_refused(bucket, corpus, tmp_path, cached):
  """The store holds, and vouches for, less of a file than was written."""
  data_dir, clips = corpus
  bucket.upload(data_dir, "corpora")
  names = sorted(name for name in bucket.sizes() if not name.endswith("features.json"))
  for seed in range(20):
    name, rng = names[seed % len(names)], random.Random(seed)
    content = bucket.read(name)
    bucket.write(name, content[: rng.randrange(len(content))])
    with pytest.raises(UserError, match=r"is corrupt|cannot be read"):
      fields = cache_in(tmp_path / f"{seed}") if cached else {}
      check_clips(open_it(bucket / "corpora", **fields), clips, range(COUNT))
    bucket.write(name, content)


def test_a_file_of_another_number_of_records_is_refused(bucket, corpus, tmp_path):
  data_dir, clips = corpus
  bucket.upload(data_dir, "corpora")
  first, *_, last = sorted(name for name in bucket.sizes() if ".array_record" in name)
  bucket.write(first, bucket.read(last))
  with pytest.raises(UserError, match=r"-00000 cannot be read \(it holds 2 records, not 64\); restore the file"):
    check_clips(open_it(bucket / "corpora", **cache_in(tmp_path)), clips, [0])
