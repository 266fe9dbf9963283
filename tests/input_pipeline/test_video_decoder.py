"""Decoding: frames, rotation, time ranges, packets. Corrupt files: test_corrupt_videos.py."""

import fractions
import struct

import av
import corpora
import numpy as np
import pytest
from moving_bar import moving_bar
from videos import decode_video, notes_of, write_movie

from clipvip_jax.input_pipeline.video_decoder import frame_times, iterate_pictures
from clipvip_jax.input_pipeline.video_encoder import encode_h264


@pytest.fixture
def clip(tmp_path):
  path = tmp_path / "clip.mp4"
  encode_h264(path, moving_bar(), fps=12)
  return path


def test_times_of_coded_frames_are_those_of_the_pictures(clip):
  np.testing.assert_allclose(frame_times(clip), [picture.seconds for picture in iterate_pictures(clip)], atol=1e-3)


def test_pictures_have_the_times_of_the_frame_rate(clip):
  pictures = list(iterate_pictures(clip))
  np.testing.assert_allclose([picture.seconds for picture in pictures], np.arange(24) / 12, atol=1e-3)
  np.testing.assert_allclose([picture.shown_for for picture in pictures], 1 / 12, atol=1e-3)


def test_a_time_range_starts_at_a_key_frame_and_excludes_its_end(clip):
  frames = decode_video(clip)
  pictures = list(iterate_pictures(clip, start=1.5, end=1.75))
  indices = [round(12 * picture.seconds) for picture in pictures]
  assert indices == list(range(indices[0], 21)) and 0 < indices[0] <= 18, "frame 18 is at 1.5 s, frame 21 at 1.75 s"
  np.testing.assert_array_equal(np.stack([picture.rgb() for picture in pictures]), frames[indices])


def test_rotated_videos_are_decoded_upright(clip):
  """Phones store rotation in the track's matrix; here 90 degrees clockwise."""
  unrotated = decode_video(clip)
  content = clip.read_bytes()
  one, last = 1 << 16, 1 << 30
  identity, quarter = (
    struct.pack(">9i", *m, last) for m in ((one, 0, 0, 0, one, 0, 0, 0), (0, one, 0, -one, 0, 0, 0, 0))
  )
  offset = content.index(identity, content.index(b"tkhd"))
  clip.write_bytes(content[:offset] + quarter + content[offset + len(quarter) :])
  np.testing.assert_array_equal(decode_video(clip), np.rot90(unrotated, -1, axes=(1, 2)))


@pytest.mark.parametrize("name", ["x.mp4", "x.mkv", "x.avi", "x.flv"])
def test_an_end_beyond_the_end_means_to_the_end(tmp_path, name):
  path = write_movie(tmp_path / name, "mpeg4" if name == "x.avi" else "libx264", "mp3", codec_options={"g": "10"})
  for end in (2.5, 60.0, None):
    times, notes = notes_of(path, 1.0, end)
    assert sum(seconds > 0.99 for seconds in times) in (25, 26) and notes <= {"unverifiable"}


def test_an_avi_with_empty_frames_is_complete(tmp_path):
  path = tmp_path / "x.avi"
  for steps in ([5] * 20, [1] * 10 + [40] * 3, [1, 100, 1]):
    with av.open(str(path), "w") as file:
      stream = file.add_stream("mpeg4", rate=25)
      stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
      for pts in np.cumsum([0, *steps]).tolist():
        frame = av.VideoFrame.from_ndarray(moving_bar()[pts % 24], format="rgb24")
        frame.pts, frame.time_base = pts, fractions.Fraction(1, 25)
        file.mux(stream.encode(frame))
      file.mux(stream.encode())
    times, notes = notes_of(path)
    assert times == pytest.approx(np.cumsum([0, *steps]) / 25) and not notes


@pytest.mark.parametrize("name", ["x.mp4", "x.mkv", "x.mov"])
def test_a_losslessly_trimmed_file_of_variable_rate_is_complete(tmp_path, name):
  """The part starts between two key frames, whose frames an edit list hides; its rate is not that of the file."""
  steps = [1] * 100 + [25] * 20
  times = (np.cumsum(steps) - steps) / 25
  frames = moving_bar()[np.arange(120) % 24]
  whole = corpora.encode(tmp_path / "whole.mp4", frames, "libx264", rate=25, times=times.tolist(), g="60", bf="0")
  path = tmp_path / name
  begin, end = 3.0, 12.0
  with av.open(str(whole)) as source, av.open(str(path), "w") as target:
    stream = target.add_stream_from_template(source.streams.video[0])
    source.seek(round(begin * av.time_base))
    for packet in source.demux(video=0):
      if packet.dts is None or packet.pts * packet.time_base > end:
        continue
      offset = round(begin / packet.time_base)
      packet.dts, packet.pts, packet.stream = packet.dts - offset, packet.pts - offset, stream
      target.mux(packet)
  found, notes = notes_of(path)
  assert found[-1] == pytest.approx(found[0] + 8.0, abs=1.5) and not notes


@pytest.mark.parametrize("name", ["x.mp4", "x.mov"])
@pytest.mark.parametrize("pause_after", [6, 20])
def test_a_pause_among_reordered_frames_is_complete(tmp_path, name, pause_after):
  times = [i / 25 + (5 if i > pause_after else 0) for i in range(40)]
  frames = moving_bar()[np.arange(40) % 24]
  found, notes = notes_of(corpora.encode(tmp_path / name, frames, "libx264", rate=25, times=times, g="60", bf="3"))
  assert found == pytest.approx(times, abs=1e-3) and not notes


@pytest.mark.parametrize(("name", "codec"), [("x.h264", "libx264"), ("x.hevc", "libx265")])
def test_pictures_without_times_follow_one_another_at_the_rate_of_the_codec(tmp_path, name, codec):
  path = corpora.encode(tmp_path / name, moving_bar(), codec, rate=10)
  assert notes_of(path)[0] == pytest.approx(np.arange(len(moving_bar())) / 10)


@pytest.mark.parametrize("name", ["x.nut", "x.mkv"])
def test_a_file_that_starts_late_is_complete(tmp_path, name):
  times = [5000 + i / 25 for i in range(40)]
  path = corpora.encode(tmp_path / name, moving_bar()[np.arange(40) % 24], "mpeg4", rate=25, times=times)
  assert notes_of(path)[0] == pytest.approx([i / 25 for i in range(40)], abs=2e-3)


@pytest.mark.parametrize("name", ["x.ts", "x.m2ts"])
@pytest.mark.parametrize("offset", [1000, 30, -5])
def test_recordings_that_are_concatenated_follow_one_another(tmp_path, name, offset):
  parts = []
  for start in (10, 10 + offset):
    part = corpora.encode(tmp_path / name, moving_bar(), "libx264", rate=25, times=[start + i / 25 for i in range(24)])
    parts.append(part.read_bytes())
  (tmp_path / name).write_bytes(b"".join(parts))
  times, _ = notes_of(tmp_path / name)
  assert times == pytest.approx([i / 25 for i in range(48)], abs=0.09)


def test_a_part_after_a_jump_of_the_clock_is_that_of_the_joined_recordings(tmp_path):
  """The second recording, at 20 to 44 s of its clock, is 1 to 25 s of the file."""
  path, parts = tmp_path / "x.ts", []
  for start, count in ((0, 25), (20, 600)):
    frames = np.stack([np.full((48, 64, 3), 20 + index % 200, np.uint8) for index in range(count)])
    times = [start + index / 25 for index in range(count)]
    parts.append(corpora.encode(path, frames, "libx264", rate=25, times=times, g="10", bf="0").read_bytes())
  path.write_bytes(b"".join(parts))
  begin, end = 20.06, 21.06
  expected = [p.rgb().mean() for p in iterate_pictures(path) if begin < p.seconds < end]
  assert len(expected) == 25
  assert [p.rgb().mean() for p in iterate_pictures(path, begin, end) if begin < p.seconds < end] == expected
