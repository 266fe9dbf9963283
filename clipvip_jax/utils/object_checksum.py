"""Comparison of local files with objects of a store, by size and by the checksum that the store computed."""

from __future__ import annotations

import base64
import hashlib
import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from clipvip_jax.utils.storage_errors import TransferError

if TYPE_CHECKING:
  import fsspec

_BLOCK = 2**20  # bytes that are read from a disk at once


def verify(local: pathlib.Path, system: fsspec.AbstractFileSystem, info: dict[str, Any]) -> None:
  """Compares a file with an object.

  Args:
    local: the file.
    system: of gcsfs or s3fs.
    info: what `system.info` returned of the object.

  Raises:
    TransferError: they differ.
    OSError: the file cannot be read.
  """
  if local.stat().st_size != info["size"]:
    raise TransferError(f"{info['name']} has another size")
  if not (_crc32c(local) == info["crc32c"] if "crc32c" in info else _matches_etag(local, system, info)):
    raise TransferError(f"{info['name']} has another checksum")


def recorded_checksum(info: Mapping[str, Any]) -> str:
  """Returns the checksum in what `system.info` returned of an object, which names its content; "None": it has none."""
  return str(info.get("md5Hash") or info.get("crc32c") or info.get("ETag"))


def _crc32c(local: pathlib.Path) -> str:
  """Returns the checksum that Google Cloud Storage records of each object."""
  import google_crc32c  # comes with gcsfs

  checksum = google_crc32c.Checksum()
  for block in _blocks(local, 0, local.stat().st_size):
    checksum.update(block)
  return base64.b64encode(checksum.digest()).decode()


def _matches_etag(local: pathlib.Path, system: fsspec.AbstractFileSystem, info: dict[str, Any]) -> bool:
  """Compares a file with an S3 ETag: its MD5 digest, or that of the digests of its parts. True for other tags."""
  match = re.fullmatch(r'"?([0-9a-f]{32})(?:-(\d+))?"?', str(info.get("ETag", "")))
  if match is None:
    return True
  if not match[2] and _md5(local, 0, info["size"]).hexdigest() == match[1]:
    return True
  bucket, _, key = info["name"].partition("/")
  head = system.call_s3("head_object", Bucket=bucket, Key=key, **({"PartNumber": 1} if match[2] else {}))
  if "kms" in str(head.get("ServerSideEncryption", "")) or head.get("SSECustomerAlgorithm"):
    return True  # the tag is no digest of the content; botocore has compared checksums
  if not match[2]:
    return False
  starts = range(0, info["size"], head["ContentLength"] or 1)
  if len(starts) != int(match[2]):
    return True  # its parts have several sizes
  digests = b"".join(_md5(local, start, head["ContentLength"]).digest() for start in starts)
  return hashlib.md5(digests, usedforsecurity=False).hexdigest() == match[1]


def _md5(local: pathlib.Path, start: int, size: int) -> hashlib._Hash:
  digest = hashlib.md5(usedforsecurity=False)
  for block in _blocks(local, start, size):
    digest.update(block)
  return digest


def _blocks(local: pathlib.Path, start: int, size: int) -> Iterator[bytes]:
  """Yields a part of a file."""
  with local.open("rb") as file:
    file.seek(start)
    while size > 0 and (block := file.read(min(size, _BLOCK))):
      size -= len(block)
      yield block
