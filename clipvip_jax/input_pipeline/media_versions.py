"""Versions of videos: short texts that change when a file is replaced or edited, but not when it is copied or touched.

That of a local file depends on its size and on samples of its content, as modification times differ between copies;
that of an object, on its size and checksum; that of a folder of frames, on all names and sizes and some of the files.
"""

import functools
import hashlib
import os
import pathlib
from collections.abc import Iterable

from clipvip_jax.input_pipeline import read_media
from clipvip_jax.utils import storage, transfers
from clipvip_jax.utils.object_checksum import recorded_checksum

_SAMPLE = 2**14  # bytes
_NUM_SAMPLES = 9  # of a file, evenly spaced: the headers and indexes of containers are at the ends
_NUM_FILES = 16  # of a folder of frames


def media_versions(videos: Iterable[storage.PathLike], threads: int) -> dict[str, str]:
  """Returns the version of each video, image or folder of frames by its path; "" if it cannot be read.

  Raises:
    UserError: a bucket cannot be read.
  """
  paths = dict.fromkeys(os.fspath(video) for video in videos)
  return {path: str(version) for path, version in read_media.map_in_threads(paths, _version, threads)}


def _version(path: str) -> str:
  try:
    state = _remote_state(path) if storage.is_remote(path) else _local_state(pathlib.Path(path))
  except OSError:  # reading it as a video reports the reason
    return ""
  return hashlib.blake2b(state, digest_size=8).hexdigest()


def _local_state(path: pathlib.Path) -> bytes:
  if not path.is_dir():
    return _sample(path)
  files = sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith("."))
  listing = "".join(f"{file.name}\0{file.stat().st_size}\n" for file in files)
  return os.fsencode(listing) + b"".join(map(_sample, files[:: -(-len(files) // _NUM_FILES) or 1]))


def _sample(path: pathlib.Path) -> bytes:
  """Returns the size of a file and samples of its content."""
  with path.open("rb", buffering=0) as file:
    size = os.fstat(file.fileno()).st_size
    last = max(0, size - _SAMPLE)
    state = b"%d\n" % size
    for start in sorted({last * number // (_NUM_SAMPLES - 1) for number in range(_NUM_SAMPLES)}):
      file.seek(start)
      state += file.read(_SAMPLE)
  return state


def _remote_state(path: str) -> bytes:
  system = storage.file_system(path)
  files = transfers.retry(path, functools.partial(system.find, path, detail=True))
  if not files:
    raise FileNotFoundError(path)
  checksums = (f"{name}\0{info['size']}\0{recorded_checksum(info)}\n" for name, info in sorted(files.items()))
  return "".join(checksums).encode()
