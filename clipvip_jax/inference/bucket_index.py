"""Video indexes in buckets: built and read as local copies; the parts of a build are uploaded as they are finished."""

import contextlib
import functools
import pathlib
import shutil
from collections.abc import Callable, Iterator

from clipvip_jax.inference.approximate_index import graph_names
from clipvip_jax.utils import bucket_copies, storage, transfers


@contextlib.contextmanager
def local_index(out: pathlib.PurePath, flag: str) -> Iterator[tuple[pathlib.Path, Callable[[pathlib.Path], None]]]:
  """Opens an index for `index_builder.build_index`, which resumes from the parts in the bucket.

  Args:
    out: the index, local or in a bucket.
    flag: the option that chose it, for messages.

  Yields:
    (local path of the index, `publish` of `build_index`).

  Raises:
    UserError: the bucket cannot be read or written.
  """
  local = bucket_copies.local_copy(out)
  if not storage.is_remote(out):
    yield local, lambda path: None
    return
  storage.check_bucket(out, flag)
  index = storage.absolute(out)
  parts = index.with_name(f"{index.name}.parts")
  transfers.download_folder(parts, local.with_name(parts.name))
  bucket_copies.fetch_file(out)
  with bucket_copies.errors_by_address():
    yield local, lambda path: transfers.upload(path, index.parent / path.relative_to(local.parent).as_posix())
  transfers.retry(parts, lambda: parts.rmtree(missing_ok=True))


@contextlib.contextmanager
def local_workdir(
  folder: pathlib.PurePath, flag: str, last: str
) -> Iterator[tuple[pathlib.Path, Callable[[pathlib.Path], None]]]:
  """Opens a folder that holds indexes and files about them, all of which are uploaded when the block succeeds.

  Args:
    folder: local, or in a bucket.
    flag: the option that chose it, for messages.
    last: the file that is uploaded after all others, as it shows that they are complete.

  Yields:
    (local path of the folder, `publish` of `build_index`).

  Raises:
    UserError: the bucket cannot be read or written.
  """
  local = bucket_copies.local_copy(folder)
  if not storage.is_remote(folder):
    yield local, lambda path: None
    return
  storage.check_bucket(folder, flag)
  shutil.rmtree(local, ignore_errors=True)
  remote = storage.absolute(folder)
  transfers.download_folder(remote, local, _is_of_indexes)
  published = set()

  def publish(path: pathlib.Path) -> None:
    transfers.upload(path, remote / path.relative_to(local).as_posix())
    published.add(path)

  with bucket_copies.errors_by_address():
    yield local, publish
  files = [path for path in local.rglob("*") if path.is_file() and path not in published]
  for path in sorted(files, key=lambda path: (path == local / last, path)):
    publish(path)
  for name in transfers.list_names(remote):
    if _is_of_indexes(name) and not (local / name).exists():  # deleted by the block
      transfers.retry(remote, functools.partial((remote / name).unlink, missing_ok=True))


def _is_of_indexes(name: str) -> bool:
  """Returns whether a file is in a folder of indexes itself or one of their parts, and not in another folder of it."""
  return "/" not in name or ".parts/" in name


def fetch_shards(out: pathlib.PurePath) -> None:
  """Downloads the shards of an index from a bucket, for `index_shards.join_shards`.

  Raises:
    UserError: the bucket cannot be read.
  """
  if storage.is_remote(out):
    folder = storage.absolute(out).parent
    pattern = f"{out.stem}-*-of-*{out.suffix}"
    names = transfers.retry(folder, lambda: [path.name for path in folder.glob(pattern)])
    bucket_copies.fetch_files(folder, names)


def fetch_index(path: pathlib.PurePath) -> pathlib.Path:
  """Downloads an index from a bucket, with its graph if it has one; returns a local path unchanged.

  Raises:
    UserError: the bucket cannot be read.
  """
  return bucket_copies.fetch_files(path.parent, [path.name, *graph_names(path)]) / path.name


def upload_graph(path: pathlib.PurePath) -> None:
  """Uploads the graph of the local copy of an index, if the bucket has none.

  Raises:
    UserError: the bucket cannot be written.
  """
  if storage.is_remote(path):
    folder = storage.absolute(path).parent
    graph, description = (folder / name for name in graph_names(path))
    if not transfers.retry(description, description.exists):
      for target in (graph, description):
        transfers.upload(bucket_copies.local_copy(target), target)
