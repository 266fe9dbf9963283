"""Completeness of a video file by the sizes in its container: RIFF, MP4, Matroska, ASF, Ogg, FLV, GIF and PNG.

Reads headers only, never allocates by a size in the file, and stops after a bounded number of elements.
"""

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator

from clipvip_jax.input_pipeline import asf_packets
from clipvip_jax.input_pipeline.byte_file import ByteFile, OddStructureError, open_bytes
from clipvip_jax.input_pipeline.matroska_elements import (
  CLUSTER_CHILDREN,
  CUES,
  SEGMENT_CHILDREN,
  ebml_header,
  segment_content,
)

_MAX_ELEMENTS = 2_000_000
_RIFF_SLACK = 9  # bytes; writers disagree on whether the size includes the header and the padding
_MP4_CONTENT = (b"moov", b"moof", b"mdat", b"mfra", b"sidx", b"meta")
_MP4_OTHER = (
  b"ftyp",
  b"styp",
  b"free",
  b"skip",
  b"wide",
  b"uuid",
  b"pnot",
  b"udta",
  b"emsg",
  b"prft",
  b"ssix",
  b"pdin",
)
_MAX_OGG_PAGE = 27 + 255 + 255 * 255


@dataclasses.dataclass(frozen=True)
class Extent:
  """Where a file ends by the sizes in its container.

  Attributes:
    end: byte at which the last element ends; more than `size`: the file is truncated.
    size: bytes of the file.
    verifiable: whether a truncated file would have been noticed. False for formats without sizes, and for files cut
      between two elements of a format that has no end mark.
    states_duration: whether the file's duration is that of a header. False where FFmpeg estimates it from what is left.
  """

  end: int
  size: int
  verifiable: bool
  states_duration: bool = True

  @property
  def truncated(self) -> bool:
    """Whether an element ends after the end of the file, or the end mark is missing."""
    return self.end > self.size


def read_extent(path: str | os.PathLike[str], format_name: str) -> Extent:
  """Returns the extent of a file.

  Args:
    path: a video file.
    format_name: FFmpeg's name of its container, such as "mov,mp4,m4a,3gp,3g2,mj2".

  Raises:
    OSError: the file cannot be read.
  """
  with open_bytes(path) as file:
    for name, walk in _WALKS.items():
      if name in format_name.split(","):
        with contextlib.suppress(OddStructureError):
          return walk(file)
  is_image = format_name.endswith("_pipe")  # decoders refuse a truncated image
  return Extent(file.size, file.size, verifiable=is_image)


def _extent(file: ByteFile, end: int, *, verifiable: bool = True, states_duration: bool = True) -> Extent:
  return Extent(end, file.size, verifiable, states_duration)


def _bounded() -> Iterator[None]:
  for _ in range(_MAX_ELEMENTS):
    yield
  raise OddStructureError


def _riff(file: ByteFile) -> Extent:
  """Adds up RIFF chunks at the top level; OpenDML files have several."""
  end = 0
  for _ in _bounded():
    if file.read(end, 4) != b"RIFF":
      break
    size = file.number(end + 4, 4, "little")
    if size in (0, 0xFFFFFFFF):  # a live recording
      return _extent(file, file.size, verifiable=False)
    end += 8 + size + size % 2
  if not end:
    raise OddStructureError
  return _extent(file, end if end > file.size + _RIFF_SLACK else min(end, file.size))


def _mp4(file: ByteFile) -> Extent:
  """Adds up boxes at the top level; the segment index (sidx) of a fragmented file has the sizes of its fragments."""
  position = end = 0
  fragmented = closed = False
  known = _MP4_CONTENT + _MP4_OTHER
  for _ in _bounded():
    header = file.read(position, 16)
    size, kind, offset = int.from_bytes(header[:4], "big"), header[4:8], 8
    if size == 1:
      size, offset = int.from_bytes(header[8:], "big"), 16
    elif size == 0:
      size = file.size - position
    is_unknown_box = fragmented and size >= offset and file.read(position + size + 4, 4) in known
    if kind not in known and not is_unknown_box:
      if fragmented and file.find(b"moof", position) < file.size:  # FFmpeg does not find the next fragment
        return _extent(file, file.size + 1, states_duration=False)
      break  # the end, or bytes that are no part of the video
    if size < offset:
      raise OddStructureError
    fragmented |= kind == b"moof"
    closed |= kind == b"mfra"
    position += size
    if kind in _MP4_CONTENT:
      end = max(end, position)
    if kind == b"sidx":
      closed, end = True, max(end, _sidx_end(file, position - size + offset, position))
  return _extent(file, end, verifiable=closed or not fragmented, states_duration=not fragmented)


def _sidx_end(file: ByteFile, content: int, box_end: int) -> int:
  """Returns the end of the last fragment that a segment index lists."""
  times = content + 12 + (8 if file.number(content, 1) == 0 else 16)
  first_offset = file.number(times - 4, 4) if file.number(content, 1) == 0 else file.number(times - 8, 8)
  references = file.read(times + 4, 12 * file.number(times + 2, 2))
  sizes = (int.from_bytes(references[i : i + 4], "big") & 0x7FFFFFFF for i in range(0, len(references), 12))
  return box_end + first_offset + sum(sizes)


def _matroska(file: ByteFile) -> Extent:
  """Reads the size of the segment; if it has no size, as in live recordings, its clusters and their blocks."""
  position, size = segment_content(file)
  if size is not None:
    return _extent(file, position + size)
  known, closed = (*SEGMENT_CHILDREN, *CLUSTER_CHILDREN), False
  for _ in _bounded():
    if position >= file.size:
      break
    kind, size, content = ebml_header(file, position)
    if content > file.size:
      return _extent(file, content)
    if kind not in known:
      break
    closed |= kind == CUES
    position = content + (size or 0)  # a cluster without a size: its blocks follow
  return _extent(file, position, verifiable=closed or position > file.size)


def _asf(file: ByteFile) -> Extent:
  """Adds up the header and data objects; indices follow them."""
  position, size = asf_packets.data_object(file)
  if size < asf_packets.DATA_HEADER:  # a live recording
    return _extent(file, file.size, verifiable=False)
  return _extent(file, position + size)


def _ogg(file: ByteFile) -> Extent:
  """Finds the last page, which is marked as the end of its stream."""
  first = max(0, file.size - 2 * _MAX_OGG_PAGE)
  tail = file.read(first, 2 * _MAX_OGG_PAGE)
  page = tail.rfind(b"OggS")
  if page < 0:
    raise OddStructureError
  header = tail[page : page + 27]
  segments = tail[page + 27 : page + 27 + header[26]] if len(header) == 27 else b""
  if len(header) < 27 or len(segments) < header[26]:
    return _extent(file, file.size + 1, states_duration=False)
  end = first + page + 27 + len(segments) + sum(segments)
  return _extent(file, end, verifiable=end > file.size or bool(header[5] & 4), states_duration=False)


def _flv(file: ByteFile) -> Extent:
  """Tags, each followed by its size: a file that ends with the size of a tag is complete."""
  last = file.number(file.size - 4, 4)
  if last >= 11 and file.number(file.size - 3 - last, 3) + 11 == last:
    return _extent(file, file.size, verifiable=False)
  position = file.number(5, 4) + 4
  for _ in _bounded():
    if position >= file.size:
      break
    header = file.read(position, 11)
    if len(header) == 11 and header[0] & 0x1F not in (8, 9, 18):
      raise OddStructureError
    position += 11 + int.from_bytes(header[1:4], "big") + 4
  # The size of the last tag may be missing.
  return _extent(file, position if position > file.size + 4 else file.size, verifiable=position > file.size + 4)


def _gif(file: ByteFile) -> Extent:
  """Blocks up to the trailer; no header says how many."""
  flags = file.number(10, 1)
  position = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
  for _ in _bounded():
    if position >= file.size:
      return _extent(file, file.size + 1, states_duration=False)
    kind = file.number(position, 1)
    if kind == 0x3B:
      return _extent(file, position + 1, states_duration=False)
    if kind == 0x21:
      position += 2
    elif kind == 0x2C:
      flags = file.number(position + 9, 1)
      position += 11 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    else:  # no block: what follows is lost
      return _extent(file, file.size + 1, states_duration=False)
    for _ in _bounded():
      if position >= file.size:
        return _extent(file, file.size + 1, states_duration=False)
      size = file.number(position, 1)
      position += size + 1
      if not size:
        break
  raise AssertionError


def _png(file: ByteFile) -> Extent:
  """Chunks up to the last one; animations (APNG) have no other end mark."""
  position = 8
  for _ in _bounded():
    if position >= file.size:
      return _extent(file, file.size + 1, states_duration=False)
    end = position + 12 + file.number(position, 4)
    if file.read(position + 4, 4) == b"IEND":
      return _extent(file, end, states_duration=False)
    position = end
  raise AssertionError


# By FFmpeg's names of containers. MPEG transport and program streams and raw streams promise nothing.
_WALKS: dict[str, Callable[[ByteFile], Extent]] = {
  "avi": _riff,
  "mov": _mp4,
  "matroska": _matroska,
  "asf": _asf,
  "ogg": _ogg,
  "flv": _flv,
  "gif": _gif,
  "apng": _png,
}
