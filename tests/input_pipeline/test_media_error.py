"""Errors of the machine are not those of a file."""

import errno
import os
import resource

import corpora
import cv2
import numpy as np
import pytest

from clipvip_jax.input_pipeline import read_media
from clipvip_jax.transcription.subtitle_files import read_subtitles


@pytest.fixture
def no_more_files():
  """Returns a function, after which no file can be opened."""
  limits = resource.getrlimit(resource.RLIMIT_NOFILE)

  def exhaust():
    lowest_free = os.open(os.devnull, os.O_RDONLY)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, limits[1]))

  yield exhaust
  resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.parametrize("kind", ["video", "image", "folder"])
def test_too_many_open_files_are_no_error_of_a_file(tmp_path, no_more_files, kind):
  video = corpora.write_video(tmp_path / "clip.mp4")
  frames = tmp_path / "frames"
  frames.mkdir()
  cv2.imwrite(str(frames / "1.png"), np.zeros((32, 48, 3), np.uint8))
  path = {"video": video, "image": frames / "1.png", "folder": frames}[kind]
  read_media.read_frames(path, 2)  # imports what is needed
  no_more_files()
  with pytest.raises(OSError) as raised:
    list(read_media.map_in_threads([path], lambda path: read_media.read_frames(path, 2), 1))
  assert raised.value.errno == errno.EMFILE


def test_too_many_open_files_are_no_error_of_subtitles(tmp_path, no_more_files):
  (tmp_path / "clip.srt").write_text("00:00:01,000 --> 00:00:02,000\nHello\n")
  no_more_files()
  with pytest.raises(OSError, match="Too many open files"):
    read_subtitles(tmp_path / "clip.srt")
