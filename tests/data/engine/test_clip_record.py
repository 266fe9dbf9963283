"""Items to records: texts, skipped clips, serialisation."""

import dataclasses
import json
from collections import Counter

import corpora
import pytest

from clipvip_jax.data.engine.clip_record import RecordSpec, clip_record, serialize_record
from clipvip_jax.data.engine.coverage import SkippedClip
from clipvip_jax.data.engine.frame_extraction import FrameSettings
from clipvip_jax.data.engine.items import Item

SPEC = RecordSpec(FrameSettings(fps=2), "pyav", 30.0, {}, extra=("twin",))


@pytest.fixture(scope="module")
def item(tmp_path_factory):
  return Item("a", "train", str(corpora.write_video(tmp_path_factory.mktemp("videos") / "x.mp4")), ("t",))


@pytest.fixture(scope="module")
def decoder():
  with SPEC.decode_process() as process:
    yield process


def test_record_has_all_fields(item, decoder):
  record = clip_record(dataclasses.replace(item, extra={"twin": "b"}), SPEC, decoder, Counter())
  frames = record.pop("frames")
  assert record == {
    "id": "a", "num_frames": 4, "subtitle": "", "caption": "", "description": ["t"], "twin": "b",
  }  # fmt: skip
  assert len(frames) == 4


def test_texts_of_items_precede_lookups_and_missing_ones_are_counted(item, decoder, tmp_path):
  (tmp_path / "captions.json").write_text(json.dumps({"a": "looked up"}))
  spec = dataclasses.replace(SPEC, lookups={"caption": str(tmp_path / "captions.json")})
  missing = Counter()
  captions = [
    clip_record(changed, spec, decoder, missing)["caption"]
    for changed in (item, dataclasses.replace(item, caption="own"), dataclasses.replace(item, id="b"))
  ]
  assert captions == ["looked up", "own", ""] and missing == {"lacking_caption": 1}
  clip_record(dataclasses.replace(item, missing_texts=("subtitle",)), SPEC, decoder, missing)
  assert missing["lacking_subtitle"] == 1


def test_notes_on_files_are_counted_by_clip(item, decoder, tmp_path):
  hdr = tmp_path / "hdr.mkv"
  options = {"x265-params": "log-level=none:colorprim=bt2020:transfer=smpte2084:colormatrix=bt2020nc:pools=none"}
  corpora.encode(hdr, corpora.moving_frames(), "libx265", pix_fmt="yuv420p10le", **options)
  counts = Counter()
  for changed in (item, dataclasses.replace(item, video=str(hdr)), dataclasses.replace(item, video=str(hdr), end=1.0)):
    assert not isinstance(clip_record(changed, SPEC, decoder, counts), SkippedClip)
  assert counts == {"hdr": 2}


@pytest.mark.parametrize(
  ("changes", "reason"), [({"video": "gone.mp4"}, "missing"), ({"descriptions": ()}, "without_text")]
)
def test_skips_clips_without_video_or_text(item, decoder, changes, reason):
  result = clip_record(dataclasses.replace(item, **changes), SPEC, decoder, Counter())
  assert isinstance(result, SkippedClip) and (result.name, result.reason) == ("a", reason)


def test_serialisation_is_deterministic(item, decoder):
  record = clip_record(item, SPEC, decoder, Counter())
  reordered = dict(reversed(record.items()))
  assert serialize_record(record, SPEC.extra) == serialize_record(reordered, SPEC.extra)
