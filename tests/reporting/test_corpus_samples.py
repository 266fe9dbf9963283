"""The page of a corpus' samples: frames of training, texts, coverage and escaping."""

import types

import numpy as np
import pytest
import simplejpeg
from page import Page

from clipvip_jax.input_pipeline.frame_sampling import jittered_frames
from clipvip_jax.reporting import pages
from clipvip_jax.reporting.corpus_samples import write_samples
from clipvip_jax.utils.errors import UserError

NUM_RECORDS, NUM_STORED = 9, 5


def record(index):
  rng = np.random.default_rng(index)
  frames = [simplejpeg.encode_jpeg(rng.integers(0, 256, (24, 32, 3), np.uint8)) for _ in range(NUM_STORED)]
  texts = {"subtitle": b"", "caption": b"<b>bold</b> words", "description": [b"a cat", b"x " * 400]}
  return {"id": f"clip{index}".encode(), "frames": frames, **texts}


def corpus(records, **metadata):
  return types.SimpleNamespace(name="shapes/demo/1.0.0", metadata=metadata, records=lambda split: records)


@pytest.fixture(scope="module")
def records():
  return [record(index) for index in range(NUM_RECORDS)]


def write(path, value, count=3):
  write_samples(path, value, "train", count=count, num_frames=4, seed=7)
  return path.read_text(encoding="utf-8")


def test_clips_are_spread_evenly_and_frames_are_those_of_training(records, tmp_path):
  page = Page(write(tmp_path / "page.html", corpus(records)))
  assert [text for text in page.texts if text.startswith("clip")] == ["clip0", "clip4", "clip8"]
  expected = []
  for index in (0, 4, 8):
    sampled = jittered_frames(NUM_STORED, 4, np.random.default_rng((7, 0, index)))
    expected += [pages.jpeg_uri(records[index]["frames"][i]) for i in (*sampled, NUM_STORED // 2)]
    assert f"{', '.join(map(str, sampled))} of {NUM_STORED}, 32 x 24 pixels" in page.texts
  assert page.values("src") == expected


def test_texts_are_escaped_counted_and_truncated(records, tmp_path):
  source = write(tmp_path / "page.html", corpus(records), count=1)
  texts = Page(source).texts
  assert "<b>" not in source and "<b>bold</b> words (words: 2)" in texts
  assert texts[texts.index("subtitle") + 1] == "(none)"
  assert texts[texts.index("description 1") + 1] == "a cat (words: 2)"
  assert texts[texts.index("description 2") + 1].endswith("x … (words: 400)")


def test_coverage_has_expected_and_found_first_without_zeros(records, tmp_path):
  counts = {"missing": 2, "expected": 11, "damaged_files": 0, "found": 9}
  source = write(tmp_path / "page.html", corpus(records, pixels="Frames at 2 fps", coverage={"train": counts}))
  assert "Frames at 2 fps. Clips: 11 expected, 9 found, 2 missing." in " ".join(Page(source).texts)


def test_empty_split_gives_a_page_without_clips(tmp_path):
  assert not Page(write(tmp_path / "page.html", corpus([]))).values("src")


def test_unreadable_record_is_named(tmp_path):
  class Truncated(list):
    def __getitem__(self, index):
      raise RuntimeError("truncated file\ndetails")

  with pytest.raises(UserError, match=r"record 0 cannot be read \(truncated file\); build the corpus again"):
    write(tmp_path / "page.html", corpus(Truncated([1])))
