"""The local folder with which TFDS builds a corpus in an object store.

Records are written into the store. TFDS writes the other files into the local folder; they are uploaded at the end, the
one without which a corpus is incomplete last.
"""

from __future__ import annotations

import pathlib
import tempfile

from etils import epath

from clipvip_jax.data.engine import build_files
from clipvip_jax.input_pipeline import remote_corpus
from clipvip_jax.utils import storage, transfers


class CorpusMirror:
  """A local dataset directory in place of a remote one, with the metadata of one corpus.

  Attributes:
    root: the remote dataset directory.
    local: the local one, deleted when this object is.
  """

  def __init__(self, data_dir: str, corpus: str):
    """Creates the local folder, and downloads the metadata of the corpus if it is complete.

    Args:
      data_dir: the remote dataset directory.
      corpus: NAME/CONFIG/VERSION.

    Raises:
      UserError: the bucket does not exist, or cannot be accessed.
    """
    storage.check_path(data_dir, "--data_dir")
    storage.check_bucket(data_dir, "--data_dir")
    self.root, self._corpus = storage.absolute(data_dir), corpus
    self._temporary = tempfile.TemporaryDirectory(prefix="clipvip_jax_")
    self.local = pathlib.Path(self._temporary.name)
    if remote_corpus.is_complete(self.root / corpus):
      remote_corpus.download_metadata(self.root / corpus, self.local / corpus)

  def commit(self) -> None:
    """Uploads the metadata, which completes a corpus whose records are in the store."""
    folder = self.local / self._corpus
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    for path in sorted(paths, key=lambda path: path.name == remote_corpus.LAST_FILE):
      transfers.upload(path, self.root / self._corpus / path.relative_to(folder).as_posix())

  def delete(self) -> None:
    """Deletes the corpus here and in the store."""
    build_files.delete_folder(self.root / self._corpus, first=remote_corpus.LAST_FILE)
    build_files.delete_folder(epath.Path(self.local / self._corpus))
