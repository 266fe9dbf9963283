"""Dry runs: estimates of skipped clips, and limits."""

import corpora
import pytest

from clipvip_jax.utils.errors import UserError
from data.engine.corpus_config import BuildOptions
from data.engine.coverage import SkippedClip
from data.engine.dry_run import SplitCheck, check_corpus, check_limits, format_report
from data.video_manifest.video_manifest_dataset_builder import Builder


@pytest.fixture(scope="module")
def builder(tmp_path_factory):
  """Ten clips, of which one is missing and one is truncated."""
  folder = tmp_path_factory.mktemp("manifest")
  for number in range(9):
    corpora.write_video(folder / f"{number}.mp4")
  (folder / "8.mp4").write_bytes((folder / "8.mp4").read_bytes()[:-300])
  manifest = corpora.write_lines(folder / "m.jsonl", [{"video": f"{n}.mp4", "text": "t"} for n in range(10)])
  options = BuildOptions(raw_dir=str(manifest))
  return Builder(config="default", data_dir=str(folder / "corpora"), options=options)


def test_decodes_a_sample_or_all_clips(builder):
  for number, decoded, skipped in ((0, 0, 1), (3, 2, 1), (-1, 9, 2)):  # of 3, the last one is missing
    (result,) = check_corpus(builder, number).values()
    assert (result.clips, result.missing, result.decoded, len(result.skipped)) == (10, 1, decoded, skipped)


def test_limits_and_report(builder):
  results = check_corpus(builder, -1)
  with pytest.raises(UserError, match=r"would skip 20\.0% of split 'train', more than 5\.0%; .* --max_skipped"):
    check_limits(builder, results)
  report = format_report(builder, results)
  assert "train: 9.mp4: missing" in report and "train: 8.mp4: undecodable" in report


def test_fraction_extrapolates_from_the_decoded_sample():
  skipped = [SkippedClip("a", "missing", ""), SkippedClip("b", "undecodable", "")]
  assert SplitCheck(clips=10, missing=1, decoded=3, skipped=skipped).skipped_fraction == pytest.approx(0.1 + 0.9 / 3)
  assert SplitCheck(clips=10, missing=1, skipped=skipped[:1]).skipped_fraction == pytest.approx(0.1)
