"""Packets of transport streams: intact, concatenated, missing, repeated and corrupt."""

import itertools

import pytest
from videos import write_movie

from clipvip_jax.input_pipeline.byte_file import open_bytes
from clipvip_jax.input_pipeline.transport_packets import check_packets

SIZES = {"plain": 188, "m2ts": 192, "corrected": 204}


@pytest.fixture(scope="module")
def streams(tmp_path_factory):
  """The same packets in three forms."""
  folder = tmp_path_factory.mktemp("ts")
  plain = write_movie(folder / "x.ts", "mpeg2video", "mp2").read_bytes()
  m2ts = write_movie(folder / "x.m2ts", "mpeg2video", "mp2", container="mpegts", mpegts_m2ts_mode="1").read_bytes()
  packets = [plain[i : i + 188] for i in range(0, len(plain), 188)]
  return {"plain": plain, "m2ts": m2ts, "corrected": b"".join(packet + bytes(16) for packet in packets)}


def is_intact(folder, content, position=0):
  path = folder / "x.ts"
  path.write_bytes(content)
  with open_bytes(path) as file:
    return all(intact for _, intact in check_packets(file, position))


@pytest.mark.parametrize("form", SIZES)
def test_intact_and_concatenated_streams_have_no_break(streams, tmp_path, form):
  content, size = streams[form], SIZES[form]
  assert is_intact(tmp_path, content) and is_intact(tmp_path, content, 50 * size)
  assert is_intact(tmp_path, content + content)
  assert is_intact(tmp_path, content[: len(content) // 2]), "cut within a packet: no later one shows it"


@pytest.mark.parametrize("form", SIZES)
@pytest.mark.parametrize("damage", ["missing bytes", "missing packets", "zeros", "repeated", "marked"])
def test_damage_is_found(streams, tmp_path, form, damage):
  content, size = streams[form], SIZES[form]
  # Within a coded frame, which has dozens of packets.
  starts = [i for i in range(0, len(content) - size, size) if content[i + (size == 192) * 4 + 1] & 0x40]
  place = max(itertools.pairwise(starts), key=lambda pair: pair[1] - pair[0])[0] + 3 * size
  before, packets, after = content[:place], content[place : place + 5 * size], content[place + 5 * size :]
  flags = 4 * (size == 192) + 1
  middle = {
    "missing bytes": packets[:512],
    "missing packets": packets[: 2 * size],
    "zeros": bytes(len(packets)),
    "repeated": packets + packets,
    "marked": packets[:flags] + bytes((packets[flags] | 0x80,)) + packets[flags + 1 :],
  }
  spoiled = before + middle[damage] + after
  assert not is_intact(tmp_path, spoiled)
  with open_bytes(tmp_path / "x.ts") as file:
    assert all(end > place for end, intact in check_packets(file, 0) if not intact)


def test_what_is_no_transport_stream_has_no_break(tmp_path):
  for content in (b"", b"G", b"G" * 99, bytes(999), b"FLV" * 99):
    assert is_intact(tmp_path, content)
