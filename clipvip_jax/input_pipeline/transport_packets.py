"""Packets of MPEG transport streams, and whether any are missing, repeated or corrupt."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import UInt8

from clipvip_jax.input_pipeline.byte_file import ByteFile

# Bytes of a packet and before its sync byte: plain, with a time before it (M2TS), with error correction after it.
_SIZES = ((188, 0), (192, 4), (204, 0))
_SYNC = b"G"
_PACKETS = 348  # checked at once, 64 KiB
_NUM_PIDS, _NO_STREAM = 8192, 8191


def check_packets(file: ByteFile, position: int) -> Iterator[tuple[int, bool]]:
  """Yields (end, whether they are valid and continue those before them) of groups of packets from `position` on.

  Ends where packets do not follow each other. A jump in the numbering of a stream's packets where a coded frame begins
  is accepted: recordings and segments are concatenated there.
  """
  size, offset = next((form for form in _SIZES if _is_packet(file, position + form[1], form[0])), (0, 0))
  begin, last = position + offset, np.full(_NUM_PIDS, -1, np.int16)
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


def _continue(packets: UInt8[np.ndarray, "n size"], last: np.ndarray) -> bool:
  """Returns whether packets continue the numbers of each stream, and are not marked as corrupt; updates `last`."""
  flags, control = packets[:, 1], packets[:, 3]
  pids = (flags.astype(np.int16) & 0x1F) << 8 | packets[:, 2]
  has_payload = (control & 0x10).astype(bool) & (pids != _NO_STREAM)
  if (flags[has_payload] & 0x80).any():
    return False
  may_jump = (flags & 0x40) | ((control & 0x20) << 1 & np.where(packets[:, 4] > 0, packets[:, 5] >> 1, 0))
  order = np.argsort(pids[has_payload], kind="stable")
  pids, numbers, may_jump = (x[has_payload][order] for x in (pids, control & 15, may_jump > 0))
  if not len(pids):
    return True
  is_first = np.concatenate(([True], pids[1:] != pids[:-1]))
  previous = np.where(is_first, last[pids], np.concatenate(([0], numbers[:-1])).astype(np.int16))
  last[pids] = numbers  # of equal indices, the last one is assigned
  step = (numbers - previous) % 16
  return bool(((step <= 1) | may_jump | (previous < 0)).all())
