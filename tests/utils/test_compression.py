"""Compressed files are told from texts and tar files by their first bytes."""

import bz2
import gzip
import io
import lzma
import zipfile

import pytest

from clipvip_jax.utils.compression import START_BYTES, check_uncompressed
from clipvip_jax.utils.errors import UserError


def pack_zip(data):
  buffer = io.BytesIO()
  with zipfile.ZipFile(buffer, "w") as archive:
    archive.writestr("a.txt", data)
  return buffer.getvalue()


@pytest.mark.parametrize(
  ("pack", "name"), [(gzip.compress, "gzip"), (bz2.compress, "bzip2"), (lzma.compress, "xz"), (pack_zip, "zip")]
)
@pytest.mark.parametrize("data", [b"", b"{}"])
def test_compressed_files_are_refused(pack, name, data):
  with pytest.raises(UserError, match=rf"here: the file is compressed \({name}[,)]") as refused:
    check_uncompressed(pack(data)[:START_BYTES], "here")
  assert "\n" not in str(refused.value)


@pytest.mark.parametrize("start", [b"", b"{", b"BZh9 is a name", b"PK,name", b"\xef\xbb\xbfid", b"(\xc2\xb5", b"P*M"])
def test_texts_are_accepted(start):
  check_uncompressed(start, "here")
