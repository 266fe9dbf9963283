"""Decoding: frames, rotation, time ranges, packets; the files that cannot be decoded."""

import pickle
import struct
import wave

import numpy as np
import pytest
from moving_bar import moving_bar

from clipvip_jax.input_pipeline.media_error import MediaError
from clipvip_jax.input_pipeline.video_decoder import decode_video, frame_times, iterate_frames, iterate_pictures
from clipvip_jax.input_pipeline.video_encoder import encode_h264
from clipvip_jax.utils.errors import UserError


@pytest.fixture
def clip(tmp_path):
  path = tmp_path / "clip.mp4"
  encode_h264(path, moving_bar(), fps=12)
  return path


def test_iterating_gives_the_decoded_frames(clip):
  np.testing.assert_array_equal(np.stack(list(iterate_frames(str(clip)))), decode_video(clip))


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


def assert_rejected(path, message):
  with pytest.raises(MediaError, match=message) as caught:
    decode_video(path)
  assert isinstance(caught.value, UserError) and str(caught.value) == f"{path}: {caught.value.reason}"
  copy = pickle.loads(pickle.dumps(caught.value))
  assert (str(copy), copy.path, copy.reason) == (str(caught.value), str(path), caught.value.reason)


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
  import av

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
  assert_rejected(truncated, "truncated or corrupt: .* of 24 frames can be decoded")


def test_a_file_without_a_video_stream_is_rejected(tmp_path):
  path = tmp_path / "sound.wav"
  with wave.open(str(path), "wb") as file:
    file.setparams((1, 2, 8000, 800, "NONE", ""))
    file.writeframes(bytes(1600))
  assert_rejected(path, "has no video stream")
