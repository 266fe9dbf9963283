"""Checksums of objects, as emulated stores compute them."""

import pytest

from clipvip_jax.utils import object_checksum, storage
from clipvip_jax.utils.storage_errors import TransferError


@pytest.mark.parametrize("size", [3, 5 * 2**20 + 7])
def test_a_changed_byte_and_a_missing_byte_are_detected(bucket, tmp_path, size):
  content = bytes(range(256)) * (size // 256) + bytes(size % 256)
  bucket.write("a folder/file", content)
  system = storage.file_system(bucket.url)
  info = system.info(bucket / "a folder/file")
  local = tmp_path / "file"
  local.write_bytes(content)
  object_checksum.verify(local, system, info)
  for wrong in (content + b"x", content[:-1] + b"x"):
    local.write_bytes(wrong)
    with pytest.raises(TransferError):
      object_checksum.verify(local, system, info)


def test_an_object_of_parts_is_compared(s3_bucket, tmp_path):
  system, local = storage.file_system(s3_bucket.url), tmp_path / "file"
  local.write_bytes(bytes(range(256)) * 50_000)  # 12.8 MB, in parts of 5 MiB
  system.put_file(str(local), s3_bucket / "file", chunksize=5 * 2**20)
  info = system.info(s3_bucket / "file")
  assert info["ETag"].strip('"').endswith("-3")
  object_checksum.verify(local, system, info)
  with local.open("r+b") as file:
    file.seek(6 * 2**20)
    file.write(b"\0\0")
  with pytest.raises(TransferError, match="another checksum"):
    object_checksum.verify(local, system, info)
