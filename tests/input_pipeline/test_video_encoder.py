"""Deterministic, atomic H.264 encoding."""

import numpy as np
import pytest
from moving_bar import moving_bar
from videos import decode_video

from clipvip_jax.input_pipeline.video_encoder import encode_h264


def test_frames_survive_encoding(tmp_path):
  encode_h264(tmp_path / "clip.mp4", moving_bar(), fps=12)
  frames = decode_video(tmp_path / "clip.mp4")
  assert frames.dtype == np.uint8 and frames.shape == (24, 48, 64, 3)
  # Chroma is stored at half size, which blurs the bar's edges.
  assert np.abs(frames.astype(int) - moving_bar()).mean() < 5


def test_equal_frames_give_byte_identical_files_and_no_temporary_files(tmp_path):
  for name in ("a.mp4", "b.mp4"):
    encode_h264(tmp_path / name, moving_bar(), fps=12)
  assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
  assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4", "b.mp4"]


def test_key_frames_do_not_depend_on_other_frames(tmp_path):
  frames = moving_bar()
  changed_end = np.concatenate([frames[:5], frames[::-1][5:]])
  for name, content in (("a", frames), ("b", changed_end)):
    encode_h264(tmp_path / f"{name}.mp4", content, fps=12, keyframe_every=1)
  first, second = decode_video(tmp_path / "a.mp4"), decode_video(tmp_path / "b.mp4")
  np.testing.assert_array_equal(first[:5], second[:5])


def test_a_failed_encoding_leaves_no_file(tmp_path):
  with pytest.raises(ValueError, match=r"\(3, 15, 16, 3\): expected .* even H and W"):
    encode_h264(tmp_path / "odd.mp4", np.zeros((3, 15, 16, 3), np.uint8), fps=12)
  with pytest.raises(Exception):  # noqa: B017  # PyAV decides the type
    encode_h264(tmp_path / "text.mp4", np.full((3, 16, 16, 3), "x"), fps=12)
  assert not list(tmp_path.iterdir())
