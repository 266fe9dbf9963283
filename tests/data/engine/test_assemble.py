"""Completed shards become splits."""

import pytest
from etils import epath

from clipvip_jax.data.engine.assemble import collect_reports
from clipvip_jax.data.engine.coverage import SkippedClip
from clipvip_jax.data.engine.items import Item
from clipvip_jax.data.engine.plan import write_plan
from clipvip_jax.data.engine.shards import ShardReport, report_path
from clipvip_jax.data.engine.work import BuildWork
from clipvip_jax.utils.errors import UserError


def test_sums_reports_and_lists_skipped_clips(tmp_path):
  plan = write_plan([Item(str(n), "train", "v.mp4") for n in range(5)], (), epath.Path(tmp_path / "plan"))
  work, skipped_file = BuildWork(epath.Path(tmp_path), "settings", clips_per_shard=3), epath.Path(tmp_path / "s.tsv")
  first, second = plan.shards(3)
  skipped = [SkippedClip("1", "missing", "no such file")]
  ShardReport("digest", "state", "sizes", 2, 200, {"lacking_caption": 2}, skipped).write(
    report_path(work.folder, first)
  )
  with pytest.raises(UserError, match=r"train-00001\.json: the shard is missing; run the build again"):
    collect_reports(plan, work, skipped_file)
  ShardReport("digest", "state", "sizes", 2, 150, {"lacking_caption": 0}, []).write(report_path(work.folder, second))
  coverage, shards = collect_reports(plan, work, skipped_file)
  counts = coverage.as_metadata()["train"]
  assert [counts[key] for key in ("expected", "found", "missing", "lacking_caption")] == [5, 4, 1, 2]
  assert [(shard.path.name, shard.num_records, shard.num_bytes) for shard in shards["train"]] == [
    ("train-00000.array_record", 2, 200), ("train-00001.array_record", 2, 150),
  ]  # fmt: skip
  assert skipped_file.read_text() == "train\tmissing\t1\tno such file\n"
