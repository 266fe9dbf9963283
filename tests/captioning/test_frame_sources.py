"""Middle frames of corpora, manifests and folders."""

import corpora
import numpy as np
import pytest
import written_corpus
from caption_endpoint import picture
from ml_collections import ConfigDict

from clipvip_jax.captioning.frame_sources import CorpusFrames, VideoFrames, folder_items, manifest_items
from clipvip_jax.data.video_manifest.video_manifest_dataset_builder import Builder
from clipvip_jax.input_pipeline.open_corpus import open_corpus
from clipvip_jax.utils.errors import UserError


def opened(data_dir, name, config=""):
  return open_corpus(ConfigDict({"name": name, "config": config, "data_dir": str(data_dir)}), "")


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
  """A folder with three videos, of which one is corrupt, and a manifest of them."""
  folder = tmp_path_factory.mktemp("videos")
  corpora.write_video(folder / "a.mp4", seed=1)
  corpora.write_video(folder / "sub" / "b.mp4", count=30, seed=2)
  (folder / "c.mp4").write_bytes(b"\0" * 1000)
  rows = [
    {"video": "a.mp4", "text": "one"},
    {"video": "sub/b.mp4", "text": "two", "start": 1, "end": 3, "split": "test"},
    {"video": "a.mp4", "text": "another text of the first clip"},
  ]
  corpora.write_lines(folder / "clips.jsonl", rows)
  return folder


def test_a_corpus_gives_its_stored_middle_frames(tmp_path):
  records = [{"id": f"clip{i}", "frames": [picture(10 * i + j) for j in range(i + 1)]} for i in range(5)]
  written_corpus.write(tmp_path, records, name="msrvtt", config="official", split="test")
  source = CorpusFrames(opened(tmp_path, "msrvtt", "official"), ["test"])
  assert len(source) == 5
  frames = list(source.frames([0, 3, 4]))
  assert [(frame.number, frame.name, frame.split) for frame in frames] == [
    (0, "clip0", "test"), (3, "clip3", "test"), (4, "clip4", "test")
  ]  # fmt: skip
  assert [frame.jpeg for frame in frames] == [picture(0), picture(32), picture(42)]
  assert source.describe()["splits"] == {"test": 5}


def test_a_manifest_gives_the_frames_that_its_corpus_stores(videos, tmp_path):
  builder = corpora.build(Builder, "default", tmp_path, videos / "clips.jsonl")
  corpus = opened(tmp_path, "video_manifest", "default")
  stored = CorpusFrames(corpus, corpus.splits)
  source = VideoFrames(manifest_items(str(videos / "clips.jsonl")), threads=2)
  by_clip = lambda frames: {(frame.split, frame.name): frame.jpeg for frame in frames}  # noqa: E731
  expected = by_clip(stored.frames(range(2)))
  assert len(expected) == len(source) == 2 and builder.is_prepared()
  assert by_clip(source.frames(range(2))) == expected


def test_a_folder_gives_a_frame_of_each_video(videos):
  source = VideoFrames(folder_items(videos), threads=1)
  frames = list(source.frames(range(len(source))))
  assert [(frame.name, frame.split, frame.problem != "") for frame in frames] == [
    ("a.mp4", "", False), ("c.mp4", "", True), ("sub/b.mp4", "", False)
  ]  # fmt: skip
  assert "c.mp4" in frames[1].problem
  assert np.all([frame.jpeg.startswith(b"\xff\xd8") for frame in frames if not frame.problem])
  assert source.describe() == VideoFrames(folder_items(videos)).describe()


def test_ids_that_two_clips_share_are_refused(tmp_path):
  rows = [{"video": "a.mp4", "text": "x", "id": "one"}, {"video": "b.mp4", "text": "y", "id": "one"}]
  with pytest.raises(UserError, match="two clips of split 'train' have the id 'one'"):
    manifest_items(str(corpora.write_lines(tmp_path / "m.jsonl", rows)))
