"""Video indexes in buckets: built and read as local copies; the parts of a build are uploaded as they are finished."""

import contextlib
import pathlib
from collections.abc import Callable, Iterator

from clipvip_jax.inference.approximate_index import graph_names
from clipvip_jax.utils import bucket_copies, storage


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
  storage.download_folder(parts, local.with_name(parts.name))
  bucket_copies.fetch_file(out)
  with bucket_copies.errors_by_address():
    yield local, lambda path: storage.upload(path, index.parent / path.relative_to(local.parent).as_posix())
  storage.retry(parts, lambda: parts.rmtree(missing_ok=True))


def fetch_shards(out: pathlib.PurePath) -> None:
  """Downloads the shards of an index from a bucket, for `index_shards.join_shards`.

  Raises:
    UserError: the bucket cannot be read.
  """
  if storage.is_remote(out):
    folder = storage.absolute(out).parent
    pattern = f"{out.stem}-*-of-*{out.suffix}"
    names = storage.retry(folder, lambda: [path.name for path in folder.glob(pattern)])
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
    if not storage.retry(description, description.exists):
      for target in (graph, description):
        storage.upload(bucket_copies.local_copy(target), target)
