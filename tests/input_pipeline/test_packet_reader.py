"""Reading packets: joined clocks, other streams, and the end."""

import fractions
import types

import av
import pytest
from videos import write_movie

from clipvip_jax.input_pipeline.packet_reader import clock_jumps, last_packet_end, read_packets
from clipvip_jax.input_pipeline.skipped_bytes import SkippedBytes
from clipvip_jax.input_pipeline.video_checks import DecodeStats

TIME_BASE = fractions.Fraction(1, 1000)
STREAM = types.SimpleNamespace(index=0, time_base=TIME_BASE)


def packet(seconds, stream_index=0, delay=0.0):
  """Returns a packet of 40 ms in a clock of 1 kHz; `delay`: from decoding to presentation."""
  dts = round(seconds * 1000)
  return types.SimpleNamespace(
    dts=dts,
    pts=dts + round(delay * 1000),
    duration=40,
    stream=types.SimpleNamespace(index=stream_index, time_base=TIME_BASE),
    size=9,
    is_discard=False,
    is_corrupt=False,
    pos=None,
  )


def flushing():
  """Returns the packet after the last one."""
  return types.SimpleNamespace(**{**vars(packet(0)), "dts": None, "pts": None, "size": 0})


def read(packets, discontinuous=True):
  """Returns [decoding time in seconds], [presentation time] and statistics."""
  flags = 0x200 if discontinuous else 0
  container = types.SimpleNamespace(
    format=types.SimpleNamespace(flags=flags), demux=lambda stream: iter([*packets, flushing()])
  )
  stats = DecodeStats(0.04)
  *found, flush = list(read_packets(container, STREAM, stats, 0.0, []))
  assert flush.dts is None
  return [p.dts / 1000 for p in found], [p.pts / 1000 for p in found], stats


@pytest.mark.parametrize("start", [1000.0, 60.0, -50.0, 0.0])
def test_a_later_recording_continues_the_clock(start):
  times = [i * 0.04 for i in range(50)]
  dts, pts, stats = read([packet(t, delay=0.08) for t in (*times, *(start + t for t in times))])
  assert dts == pytest.approx([i * 0.04 for i in range(100)])
  assert pts == pytest.approx([0.08 + i * 0.04 for i in range(100)])
  assert stats.read_until == pytest.approx(4.08) and stats.num_packets == 100 and stats.at_end


def test_three_recordings_with_jumps_in_both_directions():
  dts, _, _ = read([packet(start + i * 0.04) for start in (500.0, 0.0, 900.0) for i in range(10)])
  assert dts == pytest.approx([500 + i * 0.04 for i in range(30)])


def test_a_pause_of_less_than_ten_seconds_and_one_in_a_continuous_format_are_kept():
  assert read([packet(0), packet(9)])[0] == [0, 9]
  assert read([packet(0), packet(900)], discontinuous=False)[0] == [0, 900]


@pytest.mark.parametrize("stray", [[5000.0], [-300.0], [7000.0, 7000.04, 7000.08]])
def test_after_a_corrupt_time_stamp_the_clock_is_the_earlier_one(stray):
  times = [i * 0.04 for i in range(50)]
  dts, _, _ = read([packet(t) for t in (*times[:20], *stray, *times[20:])])
  assert dts[-30:] == pytest.approx(times[20:])


@pytest.mark.parametrize("stray", [44.0, 5000.0])
def test_a_corrupt_time_stamp_of_a_continuous_format_is_replaced(stray):
  times = [i * 0.04 for i in range(50)]
  packets = [packet(t) for t in (*times[:20], stray, *times[21:])]
  dts, _, stats = read(packets, discontinuous=False)
  assert dts == pytest.approx(times) and stats.first_error == "a corrupt time stamp"
  dts, _, stats = read([packet(t) for t in (*times[:20], stray)], discontinuous=False)
  assert dts == pytest.approx([*times[:20], stray]) and not stats.first_error, "the last one may be right"


def test_pauses_of_a_continuous_format_are_kept():
  times = [0.0, 0.04, 30.0, 30.04, 90.0, 150.0]
  dts, _, stats = read([packet(t) for t in times], discontinuous=False)
  assert dts == pytest.approx(times) and not stats.first_error


def test_packets_without_times_pass():
  assert read([packet(0)])[2].read_until == 0.04


@pytest.mark.parametrize(("count", "sound"), [(50, 2.0), (25, 2.0), (25, None)])
def test_the_last_packet_of_any_stream_is_the_end(tmp_path, count, sound):
  path = write_movie(tmp_path / "x.mkv", "mpeg4", "mp2" if sound else None, 50)
  if count < 50:
    with av.open(str(path)) as source, av.open(str(tmp_path / "short.mkv"), "w") as target:
      streams = [target.add_stream_from_template(stream) for stream in source.streams]
      for part in source.demux():
        if part.dts is not None and (part.stream.type == "audio" or part.pts * part.time_base < 1):
          part.stream = streams[part.stream.index]
          target.mux(part)
    path = tmp_path / "short.mkv"
  assert last_packet_end(path) == pytest.approx(sound or 1.0, abs=0.06)


def test_a_file_that_cannot_be_opened_has_no_packets(tmp_path):
  assert last_packet_end(tmp_path / "none.mkv") == 0


def test_an_error_of_the_container_ends_the_file():
  def demux(stream):
    yield packet(0)
    raise av.error.InvalidDataError(1, "bad element")

  container = types.SimpleNamespace(format=types.SimpleNamespace(flags=0), demux=demux)
  stats = DecodeStats(0.04)
  _, last = read_packets(container, STREAM, stats, 0.0, [])
  assert not last.size, "which makes the decoder return the frames that it holds back"
  assert stats.unreadable and stats.at_end and stats.first_error == "bad element"


def test_streams_that_pyav_cannot_flush_end_the_file():
  """Streams that began after the header, as sound in MPEG program streams may."""

  def demux(stream):
    yield packet(0)
    raise IndexError("list index out of range")

  container = types.SimpleNamespace(format=types.SimpleNamespace(flags=0), demux=demux)
  stats = DecodeStats(0.04)
  assert len(list(read_packets(container, STREAM, stats, 0.0, []))) == 1
  assert stats.at_end and not stats.unreadable and not stats.first_error
  assert not clock_jumps(container, STREAM, 3.0)


def test_other_streams_are_read_where_skipped_bytes_reveal_lost_data():
  packets = [packet(0), packet(0.02, stream_index=1), packet(0.04)]
  container = types.SimpleNamespace(format=types.SimpleNamespace(flags=0), demux=lambda: iter(packets))
  stats = DecodeStats(0.04, skipped=SkippedBytes(0.04))
  assert list(read_packets(container, STREAM, stats, 0.0, [])) == [packets[0], packets[2]] and stats.num_packets == 2


@pytest.mark.parametrize(("start", "jumps"), [(2.0, False), (8.0, False), (500.0, True), (-30.0, True)])
def test_jumps_are_found_before_a_time(start, jumps):
  packets = [packet(t) for t in (*(i * 0.04 for i in range(50)), *(start + i * 0.04 for i in range(50)))]
  container = types.SimpleNamespace(demux=lambda stream: iter([*packets, flushing()]))
  assert clock_jumps(container, STREAM, 3.0) == jumps
  assert not clock_jumps(container, STREAM, 1.0)
