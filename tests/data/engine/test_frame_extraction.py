"""Extraction of frames from videos, images and folders of many formats, valid and corrupt."""

import itertools
import struct

import corpora
import numpy as np
import pytest
import simplejpeg

from clipvip_jax.data.engine.frame_extraction import (
  DECODERS,
  FrameSettings,
  TooShortError,
  decoder_by_name,
  extract_frames,
)
from clipvip_jax.input_pipeline import video_encoder
from clipvip_jax.input_pipeline.jpeg_decoder import decode_jpeg
from clipvip_jax.input_pipeline.media_error import MediaError
from clipvip_jax.utils.errors import UserError

PYAV = DECODERS["pyav"]


def grey(count, size=(32, 48)):
  """Returns frames of grey value 8 + 5 i, so that the index i can be recovered after any codec."""
  return np.stack([np.full((*size, 3), 8 + 5 * i, np.uint8) for i in range(count)])


def numbers(jpegs):
  """Returns the indices of encoded frames of `grey`."""
  return [round((decode_jpeg(jpeg).mean() - 8) / 5) for jpeg in jpegs]


def read(path, start=None, end=None, **stored):
  return extract_frames(str(path), FrameSettings(**{"short_side": 0, **stored}), PYAV, start, end)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
  """Four seconds at twelve frames per second."""
  path = tmp_path_factory.mktemp("media") / "clip.mp4"
  video_encoder.encode_h264(path, grey(48), fps=12, quantiser=4)
  return path


def test_samples_all_frames_a_number_or_a_rate(clip):
  assert numbers(read(clip)) == list(range(48))
  assert numbers(read(clip, frames=5)) == [0, 11, 23, 35, 47]  # int(linspace(0, 47, 5))
  assert numbers(read(clip, fps=3)) == list(range(0, 48, 4))
  assert numbers(read(clip, fps=5)) == [int(k * 12 / 5 + 1e-6) for k in range(20)]
  assert numbers(read(clip, fps=24)) == sorted([*range(48), *range(48)])


def test_extracts_parts_of_a_video(clip):
  assert numbers(read(clip, 1.0, 2.0)) == list(range(12, 24))
  assert numbers(read(clip, 1.5, 3.0, fps=4)) == [18, 21, 24, 27, 30, 33]
  assert numbers(read(clip, 3.0, 99.0, fps=2)) == [36, 42]  # annotations may end after the video
  assert numbers(read(clip, None, 0.5)) == list(range(6))
  assert numbers(read(clip, 2.0, 3.0, frames=3)) == [24, 29, 35]
  with pytest.raises(TooShortError, match=r"start=10 is after the end of the video; correct"):
    read(clip, 10.0, 12.0)
  with pytest.raises(TooShortError, match=r"start=9 is after the end of the video"):
    read(clip, 9.0, None, frames=3)
  with pytest.raises(TooShortError, match="0 frames, at least 1"):
    read(clip, 1.0, 1.0)
  with pytest.raises(TooShortError, match="1 frames, at least 2"):
    read(clip, 1.0, 1.05, min_frames=2)


def test_shrinks_and_never_enlarges(clip):
  assert simplejpeg.decode_jpeg_header(read(clip, short_side=16)[0])[:2] == (16, 24)
  assert simplejpeg.decode_jpeg_header(read(clip, short_side=100)[0])[:2] == (32, 48)


def test_samples_variable_rate_by_time(tmp_path):
  """Frames at 0, 0.1, 0.2, 2.0 and 2.1 s: at 2 fps, the third is displayed at 0.5, 1 and 1.5 s."""
  path = corpora.encode(tmp_path / "vfr.mkv", grey(5), "libx264", times=[0, 0.1, 0.2, 2.0, 2.1], qp="0")
  assert numbers(read(path)) == [0, 1, 2, 3, 4]
  assert numbers(read(path, fps=2)) == [0, 2, 2, 2, 3]


@pytest.mark.parametrize("name", ["parts.mkv", "parts.webm", "parts.mp4", "parts.flv"])
def test_extracts_parts_with_variable_rate(tmp_path, name):
  """Frames are those that a player displays; most containers store no reliable durations of pictures."""
  times = [0, 0.1, 0.2, 2.0, 2.1, 4.0, 4.1]
  codec = {"webm": "libvpx-vp9"}.get(name[6:], "libx264")
  path = corpora.encode(tmp_path / name, grey(7), codec, times=times, **({} if codec != "libx264" else {"qp": "0"}))
  assert numbers(read(path, 1, 3, fps=2)) == [2, 2, 3, 4]
  assert numbers(read(path, 0.5, 1.5, fps=2)) == [2, 2]
  assert numbers(read(path, 1, 1.9)) == [2]
  assert numbers(read(path, None, 1, fps=4)) == [0, 2, 2, 2]


def test_timestamps_may_start_after_zero(tmp_path):
  path = corpora.encode(tmp_path / "late.webm", grey(15), "libvpx-vp9", times=[0.5 + i / 10 for i in range(15)])
  assert numbers(read(path, fps=10)) == list(range(15))


def test_limits_clips_with_jumping_timestamps(tmp_path, monkeypatch):
  path = corpora.encode(tmp_path / "jump.mkv", grey(4), "libx264", times=[0, 1, 90000, 90001])
  with pytest.raises(MediaError, match="more than 512 MiB or 100000 frames"):
    read(path, fps=3)


def test_extracts_parts_of_a_truncated_file(tmp_path):
  noise = np.random.default_rng(0).integers(0, 255, (60, 32, 48, 3), dtype=np.uint8)
  path = corpora.encode(tmp_path / "whole.mkv", noise, "libx264", rate=6, g="6")
  assert len(read(path, 1, 9)) == 48
  cut = tmp_path / "cut.mkv"
  cut.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
  with pytest.raises(MediaError, match=r"truncated or corrupt: \d\.\d of 8\.0 s"):
    read(cut, 1, 9, fps=1)
  assert len(read(cut, 1, 3)) == 12  # before the cut


def test_extracts_parts_of_a_corrupt_file(tmp_path):
  noise = np.random.default_rng(0).integers(0, 255, (60, 32, 48, 3), dtype=np.uint8)
  path = corpora.encode(tmp_path / "hole.mp4", noise, "libx264", rate=6, g="6")
  content = bytearray(path.read_bytes())
  content[len(content) // 3 : 2 * len(content) // 3] = bytes(2 * len(content) // 3 - len(content) // 3)
  path.write_bytes(content)
  for start, end in ((1, 9), (4, 9), (None, 6)):
    with pytest.raises(MediaError, match="truncated or corrupt"):
      read(path, start, end, fps=1)
  assert len(read(path, 7.5, 9)) == 9  # behind it


def test_local_names_may_look_like_urls(tmp_path, monkeypatch, clip):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "intro:part1.mp4").write_bytes(clip.read_bytes())
  assert len(read("intro:part1.mp4")) == 48


def test_applies_rotation_metadata(clip, tmp_path):
  content, (one, last) = clip.read_bytes(), (1 << 16, 1 << 30)
  identity, quarter = (
    struct.pack(">9i", *m, last) for m in ((one, 0, 0, 0, one, 0, 0, 0), (0, one, 0, -one, 0, 0, 0, 0))
  )
  place = content.index(identity, content.index(b"tkhd"))
  turned = tmp_path / "turned.mp4"
  turned.write_bytes(content[:place] + quarter + content[place + len(quarter) :])
  assert simplejpeg.decode_jpeg_header(read(turned)[0])[:2] == (48, 32)


@pytest.mark.parametrize(
  ("name", "codec", "size", "options"),
  [
    ("odd.mkv", "ffv1", (33, 47), {"pix_fmt": "yuv444p"}),
    ("ten_bit.mkv", "libx264", (32, 48), {"pix_fmt": "yuv420p10le", "qp": "0"}),
    ("vp9.webm", "libvpx-vp9", (32, 48), {"crf": "4", "b:v": "0"}),
    ("old.avi", "mpeg4", (32, 48), {"q": "2"}),
    ("motion.avi", "mjpeg", (32, 48), {"pix_fmt": "yuvj420p"}),
    ("moving.gif", "gif", (32, 48), {"pix_fmt": "rgb8"}),
  ],
)
def test_decodes_formats(tmp_path, name, codec, size, options):
  path = corpora.encode(tmp_path / name, grey(10, size)[:, :, :], codec, rate=10, **options)
  frames = read(path)
  assert len(frames) == 10 and simplejpeg.decode_jpeg_header(frames[0])[:2] == size
  means = [decode_jpeg(jpeg).mean() for jpeg in frames]
  assert all(b >= a for a, b in itertools.pairwise(means)) and means[-1] > means[0] + 30
  assert len(read(path, fps=5)) == 5


@pytest.mark.parametrize(
  ("spoil", "kind", "words"),
  [
    (lambda path, clip: path.write_bytes(b""), MediaError, "empty"),
    (lambda path, clip: path.write_bytes(clip.read_bytes()[:-900]), MediaError, "truncated|no video stream"),
    (lambda path, clip: path.write_bytes(b"<html>gone</html>" * 99), MediaError, "not a video"),
    (lambda path, clip: corpora.write_sound(path), MediaError, "no video stream"),
    (lambda path, clip: video_encoder.encode_h264(path, grey(1), 12), TooShortError, "1 frames, at least 2"),
    (lambda path, clip: path.mkdir(), MediaError, "holds no frames"),
    (lambda path, clip: None, MediaError, "no such file"),
  ],
  ids=["empty", "cut", "html", "sound", "one_frame", "empty_folder", "absent"],
)
@pytest.mark.parametrize("how", [{}, {"fps": 3}, {"frames": 4}], ids=["all", "fps", "count"])
def test_rejects_corrupt_files_by_name(tmp_path, clip, spoil, kind, words, how):
  path = tmp_path / "bad.mp4"
  spoil(path, clip)
  with pytest.raises(kind, match=words) as refused:
    read(path, min_frames=2, **how)
  assert str(path) in str(refused.value)


def test_compares_duration_in_header_with_content(tmp_path, clip):
  """An mp4 lists its frames, so the duration in its header is ignored; a Matroska file with fewer is truncated."""
  content, hours = bytearray(clip.read_bytes()), 4 * 3600
  for box, offset in ((b"mvhd", 4), (b"tkhd", 4), (b"mdhd", 4)):
    place = content.index(box) + offset + (16 if box != b"tkhd" else 20)
    content[place : place + 4] = struct.pack(">I", hours * 12288)
  (tmp_path / "long.mp4").write_bytes(content)
  assert numbers(read(tmp_path / "long.mp4", fps=3)) == list(range(0, 48, 4))

  content = bytearray(corpora.encode(tmp_path / "long.mkv", grey(48), "libx264").read_bytes())
  place = content.index(b"\x44\x89\x88") + 3  # the duration, a double of milliseconds
  content[place : place + 8] = struct.pack(">d", hours * 1000.0)
  (tmp_path / "long.mkv").write_bytes(content)
  with pytest.raises(MediaError, match=rf"truncated or corrupt: 4\.0 of {hours}\.0 s"):
    read(tmp_path / "long.mkv", fps=3)


def test_extracts_images_and_folders_of_frames(tmp_path):
  folder = tmp_path / "frames"
  folder.mkdir()
  jpegs = [simplejpeg.encode_jpeg(frame, quality=90) for frame in grey(12)]
  for index, jpeg in enumerate(jpegs):
    (folder / f"frames_{index:03d}.jpg").write_bytes(jpeg)
  assert read(folder) == jpegs  # as they are: nothing is lost by another encoding
  assert read(folder, frames=3) == [jpegs[0], jpegs[5], jpegs[11]]
  assert simplejpeg.decode_jpeg_header(read(folder, short_side=16)[0])[:2] == (16, 24)
  assert read(folder / "frames_003.jpg", min_frames=2) == [jpegs[3]]  # an image is always one frame
  for still in (folder, folder / "frames_003.jpg"):
    for part in ({"start": 0.0}, {"end": 1.0}):
      with pytest.raises(UserError, match="have no times"):
        read(still, **part)
  (folder / "frames_007.jpg").write_bytes(jpegs[7][:-30])
  with pytest.raises(UserError, match=r"frames_007\.jpg"):
    read(folder)


def test_applies_exif_orientation(tmp_path):
  from PIL import Image

  picture = Image.fromarray(grey(1, (20, 40))[0])
  exif = Image.Exif()
  exif[0x0112] = 6
  picture.save(tmp_path / "turned.jpg", exif=exif, quality=95)
  assert simplejpeg.decode_jpeg_header(read(tmp_path / "turned.jpg")[0])[:2] == (40, 20)


def test_finds_exif_after_other_tags(tmp_path):
  from PIL import Image

  exif = Image.Exif()
  exif[0x0112] = 6
  Image.fromarray(grey(1, (20, 40))[0]).save(tmp_path / "near.jpg", exif=exif, quality=95)
  near = (tmp_path / "near.jpg").read_bytes()
  comment = b"\xff\xfe" + (60_002).to_bytes(2, "big") + bytes(60_000)
  (tmp_path / "far.jpg").write_bytes(near[:2] + comment + near[2:])
  assert simplejpeg.decode_jpeg_header(read(tmp_path / "far.jpg")[0])[:2] == (40, 20)


def test_rejects_images_with_too_many_pixels(tmp_path):
  from PIL import Image

  Image.new("1", (9000, 9000)).save(tmp_path / "wide.png")
  with pytest.raises(MediaError, match="9000 x 9000 pixels are more than"):
    read(tmp_path / "wide.png")


def test_rejects_dangling_links(tmp_path):
  (tmp_path / "0.jpg").write_bytes(simplejpeg.encode_jpeg(grey(1)[0]))
  (tmp_path / "1.jpg").symlink_to("nowhere.jpg")
  with pytest.raises(MediaError, match=r"1\.jpg: no such file"):
    read(tmp_path)


def test_rejects_settings_out_of_range_and_unknown_decoders():
  for changes in ({"fps": -1}, {"frames": -1}, {"jpeg_quality": 0}, {"min_frames": 0}, {"fps": 3, "frames": 3}):
    with pytest.raises(UserError, match=next(iter(changes))):
      FrameSettings(**changes).check()
  with pytest.raises(UserError, match="use one of pyav, or MODULE:FUNCTION"):
    decoder_by_name("decord")
  assert decoder_by_name("clipvip_jax.input_pipeline.video_decoder:iterate_pictures") is PYAV
