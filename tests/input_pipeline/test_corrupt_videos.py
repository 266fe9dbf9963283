"""Videos that are cut short, have holes or corrupt frames: rejected, or accepted with a note."""

import wave

import av
import numpy as np
import pytest
from moving_bar import moving_bar
from videos import MOVIE_OPTIONS, MOVIES, assert_rejected, decode_video, notes_of, write_movie, write_named_movie

from clipvip_jax.input_pipeline.media_error import MediaError
from clipvip_jax.input_pipeline.video_encoder import encode_h264


@pytest.fixture
def clip(tmp_path):
  path = tmp_path / "clip.mp4"
  encode_h264(path, moving_bar(), fps=12)
  return path


def test_missing_and_empty_files_and_folders_are_rejected(tmp_path):
  assert_rejected(tmp_path / "missing.mp4", "no such file")
  (tmp_path / "empty.mp4").touch()
  assert_rejected(tmp_path / "empty.mp4", "the file is empty")
  assert_rejected(tmp_path, "not a file")


def test_text_and_a_truncated_index_are_rejected(clip, tmp_path):
  text = tmp_path / "text.mp4"
  text.write_text("<html>404 not found</html>" * 40)
  assert_rejected(text, "not a video")
  clip.write_bytes(clip.read_bytes()[:-200])  # the index of an mp4 is at its end
  assert_rejected(clip, "not a video, or truncated before its index")


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_truncated_file_with_its_index_at_the_start_is_rejected(clip, tmp_path, suffix):

  noise = np.random.default_rng(0).integers(0, 40, (24, 48, 64, 3))  # makes frames larger than the index
  encode_h264(clip, (moving_bar() + noise).clip(0, 255).astype(np.uint8), fps=12)
  complete = tmp_path / f"complete{suffix}"
  options = {"movflags": "faststart"} if suffix == ".mp4" else {}
  with av.open(str(clip)) as source, av.open(str(complete), "w", options=options) as target:
    stream = target.add_stream_from_template(source.streams.video[0])
    for packet in source.demux(video=0):
      if packet.dts is not None:
        packet.stream = stream
        target.mux(packet)
  assert len(decode_video(complete)) == 24
  truncated = tmp_path / f"truncated{suffix}"
  content = complete.read_bytes()
  truncated.write_bytes(content[: int(len(content) * 0.7)])
  assert_rejected(truncated, r"truncated or corrupt: 1\.\d of 2\.0 s can be decoded")


def test_a_file_without_a_video_stream_is_rejected(tmp_path):
  path = tmp_path / "sound.wav"
  with wave.open(str(path), "wb") as file:
    file.setparams((1, 2, 8000, 800, "NONE", ""))
    file.writeframes(bytes(1600))
  assert_rejected(path, "has no video stream")


@pytest.mark.parametrize("name", [*MOVIES, *MOVIE_OPTIONS])
def test_a_cut_file_of_any_container_is_rejected(tmp_path, name):
  path = write_named_movie(tmp_path, name)
  complete, notes = notes_of(path)
  assert len(complete) == 50 and notes == ({"unverifiable"} if name in ("live.mkv", "sound.flv") else set())
  content = path.read_bytes()
  for fraction in (0.4, 0.8):
    path.write_bytes(content[: int(fraction * len(content))])
    assert_rejected(path, "truncated or corrupt")


@pytest.mark.parametrize("name", ["x.flv", "x.mkv", "x.mp4", "x.avi", "x.mov"])
def test_a_complete_file_is_not_noted_as_truncated(tmp_path, name):
  """Whose pictures start after zero, or whose sound ends after them."""
  for frames in (10, 50):
    path = write_movie(
      tmp_path / name, "libx264", "mp3" if name == "x.flv" else "aac", frames, codec_options={"bf": "2"}
    )
    assert notes_of(path)[1] <= {"unverifiable"}


@pytest.mark.parametrize(("name", "codecs"), [("x.ts", ("libx264", "aac")), ("x.mpg", ("mpeg2video", "mp2"))])
def test_formats_that_promise_nothing_are_accepted_as_unverifiable(tmp_path, name, codecs):
  path = write_movie(tmp_path / name, *codecs)
  assert notes_of(path)[1] == {"unverifiable"}
  path.write_bytes(path.read_bytes()[: 188 * (path.stat().st_size // 400)])
  times, notes = notes_of(path)
  assert 10 < len(times) < 40 and "unverifiable" in notes


def test_a_file_that_lost_little_is_accepted_and_noted(tmp_path):
  path = write_named_movie(tmp_path, "sound.mkv")
  path.write_bytes(path.read_bytes()[: int(0.95 * path.stat().st_size)])
  times, notes = notes_of(path)
  assert len(times) > 44 and "truncated" in notes
  assert notes_of(path, 0.2, 1.0)[1] == set(), "the range is before the cut"


@pytest.mark.parametrize(
  ("name", "codec"), [("x.mp4", "libx264"), ("x.mov", "mpeg4"), ("x.avi", "mpeg4"), ("x.gif", "gif")]
)
def test_a_file_with_many_corrupt_frames_is_rejected_and_with_few_noted(tmp_path, name, codec):
  """H.264 fails to decode them, MPEG-4 marks them, and GIF only logs an error."""
  path = write_movie(tmp_path / name, codec, count=100, codec_options={"g": "4"})
  with av.open(str(path)) as file:
    packets = [(packet.pos, packet.size) for packet in file.demux(video=0) if packet.size]
  content = path.read_bytes()
  for corrupt, is_rejected in ((range(40, 80, 2), True), ((50,), False)):
    spoiled = bytearray(content)
    for place, size in (packets[index] for index in corrupt):
      begin, end = (place, place + size) if codec == "libx264" else (place + size // 2, place + size // 2 + 8)
      spoiled[begin:end] = bytes(end - begin) if codec == "libx264" else b"\xff" * 8
    path.write_bytes(spoiled)
    if is_rejected:
      assert_rejected(path, r"truncated or corrupt: 3\.\d of 4.0 s")
    else:
      times, notes = notes_of(path)
      assert len(times) >= 99 and notes == {"corrupt"}


def test_a_gif_whose_blocks_are_corrupt_is_rejected(tmp_path):
  path = write_movie(tmp_path / "x.gif", "gif")
  content = bytearray(path.read_bytes())
  content[len(content) // 2 : len(content) // 2 + 999] = bytes(999)
  path.write_bytes(content)
  assert_rejected(path, "truncated or corrupt after 1")


@pytest.mark.parametrize("name", ["x.mkv", "x.mp4", "x.avi", "x.ts"])
def test_a_hole_of_zeros_is_rejected(tmp_path, name):
  path = write_movie(tmp_path / name, "libx264", "aac", codec_options={"g": "5"})
  content = bytearray(path.read_bytes())
  begin, end = int(len(content) * 0.4), int(len(content) * 0.65)
  content[begin:end] = bytes(end - begin)
  path.write_bytes(content)
  assert_rejected(path, r"truncated or corrupt: 1\.\d of 2\.0 s")


@pytest.mark.parametrize("name", ["sound.flv", "sound.mkv", "sound.webm", "x.nut"])
@pytest.mark.parametrize("begin", [0.3, 0.5])
def test_a_hole_that_the_demultiplexer_skips_without_a_word_is_rejected(tmp_path, name, begin):
  path = write_movie(tmp_path / name, "mpeg4", "mp2") if name == "x.nut" else write_named_movie(tmp_path, name)
  content = bytearray(path.read_bytes())
  place, size = int(begin * len(content)), int(0.3 * len(content))
  content[place : place + size] = bytes(size)
  path.write_bytes(content)
  assert_rejected(path, "truncated or corrupt")


@pytest.mark.parametrize("name", ["sound.webm", "sound.avi", "sound.wmv", "sound.flv", "sound.ogv", "x.ts", "x.mpg"])
def test_damage_in_the_middle_is_refused_or_noted(tmp_path, name):
  """Also where FFmpeg skips it without an error."""
  others = {"x.ts": ("libx264", "aac"), "x.mpg": ("mpeg2video", "mp2")}
  path = write_movie(tmp_path / name, *others[name]) if name in others else write_named_movie(tmp_path, name)
  content = path.read_bytes()
  begin, size = int(0.55 * len(content)), 3 * len(content) // 50
  hole = content[begin : begin + size]
  for middle in (bytes(size), b"", hole + hole, np.random.default_rng(0).bytes(size)):
    path.write_bytes(content[:begin] + middle + content[begin + size :])
    try:
      _, notes = notes_of(path)
    except MediaError as error:
      assert "truncated or corrupt" in error.reason
    else:
      assert notes & {"corrupt", "truncated"}, middle[:9]


@pytest.mark.parametrize("codec", ["libvpx", "libvpx-vp9"])
def test_zeros_in_coded_frames_count_as_corrupt(tmp_path, codec):
  """Their decoders decode them without an error."""
  fast = {"deadline": "realtime", "cpu-used": "8", "b": "4M", "g": "10"}
  path = write_movie(tmp_path / "x.webm", codec, codec_options=fast)
  with av.open(str(path)) as file:
    packets = [(packet.pos, packet.size) for packet in file.demux(video=0) if packet.size]
  content = bytearray(path.read_bytes())
  for position, size in packets[20:22]:
    content[position + size - 300 : position + size - 20] = bytes(280)
  path.write_bytes(content)
  assert notes_of(path)[1] == {"corrupt"}
  for position, size in packets[20:40]:
    content[position + size - 300 : position + size - 20] = bytes(280)
  path.write_bytes(content)
  assert_rejected(path, r"[01]\.\d of 2\.0 s can be decoded")


@pytest.mark.parametrize("index", [1, 5, 10])
def test_a_frame_with_a_corrupt_time_is_shown_between_its_neighbours(tmp_path, index):
  path = write_movie(tmp_path / "x.ts", "mpeg4", codec_options={"bf": "2"})
  content = bytearray(path.read_bytes())
  expected, _ = notes_of(path)
  # Coded frames with a presentation time besides that of decoding, which is intact.
  starts = [i for i in range(len(content) - 8) if content[i : i + 4] == b"\0\0\1\xe0" and content[i + 7] == 0xC0]
  content[starts[index] + 10] ^= 0x04  # a bit of the time: 186 s
  path.write_bytes(content)
  times, notes = notes_of(path)
  assert times == pytest.approx(expected, abs=0.05) and "corrupt" in notes


def test_pictures_up_to_an_end_do_not_depend_on_what_follows(tmp_path):
  path = write_movie(tmp_path / "x.mp4", "libx264", codec_options={"g": "10", "bf": "0"})
  with av.open(str(path)) as file:
    packets = [(packet.pos, packet.size) for packet in file.demux(video=0) if packet.size]
  content = bytearray(path.read_bytes())
  for position, size in packets[26:]:
    content[position : position + size] = bytes(size)
  path.write_bytes(content)
  times, notes = notes_of(path, 0.0, 1.0)
  assert times == pytest.approx([i / 25 for i in range(25)]) and not notes
