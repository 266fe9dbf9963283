"""Builds of corpora: limits, resumption after kills, full disks, several workers."""

import errno
import hashlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile

import corpora
import numpy as np
import pytest
import tensorflow_datasets as tfds
from etils import epath
from processes import prepared
from waiting import wait_until

from clipvip_jax.data.engine import build_files, build_lock, decode_process, shards
from clipvip_jax.data.engine.corpus_config import BuildOptions
from clipvip_jax.data.engine.records import encode_jpeg
from clipvip_jax.data.video_manifest.video_manifest_dataset_builder import Builder, VideoManifestConfig
from clipvip_jax.utils.errors import UserError

CLIPS = 48  # three shards of 16


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
  folder = tmp_path_factory.mktemp("videos")
  for number in range(6):
    corpora.write_video(folder / f"{number}.mp4", seed=number)
  rows = [{"id": f"clip{n}", "video": f"{n % 6}.mp4", "text": f"clip {n}"} for n in range(CLIPS)]
  return corpora.write_lines(folder / "m.jsonl", rows)


def content(folder):
  """Returns {name: hash} of the files of a corpus."""
  return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def unbroken(manifest, tmp_path_factory):
  return content(corpora.build(Builder, "default", tmp_path_factory.mktemp("unbroken"), manifest).data_path)


PROGRAM = """
import sys, tensorflow_datasets as tfds
from clipvip_jax.utils.cli import run_command
from clipvip_jax.data.engine.corpus_config import BuildOptions
from clipvip_jax.data.engine.runner import local_options
from clipvip_jax.data.video_manifest.video_manifest_dataset_builder import Builder, VideoManifestConfig

def main():
  options = BuildOptions(raw_dir=sys.argv[1])
  config = VideoManifestConfig(name="slow", fps=3, decoder="odd_decoders:slow") if "slow" in sys.argv else "default"
  builder = Builder(config=config, data_dir=sys.argv[2], file_format="array_record", options=options)
  workers = tfds.download.DownloadConfig(beam_options=local_options(int(sys.argv[3])))
  builder.download_and_prepare(download_config=workers)

run_command(main)
"""


def start(manifest, data_dir, workers=1, *more, before="pass"):
  """Starts the build in a subprocess, which runs the code `before` first."""
  environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
  arguments = prepared(before, sys.executable, "-c", PROGRAM, str(manifest), str(data_dir), str(workers), *more)
  return subprocess.Popen(arguments, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.mark.slow
def test_two_workers_build_the_same_bytes(manifest, unbroken, tmp_path):
  assert start(manifest, tmp_path, 2).wait(300) == 0
  assert content(tmp_path / "video_manifest/default/1.0.0") == unbroken


@pytest.mark.slow
def test_resumes_bit_identically_after_sigkill(manifest, tmp_path, monkeypatch):
  config = VideoManifestConfig(name="slow", fps=3, decoder="odd_decoders:slow")
  whole = content(corpora.build(Builder, config, tmp_path / "whole", manifest).data_path)
  broken = tmp_path / "broken"
  for done in (1, 2):
    monkeypatch.setenv("ODD_DECODER_WAITS", f"{broken}:{done}")
    child = start(manifest, broken, 1, "slow")
    wait_until(lambda done=done: len(list(broken.rglob("train-*.json"))) == done, child)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert not (broken / "video_manifest/slow/1.0.0").exists()
  monkeypatch.delenv("ODD_DECODER_WAITS")
  first = next(broken.rglob("train-00000.array_record"))
  before = first.stat().st_mtime_ns
  builder = corpora.build(Builder, config, broken, manifest)
  assert content(builder.data_path) == whole
  kept = builder.data_path / "video_manifest-train.array_record-00000-of-00003"
  assert pathlib.Path(kept).stat().st_mtime_ns == before  # not made again
  assert sorted(path.name for path in builder.data_path.parent.iterdir()) == ["1.0.0"]


@pytest.mark.slow
def test_full_disk_ends_with_one_line_and_no_partial_shards(manifest, unbroken, tmp_path):
  """The operating system limits files to 200 kB."""
  small_files = "import resource, signal\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
  small_files += "resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))"
  rows = [json.loads(line) for line in manifest.read_text().splitlines()]
  noise = np.random.default_rng(0).integers(0, 255, (12, 240, 320, 3), dtype=np.uint8)
  wide = corpora.encode(tmp_path / "wide.mkv", noise, "libx264", rate=6, preset="ultrafast")
  for number, row in enumerate(rows):
    row["video"] = str(wide if number == 20 else manifest.parent / row["video"])
  source = corpora.write_lines(tmp_path / "m.jsonl", rows)
  child = start(source, tmp_path, 1, before=small_files)
  _, errors = child.communicate(timeout=300)
  assert child.returncode == 2
  last = errors.decode().strip().splitlines()[-1]
  assert last.startswith("error: ") and "File too large" in last and "run the build again to resume" in last
  assert not (tmp_path / "video_manifest/default/1.0.0").exists()
  assert len(list(tmp_path.rglob("train-*.json"))) == len(list(tmp_path.rglob("train-*.array_record"))) >= 1
  assert not list(tmp_path.rglob("*.tmp"))
  assert len(corpora.read_back(corpora.build(Builder, "default", tmp_path, source), "train")) == CLIPS


def test_max_skipped_and_resume_after_repair(manifest, tmp_path):
  rows = [{"video": f"{n}.mp4", "text": "t"} for n in range(20)]
  for n in range(18):
    corpora.write_video(tmp_path / f"{n}.mp4", seed=n)
  source = corpora.write_lines(tmp_path / "m.jsonl", rows)
  with pytest.raises(UserError, match=r"2 of 20 clips were skipped \(2 missing\), more than 5.0%") as refused:
    corpora.build(Builder, "default", tmp_path, source)
  assert str(refused.value).endswith("or accept it with --max_skipped=0.1")
  corpora.write_video(tmp_path / "18.mp4")
  builder = corpora.build(Builder, "default", tmp_path, source)
  assert builder.info.metadata["coverage"]["train"]["found"] == 19


def test_rejects_split_without_records(tmp_path):
  source = corpora.write_lines(tmp_path / "m.jsonl", [{"video": "no.mp4", "text": "t"}])
  with pytest.raises(UserError, match=r"all 1 clips were skipped, see .*skipped.tsv; repair"):
    corpora.build(Builder, "default", tmp_path, source, max_skipped=1.0)


def test_empty_shards_have_no_file(tmp_path):
  corpora.write_video(tmp_path / "good.mp4")
  rows = [{"id": str(n), "video": "good.mp4" if n == 2 else "no.mp4", "text": "t"} for n in range(3)]
  source = corpora.write_lines(tmp_path / "m.jsonl", rows)
  builder = corpora.build(Builder, "default", tmp_path, source, max_skipped=1.0, clips_per_shard=1)
  assert [record["id"] for record in corpora.read_back(builder, "train")] == ["2"]
  assert len(list(builder.data_path.glob("*.array_record*"))) == 1


def test_rejects_concurrent_build(manifest, tmp_path):
  builder = Builder(config="default", data_dir=str(tmp_path), options=BuildOptions(raw_dir=str(manifest)))
  folder = epath.Path(tmp_path) / "video_manifest/default/1.0.0.building"
  folder.mkdir(parents=True)
  with build_lock.locked(folder), pytest.raises(UserError, match="another process is building this corpus"):
    builder.download_and_prepare(file_format="array_record")


def test_rejects_other_settings_under_the_same_name(manifest, tmp_path):
  one, two = (VideoManifestConfig(name="mine", short_side=side) for side in (32, 16))
  corpora.build(Builder, one, tmp_path, manifest)
  with pytest.raises(UserError, match=r"was built with other settings \(short_side\); delete this folder"):
    corpora.build(Builder, two, tmp_path, manifest)
  corpora.build(Builder, one, tmp_path, manifest, max_skipped=0.5)  # no setting of the content


@pytest.mark.parametrize("options", [{"max_skipped": 1.5}, {"decode_timeout": 0}, {"clips_per_shard": -1}])
def test_rejects_options_out_of_range(manifest, tmp_path, options):
  with pytest.raises(UserError, match=next(iter(options))):
    corpora.build(Builder, "default", tmp_path, manifest, **options)


def test_folder_names_may_have_glob_characters(manifest, tmp_path):
  folder = tmp_path / "a [b] *c? d"
  corpora.write_video(folder / "v.mp4")
  source = corpora.write_lines(folder / "m.jsonl", [{"video": "v.mp4", "text": "t"}])
  assert len(corpora.read_back(corpora.build(Builder, "default", folder, source), "train")) == 1


def refused(manifest, data_dir, words, **options):
  with pytest.raises(UserError, match=words):
    corpora.build(Builder, "default", data_dir, manifest, **options)


def test_changed_videos_are_decoded_again(tmp_path):
  """Includes a valid video of a completed shard, and a folder of frames in which one file was repaired."""
  corpora.write_video(tmp_path / "x.mp4", count=12)
  frames = tmp_path / "frames"
  frames.mkdir()
  jpegs = [encode_jpeg(frame, 90) for frame in corpora.moving_frames(4)]
  for number, jpeg in enumerate(jpegs):
    (frames / f"{number}.jpg").write_bytes(jpeg if number != 1 else jpeg[:-20])
  source = corpora.write_lines(tmp_path / "m.jsonl", [{"video": name, "text": "t"} for name in ("x.mp4", "frames")])
  refused(source, tmp_path, "1 of 2 clips", clips_per_shard=1)
  corpora.write_video(tmp_path / "x.mp4", count=24)
  (frames / "1.jpg").write_bytes(jpegs[1])
  builder = corpora.build(Builder, "default", tmp_path, source, clips_per_shard=1)
  assert [record["num_frames"] for record in corpora.read_back(builder, "train")] == [12, 4]


def test_clips_that_timed_out_are_tried_again(tmp_path):
  corpora.write_video(tmp_path / "x.mp4")
  source = corpora.write_lines(tmp_path / "m.jsonl", [{"video": "x.mp4", "text": "t"}])
  config = VideoManifestConfig(name="slow", decoder="odd_decoders:slow")
  with pytest.raises(UserError, match=r"hung: no result within 0\.01 s"), pytest.MonkeyPatch.context() as patch:
    patch.setattr(decode_process, "STARTUP_SECONDS", 0.0)
    corpora.build(Builder, config, tmp_path, source, decode_timeout=0.01)
  assert len(corpora.read_back(corpora.build(Builder, config, tmp_path, source), "train")) == 1


def test_report_never_refers_to_other_records(manifest, tmp_path, monkeypatch):
  """A build that ends between records and report leaves an incomplete shard, which is built again."""
  rows = [{"video": str(manifest.parent / "0.mp4"), "text": "t"}, {"video": "gone.mp4", "text": "t"}]
  first = corpora.write_lines(tmp_path / "m.jsonl", rows)
  refused(first, tmp_path, "1 of 2 clips")
  other = [{**row, "id": f"other{number}", "video": rows[0]["video"]} for number, row in enumerate(rows)]
  corpora.write_lines(tmp_path / "m.jsonl", other)
  with monkeypatch.context() as patch:
    patch.setattr(shards.ShardReport, "write", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    refused(first, tmp_path, "No space left on device.*run the build again")
  corpora.write_lines(tmp_path / "m.jsonl", rows)
  builder = corpora.build(Builder, "default", tmp_path, first, max_skipped=0.5)
  assert [record["id"] for record in corpora.read_back(builder, "train")] == [rows[0]["video"]]


def beam_workers(number):
  """Returns the Beam worker processes that a process started, directly or through a shell."""
  listed = subprocess.run(["ps", "-eww", "-o", "pid,ppid,args"], capture_output=True, text=True).stdout.splitlines()[1:]
  rows = [line.split(None, 2) for line in listed]
  shells = {child for child, parent, _ in rows if parent == str(number)}
  return [int(row[0]) for row in rows if {*row[:2]} & shells and "sdk_worker" in row[2] and "python" in row[2]]


@pytest.mark.slow
def test_killed_worker_ends_the_build(manifest, tmp_path, monkeypatch):
  monkeypatch.setenv("ODD_DECODER_SECONDS", "1")  # a shard takes longer than all that follows
  child = start(manifest, tmp_path, 2, "slow")
  wait_until(lambda: list(tmp_path.rglob("*.tmp")), child)
  os.kill(beam_workers(child.pid)[-1], signal.SIGKILL)
  _, errors = child.communicate(timeout=300)
  assert child.returncode == 2
  assert errors.decode().splitlines()[-1].startswith("error: a worker process of the build was killed")
  monkeypatch.delenv("ODD_DECODER_SECONDS")
  config = VideoManifestConfig(name="slow", fps=3, decoder="odd_decoders:slow")
  assert len(corpora.read_back(corpora.build(Builder, config, tmp_path, manifest), "train")) == CLIPS


def test_suggested_max_skipped_is_accepted(tmp_path):
  corpora.write_video(tmp_path / "x.mp4")
  rows = [{"id": str(n), "video": "x.mp4" if n >= 29 else "gone.mp4", "text": "t"} for n in range(100)]
  source = corpora.write_lines(tmp_path / "m.jsonl", rows)
  refused(source, tmp_path, r"--max_skipped=0\.29$")
  corpora.build(Builder, "default", tmp_path, source, max_skipped=0.29)


@pytest.mark.parametrize("name", ["../x", ".", "a/b", "x\ny", "n" * 300, ""])
def test_rejects_invalid_configuration_names(manifest, tmp_path, name):
  with pytest.raises(UserError, match=r"invalid configuration name .*; use at most 100 letters"):
    corpora.build(Builder, VideoManifestConfig(name=name), tmp_path / "corpora", manifest)
  assert not (tmp_path / "corpora").exists()


@pytest.mark.parametrize("file", ["dataset_info.json", "metadata.json"])
def test_reports_corrupt_corpus(manifest, tmp_path, file):
  builder = corpora.build(Builder, "default", tmp_path, manifest)
  (builder.data_path / file).write_text("{}")
  with pytest.raises(UserError, match=r"is corrupt \(.*delete it and build the corpus again"):
    corpora.build(Builder, "default", tmp_path, manifest)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_disk_that_holds_not_even_the_error_is_named(manifest, tmp_path, monkeypatch, number):
  """The first shard fails, and error.json cannot be written."""

  def fail(*_):
    raise OSError(number, os.strerror(number))

  with monkeypatch.context() as patch:
    patch.setattr(build_files, "atomic_path", fail)
    refused(
      manifest, tmp_path, rf"^{tmp_path}/.*: {os.strerror(number)}\. Completed shards are kept; free disk space or"
    )
  assert len(corpora.read_back(corpora.build(Builder, "default", tmp_path, manifest), "train")) == CLIPS


def test_builds_leave_no_temporary_files_and_need_none(manifest, tmp_path, monkeypatch):
  monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
  (tmp_path / "temporary").mkdir()
  for _ in range(2):  # the second finds the corpus
    options = BuildOptions(raw_dir=str(manifest))
    Builder(config="default", data_dir=tmp_path, options=options).build(tfds.download.DownloadConfig())
  assert not list((tmp_path / "temporary").iterdir())
  (tmp_path / "temporary").rmdir()
  Builder(config=VideoManifestConfig(name="other"), data_dir=tmp_path, options=BuildOptions(raw_dir=str(manifest)))
