"""The local cache of the files of corpora in object stores."""

import concurrent.futures
import os
import random
import shutil
import subprocess
import sys

import pytest

from clipvip_jax.input_pipeline.file_cache import FileCache, RemoteFile
from clipvip_jax.utils.errors import UserError

SIZE = 1000
READER = """
import pathlib, random, sys
from clipvip_jax.input_pipeline.file_cache import FileCache, RemoteFile
folder, limit, seed, url = sys.argv[1:]
cache, draw = FileCache(pathlib.Path(folder), int(limit)), random.Random(int(seed))
for _ in range(40):
  n = draw.randrange(6)
  with cache.use(RemoteFile(f"{url}/{n}", 1000, "", 1)) as path:
    assert path.read_bytes() == bytes([n]) * 1000
    files = [p.name for p in path.parent.iterdir() if p.suffix != ".part" and p.name != "lock"]
    assert 1000 * len(files) <= int(limit), files
"""


def files(bucket, count=6):
  for number in range(count):
    bucket.write(f"x/{number}", bytes([number]) * SIZE)
  return [RemoteFile(bucket / f"x/{number}", SIZE, "", 1) for number in range(count)]


def cached(folder):
  return [path for path in folder.iterdir() if path.suffix == ".array_record"]


def test_files_are_downloaded_once_and_deleted_by_their_last_use(bucket, tmp_path):
  cache, remote = FileCache(tmp_path / "cache", 3 * SIZE), files(bucket)
  for number in (0, 1, 2, 0, 3, 0, 4):
    with cache.use(remote[number]) as path:
      assert path.read_bytes() == bytes([number]) * SIZE
  assert [cache.holds(file) for file in remote] == [True, False, False, True, True, False]
  assert len(cached(tmp_path / "cache")) == 3 and not list((tmp_path / "cache").glob("*.part"))
  with cache.use(remote[0]) as path:
    bucket.write("x/0", bytes(2 * SIZE))
    assert path.read_bytes() == bytes(SIZE)


def test_a_file_in_use_is_kept(gs_bucket, tmp_path):
  cache, remote = FileCache(tmp_path, 2 * SIZE), files(gs_bucket)
  with cache.use(remote[0]) as kept, cache.use(remote[0]):
    for number in (1, 2, 3):
      with cache.use(remote[number]):
        assert kept.exists() and len(cached(tmp_path)) <= 2
  with cache.use(remote[4]), cache.use(remote[5]):
    assert not kept.exists()


def test_a_full_cache_waits_for_a_file_to_be_free(gs_bucket, tmp_path):
  cache, remote = FileCache(tmp_path, 2 * SIZE), files(gs_bucket)

  def read(number):
    with cache.use(remote[number]) as path:
      return path.read_bytes()

  with concurrent.futures.ThreadPoolExecutor() as pool:
    with cache.use(remote[0]), cache.use(remote[1]):
      waiting = pool.submit(read, 2)
      with pytest.raises(TimeoutError):
        waiting.result(timeout=0.3)
    assert waiting.result(timeout=30) == bytes([2]) * SIZE


def test_threads_and_processes_share_a_small_cache(gs_bucket, tmp_path):
  remote = files(gs_bucket)
  arguments = [sys.executable, "-c", READER, str(tmp_path), str(4 * SIZE)]
  processes = [subprocess.Popen([*arguments, str(seed), gs_bucket / "x"]) for seed in range(2)]
  cache = FileCache(tmp_path, 4 * SIZE)

  def read(seed):
    draw = random.Random(seed)
    for _ in range(30):
      number = draw.randrange(6)
      with cache.use(remote[number]) as path:
        assert path.read_bytes() == bytes([number]) * SIZE

  with concurrent.futures.ThreadPoolExecutor() as pool:
    list(pool.map(read, range(10, 12)))
  assert [process.wait(timeout=60) for process in processes] == [0, 0]
  assert len(cached(tmp_path)) <= 4 and not list(tmp_path.glob("*.part"))


def test_what_a_killed_process_left_neither_counts_nor_is_used(gs_bucket, tmp_path):
  cache, remote = FileCache(tmp_path, 2 * SIZE), files(gs_bucket)
  part = tmp_path / f"{remote[1].key}.part"
  part.touch()
  os.truncate(part, 2 * SIZE)
  temporary = tmp_path / f".{remote[1].key}.array_record.1.ab.tmp"
  temporary.write_bytes(b"half")
  (tmp_path / f"{remote[0].key}.array_record").write_bytes(b"cut off")
  for number in (0, 1):
    with cache.use(remote[number]) as path:
      assert path.read_bytes() == bytes([number]) * SIZE
  assert not part.exists() and not temporary.exists()


@pytest.mark.usefixtures("quick_retries")
def test_a_cut_download_is_not_kept(bucket, tmp_path, monkeypatch):
  monkeypatch.setattr("clipvip_jax.utils.transfers.RETRY_DELAYS", ())
  cache, (remote, *_) = FileCache(tmp_path, SIZE), files(bucket)
  faults = bucket.faults(rate=1, kinds=("truncated",), match="GET .*(alt=media|/x/0$)")
  with faults, pytest.raises(UserError), cache.use(remote):
    pytest.fail("used")
  assert cached(tmp_path) == [] and not list(tmp_path.glob("*.part")) and not list(tmp_path.glob(".*"))
  with cache.use(remote) as path:
    assert path.read_bytes() == bytes(SIZE)


def test_limits_are_checked(gs_bucket, tmp_path):
  remote = files(gs_bucket)
  with pytest.raises(UserError, match=r"data.cache_gb=1e-07 is less than the 1e-06 GB of gs://.*; raise it"):
    FileCache(tmp_path, 100).fitted(remote)
  (tmp_path / "file").touch()
  with pytest.raises(UserError, match=r"data.cache_dir=.*/file: .*; choose another folder"):
    FileCache(tmp_path / "file", SIZE).fitted(remote)
  with pytest.raises(FileNotFoundError), FileCache(tmp_path, SIZE).use(RemoteFile(gs_bucket / "x/9", 1, "", 1)):
    pytest.fail("used")


@pytest.mark.parametrize(("cached_files", "free", "limit"), [(0, 10, 5), (0, 2, 1.9), (2, 0, 2), (2, 1, 2.95)])
def test_a_disk_with_less_space_than_the_limit_lowers_it(gs_bucket, tmp_path, monkeypatch, cached_files, free, limit):
  cache, remote = FileCache(tmp_path, 5 * SIZE), files(gs_bucket)
  for file in remote[:cached_files]:
    with cache.use(file):
      pass
  monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(9 * SIZE, 9 * SIZE, free * SIZE))
  fitted = cache.fitted(remote)
  assert fitted == FileCache(tmp_path, int(limit * SIZE))
  for file in remote:
    with fitted.use(file):
      assert len(cached(tmp_path)) <= limit


@pytest.mark.parametrize("free", [0, 1])
def test_a_disk_without_space_for_a_file_is_refused(gs_bucket, tmp_path, monkeypatch, free):
  monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(SIZE, SIZE, free * SIZE))
  with pytest.raises(
    UserError, match=r"data.cache_dir=.* room for .* of the 1e-06 GB of gs://.*; free space, or choose"
  ):
    FileCache(tmp_path, 5 * SIZE).fitted(files(gs_bucket))
