"""Videos in object stores."""

import pytest

from clipvip_jax.data.engine import remote_video
from clipvip_jax.utils.errors import UserError


def test_files_parts_and_folders(bucket, tmp_path):
  bucket.write("v/a [1].mp4", b"0123456789")
  bucket.write("v/sub/b.mp4", b"b")
  remote_video.fetch(bucket / "v/a [1].mp4", tmp_path / "a")
  assert (tmp_path / "a").read_bytes() == b"0123456789"
  remote_video.fetch(bucket / "v", tmp_path / "v")
  assert (tmp_path / "v/sub/b.mp4").read_bytes() == b"b" and (tmp_path / "v/a [1].mp4").exists()
  for offset, size, expected in ((2, 3, b"234"), (8, 5, b"89"), (20, 5, b"")):
    remote_video.fetch(bucket / "v/a [1].mp4", tmp_path / "part", offset, size)
    assert (tmp_path / "part").read_bytes() == expected


def test_what_does_not_exist(bucket, tmp_path):
  with pytest.raises(FileNotFoundError):
    remote_video.fetch(bucket / "none.mp4", tmp_path / "a")
  with pytest.raises(UserError, match=r"the bucket no-such-bucket-.* does not exist; check its name"):
    remote_video.fetch(bucket.url.replace("bucket-", "no-such-bucket-") + "/a.mp4", tmp_path / "a")
  assert list(tmp_path.iterdir()) == []
