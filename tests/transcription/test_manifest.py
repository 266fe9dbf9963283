"""Manifests of clips."""

import json
import pathlib

import pytest

from clipvip_jax.transcription.manifest import CutSettings, write_manifest
from clipvip_jax.transcription.transcripts import Transcript
from clipvip_jax.transcription.words import spread_words
from clipvip_jax.utils.errors import UserError

SAID = Transcript([*spread_words("So, what now?", 1.0, 5.0), *spread_words("Nothing.", 5.5, 9.0)], "", 0)
NOTHING, SKIPPED = Transcript([], "", 0), Transcript([], "has no sound", 0)


def write(folder, transcripts, names, settings=None, max_skipped=0.5):
  """Returns the rows of a manifest."""
  videos = [pathlib.Path(name) for name in names]
  write_manifest(folder / "m.jsonl", videos, transcripts, settings or CutSettings(), max_skipped)
  return [json.loads(line) for line in (folder / "m.jsonl").read_text().splitlines()]


def test_clips_are_rows_and_paths_are_relative_below_the_manifest(tmp_path, caplog):
  caplog.set_level("INFO", "clipvip_jax")
  rows = write(tmp_path, [SAID, NOTHING, SAID], [tmp_path / "a/v.mp4", tmp_path / "w.mp4", "/elsewhere/x.mp4"])
  assert rows[:2] == [
    {"video": "a/v.mp4", "start": 1.0, "end": 5.0, "subtitle": "So, what now?"},
    {"video": "a/v.mp4", "start": 5.5, "end": 9.0, "subtitle": "Nothing."},
  ]
  assert [row["video"] for row in rows[2:]] == ["/elsewhere/x.mp4"] * 2
  assert "left out: 1 videos without speech" in caplog.text


def test_an_uncut_video_is_one_clip(tmp_path):
  rows = write(tmp_path, [SAID], [tmp_path / "v.mp4"], CutSettings(cut="none"))
  assert rows == [{"video": "v.mp4", "subtitle": "So, what now? Nothing."}]


def test_too_many_skipped_videos_are_an_error_and_no_manifest(tmp_path):
  with pytest.raises(UserError, match=r"1 of 2 videos were skipped, first b.mp4: has no sound. Repair"):
    write(tmp_path, [SAID, SKIPPED], ["a.mp4", "b.mp4"], max_skipped=0.4)
  assert not (tmp_path / "m.jsonl").exists()
  assert len(write(tmp_path, [SAID, SKIPPED], ["a.mp4", "b.mp4"])) == 2


def test_no_clips_are_an_error(tmp_path):
  with pytest.raises(UserError, match=r"none of 1 videos has a clip \(1 passages that are too short\)"):
    write(tmp_path, [SAID], ["a.mp4"], CutSettings(min_seconds=10))
  with pytest.raises(UserError, match=r"none of 1 videos has a clip \(1 videos without speech\)"):
    write(tmp_path, [NOTHING], ["a.mp4"])


@pytest.mark.parametrize(("low", "high"), [(5, 3), (-1, 3), (0, 0), (1, float("inf")), (float("nan"), 3)])
def test_rejects_lengths_out_of_range(low, high):
  with pytest.raises(UserError, match="must be positive, the first at most the second"):
    CutSettings(min_seconds=low, max_seconds=high).check()
