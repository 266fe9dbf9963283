"""Videos in object stores."""

import concurrent.futures
import errno
import pathlib
import shutil
import tempfile
import threading

import pytest

from clipvip_jax.input_pipeline import read_media, remote_video
from clipvip_jax.input_pipeline.media_error import MediaError
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


def test_a_copy_is_shared_while_it_is_read_and_deleted_later(bucket, monkeypatch):
  fetched, fetch = [], remote_video.fetch
  monkeypatch.setattr(remote_video, "fetch", lambda url, path: (fetched.append(url), fetch(url, path)))
  names = [f"v/{number}.mp4" for number in range(9)]
  for name in names:
    bucket.write(name, name.encode())
  with remote_video.local_media(bucket / names[0]) as first:
    barrier = threading.Barrier(4)

    def read(name):
      barrier.wait()
      with remote_video.local_media(bucket / name) as path:
        return path, path.read_bytes()

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
      same = [path for path, _ in pool.map(read, names[:1] * 4)]
      assert same == [first] * 4 and len(fetched) == 1
      others = list(pool.map(read, names[1:]))
    assert [data for _, data in others] == [name.encode() for name in names[1:]]
    assert first.read_bytes() == b"v/0.mp4" and first.name == "0.mp4"
    assert 0 < sum(path.exists() for path, _ in others) < len(others)
  assert len(fetched) == len(names)


@pytest.mark.parametrize("size", [0, 4])
def test_a_full_disk_is_not_an_error_of_the_video(gs_bucket, tmp_path, monkeypatch, size):
  gs_bucket.write("a.mp4", b"0123")

  def fail(*_):
    raise OSError(errno.ENOSPC, "No space left on device")

  monkeypatch.setattr(remote_video.transfers, "download", fail)
  monkeypatch.setattr(pathlib.Path, "write_bytes", fail)
  with pytest.raises(UserError, match=r"cannot be copied to .*No space left on device.*; set TMPDIR") as caught:
    remote_video.fetch(gs_bucket / "a.mp4", tmp_path / "a.mp4", 0, size)
  assert not isinstance(caught.value, MediaError)


@pytest.mark.parametrize("problem", ["none", "deleted", "full"])
def test_a_temporary_folder_that_cannot_be_used_is_not_an_error_of_the_video(gs_bucket, tmp_path, monkeypatch, problem):
  gs_bucket.write("a.mp4", b"0123")

  def fail(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")

  remote_video._copies.cache_clear()
  monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
  if problem == "none":
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
  elif problem == "deleted":
    shutil.rmtree(remote_video._copies()._folder.name)
  else:
    monkeypatch.setattr(tempfile, "mkdtemp", fail)
  with pytest.raises(UserError, match=r"a\.mp4: cannot be copied to .* \(No s.*\); set TMPDIR") as caught:
    read_media.read_frames(gs_bucket / "a.mp4", 1)
  assert not isinstance(caught.value, MediaError)
  remote_video._copies.cache_clear()


def test_errors_name_the_object(bucket, tmp_path):
  bucket.write("a.mp4", b"a")
  with pytest.raises(MediaError) as error, remote_video.local_media(bucket / "none.mp4"):
    pass
  assert str(error.value) == f"{bucket / 'none.mp4'}: no such file"
  with pytest.raises(MediaError) as error, remote_video.local_media(bucket / "a.mp4") as path:
    raise MediaError(path, "corrupt")
  assert str(error.value) == f"{bucket / 'a.mp4'}: corrupt"
  with remote_video.local_media(tmp_path / "a") as path:
    assert path == tmp_path / "a"
