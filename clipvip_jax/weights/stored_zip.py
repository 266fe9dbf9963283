"""Zip archives of uncompressed entries, as `torch.save` writes them, read as views of the file.

Archives are untrusted. Those that two readers could understand differently are refused: duplicate names, overlapping
entries, local headers that contradict the central directory, names that lead outside of the archive. Nothing is
decompressed: TorchScript compresses its source code, `NAME/code/...`, whose content is not returned.
"""

import itertools
import mmap
import struct
import zipfile
from typing import IO, cast

from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.log import printable

# Bytes of the central directory; parsing takes up to a hundred times as much memory. B/32 has 40 kB.
_MAX_DIRECTORY = 4 << 20
_NAME_LIMIT = 160  # characters of an entry's name in a message
_LOCAL_HEADER = struct.Struct("<4s5H3L2H")
_LOCAL_MAGIC, _END_MAGIC = b"PK\x03\x04", b"PK\x05\x06"
_ZIP64_END_MAGIC, _ZIP64_LOCATOR_MAGIC = b"PK\x06\x06", b"PK\x06\x07"
_ENCRYPTED = 0x2041  # flags: content, "strong" encryption, directory
_UTF_8 = 0x800  # flag: the name is UTF-8


def is_zip(data: bytes) -> bool:
  """Returns whether the first bytes of a file are those of a zip archive with entries."""
  return data[:4] == _LOCAL_MAGIC


def read_entries(data: mmap.mmap) -> dict[str, memoryview]:
  """Returns {name: content} of all entries, without a copy; the content of compressed source code is empty.

  Raises:
    UserError: the archive is corrupt, ambiguous, compressed or encrypted. The message names the entry.
    Exception: whatever `zipfile` raises for a corrupt directory.
  """
  size = _directory_size(data)
  if size > _MAX_DIRECTORY:
    raise UserError(f"the zip directory has {size} bytes; at most {_MAX_DIRECTORY} are supported")
  entries: dict[str, memoryview] = {}
  ranges = []
  with zipfile.ZipFile(cast(IO[bytes], data)) as archive:
    for info in archive.infolist():
      name = printable(info.filename, _NAME_LIMIT)
      if info.filename in entries:
        raise _corrupt(f"two entries are named '{name}'")
      begin = _content_offset(data, info)
      end = begin + info.compress_size
      if end > archive.start_dir:
        raise _corrupt(f"entry '{name}' extends into the zip directory or past the end of the file")
      ranges.append((info.header_offset, end, name))
      entries[info.filename] = memoryview(data)[begin : begin if info.compress_type else end]
  ranges.sort()
  for (_, end, name), (begin, _, next_name) in itertools.pairwise(ranges):
    if end > begin:
      raise _corrupt(f"entry '{next_name}' overlaps entry '{name}'")
  return entries


def _corrupt(problem: str) -> UserError:
  return UserError(f"corrupt zip archive: {problem}; download the file again")


def _directory_size(data: mmap.mmap) -> int:
  """Returns the size of the central directory according to the record at the end of the file."""
  if data[-22:-18] != _END_MAGIC or data[-2:] != b"\0\0":
    raise _corrupt("no end record at the end of the file, which may be truncated")
  if data[-42:-38] == _ZIP64_LOCATOR_MAGIC and data[-98:-94] == _ZIP64_END_MAGIC:
    return int.from_bytes(data[-58:-50], "little")
  return int.from_bytes(data[-10:-6], "little")


def _content_offset(data: mmap.mmap, info: zipfile.ZipInfo) -> int:
  """Returns the offset of an entry's content, after checking that directory and local header agree."""
  name = printable(info.orig_filename, _NAME_LIMIT)
  segments = info.orig_filename.removesuffix("/").split("/")
  if info.filename != info.orig_filename or "\\" in name or not {"", ".", ".."}.isdisjoint(segments):
    raise _corrupt(f"entry '{name}' has a name that PyTorch does not write")
  if info.header_offset < 0 or info.header_offset + _LOCAL_HEADER.size > len(data):
    raise _corrupt(f"entry '{name}' lies outside of the file")
  magic, _, flags, method, *_, name_size, extra_size = _LOCAL_HEADER.unpack_from(data, info.header_offset)
  if magic != _LOCAL_MAGIC:
    raise _corrupt(f"entry '{name}' has no local header where the directory places it")
  is_code = segments[1:2] == ["code"] and method == info.compress_type == zipfile.ZIP_DEFLATED
  is_stored = method == info.compress_type == zipfile.ZIP_STORED and info.file_size == info.compress_size
  if not is_code and not is_stored:
    raise UserError(f"zip entry '{name}' is compressed; only uncompressed entries, as PyTorch writes, are supported")
  if (info.flag_bits | flags) & _ENCRYPTED:
    raise UserError(f"zip entry '{name}' is encrypted; decrypt the file first")
  begin = info.header_offset + _LOCAL_HEADER.size
  if data[begin : begin + name_size] != info.orig_filename.encode("utf-8" if info.flag_bits & _UTF_8 else "cp437"):
    raise _corrupt(f"entry '{name}' has another name in its local header")
  return begin + name_size + extra_size
