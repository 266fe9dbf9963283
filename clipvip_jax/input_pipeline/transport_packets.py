"""Packets of MPEG transport streams, and whether any are missing, repeated or corrupt."""

import itertools
from collections.abc import Iterator

import numpy as np
from jaxtyping import UInt8

from clipvip_jax.input_pipeline.byte_file import ByteFile

# Bytes of a packet and before its sync byte: plain, with a time before it (M2TS), with error correction after it.
_SIZES = ((188, 0), (192, 4), (204, 0))
_SYNC = b"G"
_PACKETS = 348  # checked at once, 64 KiB
# Bits of a header: marked as corrupt, the stream (all of them: none), has data besides the header, its number.
_CORRUPT, _STREAM, _HAS_DATA, _NUMBER = (np.uint32(bits) for bits in (0x800000, 0x1FFF00, 0x10, 0xF))


def check_packets(file: ByteFile, position: int) -> Iterator[tuple[int, bool]]:
  """Yields (end, whether they are valid and continue those before them) of groups of packets from `position` on.

  Ends where packets do not follow each other. A jump in the numbering of a stream's packets where a coded frame begins
  is accepted: recordings and segments are concatenated there.
  """
  size, offset = next((form for form in _SIZES if _is_packet(file, position + form[1], form[0])), (0, 0))
  begin, last = position + offset, dict[int, int]()
  while size and begin + size <= file.size:
    data = file.read(begin, size * _PACKETS)
    packets = np.frombuffer(data, np.uint8)[: len(data) // size * size].reshape(-1, size)
    lost = np.flatnonzero(packets[:, 0] != _SYNC[0])
    if len(lost):
      begin += size * int(lost[0])
      yield begin, _continue(packets[: lost[0]], last)
      yield begin + 1, begin + size > file.size
      return
    begin += len(packets) * size
    yield begin, _continue(packets, last)


def _is_packet(file: ByteFile, position: int, size: int) -> bool:
  """Returns whether packets of a size follow each other from a position on."""
  return all(file.read(begin, 1) in (_SYNC, b"") for begin in range(position, position + 5 * size, size))


def _continue(packets: UInt8[np.ndarray, "n size"], last: dict[int, int]) -> bool:
  """Returns whether packets continue the numbers of each stream, and are not marked as corrupt.

  Args:
    packets: one per row.
    last: the header of the last packet with data of each stream; updated.
  """
  headers = np.ascontiguousarray(packets[:, :4]).view(">u4")[:, 0].astype(np.uint32)
  rows = np.flatnonzero(((headers & _HAS_DATA) != 0) & ((headers & _STREAM) != _STREAM))
  if not len(rows):
    return True
  headers = headers[rows]
  if (headers & _CORRUPT).any():
    return False
  order = (headers & _STREAM).argsort(kind="stable")
  headers = headers[order]
  begins = [0, *(np.flatnonzero((headers[1:] ^ headers[:-1]) & _STREAM) + 1).tolist()]
  jumps = set((np.flatnonzero((headers[1:] - headers[:-1]) & _NUMBER > 1) + 1).tolist()).difference(begins)
  for begin, end in itertools.pairwise([*begins, len(headers)]):
    first, final = int(headers[begin]), int(headers[end - 1])
    stream = first & int(_STREAM)
    if (first - last.get(stream, first)) % 16 > 1:
      jumps.add(begin)
    last[stream] = final
  return all(_may_jump(packets[rows[order[jump]]]) for jump in jumps)


def _may_jump(packet: UInt8[np.ndarray, " size"]) -> bool:
  """Returns whether a coded frame begins in a packet, or its header announces a jump in the numbering."""
  return bool(packet[1] & 0x40 or (packet[3] & 0x20 and packet[4] and packet[5] & 0x80))
