"""Memory-mapped files, and paths that cannot be mapped."""

import os

import pytest

from clipvip_jax.utils.errors import UserError
from clipvip_jax.weights.mmap_file import map_file


def test_mapped_file_is_read_only(tmp_path):
  (tmp_path / "file").write_bytes(b"abc")
  data = map_file(tmp_path / "file")
  assert data[:] == b"abc"
  with pytest.raises(TypeError):
    data[0] = 1


@pytest.mark.parametrize(
  ("name", "message"),
  [
    ("none.pt", "none.pt: no such file; check the path"),
    ("", "is not a regular file; pass a file of weights"),
    ("pipe", "pipe is not a regular file; pass a file of weights"),
    ("file/below", "file/below: no such file; check the path"),
    ("empty", r"empty is empty \(0 bytes\); download it again"),
    ("a" * 300, "aaa cannot be read: .*File name too long"),
    ("zero\0", "cannot be read: .*embedded null"),
  ],
)
def test_path_that_cannot_be_mapped_is_refused(tmp_path, name, message):
  os.mkfifo(tmp_path / "pipe")
  (tmp_path / "file").write_bytes(b"x")
  (tmp_path / "empty").write_bytes(b"")
  with pytest.raises(UserError, match=message):
    map_file(tmp_path / name)
