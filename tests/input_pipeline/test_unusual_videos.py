"""Complete files that look incomplete or disordered, and streams that cannot be shown."""

import av
import numpy as np
import pytest
from videos import decode_video, write_movie

from clipvip_jax.input_pipeline import video_decoder
from clipvip_jax.input_pipeline.media_error import MediaError
from clipvip_jax.input_pipeline.media_notes import collect_notes
from clipvip_jax.input_pipeline.packet_reader import read_packets
from clipvip_jax.input_pipeline.read_media import read_frames
from clipvip_jax.input_pipeline.video_decoder import frame_times, iterate_pictures


def decoded(path, start=None, end=None):
  """Returns the times, the frames and the notes of a file."""
  with collect_notes() as notes:
    pictures = [(picture.seconds, picture.rgb()) for picture in iterate_pictures(path, start, end)]
  return *map(list, zip(*pictures, strict=True)), sorted(notes)


@pytest.mark.parametrize("options", [{}, {"bf": "2"}, {"x264-params": "open-gop=1"}])
@pytest.mark.parametrize("audio", [None, "mp3"])
def test_frames_of_avi_that_depend_on_later_ones_have_the_times_of_their_order(tmp_path, options, audio):
  path = write_movie(tmp_path / "a.avi", "libx264", audio, codec_options={"g": "10", **options})
  times, frames, notes = decoded(path)
  np.testing.assert_allclose(times, np.arange(50) / 25, atol=1e-6)
  np.testing.assert_allclose(times, frame_times(path), atol=1e-6)
  assert not notes
  with av.open(str(path)) as file:  # decoders return frames in the order in which they are shown
    np.testing.assert_array_equal(frames, [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)])
  sampled = read_frames(path, 6)
  np.testing.assert_array_equal(sampled, [frames[i] for i in np.linspace(0, 49, 6).astype(int)])
  part_times, part, _ = decoded(path, 1.0, 1.5)
  first = round(part_times[0] * 25)
  np.testing.assert_array_equal(part, frames[first : first + len(part)])
  assert first <= 25 and round(part_times[-1] * 25) == 37


def test_a_packet_of_no_bytes_shows_the_picture_before_it_for_longer(tmp_path, monkeypatch):
  """As Theora repeats a picture; decoders would take it for the end."""
  path = write_movie(tmp_path / "a.mkv", "mpeg4")
  expected = decode_video(path)

  def with_empty(*args):
    for packet in read_packets(*args):
      yield packet
      if packet.dts is not None:
        empty = av.Packet()
        empty.dts = empty.pts = packet.dts
        yield empty

  monkeypatch.setattr(video_decoder, "read_packets", with_empty)
  _, frames, notes = decoded(path)
  np.testing.assert_array_equal(frames, expected)
  assert not notes


@pytest.mark.parametrize("name", ["a.wmv", "a.asf", "a.mkv"])
@pytest.mark.parametrize("more_sound", [5, 100])
def test_sound_may_be_longer_than_the_pictures(tmp_path, name, more_sound):
  audio = "aac" if name == "a.mkv" else "wmav2"
  _, frames, notes = decoded(write_movie(tmp_path / name, "msmpeg4v3", audio, more_sound=more_sound))
  assert len(frames) == 50 and not notes


@pytest.mark.parametrize(
  ("name", "codecs"), [("a.ts", ("libx264", "aac")), ("a.ogv", ("libvpx", "libopus", 50, "ogg"))]
)
@pytest.mark.parametrize("zeros", [5_000, 70_000, 3_000_000])
def test_zeros_after_the_last_frame_are_padding(tmp_path, name, codecs, zeros):
  path = write_movie(tmp_path / name, *codecs)
  expected = decode_video(path)
  with path.open("ab") as file:
    file.write(bytes(zeros))
  _, frames, _ = decoded(path)
  assert len(frames) >= 49, "the demultiplexer may lose the last frame with what follows it"
  np.testing.assert_array_equal(frames[:45], expected[:45])


def test_other_bytes_after_a_truncated_stream_are_no_padding(tmp_path):
  path = write_movie(tmp_path / "a.ts", "libx264", "aac")
  content = path.read_bytes()
  path.write_bytes(content[: len(content) // 2] + bytes(200_000) + content[len(content) // 2 :])
  try:
    _, _, notes = decoded(path)
  except MediaError:
    return
  assert "corrupt" in notes


@pytest.mark.parametrize("codec", ["h261", "h263"])
def test_parts_of_streams_without_an_index_equal_those_of_the_whole(tmp_path, codec):
  path = tmp_path / f"a.{codec}"
  with av.open(str(path), "w", format=codec) as file:
    stream = file.add_stream(codec, rate=30)
    stream.width, stream.height, stream.pix_fmt = 176, 144, "yuv420p"
    for index in range(90):
      picture = np.roll(np.indices((144, 176)).sum(0) % 256, 4 * index, 1).astype(np.uint8)
      file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="gray")))
    file.mux(stream.encode())
  times, frames, _ = decoded(path)
  part_times, part, _ = decoded(path, 1.5, 2.0)
  for seconds, frame in zip(part_times, part, strict=True):
    np.testing.assert_array_equal(frame, frames[times.index(seconds)])


def test_a_matrix_that_cannot_be_converted_is_named(tmp_path):
  path = tmp_path / "a.mp4"
  with av.open(str(path), "w") as file:
    stream = file.add_stream("libx264", rate=25)
    stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
    stream.codec_context.colorspace = 8  # YCgCo
    file.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")))
    file.mux(stream.encode())
  with pytest.raises(MediaError, match=r"a\.mp4: its pictures \(yuv420p, matrix 8 .* cannot be converted to RGB"):
    decode_video(path)


def test_a_codec_that_turns_out_to_be_unknown_is_named(tmp_path, monkeypatch):
  path = write_movie(tmp_path / "a.mkv", "mpeg4")

  def unknown(stream):
    raise ValueError("cannot decode unknown codec")

  monkeypatch.setattr(video_decoder, "stream_decoder", unknown)
  with pytest.raises(MediaError, match=r"a\.mkv: cannot be decoded \(cannot decode unknown codec\)"):
    decode_video(path)
