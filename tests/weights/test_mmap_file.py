"""Memory-mapped files, passes over them in blocks, and paths that cannot be mapped."""

import os
import pathlib
import re

import numpy as np
import pytest

from clipvip_jax.utils.errors import UserError
from clipvip_jax.weights import mmap_file
from clipvip_jax.weights.mmap_file import iterate_blocks, map_file


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
    ("lfs", "lfs is a Git LFS pointer, not its content; run `git lfs pull`"),
    ("page", "page is a web page; download the file itself"),
    ("a" * 300, "aaa cannot be read: .*File name too long"),
    ("zero\0", "cannot be read: .*embedded null"),
  ],
)
def test_path_that_cannot_be_mapped_is_refused(tmp_path, name, message):
  os.mkfifo(tmp_path / "pipe")
  (tmp_path / "file").write_bytes(b"x")
  (tmp_path / "empty").write_bytes(b"")
  (tmp_path / "lfs").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 605247071\n")
  (tmp_path / "page").write_text("<!DOCTYPE html><html>404</html>")
  with pytest.raises(UserError, match=message):
    map_file(tmp_path / name)


def test_blocks_are_consecutive_rows_of_bounded_size(monkeypatch):
  monkeypatch.setattr(mmap_file, "BLOCK_BYTES", 50)
  array = np.arange(40).reshape(20, 2)  # of 16 bytes a row
  blocks = list(iterate_blocks(array))
  assert [len(block) for block in blocks] == [3] * 6 + [2]
  np.testing.assert_array_equal(np.concatenate(blocks), array)
  assert list(iterate_blocks(array[:0])) == [] and len(list(iterate_blocks(np.zeros((2, 100))))) == 2


def resident_bytes(path):
  """Memory of this process that holds pages of a file."""
  maps = pathlib.Path("/proc/self/smaps").read_text()
  return 1024 * sum(map(int, re.findall(rf" {re.escape(str(path))}\n(?:[A-Z]\w+:.*\n)*?Rss: +(\d+) kB", maps)))


@pytest.mark.skipif(not pathlib.Path("/proc/self/smaps").exists(), reason="reads /proc of Linux")
def test_a_pass_over_a_mapped_file_keeps_little_of_it_in_memory(tmp_path, monkeypatch):
  monkeypatch.setattr(mmap_file, "BLOCK_BYTES", 2**20)
  monkeypatch.setattr(mmap_file, "RESIDENT_BYTES", 2**22)
  array = np.arange(2**23, dtype=np.float32).reshape(-1, 64)  # 32 MiB
  array.tofile(tmp_path / "file")
  mapped = np.frombuffer(map_file(tmp_path / "file"), np.float32, offset=256).reshape(-1, 64)
  before = resident_bytes(tmp_path / "file")
  total = sum(float(block.sum(dtype=np.float64)) for block in iterate_blocks(mapped))
  assert total == array[1:].sum(dtype=np.float64)
  assert 0 < resident_bytes(tmp_path / "file") - before < 2**23
  np.testing.assert_array_equal(mapped, array[1:])  # pages that were released are read again
