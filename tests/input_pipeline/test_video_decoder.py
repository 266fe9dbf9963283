"""Decoding refuses what cannot be trained on, by path and reason; encoding is exact to the byte."""

import pickle
import struct
import wave

import numpy as np
import pytest

from clipvip_jax.input_pipeline.media_error import MediaError
from clipvip_jax.input_pipeline.video_decoder import decode_video, iterate_frames
from clipvip_jax.input_pipeline.video_encoder import encode_h264
from clipvip_jax.utils.errors import UserError


def moving_bar(count=24, height=48, width=64):
  frames = np.full((count, height, width, 3), (30, 60, 90), np.uint8)
  for t in range(count):
    frames[t, :, 2 * t : 2 * t + 12] = (220, 40, 30)
  return frames


@pytest.fixture
def clip(tmp_path):
  path = tmp_path / "clip.mp4"
  encode_h264(path, moving_bar(), fps=12)
  return path


def test_frames_survive_the_file(clip):
  frames = decode_video(clip)
  assert frames.dtype == np.uint8 and frames.shape == (24, 48, 64, 3)
  # Chroma is stored at half size, so the bar's edges bleed; the rest is close.
  assert np.abs(frames.astype(int) - moving_bar()).mean() < 5
  assert len(list(iterate_frames(str(clip)))) == 24


def test_same_frames_same_bytes_and_no_remains(clip, tmp_path):
  again = tmp_path / "again.mp4"
  encode_h264(again, moving_bar(), fps=12)
  assert again.read_bytes() == clip.read_bytes()
  assert sorted(path.name for path in tmp_path.iterdir()) == ["again.mp4", "clip.mp4"]


def test_intra_frames_do_not_depend_on_their_neighbours(tmp_path):
  frames = moving_bar()
  other = np.concatenate([frames[:5], frames[::-1][5:]])
  for name, content in (("a", frames), ("b", other)):
    encode_h264(tmp_path / f"{name}.mp4", content, fps=12, keyframe_every=1)
  one, two = decode_video(tmp_path / "a.mp4"), decode_video(tmp_path / "b.mp4")
  np.testing.assert_array_equal(one[:5], two[:5])


def test_turned_pictures_are_put_upright(clip):
  """As phones store them: the track's matrix turns the picture by 90 degrees clockwise."""
  plain = decode_video(clip)
  content = clip.read_bytes()
  one, last = 1 << 16, 1 << 30
  identity, quarter = (
    struct.pack(">9i", *m, last) for m in ((one, 0, 0, 0, one, 0, 0, 0), (0, one, 0, -one, 0, 0, 0, 0))
  )
  place = content.index(identity, content.index(b"tkhd"))
  clip.write_bytes(content[:place] + quarter + content[place + len(quarter) :])
  np.testing.assert_array_equal(decode_video(clip), np.rot90(plain, -1, axes=(1, 2)))


def test_failed_encoding_leaves_nothing(tmp_path):
  with pytest.raises(ValueError, match="even"):
    encode_h264(tmp_path / "odd.mp4", np.zeros((3, 15, 16, 3), np.uint8), fps=12)
  with pytest.raises(Exception):  # noqa: B017 - whatever PyAV makes of it
    encode_h264(tmp_path / "text.mp4", np.full((3, 16, 16, 3), "x"), fps=12)
  assert not list(tmp_path.iterdir())


def refuse(path, words):
  with pytest.raises(MediaError, match=words) as caught:
    decode_video(path)
  assert isinstance(caught.value, UserError) and str(path) in str(caught.value)
  copy = pickle.loads(pickle.dumps(caught.value))
  assert (str(copy), copy.reason) == (str(caught.value), caught.value.reason)


def test_refuses_missing_empty_and_folder(tmp_path):
  refuse(tmp_path / "missing.mp4", "no such file")
  (tmp_path / "empty.mp4").touch()
  refuse(tmp_path / "empty.mp4", "empty")
  refuse(tmp_path, "not a file")


def test_refuses_text_and_cut_index(clip, tmp_path):
  text = tmp_path / "text.mp4"
  text.write_text("<html>404 not found</html>" * 40)
  refuse(text, "not a video")
  clip.write_bytes(clip.read_bytes()[:-200])  # the index of an mp4 stands at its end
  refuse(clip, "not a video, or truncated")


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_refuses_cut_with_the_index_at_the_start(clip, tmp_path, suffix):
  import av

  noise = np.random.default_rng(0).integers(0, 40, (24, 48, 64, 3))  # so that pictures outweigh the index
  encode_h264(clip, (moving_bar() + noise).clip(0, 255).astype(np.uint8), fps=12)
  whole = tmp_path / f"whole{suffix}"
  options = {"movflags": "faststart"} if suffix == ".mp4" else {}
  with av.open(str(clip)) as source, av.open(str(whole), "w", options=options) as target:
    stream = target.add_stream_from_template(source.streams.video[0])
    for packet in source.demux(video=0):
      if packet.dts is not None:
        packet.stream = stream
        target.mux(packet)
  assert len(decode_video(whole)) == 24
  cut = tmp_path / f"cut{suffix}"
  content = whole.read_bytes()
  cut.write_bytes(content[: int(len(content) * 0.7)])
  refuse(cut, "truncated or corrupt: .* of 24 frames")


def test_refuses_sound_without_pictures(tmp_path):
  path = tmp_path / "sound.wav"
  with wave.open(str(path), "wb") as file:
    file.setparams((1, 2, 8000, 800, "NONE", ""))
    file.writeframes(bytes(1600))
  refuse(path, "no video stream")
