"""Building an index: resuming, unreadable videos, and indexes of other videos or models."""

import dataclasses
import json
import os
import pathlib
import shutil

import numpy as np
import pytest
from fake_model import FakeModel
from videos import write_movie, write_videos

from clipvip_jax.inference import index_builder, video_index
from clipvip_jax.inference.index_builder import build_index
from clipvip_jax.utils.errors import UserError


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
  monkeypatch.setattr(index_builder, "PART_SIZE", 4)


@pytest.fixture
def out(tmp_path):
  return tmp_path / "i.safetensors"


def interrupt(videos, out, after, **options):
  with pytest.raises(KeyboardInterrupt):
    build_index(FakeModel(stop_after=after), videos, out, **options)
  assert not out.exists()


def test_index_has_the_features_of_every_video_in_order(tmp_path, out):
  videos = write_videos(tmp_path / "v")
  index = build_index(FakeModel(), videos, out, threads=2)
  assert index.videos == [str(video) for video in videos] and index.features.shape == (10, 3)
  assert (index.features.argmax(1) == np.arange(10) % 3).all()
  again = video_index.read_index(out)
  np.testing.assert_array_equal(again.features, index.features)
  assert (again.videos, again.source, again.identity) == (index.videos, "fake", "fake-1")
  assert {path.name for path in tmp_path.iterdir()} == {"v", out.name}, "no parts and no temporary files remain"


def test_resumes_and_writes_the_bytes_of_an_uninterrupted_build(tmp_path, out):
  videos = write_videos(tmp_path / "v", bad=(6,))
  uninterrupted = tmp_path / "uninterrupted.safetensors"
  build_index(FakeModel(), videos, uninterrupted, max_skipped=0.2)
  interrupt(videos, out, after=6, max_skipped=0.2)
  resumed = FakeModel()
  build_index(resumed, videos, out, max_skipped=0.2)
  assert resumed.embedded == 5, "the first part of four is kept"
  assert out.read_bytes() == uninterrupted.read_bytes()


def test_complete_index_is_not_built_again(tmp_path, out):
  videos = write_videos(tmp_path / "v", 3)
  build_index(FakeModel(), videos, out)
  second = FakeModel()
  assert len(build_index(second, videos, out).videos) == 3
  assert second.embedded == 0


def test_too_many_unreadable_videos_are_refused_and_finished_parts_kept(tmp_path, out):
  videos = write_videos(tmp_path / "v", bad=(2, 5))
  with pytest.raises(UserError, match=r"2 of 10 videos cannot be read.*002\.mp4: not a video.*raise --max_skipped"):
    build_index(FakeModel(), videos, out)
  assert not out.exists()
  second = FakeModel()
  index = build_index(second, videos, out, max_skipped=1)
  assert second.embedded == 0
  assert [pathlib.Path(name).name for name in index.bad] == ["002.mp4", "005.mp4"] and len(index.videos) == 8
  assert all("not a video" in reason for reason in index.reasons)


def test_repaired_video_is_read_when_resuming(tmp_path, out):
  videos = write_videos(tmp_path / "v", bad=(2, 5))
  with pytest.raises(UserError, match="cannot be read"):
    build_index(FakeModel(), videos, out)
  write_videos(tmp_path / "v")
  second = FakeModel()
  assert not build_index(second, videos, out).bad
  assert second.embedded == 8, "the part without an unreadable video is kept"
  uninterrupted = tmp_path / "uninterrupted.safetensors"
  build_index(FakeModel(), videos, uninterrupted)
  assert out.read_bytes() == uninterrupted.read_bytes()


def test_repaired_videos_are_added_to_a_complete_index(tmp_path, out):
  videos = write_videos(tmp_path / "v", bad=(2, 5))
  build_index(FakeModel(), videos, out, max_skipped=1)
  with pytest.raises(UserError, match="2 of 10 videos cannot be read"):
    build_index(FakeModel(), videos, out, max_skipped=0.1)
  write_videos(tmp_path / "v", bad=(5,))
  second = FakeModel()
  assert [pathlib.Path(name).name for name in build_index(second, videos, out, max_skipped=0.1).bad] == ["005.mp4"]
  assert second.embedded == 1
  uninterrupted = tmp_path / "uninterrupted.safetensors"
  build_index(FakeModel(), videos, uninterrupted, max_skipped=0.1)
  assert out.read_bytes() == uninterrupted.read_bytes()


def replace_first(folder):
  """Writes the content of other videos to 000.mp4 and 005.mp4."""
  for name, other in (("000.mp4", "001.mp4"), ("005.mp4", "007.mp4")):
    (folder / name).write_bytes((folder / other).read_bytes())


def test_replaced_videos_are_embedded_again_when_resuming(tmp_path, out):
  videos = write_videos(tmp_path / "v")
  interrupt(videos, out, after=9)
  (tmp_path / "v" / "003.mp4").touch()  # a copy, or a touched file, is the same video
  replace_first(tmp_path / "v")
  resumed = FakeModel()
  build_index(resumed, videos, out)
  assert resumed.embedded == 10
  uninterrupted = tmp_path / "uninterrupted.safetensors"
  build_index(FakeModel(), videos, uninterrupted)
  assert out.read_bytes() == uninterrupted.read_bytes()


def test_replaced_videos_of_a_complete_index_are_embedded_again(tmp_path, out):
  videos = write_videos(tmp_path / "v")
  build_index(FakeModel(), videos, out, max_skipped=0.2)
  replace_first(tmp_path / "v")
  (tmp_path / "v" / "007.mp4").write_bytes(b"<html>")
  (tmp_path / "v" / "009.mp4").unlink()  # its features are all that is left of it
  again = FakeModel()
  index = build_index(again, videos, out, max_skipped=0.2)
  assert again.embedded == 2 and index.bad == [str(videos[7])] and str(videos[9]) in index.videos
  (tmp_path / "v" / "009.mp4").write_bytes(b"")
  index = build_index(again, videos, out, max_skipped=0.2)
  assert index.bad == [str(videos[7]), str(videos[9])] and again.embedded == 2
  uninterrupted = tmp_path / "uninterrupted.safetensors"
  build_index(FakeModel(), videos, uninterrupted, max_skipped=0.2)
  assert out.read_bytes() == uninterrupted.read_bytes()


def test_indexes_and_parts_without_versions_are_kept(tmp_path, out):
  videos = write_videos(tmp_path / "v")
  interrupt(videos, out, after=9)
  part = tmp_path / "i.safetensors.parts" / "0.safetensors"
  video_index.write_index(part, dataclasses.replace(video_index.read_index(part), versions=[]))
  replace_first(tmp_path / "v")
  resumed = FakeModel()
  index = build_index(resumed, videos, out)
  assert resumed.embedded == 6 and index.versions[:4] == [""] * 4 and all(index.versions[4:])
  video_index.write_index(out, dataclasses.replace(index, versions=[]))
  assert not build_index(FakeModel(), videos, out).versions


def test_truncated_part_is_embedded_again(tmp_path, out):
  videos = write_videos(tmp_path / "v")
  interrupt(videos, out, after=9)
  part = tmp_path / "i.safetensors.parts" / "0.safetensors"
  part.write_bytes(part.read_bytes()[:-1])
  second = FakeModel()
  assert len(build_index(second, videos, out).videos) == 10
  assert second.embedded == 6


def of_another_model(tmp_path, videos, parts):
  other = FakeModel()
  other.identity = "fake-2"
  index = build_index(other, videos[:4], tmp_path / "other.safetensors")
  video_index.write_index(parts / "0.safetensors", index)


@pytest.mark.parametrize(
  "replace",
  [
    of_another_model,
    lambda tmp_path, videos, parts: shutil.copy(parts / "1.safetensors", parts / "0.safetensors"),
    lambda tmp_path, videos, parts: build_index(FakeModel(), videos[:3], parts / "0.safetensors"),
    lambda tmp_path, videos, parts: build_index(FakeModel(), write_videos(tmp_path / "w", 4), parts / "0.safetensors"),
  ],
  ids=["another model", "another part", "fewer videos", "other videos"],
)
def test_parts_that_are_not_of_this_index_are_embedded_again(tmp_path, out, replace):
  videos = write_videos(tmp_path / "v")
  whole = build_index(FakeModel(), videos, tmp_path / "whole.safetensors")
  interrupt(videos, out, after=9)
  parts = tmp_path / "i.safetensors.parts"
  (parts / "0.safetensors").unlink()
  replace(tmp_path, videos, parts)
  (parts / "job.json").unlink()  # which would refuse the parts of others
  index = build_index(FakeModel(), videos, out)
  assert index.videos == whole.videos and out.read_bytes() == (tmp_path / "whole.safetensors").read_bytes()


def test_another_model_or_other_videos_are_refused(tmp_path, out):
  videos = write_videos(tmp_path / "v")
  other = FakeModel()
  other.identity = "fake-2"
  interrupt(videos, out, after=6)
  with pytest.raises(UserError, match=r"identity.*'fake-1'.*'fake-2'.*--out"):
    build_index(other, videos, out)
  with pytest.raises(UserError, match=r"videos.*10, digest.*3, digest.*--out"):
    build_index(FakeModel(), videos[:3], out)
  build_index(FakeModel(), videos, out)
  for model, some in ((other, videos), (FakeModel(), videos[:3])):
    with pytest.raises(UserError, match="index of another model or of other videos; name another --out"):
      build_index(model, some, out)


def test_another_crop_is_refused_by_name_and_parts_of_earlier_versions_are_squashed(tmp_path, out):
  videos = write_videos(tmp_path / "v")
  cropped = FakeModel(crop="center")
  interrupt(videos, out, after=6)
  with pytest.raises(UserError, match=r"\(crop: 'squash' there, 'center' now.*--out"):
    build_index(cropped, videos, out)
  job = tmp_path / "i.safetensors.parts" / "job.json"
  job.write_text(json.dumps({name: x for name, x in json.loads(job.read_text()).items() if name != "crop"}))
  with pytest.raises(UserError, match=r"\(crop: 'squash' there, 'center' now.*--out"):
    build_index(cropped, videos, out)
  resumed = FakeModel()
  assert build_index(resumed, videos, out).crop == "squash" and resumed.embedded == 6
  with pytest.raises(UserError, match=r"with crop='squash', not 'center'; name another --out, or pass --crop=squash"):
    build_index(cropped, videos, out)
  assert build_index(cropped, videos, tmp_path / "c.safetensors").crop == "center"
  assert video_index.read_index(tmp_path / "c.safetensors").crop == "center"


def test_without_a_readable_video_there_is_no_index(tmp_path, out):
  with pytest.raises(UserError, match=r"all 1 videos are unreadable, first .*none\.mp4: no such.*; check --videos"):
    build_index(FakeModel(), [tmp_path / "none.mp4"], out, max_skipped=1)
  assert not out.exists()


def test_no_videos_are_refused(out):
  for videos in ([], ()):
    with pytest.raises(UserError, match="no videos to embed; pass at least one"):
      build_index(FakeModel(), videos, out)


def test_a_second_process_on_the_same_index_is_refused_and_the_first_completes(tmp_path, out):
  videos = write_videos(tmp_path / "v")

  class Second(FakeModel):
    def embed_pixels(self, pixels):
      with pytest.raises(
        UserError, match=r"i\.safetensors\.parts is in use by another process; wait until it ends, or"
      ):
        build_index(FakeModel(), videos, out)
      return super().embed_pixels(pixels)

  assert len(build_index(Second(), videos, out).videos) == 10
  assert {path.name for path in tmp_path.iterdir()} == {"v", out.name}


def test_non_finite_features_are_refused_and_not_kept(tmp_path, out):
  model = FakeModel()
  model.embed_pixels = lambda clips: (np.full(3, np.nan, np.float32) for _ in clips)
  videos = write_videos(tmp_path / "v", 2)
  with pytest.raises(UserError, match=r"000\.mp4: its features are not finite; check the weights of 'fake'"):
    build_index(model, videos, out)
  assert len(build_index(FakeModel(), videos, out).videos) == 2


def test_folder_as_output_is_refused(tmp_path):
  videos = write_videos(tmp_path / "v", 1)
  with pytest.raises(UserError, match=r"--out=.*v is a folder; name a file"):
    build_index(FakeModel(), videos, tmp_path / "v")


def test_file_names_with_control_characters_or_outside_utf8(tmp_path, out, caplog):
  (video, bad) = write_videos(tmp_path / "v", 2, bad=(1,))
  video = video.rename(tmp_path / os.fsdecode(b"caf\xe9.mp4"))
  bad = bad.rename(tmp_path / "x\n\x1b[31m.mp4")
  with caplog.at_level("WARNING", logger="clipvip_jax"):
    index = build_index(FakeModel(), [video, bad], out, max_skipped=0.5)
  assert index.videos == [str(video)] and index.bad == [str(bad)]
  assert video_index.read_index(out).videos == [str(video)]
  assert r"x\n\x1b[31m.mp4" in caplog.text and "\x1b" not in caplog.text


def test_what_is_tolerated_is_counted(tmp_path, out, caplog):
  videos = write_videos(tmp_path / "v", 3)
  recording = write_movie(tmp_path / "v" / "x.ts", "mpeg2video", count=4)
  short = write_movie(tmp_path / "v" / "y.mkv", "libx264", count=50)
  short.write_bytes(short.read_bytes()[: int(0.95 * short.stat().st_size)])
  with caplog.at_level("INFO", logger="clipvip_jax"):
    assert not build_index(FakeModel(), [*videos, recording, short], out).bad
  assert "accepted with notes: 1 corrupt, 1 truncated, 1 unverifiable" in caplog.text


def test_an_outage_of_a_bucket_ends_the_build_and_skips_no_video(tmp_path, out):
  class Unreachable(FakeModel):
    def read_clip(self, video):
      if "005" in str(video):
        raise UserError("the bucket cannot be reached")
      return super().read_clip(video)

  videos = write_videos(tmp_path, 8)
  assert any("005" in str(video) for video in videos)
  with pytest.raises(UserError, match="the bucket cannot be reached"):
    build_index(Unreachable(), videos, out, max_skipped=1.0)
  assert not out.exists()
  assert build_index(FakeModel(), videos, out).bad == []
