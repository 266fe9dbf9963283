"""Conditional writes to objects, against emulators."""

import concurrent.futures

import pytest

from clipvip_jax.utils import conditional_write, storage, transfers
from clipvip_jax.utils.errors import UserError


def test_an_object_is_created_once_replaced_and_deleted_by_its_token(bucket):
  path = storage.absolute(bucket / "a folder/lease")
  assert conditional_write.read(path) is None
  first = conditional_write.create_exclusive(path, b"first")
  assert first and conditional_write.read(path) == (b"first", first)
  assert conditional_write.create_exclusive(path, b"other") is None
  second = conditional_write.replace(path, b"second", first)
  assert second not in (None, first) and conditional_write.replace(path, b"third", first) is None
  assert conditional_write.read(path) == (b"second", second)
  assert not conditional_write.delete(path, first) and bucket.read("a folder/lease") == b"second"
  assert conditional_write.delete(path, second) and not conditional_write.delete(path, second)
  assert conditional_write.replace(path, b"fourth", second) is None and conditional_write.read(path) is None


def test_one_of_many_writers_wins(bucket):
  path = storage.absolute(bucket / "lease")
  contents = [f"{number}".encode() for number in range(8)]
  with concurrent.futures.ThreadPoolExecutor(8) as pool:
    tokens = list(pool.map(lambda content: conditional_write.create_exclusive(path, content), contents))
  (winner,) = [number for number, token in enumerate(tokens) if token]
  assert conditional_write.read(path) == (contents[winner], tokens[winner])


@pytest.mark.usefixtures("quick_retries")
def test_a_write_whose_answer_is_lost_is_recognized(bucket, monkeypatch):
  monkeypatch.setattr(transfers, "RETRY_DELAYS", (0.001,) * 5)
  path = storage.absolute(bucket / "lease")
  with bucket.faults(rate=1.0, kinds=("lost",), match="^(PUT|POST) ", limit=1):
    token = conditional_write.create_exclusive(path, b"first")
  assert conditional_write.read(path) == (b"first", token)
  with bucket.faults(rate=1.0, kinds=("lost",), match="^(PUT|POST) ", limit=1):
    token = conditional_write.replace(path, b"second", token)
  assert conditional_write.read(path) == (b"second", token)


def test_a_missing_bucket_is_named(bucket):
  path = storage.absolute(f"{bucket.store.scheme}://no-such-bucket/lease")
  for action in (conditional_write.read, lambda path: conditional_write.create_exclusive(path, b"")):
    with pytest.raises(UserError, match=r"the bucket no-such-bucket does not exist; check its name, or create it"):
      action(path)
