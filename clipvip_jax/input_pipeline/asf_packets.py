"""Data packets of ASF files (Windows Media), and whether any are missing, repeated or corrupt."""

import dataclasses
from collections.abc import Iterator

from clipvip_jax.input_pipeline.byte_file import ByteFile, OddStructureError

_DATA_OBJECT = bytes.fromhex("3626b2758e66cf11a6d900aa0062ce6c")
_FILE_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
DATA_HEADER = 50  # bytes
_MAX_HEADER = 2**20  # bytes searched for the size of packets
_FIELD_BYTES = (0, 1, 2, 4)  # by a code of two bits
_MIN_REGULAR = 8  # media objects in order, before one out of order counts: writers differ


@dataclasses.dataclass
class _Stream:
  """The last payload of a stream: number of its media object, and how many of the object's bytes are known."""

  number: int
  received: int
  size: int
  regular: int = 0  # media objects in order


def data_object(file: ByteFile) -> tuple[int, int]:
  """Returns position and size in bytes of the data object.

  Raises:
    OddStructureError: there is none.
  """
  position = 0
  for _ in range(64):
    size = file.number(position + 16, 8, "little")
    if file.read(position, 16) == _DATA_OBJECT:
      return position, size
    if size < 24:
      break
    position += size
  raise OddStructureError


def check_packets(file: ByteFile, position: int) -> Iterator[tuple[int, bool]]:
  """Yields (end, whether it is valid and continues the one before it) of each data packet from `position` on.

  Raises:
    OddStructureError: the data object or the size of its packets is not found.
  """
  begin, size = data_object(file)
  header = file.read(0, min(begin, _MAX_HEADER))
  properties = header.find(_FILE_PROPERTIES)
  packet_size = int.from_bytes(header[properties + 92 : properties + 96], "little")
  if (
    properties < 0
    or packet_size < 16
    or header[properties + 96 : properties + 100] != packet_size.to_bytes(4, "little")
  ):
    raise OddStructureError
  end = min(begin + size, file.size) if size > DATA_HEADER else file.size  # a live recording has no size
  begin += DATA_HEADER
  begin += max(0, position - begin) // packet_size * packet_size
  streams: dict[int, _Stream] = {}
  for position in range(begin, end - packet_size + 1, packet_size):
    yield position + packet_size, _check_packet(file.read(position, packet_size), streams)


def _check_packet(packet: bytes, streams: dict[int, _Stream]) -> bool:
  """Returns whether a packet is valid and its payloads continue those before them."""
  fields = _Fields(packet)
  if packet[0] & 0x80:  # error correction data
    fields.position = 1 + (packet[0] & 0x0F)
  flags, properties = fields.take(1), fields.take(1)
  length = fields.coded(flags >> 5) or len(packet)
  fields.coded(flags >> 1)  # sequence
  padding = fields.coded(flags >> 3)
  fields.take(6)  # times
  count = fields.take(1) if flags & 1 else 1
  regular = True
  for _ in range(count & 0x3F):
    stream = fields.take(1) & 0x7F
    number_bits = 8 * _FIELD_BYTES[properties >> 4 & 3]
    number, offset = fields.coded(properties >> 4), fields.coded(properties >> 2)
    replicated = fields.coded(properties)
    object_size = int.from_bytes(packet[fields.position : fields.position + 4], "little")
    fields.position += replicated
    size = fields.coded(count >> 6) if flags & 1 else length - padding - fields.position
    fields.position += size
    if not stream or size < 0 or fields.position > length:
      return False
    if replicated >= 8:  # otherwise a payload holds several small objects
      regular &= _continues(streams, stream, (number, offset, size, object_size), number_bits)
  return regular


def _continues(streams: dict[int, _Stream], index: int, payload: tuple[int, int, int, int], number_bits: int) -> bool:
  """Returns whether a payload (object's number, offset, size, object's size) follows the last one of its stream."""
  number, offset, size, object_size = payload
  last = streams.get(index)
  if last is None:
    streams[index] = _Stream(number, offset + size, object_size)
    return True
  if number == last.number and last.received < last.size:
    regular = offset == last.received
  else:
    regular = not offset and last.received == last.size and (number - last.number) % (1 << number_bits) == 1
    last.regular = last.regular + 1 if regular else 0 if last.regular < _MIN_REGULAR else last.regular
  last.number, last.received, last.size = number, offset + size, object_size
  return regular or last.regular < _MIN_REGULAR


class _Fields:
  """Reads the fields of a packet, whose lengths other fields state."""

  def __init__(self, packet: bytes):
    self._packet, self.position = packet, 0

  def take(self, count: int) -> int:
    """Returns a number of `count` bytes."""
    self.position += count
    return int.from_bytes(self._packet[self.position - count : self.position], "little")

  def coded(self, code: int) -> int:
    """Returns a number whose length is in the last two bits of `code`."""
    return self.take(_FIELD_BYTES[code & 3])
