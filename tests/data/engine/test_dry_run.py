"""Dry runs: estimates of skipped clips, and limits."""

import corpora
import cv2
import numpy as np
import pytest
from videos import write_movie

from clipvip_jax.data.engine.bad_lines import BadLinesError
from clipvip_jax.data.engine.corpus_config import BuildOptions
from clipvip_jax.data.engine.coverage import SkippedClip
from clipvip_jax.data.engine.dry_run import SplitCheck, check_corpus, check_limits, format_report, wilson_interval
from clipvip_jax.data.video_manifest.video_manifest_dataset_builder import Builder
from clipvip_jax.utils.errors import UserError

PNG = cv2.imencode(".png", np.zeros((8, 8, 3), np.uint8))[1].tobytes()


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
  for number, decoded, skipped in ((0, 0, {1}), (3, 3, {1, 2}), (5, 9, {2}), (-1, 9, {2})):
    (result,) = check_corpus(builder, number).values()
    assert (result.clips, result.missing, result.decoded) == (10, 1, decoded) and len(result.skipped) in skipped
    assert result.is_estimate == (decoded < 9)


def test_limits_and_report(builder):
  results = check_corpus(builder, -1)
  with pytest.raises(UserError, match=r"would skip 20\.0% of split 'train', more than 5\.0%; .* --max_skipped$"):
    check_limits(builder, results)
  report = format_report(builder, results)
  assert "split 'train': a build would skip 20.0%\n" in report
  assert "train: 9.mp4: missing" in report and "train: 8.mp4: undecodable" in report


def test_clips_without_texts_need_captions(tmp_path):
  corpora.write_video(tmp_path / "a.mp4")
  manifest = corpora.write_lines(tmp_path / "m.jsonl", [{"video": "a.mp4"}])
  builder = Builder(config="default", data_dir=str(tmp_path / "corpora"), options=BuildOptions(raw_dir=str(manifest)))
  with pytest.raises(UserError, match=r"repair these files or add texts \(--captions=FILES of .*\), or raise --max_sk"):
    check_limits(builder, check_corpus(builder, -1))


def test_report_counts_what_is_tolerated(tmp_path):
  write_movie(tmp_path / "a.ts", "mpeg2video")
  short = write_movie(tmp_path / "b.mkv", "libx264")
  short.write_bytes(short.read_bytes()[: int(0.95 * short.stat().st_size)])
  manifest = corpora.write_lines(tmp_path / "m.jsonl", [{"video": name, "text": "t"} for name in ("a.ts", "b.mkv")])
  options = BuildOptions(raw_dir=str(manifest))
  builder = Builder(config="default", data_dir=str(tmp_path / "corpora"), options=options)
  report = format_report(builder, check_corpus(builder, -1))
  assert "of 2 decoded clips, 1 unverifiable, 1 corrupt, 1 truncated" in report


def test_fraction_extrapolates_from_the_decoded_sample():
  skipped = [SkippedClip("a", "missing", ""), SkippedClip("b", "undecodable", "")]
  assert SplitCheck(clips=10, missing=1, decoded=3, skipped=skipped).skipped_fraction == pytest.approx(0.1 + 0.9 / 3)
  assert SplitCheck(clips=10, missing=1, skipped=skipped[:1]).skipped_fraction == pytest.approx(0.1)


@pytest.mark.parametrize(
  ("count", "total", "interval"),  # Brown, Cai, DasGupta (2001), and statsmodels' proportion_confint(method="wilson")
  [
    (0, 10, (0.0, 0.2775)),
    (1, 20, (0.0089, 0.2361)),
    (10, 20, (0.2993, 0.7007)),
    (20, 20, (0.8389, 1.0)),
    (0, 0, (0.0, 1.0)),
  ],
)
def test_wilson_interval(count, total, interval):
  assert wilson_interval(count, total) == pytest.approx(interval, abs=1e-4)


def test_an_estimate_has_an_interval():
  bad = [SkippedClip(str(n), "undecodable", "") for n in range(10)]
  result = SplitCheck(clips=50, missing=10, decoded=20, skipped=[*bad, *[SkippedClip("m", "missing", "")] * 10])
  assert result.interval == pytest.approx((0.2 + 0.8 * 0.2993, 0.2 + 0.8 * 0.7007), abs=1e-4)
  assert result.describe() == "60.0% (estimate from 20 of 40 videos, 95% interval 43.9% to 76.1%)"
  assert SplitCheck(clips=20, decoded=20, skipped=bad).describe() == "50.0%"


def test_a_periodic_corpus_is_sampled_at_random(tmp_path):
  """Every k-th clip is bad: evenly spaced samples would find all or none."""
  for period in (2, 3, 4):
    rows = [{"video": "good.png" if n % period else "bad.png", "text": "t", "id": str(n)} for n in range(120)]
    (tmp_path / "good.png").write_bytes(PNG)
    (tmp_path / "bad.png").write_bytes(b"<html>")
    options = BuildOptions(raw_dir=str(corpora.write_lines(tmp_path / "m.jsonl", rows)))
    builder = Builder(config="default", data_dir=str(tmp_path / "corpora"), options=options)
    (result,) = check_corpus(builder, 40).values()
    low, high = result.interval
    assert result.decoded == 40 and low < 1 / period < high
    assert 0 < len(result.skipped) < 40
    with pytest.raises(UserError, match=r"estimate from 40 of 120 videos, 95% interval .*--decode=-1"):
      check_limits(builder, {"train": result})


def test_bad_lines_are_collected(tmp_path):
  rows = [{"video": f"{n}.mp4", "text": "t" if n % 2 else n} for n in range(30)]
  options = BuildOptions(raw_dir=str(corpora.write_lines(tmp_path / "m.jsonl", rows)))
  builder = Builder(config="default", data_dir=str(tmp_path / "corpora"), options=options)
  with pytest.raises(BadLinesError, match=r"the annotations have 15 invalid lines; repair them") as refused:
    check_corpus(builder, 1)
  expected = [f"line {number}, text: a text must be a string, got the number" for number in range(1, 30, 2)]
  assert all(words in error for words, error in zip(expected, refused.value.errors, strict=True))
