"""Manifests of clips."""

import json
import pathlib

import corpora
import pytest

from clipvip_jax.transcription.manifest import CutSettings, write_manifest
from clipvip_jax.transcription.transcripts import Transcript
from clipvip_jax.transcription.words import spread_words
from clipvip_jax.utils.errors import UserError

SAID = Transcript([*spread_words("So, what now?", 1.0, 5.0), *spread_words("Nothing.", 5.5, 9.0)], "", 0)
NOTHING, SKIPPED = Transcript([], "", 0), Transcript([], "has no sound", 0)


def write(folder, transcripts, names, settings=None, max_skipped=0.5, validation=0.0):
  """Returns the rows of a manifest."""
  videos = [pathlib.Path(name) for name in names]
  write_manifest(folder / "m.jsonl", videos, transcripts, settings or CutSettings(), max_skipped, validation)
  return [json.loads(line) for line in (folder / "m.jsonl").read_text().splitlines()]


def test_clips_are_rows_and_paths_are_relative_below_the_manifest(tmp_path, caplog):
  caplog.set_level("INFO", "clipvip_jax")
  rows = write(tmp_path, [SAID, NOTHING, SAID], [tmp_path / "a/v.mp4", tmp_path / "w.mp4", "/elsewhere/x.mp4"])
  assert rows[:2] == [
    {"video": "a/v.mp4", "start": 1.0, "end": 5.0, "subtitle": "So, what now?"},
    {"video": "a/v.mp4", "start": 5.5, "end": 9.0, "subtitle": "Nothing."},
  ]
  assert [row["video"] for row in rows[2:]] == ["/elsewhere/x.mp4"] * 2
  assert "skipped: 1 videos without speech" in caplog.text


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


def test_videos_without_speech_become_clips_without_a_subtitle(tmp_path, caplog):
  caplog.set_level("INFO", "clipvip_jax")
  corpora.write_video(tmp_path / "long.mp4", count=27, fps=6)  # 4.5 s
  (tmp_path / "bad.mp4").write_bytes(b"no video")
  names = [tmp_path / name for name in ("long.mp4", "bad.mp4", "said.mp4")]
  no_file = Transcript([], "has no subtitle file", 0)
  rows = write(tmp_path, [SKIPPED, no_file, SAID], names, CutSettings(silent_seconds=2), max_skipped=0)
  assert rows[:4] == [
    {"video": "long.mp4", "start": 0.0, "end": 2.0},
    {"video": "long.mp4", "start": 2.0, "end": 4.5},
    {"video": "bad.mp4"},  # which a build reports
    {"video": "said.mp4", "start": 1.0, "end": 5.0, "subtitle": "So, what now?"},
  ]
  assert "2 videos without speech have clips without a subtitle" in caplog.text and "left out" not in caplog.text
  rows = write(tmp_path, [NOTHING, SAID], names[::2], CutSettings(cut="none", silent_seconds=2))
  assert rows[0] == {"video": "long.mp4"} and len(rows) == 2
  corrupt = Transcript([], "truncated or corrupt", 0)
  with pytest.raises(UserError, match=r"1 of 2 videos were skipped, first .*long.mp4: truncated or corrupt"):
    write(tmp_path, [corrupt, NOTHING], names[:2], CutSettings(silent_seconds=2), max_skipped=0)


def test_held_out_videos_are_the_same_after_a_few_more_are_added(tmp_path):
  names = [tmp_path / f"{number}.mp4" for number in range(30)]
  held_out = []
  for count in (20, 21, 30):
    rows = write(tmp_path, [SAID] * count, names[:count], validation=0.1)
    splits = {row["video"]: row.get("split") for row in rows}
    assert len(rows) == 2 * count and all(row.get("split") == splits[row["video"]] for row in rows)
    held_out.append({name for name, split in splits.items() if split == "validation"})
  assert [len(names) for names in held_out] == [2, 2, 3]
  assert held_out[0] & held_out[1] and held_out[1] & held_out[2]
  rows = write(tmp_path, [SAID, SAID, NOTHING], names[:3], validation=0.01)
  assert len({row["video"] for row in rows if "split" in row}) == 1
  with pytest.raises(UserError, match=r"--validation=0.1 of 1 videos leaves none for training; add videos or lower"):
    write(tmp_path, [SAID, NOTHING], names[:2], validation=0.1)


@pytest.mark.parametrize("seconds", [-1, 0.05, float("inf"), float("nan")])
def test_rejects_a_length_of_silent_clips_out_of_range(seconds):
  with pytest.raises(UserError, match=r"--silent_seconds=.* must be 0, or at least 0\.1"):
    CutSettings(silent_seconds=seconds).check()


@pytest.mark.parametrize(("low", "high"), [(5, 3), (-1, 3), (0, 0), (1, float("inf")), (float("nan"), 3)])
def test_rejects_lengths_out_of_range(low, high):
  with pytest.raises(UserError, match="must be positive, the first at most the second"):
    CutSettings(min_seconds=low, max_seconds=high).check()
