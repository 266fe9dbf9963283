"""Completeness checks, on the statistics of decoding and the headers of made-up containers."""

import fractions
import types

import pytest

from clipvip_jax.input_pipeline.media_error import MediaError
from clipvip_jax.input_pipeline.media_notes import collect_notes
from clipvip_jax.input_pipeline.video_checks import DecodeStats, check_video, has_flag

TS_DISCONT = 0x200


def header(frames=0, seconds=None, container_seconds=None, name="mov", flags=0):
  """Returns (container, stream) as PyAV describes them; None and 0 mean that the file does not say."""
  stream = types.SimpleNamespace(
    frames=frames,
    duration=None if seconds is None else int(seconds * 1000),
    time_base=fractions.Fraction(1, 1000),
    index_entries=range(frames),
  )
  container = types.SimpleNamespace(
    duration=None if container_seconds is None else int(container_seconds * 1e6),
    start_time=0,
    format=types.SimpleNamespace(name=name, flags=flags),
  )
  return container, stream


def decoded(frames, error="", sound=0.0, packets=None, corrupt=(), at_end=True):
  """Returns statistics of consecutive frames at 10 frames per second; `sound`: seconds of another stream."""
  stats = DecodeStats(0.1, at_end=at_end, num_packets=frames if packets is None else packets, file_end=lambda: sound)
  for i in range(frames):
    stats.add_frame(i / 10, (i + 1) / 10, 0.0, corrupt=i in corrupt)
  stats.add_error(error)
  return stats


@pytest.fixture
def file(tmp_path):
  """A file that is complete by its boxes, whatever the header says."""
  path = tmp_path / "a.mp4"
  path.write_bytes(b"\0\0\0\x10mdat12345678")
  return path


@pytest.fixture
def truncated(tmp_path):
  path = tmp_path / "a.mp4"
  path.write_bytes(b"\0\0\0\x20mdat12345678")
  return path


@pytest.mark.parametrize(
  ("stats", "promise", "notes"),
  [
    (decoded(100), header(seconds=10), set()),
    (decoded(92), header(seconds=10), {"truncated"}),
    (decoded(100), header(frames=100, seconds=1000), set()),  # all frames of the index were read
    (decoded(10), header(frames=10, seconds=3, container_seconds=3), set()),
    (decoded(7), header(), set()),
    (decoded(7, "bad packet"), header(), {"corrupt"}),
    (decoded(50, sound=100), header(container_seconds=100), set()),  # the sound is longer than the pictures
    (decoded(50), header(seconds=1000, flags=TS_DISCONT, name="mpegts"), {"unverifiable"}),  # an estimate
    (decoded(100, corrupt=range(10)), header(seconds=10), {"corrupt"}),
  ],
)
def test_complete_videos_are_accepted(file, stats, promise, notes):
  with collect_notes() as collected:
    check_video(file, stats, *promise)
  assert collected == notes


@pytest.mark.parametrize(
  ("stats", "promise", "message"),
  [
    (decoded(0), header(frames=100), "a.mp4: no frame can be decoded"),
    (decoded(0, "bad packet"), header(), r"no frame can be decoded \(bad packet\)"),
    (decoded(80), header(frames=100, seconds=10), "truncated or corrupt: 8.0 of 10.0 s can be decoded"),
    (decoded(80, "bad packet"), header(seconds=10), r"8.0 of 10.0 s can be decoded \(bad packet\)"),
    (decoded(80), header(container_seconds=10), "8.0 of 10.0 s"),
    (decoded(80, sound=8), header(container_seconds=10), "8.0 of 10.0 s"),
    (decoded(100, corrupt=range(40, 60)), header(seconds=10), "8.0 of 10.0 s"),
  ],
)
def test_incomplete_videos_are_rejected(file, stats, promise, message):
  with pytest.raises(MediaError, match=message):
    check_video(file, stats, *promise)


def test_a_truncated_file_without_a_duration_is_rejected(truncated):
  message = r"truncated or corrupt after 5\.0 s: an element ends at byte 32, the file at byte 16 \(bad packet\)"
  with pytest.raises(MediaError, match=message):
    check_video(truncated, decoded(50, "bad packet"), *header())
  check_video(truncated, decoded(50), *header(), end=5.0)
  check_video(truncated, decoded(50, at_end=False), *header(), end=4.0)
  with pytest.raises(MediaError, match="an element ends at byte 32"):
    check_video(truncated, decoded(50), *header(), end=6.0)


def test_a_truncated_file_is_accepted_if_nearly_all_of_its_duration_is_there(truncated):
  with collect_notes() as notes:
    check_video(truncated, decoded(95), *header(frames=100, seconds=10))
  assert notes == {"truncated"}
  with pytest.raises(MediaError, match=r"5\.0 of 10\.0 s"):
    check_video(truncated, decoded(50, packets=100), *header(frames=100, seconds=10))


def test_a_container_that_cannot_be_read_any_further_is_rejected(file):
  stats = decoded(50, "bad element")
  stats.unreadable = True
  with pytest.raises(MediaError, match=r"truncated or corrupt after 5\.0 s \(bad element\)"):
    check_video(file, stats, *header())


@pytest.mark.parametrize(
  ("stats", "start", "end"),
  [
    (decoded(50), 0.0, 5.0),
    (decoded(50), 1.0, 5.2),
    (decoded(50), 1.0, None),
    (decoded(50), 3.0, 2.0),
    (decoded(50, at_end=False), 0.0, 4.0),
  ],
)
def test_complete_time_ranges_are_accepted(file, stats, start, end):
  check_video(file, stats, *header(seconds=5), start, end)


def test_a_time_range_beyond_the_end_of_the_video_is_cut_to_it(file):
  check_video(file, decoded(50), *header(seconds=5), 0.0, 60.0)
  check_video(file, decoded(50), *header(), 1.0, None)
  check_video(file, decoded(50, sound=100), *header(container_seconds=100), 4.0, 60.0)


def test_incomplete_time_ranges_are_rejected(file):
  with pytest.raises(MediaError, match=r"a\.mp4: truncated or corrupt: 5\.0 of 8\.0 s can be decoded"):
    check_video(file, decoded(50), *header(seconds=10), 0.0, 8.0)
  undecodable = decoded(50)
  undecodable.read_until = 8.0
  with pytest.raises(MediaError, match=r"a\.mp4: truncated or corrupt: 4\.0 of 6\.0 s can be decoded"):
    check_video(file, undecodable, *header(seconds=8), 1.0, 7.0)


@pytest.mark.parametrize(("num_before", "seconds"), [(1, "0.3"), (2, "4.1")])
def test_gaps_between_frames_count_only_after_an_error(file, num_before, seconds):
  """Frames of a variable rate may be shown for long; only gaps of the frames after an error are missing ones."""
  frames = ((0.0, 0.1), (0.1, 4.0), (4.0, 8.0))
  stats = DecodeStats(0.1, at_end=True)
  for begin, end in frames:
    stats.add_frame(begin, end, 0.0)
  check_video(file, stats, *header(seconds=8))
  stats = DecodeStats(0.1, at_end=True)
  for index, (begin, end) in enumerate(frames):
    if index == num_before:
      stats.add_error("first")
      stats.add_error("second")
    stats.add_frame(begin, end, 0.0)
  with pytest.raises(MediaError, match=rf"{seconds} of 8\.0 s can be decoded \(first\)"):
    check_video(file, stats, *header(seconds=8))


def test_an_error_long_before_a_gap_does_not_count():
  stats = DecodeStats(0.1)
  stats.add_error("first")
  for index in range(50):
    stats.add_frame(index / 10, (index + 1) / 10, 0.0)
  stats.add_frame(5.0, 9.0, 0.0)
  assert stats.missing == 0


def test_packets_that_are_not_shown_have_no_time():
  fields = {"is_discard": False, "is_corrupt": False, "size": 9, "pos": None}
  packet = types.SimpleNamespace(dts=10, pts=20, duration=5, **fields)
  stats = DecodeStats(0.1)
  stats.add_packet(packet, 0.1, 0.5)
  assert (stats.num_packets, stats.read_until) == (1, 2.0)
  packet.pts, packet.is_discard = 1000, True
  stats.add_packet(packet, 0.1, 0.5)
  assert (stats.num_packets, stats.read_until) == (2, 2.0)


def test_a_gap_at_a_packet_that_follows_lost_data_counts():
  packet = types.SimpleNamespace(dts=10, pts=10, duration=1, is_discard=False, is_corrupt=True, size=9, pos=None)
  stats = DecodeStats(0.1)
  stats.add_packet(packet, 0.1, 0.0)
  stats.add_frame(0.0, 1.1, 0.0)
  assert stats.missing == pytest.approx(1.0)


def test_a_break_in_the_structure_is_an_error_at_the_packet_after_it():
  structure = types.SimpleNamespace(error_at=lambda position: "lost" * (position > 50), error_at_end=lambda: "")
  fields = {"is_discard": False, "is_corrupt": False, "size": 9, "duration": 1}
  stats = DecodeStats(0.1, structure=structure)
  for position, error in ((None, ""), (40, ""), (60, "lost")):
    stats.add_packet(types.SimpleNamespace(dts=1, pts=1, pos=position, **fields), 0.1, 0.0)
    assert stats.first_error == error
  stats = DecodeStats(0.1, structure=types.SimpleNamespace(error_at_end=lambda: "lost at the end"))
  stats.end_file()
  assert stats.at_end and stats.first_error == "lost at the end"


@pytest.mark.parametrize("reordered", [(8, 6, 7), (8, 7, 6)])
def test_only_the_last_picture_in_order_has_its_own_duration(reordered):
  stats = DecodeStats(0.1)
  for pts in (5, *reordered):  # the duration of others is the time until the next is decoded, across a pause
    packet = types.SimpleNamespace(
      dts=pts, pts=pts, duration=1 if pts == 8 else 40, is_discard=False, is_corrupt=False, size=9, pos=None
    )
    stats.add_packet(packet, 0.1, 0.0)
  assert stats.read_until == pytest.approx(0.9)


def test_a_corrupt_time_does_not_count_as_read():
  stats = decoded(10, packets=10)
  stats.read_until = 500.0
  stats.add_corrupt_time()
  assert (stats.read_until, stats.first_error) == (0, "a corrupt time stamp")


def test_flags_of_formats():
  container, _ = header(flags=TS_DISCONT)
  assert has_flag(container, "ts_discont") and not has_flag(container, "no_timestamps")
