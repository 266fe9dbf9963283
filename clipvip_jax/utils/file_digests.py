"""Digests of files, and digests.json, which records those of all files in a folder, and that of its own entries.

A digest must cost much less than reading a checkpoint, and cryptographic ones cost as much. Each block of a file is
therefore first reduced by a multilinear hash (sum of weight * word mod 2^64, with fixed odd weights): any change within
one word changes it, any other change does with probability 1 - 2^-64. BLAKE2b digests the size and the blocks' hashes.
This detects faults of disks, memory and transfers, not forgery.
"""

import concurrent.futures
import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Iterable

import numpy as np

from clipvip_jax.utils import atomic_write

NAME = "digests.json"
_BLOCK = 2**14  # words per block: 128 KiB
_BLOCKS_PER_READ = 16
_SEGMENT = 2**26  # bytes of a file that one thread digests
_THREADS = min(8, os.cpu_count() or 1)


def _weights() -> np.ndarray:
  """Returns the odd uint64 weights of a block: the generator SplitMix64."""
  x = np.arange(1, _BLOCK + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
  x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
  x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
  return (x ^ (x >> np.uint64(31))) | np.uint64(1)


_WEIGHTS = _weights()


def digest_files(paths: Iterable[os.PathLike[str]]) -> list[str]:
  """Digests files in threads.

  Returns:
    32 hexadecimal digits for each file.

  Raises:
    OSError: a file cannot be read.
  """
  with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
    files = []
    for path in map(pathlib.Path, paths):
      size = path.stat().st_size
      files.append((size, [pool.submit(_hash_segment, path, start) for start in range(0, size, _SEGMENT)]))
    digests = []
    for size, segments in files:
      digest = hashlib.blake2b(size.to_bytes(8, "little"), digest_size=16)
      for segment in segments:
        digest.update(segment.result())
      digests.append(digest.hexdigest())
  return digests


def _hash_segment(path: pathlib.Path, start: int) -> bytes:
  """Returns the hashes of the blocks of a segment; the last block of a file is filled with zeros."""
  words = np.empty((_BLOCKS_PER_READ, _BLOCK), "<u8")
  buffer = words.reshape(-1).view(np.uint8).data
  hashes = []
  with path.open("rb", buffering=0) as file:
    file.seek(start)
    for _ in range(_SEGMENT // len(buffer)):
      count = _read_full(file.readinto, buffer)
      num_blocks = -(-count // (8 * _BLOCK))
      words.reshape(-1).view(np.uint8)[count : 8 * _BLOCK * num_blocks] = 0
      hashes.append(np.einsum("ij,j->i", words[:num_blocks], _WEIGHTS).astype("<u8").tobytes())
      if count < len(buffer):
        break
  return b"".join(hashes)


def _read_full(readinto: Callable[[memoryview], int | None], buffer: memoryview) -> int:
  """Fills a buffer as far as the file reaches; one call may return less. Returns the number of bytes."""
  count = 0
  while count < len(buffer) and (more := readinto(buffer[count:])):
    count += more
  return count


def write_digests(folder: pathlib.Path, select: Callable[[str], bool] = lambda name: True) -> None:
  """Writes digests.json atomically, with the digest of every file in a folder and the folders in it.

  Args:
    folder: with the files.
    select: which files to list, by name relative to the folder.

  Raises:
    OSError: a file cannot be read or written.
  """
  paths = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / NAME)
  names = [name for path in paths if select(name := path.relative_to(folder).as_posix())]
  _write(folder, dict(zip(names, digest_files(folder / name for name in names), strict=True)))


def add_digest(folder: pathlib.Path, name: str) -> None:
  """Adds the digest of a file to digests.json atomically, if there is such a file.

  Raises:
    ValueError: digests.json is corrupt.
    OSError: a file cannot be read or written.
  """
  digests = read_digests(folder)
  if digests is not None:
    _write(folder, {**digests, name: digest_files([folder / name])[0]})


def remove_digest(folder: pathlib.Path, name: str) -> None:
  """Removes the digest of a file from digests.json atomically, if it is there.

  Raises:
    ValueError: digests.json is corrupt.
    OSError: it cannot be written.
  """
  digests = read_digests(folder) or {}
  if digests.pop(name, None) is not None:
    _write(folder, digests)


def _write(folder: pathlib.Path, digests: dict[str, str]) -> None:
  with atomic_write.atomic_path(folder / NAME) as temporary:
    content = {**digests, NAME: _digest_entries(digests)}
    temporary.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def _digest_entries(digests: dict[str, str]) -> str:
  return hashlib.blake2b(json.dumps(digests, sort_keys=True).encode(), digest_size=16).hexdigest()


def read_digests(folder: pathlib.Path, *, has_own: bool = False) -> dict[str, str] | None:
  """Reads digests.json: {name relative to the folder: digest}; None if there is no such file.

  Args:
    folder: with the file.
    has_own: whether it must have a digest of its own entries, which earlier versions did not write.

  Raises:
    ValueError: the file is corrupt.
  """
  try:
    digests = json.loads((folder / NAME).read_text(encoding="utf-8"))
  except FileNotFoundError:
    return None
  except (OSError, ValueError, RecursionError) as error:
    raise ValueError(f"{NAME} is corrupt") from error
  if not isinstance(digests, dict) or not all(isinstance(digest, str) for digest in digests.values()):
    raise ValueError(f"{NAME} is corrupt")
  if not all(_is_inside(name) for name in digests):
    raise ValueError(f"{NAME} is corrupt")
  own = digests.pop(NAME, None)
  if own != _digest_entries(digests) and (has_own or own is not None):
    raise ValueError(f"{NAME} is corrupt")
  return digests


def _is_inside(name: str) -> bool:
  """Returns whether a name is of a file in the folder, and not of one elsewhere."""
  parts = name.split("/")
  return "\0" not in name and not {"", ".", ".."} & set(parts)


def check_digests(folder: pathlib.Path, select: Callable[[str], bool] = lambda name: True) -> bool:
  """Compares files with digests.json. Files that it does not list are ignored.

  Args:
    folder: with the files.
    select: which of the listed names to compare.

  Returns:
    False if there is no digests.json, so that nothing could be compared.

  Raises:
    ValueError: a file is missing or has another digest; names it.
  """
  digests = read_digests(folder)
  if digests is None:
    return False
  names = list(filter(select, digests))
  missing = [name for name in names if not (folder / name).is_file()]
  if missing:
    raise ValueError(f"{missing[0]} is missing")
  for name, digest in zip(names, digest_files(folder / name for name in names), strict=True):
    if digest != digests[name]:
      raise ValueError(f"{name} does not match its digest")
  return True
