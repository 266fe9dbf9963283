"""Raw files and corpora in an object store: an in-memory substitute for gs://."""

import importlib
import pathlib

import corpora
import pytest
import tensorflow_datasets as tfds
from etils import epath
from etils.epath import gpath
from fsspec.implementations import memory

from clipvip_jax.data.engine import storage
from clipvip_jax.data.video_manifest.video_manifest_dataset_builder import Builder

# The package shadows its module of this name.
fsspec_registry = importlib.import_module("fsspec.registry")


class Store(memory.MemoryFileSystem):
  """fsspec's in-memory file system under the protocol that etils requests."""

  protocol = ("gs", "gcs")
  store = {}  # noqa: RUF012 - as fsspec keeps it
  pseudo_dirs = [""]  # noqa: RUF012

  def __init__(self, *args, finalize_on_close=False, **kwargs):
    super().__init__(*args, **kwargs)

  @classmethod
  def _strip_protocol(cls, path):
    return super()._strip_protocol(str(path).removeprefix("gs://").removeprefix("gcs://"))


@pytest.fixture
def bucket(monkeypatch):
  monkeypatch.setitem(fsspec_registry._registry, "gcs", Store)
  monkeypatch.setattr(gpath, "_is_tf_installed", lambda: False)  # it would be asked first
  Store.store.clear()
  return epath.Path("gs://bucket")


def test_reads_manifest_and_videos_from_object_store(bucket, tmp_path):
  for number in range(3):
    video = corpora.write_video(tmp_path / f"{number}.mp4", seed=number)
    (bucket / f"videos/{number}.mp4").write_bytes(video.read_bytes())
  rows = [{"video": f"videos/{n}.mp4", "text": f"clip {n}"} for n in range(3)]
  local = corpora.write_lines(tmp_path / "m.jsonl", rows)
  (bucket / "m.jsonl").write_bytes(local.read_bytes())
  builder = corpora.build(Builder, "default", tmp_path / "here", bucket / "m.jsonl")
  found = corpora.read_back(builder, "train")
  assert [record["id"] for record in found] == [row["video"] for row in rows]
  (tmp_path / "videos").mkdir()
  for number in range(3):
    (tmp_path / f"{number}.mp4").rename(tmp_path / f"videos/{number}.mp4")
  assert found == corpora.read_back(corpora.build(Builder, "default", tmp_path / "plain", local), "train")


def test_writes_corpus_to_object_store(bucket, tmp_path):
  corpora.write_video(tmp_path / "v.mp4")
  rows = [{"video": "v.mp4", "text": "t"}, {"video": "gone.mp4", "text": "t"}]
  local = corpora.write_lines(tmp_path / "m.jsonl", rows)
  builder = corpora.build(Builder, "default", "gs://bucket/corpora", local, max_skipped=0.5)
  there = epath.Path("gs://bucket/corpora/video_manifest/default")
  assert [path.name for path in there.iterdir()] == ["1.0.0"]
  assert builder.info.metadata["coverage"]["train"]["missing"] == 1
  here = tmp_path / "video_manifest/default/1.0.0"
  here.mkdir(parents=True)
  for path in (there / "1.0.0").iterdir():
    (here / path.name).write_bytes(path.read_bytes())
  records = tfds.builder_from_directory(here).as_data_source("train")
  assert [record["id"] for record in records] == [b"v.mp4"]


def test_file_state_and_atomic_path(bucket, tmp_path):
  for folder in (bucket, epath.Path(tmp_path)):
    path = folder / "file"
    assert storage.file_state(path) == []
    with storage.atomic_path(path) as temporary:
      assert isinstance(temporary, pathlib.Path)
      temporary.write_text("content")
      assert not path.exists()
    assert path.read_text() == "content" and storage.file_state(path)[0] == 7
    with pytest.raises(ValueError, match="stopped"), storage.atomic_path(path) as temporary:
      temporary.write_text("half")
      raise ValueError("stopped")
    assert path.read_text() == "content"
