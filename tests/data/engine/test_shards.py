"""Shards: idempotent builds, and reports committed after the records."""

import json

import corpora
import pytest
from etils import epath

from clipvip_jax.data.engine.clip_record import RecordSpec
from clipvip_jax.data.engine.frame_extraction import FrameSettings
from clipvip_jax.data.engine.items import Item
from clipvip_jax.data.engine.plan import write_plan
from clipvip_jax.data.engine.shards import (
  ShardReport,
  build_shard,
  is_up_to_date,
  is_written,
  records_path,
  report_path,
)
from clipvip_jax.data.engine.work import BuildWork

SPEC = RecordSpec(FrameSettings(fps=2), "pyav", 30.0, {})


@pytest.fixture
def built(tmp_path):
  """(shard, plan, work, video) of a shard with one good and one missing clip."""
  video = corpora.write_video(tmp_path / "x.mp4")
  items = [Item("a", "train", str(video), ("t",)), Item("b", "train", str(tmp_path / "gone.mp4"), ("t",))]
  plan = write_plan(items, (), epath.Path(tmp_path / "plan"))
  work = BuildWork(epath.Path(tmp_path / "shards"), "settings")
  work.folder.mkdir()
  (shard,) = plan.shards()
  assert not is_written(shard, work)
  with SPEC.decode_process() as decoder:
    build_shard(shard, plan, SPEC, work, decoder)
  return shard, plan, work, video


def test_report_has_counts_and_skipped_clips(built):
  shard, plan, work, _ = built
  report = ShardReport.read(report_path(work.folder, shard))
  assert report.num_records == 1 and report.num_bytes > 0
  assert [(clip.name, clip.reason, clip.retry) for clip in report.skipped] == [("b", "missing", False)]
  assert is_written(shard, work) and is_up_to_date(shard, plan, work)


def test_build_is_idempotent(built):
  shard, plan, work, _ = built
  before = [path(work.folder, shard).stat().mtime for path in (records_path, report_path)]
  with SPEC.decode_process() as decoder:
    build_shard(shard, plan, SPEC, work, decoder)
    assert decoder.pid is None, "nothing is decoded"
  assert [path(work.folder, shard).stat().mtime for path in (records_path, report_path)] == before


def test_other_settings_and_changed_videos_are_out_of_date(built):
  shard, plan, work, video = built
  assert not is_written(shard, BuildWork(work.folder, "other settings"))
  video.write_bytes(video.read_bytes() + b"\0")
  assert is_written(shard, work) and not is_up_to_date(shard, plan, work)


def test_clips_to_retry_are_out_of_date(built):
  shard, plan, work, _ = built
  path = report_path(work.folder, shard)
  report = json.loads(path.read_text())
  report["skipped"][0]["retry"] = True
  path.write_text(json.dumps(report))
  assert is_written(shard, work) and not is_up_to_date(shard, plan, work)


@pytest.mark.parametrize("content", ["", "{", "{}", '{"skipped": [{"name": "a"}]}', "[]"])
def test_corrupt_report_is_no_report(tmp_path, content):
  (tmp_path / "train-00000.json").write_text(content)
  assert ShardReport.read(epath.Path(tmp_path / "train-00000.json")) is None
