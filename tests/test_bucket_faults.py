"""Faults of object stores, drawn by 20 seeds: nothing is lost, and no wrong bytes are read."""

import random

import pytest
from buckets import with_faults

from clipvip_jax.utils import conditional_write, storage, transfers

pytestmark = pytest.mark.usefixtures("quick_retries")


def test_transfers(bucket, tmp_path):
  def transfer(seed, folder):
    rng, source, target = random.Random(seed), tmp_path / folder / "source", tmp_path / folder / "target"
    sizes = {f"{rng.choice(('', 'a/', 'ä b/c/'))}{n}": rng.choice((0, 1, 1000, 100_000)) for n in range(8)}
    sizes |= {"big": 6 * 2**20} if seed % 5 == 0 else {}  # uploaded in parts
    for name, size in sizes.items():
      (source / name).parent.mkdir(parents=True, exist_ok=True)
      (source / name).write_bytes(rng.randbytes(size))
    transfers.upload_folder(source, storage.absolute(bucket / folder))
    assert transfers.list_names(storage.absolute(bucket / folder)) == sorted(sizes)
    transfers.download_folder(storage.absolute(bucket / folder), target)
    for name in sizes:
      assert bucket.read(f"{folder}/{name}") == (target / name).read_bytes() == (source / name).read_bytes(), name

  with_faults(bucket, transfer)


def test_conditional_writes(bucket):
  """A number is replaced by the next if nobody else has replaced it."""

  def count(seed, folder):
    path = storage.absolute(f"{bucket / folder}/number")
    created = [conditional_write.create_exclusive(path, b"0 of %d" % writer) for writer in range(2)]
    assert created[0] and created[1] is None
    for number in range(3):
      content, token = conditional_write.read(path)
      assert content == b"%d of 0" % number
      assert conditional_write.replace(path, b"%d of 0" % (number + 1), token)
      assert conditional_write.replace(path, b"%d of 1" % (number + 1), token) is None
    assert bucket.read(f"{folder}/number") == b"3 of 0"

  with_faults(bucket, count)
