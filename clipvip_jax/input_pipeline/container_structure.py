"""Structure of a container between its first and last byte: chains of elements, sequence numbers and checksums.

FFmpeg skips elements of these containers that are missing, repeated or corrupt without an error: pages of Ogg, packets
of ASF and MPEG transport streams, packs of MPEG program streams, clusters of Matroska, chunks of AVI, tags of FLV.
"""

import contextlib
import math
import os
import struct
import zlib
from collections.abc import Callable, Iterator

from clipvip_jax.input_pipeline import asf_packets, transport_packets
from clipvip_jax.input_pipeline.byte_file import ByteFile, OddStructureError, open_bytes
from clipvip_jax.input_pipeline.matroska_elements import (
  CLUSTER,
  CLUSTER_CHILDREN,
  CRC32,
  SEGMENT_CHILDREN,
  ebml_header,
  segment_content,
)

# From the element that holds a byte of a packet on, yields (end of an element, whether it is valid and follows the one
# before it); ends at the end of the file, or where no element follows.
Walk = Callable[[ByteFile, int], Iterator[tuple[int, bool]]]

_WINDOW, _CHUNK = 2**16, 2**20  # bytes
_CHUNK_HEADER = struct.Struct("<4sI")  # of AVI
_CRC32_HEADER = bytes((CRC32, 0x84))  # of four bytes
_OGG_HEADER, _OGG_BEGINS, _OGG_ENDS = 27, 2, 4  # bytes; flags
_FLV_TAGS = (8, 9, 15, 18)  # sound, pictures, scripts
_PACK, _PROGRAM_END = 0xBA, 0xB9  # MPEG start codes; smaller ones do not belong to the container
_PACK_START = 64  # bytes, which differ between any two packs
_MAX_ZEROS = 512  # bytes between packs
_MIN_CHAIN = 8  # elements without other data between them
_CLOCK_RATE = 90_000  # hertz


class StructureCheck:
  """Walks over the elements of a file as its packets are read."""

  def __init__(self, file: ByteFile, walk: Walk):
    """Creates a check of an open file, whose container `walk` knows."""
    self._file, self._walk = file, walk
    self._elements: Iterator[tuple[int, bool]] = iter(())
    self._end = -math.inf  # of the current element
    self._error = ""

  def error_at(self, position: int) -> str:
    """Returns what is wrong with the element that holds a byte, or with those between it and the one of the last call.

    Positions must ascend; smaller ones belong to the current element. The walk begins at the first one, so that nothing
    before it is read after a seek.
    """
    if position >= self._end:
      self._advance(position)
    return self._error

  def error_at_end(self) -> str:
    """Returns what is wrong with the elements from the one of the last call to the end of the file."""
    self._advance(self._file.size, begin_anew=False)
    return self._error

  def _advance(self, position: int, *, begin_anew: bool = True) -> None:
    self._error, begin = "", max(self._end, 0)
    try:
      for _ in range(1 + begin_anew):  # at the next packet after the walk ended where the structure is lost
        for end, is_intact in self._elements:
          if not is_intact and not self._error:
            self._error = f"data are missing, repeated or corrupt after byte {begin}"
          self._end = begin = end
          if position < end:
            return
        self._elements = self._walk(self._file, position)
      self._end = position + 1
    except OddStructureError:
      self._end = math.inf


@contextlib.contextmanager
def open_structure(path: str | os.PathLike[str], format_name: str) -> Iterator[StructureCheck | None]:
  """Yields the check of a file; None for a container without a structure to check.

  Args:
    path: a video file.
    format_name: FFmpeg's name of its container, such as "matroska,webm".
  """
  walk = next((walk for name, walk in _WALKS.items() if name in format_name.split(",")), None)
  if walk is None:
    yield None
    return
  with open_bytes(path, _WINDOW) as file:
    yield StructureCheck(file, walk)


def _ogg(file: ByteFile, position: int) -> Iterator[tuple[int, bool]]:
  """Walks over pages, which are numbered in each logical stream. FFmpeg verifies their checksums."""
  numbers: dict[bytes, int] = {}  # the next one by the serial number of a stream
  begin, flags = file.find(b"OggS", position), 0
  position = begin
  while begin < file.size:
    header = file.read(begin, _OGG_HEADER + 255).ljust(_OGG_HEADER, b"\0")
    flags, serial, number = header[5], header[14:18], int.from_bytes(header[18:22], "little")
    is_next = bool(flags & _OGG_BEGINS) or numbers.get(serial, number) == number
    numbers[serial] = number + 1
    end = begin + _OGG_HEADER + header[26] + sum(header[_OGG_HEADER : _OGG_HEADER + header[26]])
    yield end, begin == position and is_next
    position, begin = end, file.find(b"OggS", end)
  yield file.size, begin <= position or bool(flags & _OGG_ENDS)


def _program_stream(file: ByteFile, position: int) -> Iterator[tuple[int, bool]]:
  """Walks over packs and packets (PES) of MPEG-1 and MPEG-2. The clock of the packs steps back only to restart.

  Files that hold other data between all packs, such as sectors of Video CDs, are accepted.
  """
  clock, pack, code, num_intact = 0, position, 0, 0
  while position < file.size:
    header = file.read(position, 14).ljust(14, b"\0")
    if header[:3] != b"\0\0\1" or header[3] < _PROGRAM_END:
      begin = file.find(b"\0\0\1\xba", position)
      is_padding = begin - position < _MAX_ZEROS and not any(file.read(position, begin - position))
      position = begin
      yield position, is_padding or num_intact < _MIN_CHAIN or (begin == file.size and code == _PROGRAM_END)
      num_intact = 0
      continue
    is_intact, code, num_intact = True, header[3], num_intact + 1
    if code == _PACK:
      (previous, begin), (clock, pack) = (clock, pack), (_pack_clock(header), position)
      is_repeated = clock == previous and begin < pack and file.read(begin, _PACK_START) == file.read(pack, _PACK_START)
      is_intact = not is_repeated and not 0 < previous - clock < _CLOCK_RATE
      position += 14 + (header[13] & 7) if header[4] & 0xC0 == 0x40 else 12
    elif code == _PROGRAM_END:
      position += 4
    else:
      length = int.from_bytes(header[4:6], "big")
      if not length:  # unbounded
        raise OddStructureError
      position += 6 + length
    yield position, is_intact


def _pack_clock(header: bytes) -> int:
  """Returns the system clock reference of a pack, without the extension of MPEG-2: 3, 15 and 15 bits, with markers."""
  value = int.from_bytes(header[4:9], "big") >> (2 if header[4] & 0xC0 == 0x40 else 0)
  return (value >> 33 & 7) << 30 | (value >> 17 & 0x7FFF) << 15 | value >> 1 & 0x7FFF


def _matroska(file: ByteFile, position: int) -> Iterator[tuple[int, bool]]:
  """Walks over children of the segment, some of them with checksums."""
  begin, size = segment_content(file)
  until = file.size if size is None else min(file.size, begin + size)
  if position >= until:  # in a further segment
    raise OddStructureError
  while begin < until:
    kind, size, content = 0, None, 0
    with contextlib.suppress(OddStructureError):
      kind, size, content = ebml_header(file, begin)
    if kind == CLUSTER and size is None:  # a live recording: its blocks follow
      begin = content
      yield begin, True
      continue
    if size is None or kind not in SEGMENT_CHILDREN + CLUSTER_CHILDREN:
      begin = file.find(CLUSTER.to_bytes(4, "big"), begin + 1)
      yield begin, begin <= position
      continue
    begin = content + size
    yield begin, begin <= position or begin > file.size or _matches_checksum(file, content, size)


def _matches_checksum(file: ByteFile, content: int, size: int) -> bool:
  """Returns whether the content of an element matches its checksum, if it has one, as its first child."""
  if file.read(content, 2) != _CRC32_HEADER:
    return True
  checksum = 0
  for position in range(content + 6, content + size, _CHUNK):
    checksum = zlib.crc32(file.read(position, min(_CHUNK, content + size - position)), checksum)
  return checksum == file.number(content + 2, 4, "little")


def _avi(file: ByteFile, position: int) -> Iterator[tuple[int, bool]]:
  """Chunks, from the one whose content begins at a position."""
  begin, kind, is_padded = position - 8, b"", False
  while begin + 8 <= file.size:
    if (last := _last_stream_chunk(file, begin)) > begin:
      begin, is_padded = last, False
      yield begin, True
    header, previous = file.read(begin, 12), kind
    if is_padded and not _is_stream_chunk(header):
      unpadded = file.read(begin - 1, 12)  # some writers omit the padding
      if _is_stream_chunk(unpadded) or not _is_fourcc(header):
        begin, header = begin - 1, unpadded
    kind, size = header[:4], int.from_bytes(header[4:8], "little")
    if not _is_fourcc(kind):
      if previous not in (b"", b"idx1") and file.find(previous, begin) < file.size:  # not bytes after the last chunk
        yield begin + 1, False
      return
    is_list = kind == b"RIFF" or (kind == b"LIST" and header[8:] in (b"movi", b"rec "))
    is_padded = not is_list and size % 2 == 1
    begin += 12 if is_list else 8 + size + size % 2
    if begin > file.size + 1:  # truncated, or no chunk
      yield begin - size, False
      return
    yield begin, True


def _last_stream_chunk(file: ByteFile, begin: int) -> int:
  """Returns the begin of the last of the chunks of streams that follow each other from `begin` on, in one window."""
  window, position, last = file.read(begin, _WINDOW), 0, 0
  last_header, kinds = len(window) - 8, set[bytes]()
  while position <= last_header:
    kind, size = _CHUNK_HEADER.unpack_from(window, position)
    if kind not in kinds:  # a test that takes longer than reading the header
      if not _is_stream_chunk(kind):
        break
      kinds.add(kind)
    last, position = position, position + 8 + size + size % 2
  return begin + last


def _is_fourcc(header: bytes) -> bool:
  return header[:4].isalnum() or all(0x20 <= byte < 0x7F for byte in header[:4])


def _is_stream_chunk(header: bytes) -> bool:
  """Returns whether a chunk holds data of a stream, as 00dc or 01wb."""
  return header[:2].isdigit() and header[2:4].isalpha()


def _flv(file: ByteFile, position: int) -> Iterator[tuple[int, bool]]:
  """Tags, each followed by its size, from the one that begins at a position."""
  begin = position
  while begin + 11 < file.size:
    end = _flv_tag_end(file, begin)
    if not end:
      yield begin + 1, begin == position
      return
    begin = end
    yield begin, True


def _flv_tag_end(file: ByteFile, begin: int) -> int:
  """Returns the end of a valid tag, which may lack its size at the end of the file; 0 for no tag."""
  header = file.read(begin, 11)
  if len(header) < 11 or header[0] & 0x1F not in _FLV_TAGS:
    return 0
  size = 11 + int.from_bytes(header[1:4], "big")
  return begin + size + 4 if begin + size + 4 > file.size or file.number(begin + size, 4) == size else 0


# By FFmpeg's names of containers.
_WALKS: dict[str, Walk] = {
  "avi": _avi,
  "flv": _flv,
  "ogg": _ogg,
  "asf": asf_packets.check_packets,
  "mpeg": _program_stream,
  "mpegts": transport_packets.check_packets,
  "matroska": _matroska,
}
