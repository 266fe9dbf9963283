"""Coverage: counts by split, and the limits of skipped clips and missing texts."""

import pytest

from clipvip_jax.data.engine.coverage import Coverage, SkippedClip, skipped_line
from clipvip_jax.utils.errors import UserError


def coverage(expected, skipped, missing_captions=0):
  counts = Coverage()
  counts.add_split("train", expected)
  counts.add_found("train", expected - len(skipped))
  counts.add_skipped("train", skipped)
  counts.add_counts("train", {"lacking_caption": missing_captions})
  return counts


def clips(count, reason="missing"):
  return [SkippedClip(f"{reason}{n}", reason, "detail") for n in range(count)]


def test_metadata_has_all_counts():
  counts = coverage(10, [*clips(2), *clips(1, "too_short")], missing_captions=4)
  assert counts.as_metadata() == {
    "train": {
      "expected": 10, "found": 7, "missing": 2, "undecodable": 0, "too_short": 1, "without_text": 0,
      "lacking_subtitle": 0, "lacking_caption": 4,
    }
  }  # fmt: skip


def test_limit_of_skipped_clips_is_inclusive():
  coverage(100, clips(29)).check_skipped("train", 0.29, "skipped.tsv")
  with pytest.raises(
    UserError,
    match=r"'train': 30 of 100 clips were skipped \(29 missing, 1 too short\), more than 29\.0%\. First: missing0:"
    r" detail.*; all are listed in skipped\.tsv\. .* accept it with --max_skipped=0\.3$",
  ):
    coverage(100, [*clips(29), *clips(1, "too_short")]).check_skipped("train", 0.29, "skipped.tsv")


def test_message_lists_the_first_five_clips():
  with pytest.raises(UserError) as error:
    coverage(10, clips(7)).check_skipped("train", 0.1, "skipped.tsv")
  assert "missing4: detail" in str(error.value) and "missing5" not in str(error.value)


def test_all_clips_skipped_is_never_accepted():
  with pytest.raises(UserError, match=r"all 3 clips were skipped, see skipped\.tsv; repair these files"):
    coverage(3, clips(3)).check_skipped("train", 1.0, "skipped.tsv")


def test_limit_of_missing_texts():
  coverage(10, [], missing_captions=5).check_missing_texts("train", 0.5)
  words = r"6 of 10 clips have no caption, more than 50\.0%\..* accept it with --max_missing_text=1$"
  with pytest.raises(UserError, match=words):
    coverage(10, [], missing_captions=6).check_missing_texts("train", 0.5)


def test_line_of_a_skipped_clip_has_four_columns():
  line = skipped_line("train", SkippedClip("a\tb", "missing", "no\nfile"))
  assert line == "train\tmissing\ta\\tb\tno\\nfile\n"
