"""Building an index in a bucket: an interrupted build resumes from the parts there, on any machine."""

import pytest
from etils import epath
from fake_model import FakeModel
from videos import write_videos

from clipvip_jax.inference import index_builder
from clipvip_jax.inference.approximate_index import open_graph
from clipvip_jax.inference.bucket_index import fetch_index, fetch_shards, local_index, local_workdir, upload_graph
from clipvip_jax.inference.index_builder import build_index
from clipvip_jax.inference.index_shards import Shard, join_shards
from clipvip_jax.inference.video_index import read_index
from clipvip_jax.utils import bucket_copies
from clipvip_jax.utils.errors import UserError


def build(out, videos, stop_after=None):
  model = FakeModel(stop_after)
  with local_index(epath.Path(out), "--out") as (path, publish):
    build_index(model, videos, path, publish=publish)
  return model.embedded


def forget_copies(bucket):
  """As on another machine."""
  for path in bucket_copies.local_copy(bucket.url).rglob("*"):
    if path.is_file():
      path.unlink()


def test_resumes_from_the_parts_in_the_bucket_and_writes_the_bytes_of_a_local_build(bucket, tmp_path, monkeypatch):
  monkeypatch.setattr(index_builder, "PART_SIZE", 4)
  videos = write_videos(tmp_path / "v")
  build(tmp_path / "i.safetensors", videos)
  with pytest.raises(KeyboardInterrupt):
    build(bucket / "a/i.safetensors", videos, stop_after=6)
  assert sorted(bucket.sizes()) == ["a/i.safetensors.parts/0.safetensors", "a/i.safetensors.parts/job.json"]
  forget_copies(bucket)
  assert build(bucket / "a/i.safetensors", videos) == 6, "the first part of four is kept"
  assert list(bucket.sizes()) == ["a/i.safetensors"]
  assert bucket.read("a/i.safetensors") == (tmp_path / "i.safetensors").read_bytes()
  forget_copies(bucket)
  assert build(bucket / "a/i.safetensors", videos) == 0, "it is complete"


def test_an_index_of_other_videos_is_refused_by_its_address(bucket, tmp_path):
  build(bucket / "i.safetensors", write_videos(tmp_path / "v", 3))
  with pytest.raises(UserError, match=rf"^{bucket.url}/i.safetensors is an index of another model or of other videos"):
    build(bucket / "i.safetensors", write_videos(tmp_path / "w", 2))


def test_shards_in_a_bucket_are_joined_to_the_bytes_of_one_machine(bucket, tmp_path, monkeypatch):
  monkeypatch.setattr(index_builder, "PART_SIZE", 4)
  videos, out = write_videos(tmp_path / "v"), epath.Path(bucket / "a/i.safetensors")
  build_index(FakeModel(), videos, tmp_path / "i.safetensors")
  for number in range(2):
    shard = Shard(number, 2)
    with local_index(shard.path(out), "--out") as (path, publish):
      layout = index_builder.IndexLayout(shard=shard.label(videos))
      build_index(FakeModel(), shard.select(videos), path, layout=layout, publish=publish)
  forget_copies(bucket)
  with local_index(out, "--out") as (path, publish):
    fetch_shards(out)
    join_shards(path)
    publish(path)
  assert bucket.read("a/i.safetensors") == (tmp_path / "i.safetensors").read_bytes()


def test_a_graph_is_built_once_and_kept_in_the_bucket(bucket, tmp_path):
  pytest.importorskip("usearch")
  out = epath.Path(bucket / "i.safetensors")
  build(out, write_videos(tmp_path / "v", 3))
  contents = []
  for _ in range(2):
    forget_copies(bucket)
    local = fetch_index(out)
    open_graph(local, read_index(local))
    upload_graph(out)
    contents.append({name: bucket.read(name) for name in bucket.sizes()})
  assert contents[0] == contents[1] and len(contents[0]) == 3


def test_a_folder_of_indexes_resumes_and_loses_what_is_deleted(bucket, tmp_path, monkeypatch):
  monkeypatch.setattr(index_builder, "PART_SIZE", 4)
  videos, folder = write_videos(tmp_path / "v"), epath.Path(bucket / "w")
  bucket.write("w/old.json", b"old")
  bucket.write("w/checkpoints/1/state", b"of something else")
  with pytest.raises(KeyboardInterrupt), local_workdir(folder, "--workdir", "results.json") as (local, publish):
    build_index(FakeModel(stop_after=6), videos, local / "videos.safetensors", publish=publish)
  assert "w/videos.safetensors.parts/0.safetensors" in bucket.sizes()
  with local_workdir(folder, "--workdir", "results.json") as (local, publish):
    assert not (local / "checkpoints").exists()
    model = FakeModel()
    build_index(model, videos, local / "videos.safetensors", publish=publish)
    assert model.embedded == 6, "the first part of four is kept"
    (local / "old.json").unlink()
    (local / "results.json").write_bytes(b"{}")
  assert sorted(bucket.sizes()) == ["w/checkpoints/1/state", "w/results.json", "w/videos.safetensors"]
