"""Completeness checks, on the statistics of decoding and the headers of made-up containers."""

import fractions
import types

import pytest

from clipvip_jax.input_pipeline.media_error import MediaError
from clipvip_jax.input_pipeline.video_checks import DecodeStats, check_time_range, check_video


def header(frames=0, seconds=None, rate=10, container_seconds=None, streams=1):
  """Returns (container, stream) as PyAV describes them; None and 0 mean that the file does not say."""
  stream = types.SimpleNamespace(
    frames=frames,
    duration=None if seconds is None else int(seconds * 1000),
    time_base=fractions.Fraction(1, 1000),
    average_rate=rate,
  )
  container = types.SimpleNamespace(
    duration=None if container_seconds is None else int(container_seconds * 1e6),
    start_time=0,
    streams=[stream] * streams,
    format=types.SimpleNamespace(name="mov"),
  )
  return container, stream


def decoded(frames, error=""):
  """Returns statistics of consecutive frames at 10 frames per second."""
  stats = DecodeStats(0.1)
  for i in range(frames):
    stats.add_frame(i / 10, (i + 1) / 10, 0.0)
  stats.add_error(error)
  return stats


@pytest.mark.parametrize(
  ("stats", "promise"),
  [
    (decoded(100), header(frames=100)),
    (decoded(90), header(frames=100)),  # edit lists hide frames
    (decoded(90, "bad packet"), header(frames=100)),
    (decoded(100), header(frames=150, seconds=10)),  # the smaller promise counts
    (decoded(50), header(seconds=10, rate=5)),
    (decoded(7), header()),
    (decoded(7), header(container_seconds=100, streams=2)),  # sound may be longer
  ],
)
def test_complete_videos_are_accepted(stats, promise):
  check_video("a.mp4", stats, *promise)


@pytest.mark.parametrize(
  ("stats", "promise", "message"),
  [
    (decoded(0), header(frames=100), "a.mp4: no frame can be decoded"),
    (decoded(0, "bad packet"), header(), r"no frame can be decoded \(bad packet\)"),
    (decoded(80), header(frames=100), "truncated or corrupt: 80 of 100 frames can be decoded"),
    (decoded(80, "bad packet"), header(seconds=10), r"80 of 100 frames can be decoded \(bad packet\)"),
    (decoded(80), header(container_seconds=10), "80 of 100 frames"),
    (decoded(7, "bad packet"), header(), r"corrupt after 7 frames \(bad packet\)"),
  ],
)
def test_incomplete_videos_are_rejected(stats, promise, message):
  with pytest.raises(MediaError, match=message):
    check_video("a.mp4", stats, *promise)


@pytest.mark.parametrize(
  ("stats", "start", "end"),
  [
    (decoded(50), 0.0, 5.0),
    (decoded(50), 1.0, 5.2),
    (decoded(50), 0.0, None),
    (decoded(50), 3.0, 2.0),
  ],
)
def test_complete_time_ranges_are_accepted(stats, start, end):
  check_time_range("a.mp4", stats, start, end, *header(seconds=5))


def test_a_time_range_beyond_the_end_of_the_video_is_cut_to_it():
  check_time_range("a.mp4", decoded(50), 0.0, 60.0, *header(seconds=5))
  check_time_range("a.mp4", decoded(50), 0.0, None, *header())


def test_incomplete_time_ranges_are_rejected():
  with pytest.raises(MediaError, match=r"a\.mp4: truncated or corrupt: 5\.0 of 8\.0 s can be decoded"):
    check_time_range("a.mp4", decoded(50), 0.0, 8.0, *header(seconds=10))


def test_gaps_between_frames_count_only_after_an_error():
  stats = DecodeStats(0.1)
  for begin, end in ((0.0, 0.1), (0.1, 6.0), (6.0, 8.0)):
    stats.add_frame(begin, end, 0.0)
  check_time_range("a.mp4", stats, 0.0, 8.0, *header(seconds=10))
  stats.add_error("first")
  stats.add_error("second")
  with pytest.raises(MediaError, match=r"0\.3 of 8\.0 s can be decoded \(first\)"):
    check_time_range("a.mp4", stats, 0.0, 8.0, *header(seconds=10))
