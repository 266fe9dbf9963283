"""Elements of Matroska and WebM files (EBML, RFC 8794 and 9559)."""

from clipvip_jax.input_pipeline.byte_file import ByteFile, OddStructureError

SEGMENT, CLUSTER, CUES, VOID, CRC32 = 0x18538067, 0x1F43B675, 0x1C53BB6B, 0xEC, 0xBF
SEGMENT_CHILDREN = (0x114D9B74, 0x1549A966, 0x1654AE6B, 0x1254C367, 0x1941A469, 0x1043A770, CUES, CLUSTER, VOID, CRC32)
CLUSTER_CHILDREN = (0xE7, 0xA3, 0xA0, 0xAB, 0xA7, 0x5854, VOID, CRC32)


def segment_content(file: ByteFile) -> tuple[int, int | None]:
  """Returns (position of a segment's content, its size or None for unknown).

  Raises:
    OddStructureError: there is no segment.
  """
  position, kind = 0, 0
  for _ in range(64):
    kind, size, position = ebml_header(file, position)
    if kind == SEGMENT:
      return position, size
    if size is None:
      break
    position += size
  raise OddStructureError


def ebml_header(file: ByteFile, position: int) -> tuple[int, int | None, int]:
  """Returns (id, size or None for unknown, position of the content); a header beyond the file's end ends after it."""
  data = file.read(position, 12)
  id_length = 9 - data[0].bit_length() if data else 9
  if id_length > 4:
    raise OddStructureError
  if len(data) <= id_length:
    return 0, None, file.size + 1
  length = 9 - data[id_length].bit_length()
  if length > 8:
    raise OddStructureError
  if len(data) < id_length + length:
    return 0, None, file.size + 1
  size = int.from_bytes(data[id_length : id_length + length], "big") & ((1 << 7 * length) - 1)
  unknown = size == (1 << 7 * length) - 1
  return int.from_bytes(data[:id_length], "big"), None if unknown else size, position + id_length + length
