"""Corpora that are built in object stores and read there."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import corpora
import numpy as np
import pytest
import tensorflow_datasets as tfds
from etils import epath
from ml_collections import ConfigDict
from project_paths import ROOT

from clipvip_jax import data_tool
from clipvip_jax.data.engine import build_lock
from clipvip_jax.data.engine.corpus_config import BuildOptions
from clipvip_jax.data.video_manifest.video_manifest_dataset_builder import Builder
from clipvip_jax.input_pipeline.open_corpus import open_corpus
from clipvip_jax.input_pipeline.pipeline import RecordSampler, WeightedStream, iterate_batches
from clipvip_jax.input_pipeline.throughput import training_batcher
from clipvip_jax.utils.errors import UserError

FOLDER = "corpora/video_manifest/default/1.0.0"


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
  folder = tmp_path_factory.mktemp("videos")
  for number in range(6):
    corpora.write_video(folder / f"{number}.mp4", seed=number)
  rows = [{"video": f"{number}.mp4", "text": f"clip {number}"} for number in range(6)]
  return corpora.write_lines(folder / "m.jsonl", [*rows, {"video": "gone.mp4", "text": "t"}])


@pytest.fixture(scope="module")
def local_corpus(manifest, tmp_path_factory):
  folder = tmp_path_factory.mktemp("corpora")
  build(folder, manifest)
  return folder


def build(data_dir, manifest):
  builder = make_builder(data_dir, manifest)
  builder.download_and_prepare()
  return builder


def make_builder(data_dir, manifest):
  options = BuildOptions(raw_dir=str(manifest), max_skipped=0.5, clips_per_shard=2)
  return Builder(config="default", data_dir=str(data_dir), file_format="array_record", options=options)


def opened(data_dir, **fields):
  return open_corpus(ConfigDict({"name": "video_manifest", "config": "default", "data_dir": str(data_dir), **fields}))


def batches(corpus, num_workers=0):
  stream = WeightedStream(training_batcher(corpus, "train", 2, 32), RecordSampler(6, 4, seed=1))
  return list(iterate_batches([stream], num_steps=4, num_workers=num_workers))


def test_a_corpus_in_a_store_equals_a_local_one(bucket, manifest, local_corpus, tmp_path):
  builder = build(bucket / "corpora", manifest)
  names = {name.removeprefix(f"{FOLDER}/") for name in bucket.sizes()}
  local = local_corpus / "video_manifest/default/1.0.0"
  assert names == {path.name for path in local.iterdir()}  # and the folder of the build is deleted
  for name in names - {"dataset_info.json", "digests.json", "shards.json"}:  # these name folders
    assert bucket.read(f"{FOLDER}/{name}") == (local / name).read_bytes(), name
  here = opened(local_corpus)
  for fields in ({}, {"cache_dir": str(tmp_path / "cache"), "cache_gb": 1.0}):
    there = opened(bucket / "corpora", **fields)
    assert there.identity() == here.identity() and there.coverage("train") == here.coverage("train")
    assert there.texts("train") == here.texts("train")
    for mine, theirs in zip(batches(there), batches(here), strict=True):
      assert all(np.array_equal(mine[key], theirs[key]) for key in theirs)
  assert len(list((tmp_path / "cache").glob("*.array_record"))) == 3
  make_builder(bucket / "corpora", manifest).build(None)  # is up to date
  assert {name.removeprefix(f"{FOLDER}/") for name in bucket.sizes()} == names
  assert builder.folder == epath.Path(bucket / FOLDER)


def test_worker_processes_read_through_the_cache(bucket, local_corpus, tmp_path):
  bucket.upload(local_corpus, "corpora")
  there = opened(bucket / "corpora", cache_dir=str(tmp_path), cache_gb=1.0)
  for mine, theirs in zip(batches(there, 2), batches(opened(local_corpus)), strict=True):
    assert all(np.array_equal(mine[key], theirs[key]) for key in theirs)
  assert sum(" " in line and "alt=media" in line for line, _ in bucket.requests()) < 30


def test_commands_take_addresses(bucket, manifest, local_corpus, tmp_path, capsys):
  bucket.upload(manifest.parent, "raw")
  flags = [f"--data_dir={bucket / 'corpora'}", "--max_skipped=0.5"]
  data_tool.main(["check", bucket / "raw/m.jsonl", *flags])
  assert "default: 3 frames a second" in capsys.readouterr().out
  data_tool.main(["build", bucket / "raw/m.jsonl", *flags])
  flags = ["video_manifest", flags[0], f"--cache_dir={tmp_path / 'cache'}"]
  data_tool.main(["show", *flags, f"--html={tmp_path / 'page.html'}", "--count=2", "--num_frames=2"])
  assert "<dd>clip " in (tmp_path / "page.html").read_text()
  data_tool.main(["throughput", *flags, "--num_frames=2", "--image_size=16", "--workers=0", "--seconds=0.1"])
  assert "clips/s" in capsys.readouterr().out


def test_an_interrupted_build_is_resumed_and_never_trusted(bucket, manifest, monkeypatch):
  """The last file is missing, others have other bytes: a reader refuses, a build replaces all of them."""
  build(bucket / "corpora", manifest)
  complete = {name: bucket.read(name) for name in bucket.sizes()}
  bucket.empty()
  for name, content in complete.items():
    if not name.endswith("/features.json"):
      bucket.write(name, content[: len(content) // 2])
  bucket.write(f"{FOLDER}/video_manifest-train.array_record-00000-of-00001", b"of another build")
  with pytest.raises(UserError, match=r"is not in .*built: none"):
    opened(bucket / "corpora")
  build(bucket / "corpora", manifest)
  again = {name: bucket.read(name) for name in bucket.sizes()}
  assert again.keys() == complete.keys()
  assert all(again[name] == complete[name] for name in complete if "array_record" in name)


def test_changed_videos_are_built_again(bucket, manifest, tmp_path):
  for path in manifest.parent.iterdir():
    (tmp_path / path.name).write_bytes(path.read_bytes())
  build(bucket / "corpora", tmp_path / "m.jsonl")
  records = sorted(name for name in bucket.sizes() if "array_record" in name)
  before = [bucket.read(name) for name in records]
  corpora.write_video(tmp_path / "0.mp4", count=18, seed=9)
  make_builder(bucket / "corpora", tmp_path / "m.jsonl").build(tfds.download.DownloadConfig())
  after = [bucket.read(name) for name in records]
  assert [a == b for a, b in zip(before, after, strict=True)] == [False, True, True]
  assert opened(bucket / "corpora").records("train")[0]["num_frames"] == 9


def test_a_build_that_another_process_has_completed_is_not_repeated(bucket, manifest):
  builder, late = (make_builder(bucket / "corpora", manifest) for _ in range(2))
  with build_lock.locked(builder.build_dir), pytest.raises(UserError, match=r"1\.0\.0\.building is in use by process"):
    builder.download_and_prepare()
  builder.download_and_prepare()
  with pytest.raises(UserError, match="another process has built this corpus meanwhile; run the command again"):
    late.download_and_prepare()
  assert not any("building" in name for name in bucket.sizes())


@pytest.mark.usefixtures("quick_retries")
def test_faults_of_the_store_lose_nothing(bucket, manifest, local_corpus, tmp_path, monkeypatch):
  monkeypatch.setattr("clipvip_jax.utils.transfers.RETRY_DELAYS", (0.01,) * 8)
  expected = batches(opened(local_corpus))
  with bucket.faults(seed=3, rate=0.1, slow_seconds=0.01):
    build(bucket / "corpora", manifest)
    there = opened(bucket / "corpora", cache_dir=str(tmp_path), cache_gb=1.0)
    for mine, theirs in zip(batches(there), expected, strict=True):
      assert all(np.array_equal(mine[key], theirs[key]) for key in theirs)


def test_a_corrupt_corpus_names_its_address(bucket, local_corpus):
  bucket.upload(local_corpus, "corpora")
  info = json.loads(bucket.read(f"{FOLDER}/dataset_info.json"))
  bucket.write(f"{FOLDER}/dataset_info.json", json.dumps({**info, "version": "1.0.1"}).encode())
  with pytest.raises(UserError, match=rf"{bucket / FOLDER} is corrupt \(.*digest.*build the corpus again"):
    opened(bucket / "corpora")


BUILD = """
import sys
import tensorflow_datasets as tfds
from clipvip_jax.data.engine.corpus_config import BuildOptions
from clipvip_jax.data.video_manifest.video_manifest_dataset_builder import Builder
options = BuildOptions(raw_dir=sys.argv[2], max_skipped=0.5, clips_per_shard=2)
Builder(config="default", data_dir=sys.argv[1], file_format="array_record", options=options).build(
  tfds.download.DownloadConfig()
)
"""


def test_a_build_leaves_no_temporary_files(bucket, manifest, tmp_path):
  command = [sys.executable, "-c", BUILD, bucket / "corpora", str(manifest)]
  for _ in range(2):  # the second finds the corpus
    subprocess.run(command, check=True, cwd=ROOT, env={**os.environ, "TMPDIR": str(tmp_path)})
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_killed_builds_end_with_the_bytes_of_an_uninterrupted_one(bucket, manifest):
  """Killed before a random request, three times: no reader trusts what is there, and nothing is left."""
  rng = random.Random(bucket.url.split(":")[0])
  build(bucket / "corpora", manifest)
  complete, total = {name: bucket.read(name) for name in bucket.sizes()}, len(bucket.requests())
  bucket.empty()
  command = [sys.executable, "-c", BUILD, bucket / "corpora", str(manifest)]
  killed = 0
  for count in sorted(int(rng.uniform(0.0, 0.8) * total) for _ in range(3)):
    with bucket.faults(rate=1, kinds=["silent"], skip=count):
      process = subprocess.Popen(command, stderr=subprocess.PIPE, cwd=ROOT)
      while process.poll() is None and not any(fault for _, fault in bucket.requests()):
        time.sleep(0.02)
      process.kill()
      process.wait()
    bucket.store.control("DELETE", "requests")
    error = process.communicate()[1].decode()
    assert process.returncode in (0, -signal.SIGKILL), error
    killed += process.returncode != 0
    if f"{FOLDER}/features.json" not in bucket.sizes():
      with pytest.raises(UserError, match=r"is not in .*built: none"):
        opened(bucket / "corpora")
  assert killed > 1
  subprocess.run(command, check=True, cwd=ROOT)
  assert {name: bucket.read(name) for name in bucket.sizes()} == complete
