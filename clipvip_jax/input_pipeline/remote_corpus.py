"""Metadata of corpora in object stores, and when a corpus is complete."""

from __future__ import annotations

import pathlib

from etils import epath

from clipvip_jax.utils import transfers

LAST_FILE = "features.json"  # written after all other files of a corpus


def is_complete(folder: epath.Path) -> bool:
  """Returns whether a remote folder holds a complete corpus.

  Raises:
    UserError: the object store refuses, or cannot be reached.
  """
  return transfers.exists(folder / LAST_FILE)


def download_metadata(folder: epath.Path, local: pathlib.Path) -> None:
  """Downloads all files of a corpus except its records.

  Args:
    folder: the remote folder of the corpus.
    local: the folder to write, which is created.

  Raises:
    UserError: the object store refuses, or cannot be reached.
  """
  transfers.download_folder(folder, local, lambda name: ".array_record" not in name)
