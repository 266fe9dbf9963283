"""Identity of a run, saved with each checkpoint: what decides its numbers, besides code and packages.

It is the content of config.json and corpus.json: the configuration, the settings and content of the corpora, and the
digest of the vocabulary. A checkpoint is rejected if these files were changed after it was saved.
`workdir.py` compares the files of a workdir with the config and corpora of a command.
"""

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from clipvip_jax.input_pipeline.load_tokenizer import load_tokenizer
from clipvip_jax.input_pipeline.tokenizer import Tokenizer
from clipvip_jax.input_pipeline.word_tokenizer import WORDS
from clipvip_jax.runs.workdir import DURATION, checkpoint_folders, find_changes, format_changes
from clipvip_jax.utils import file_digests
from clipvip_jax.utils.errors import UserError

IDENTITY = "identity"  # item of a checkpoint
RunIdentity = dict[str, Mapping[str, Any]]  # {"config": content of config.json, "corpus": of corpus.json}
_FILE = f"{IDENTITY}/metadata"


def read_identity(folder: pathlib.Path) -> RunIdentity | None:
  """Reads the identity in the folder of a checkpoint; None if an earlier version wrote it.

  Raises:
    ValueError: it is corrupt.
  """
  if not (folder / IDENTITY).exists():
    return None
  if not file_digests.check_digests(folder, lambda name: name == _FILE):
    raise ValueError(f"{file_digests.NAME} is missing")
  identity = json.loads((folder / _FILE).read_text(encoding="utf-8"))
  if not isinstance(identity, dict) or not all(isinstance(identity.get(name), dict) for name in ("config", "corpus")):
    raise ValueError(f"{_FILE} is not the identity of a run")
  return identity


def read_identities(workdir: pathlib.Path) -> dict[int, RunIdentity]:
  """Reads the identities of a run's checkpoints by step. Skips corrupt ones, which restoring reports."""
  identities = {}
  for folder in checkpoint_folders(workdir / "checkpoints"):
    try:
      identity = read_identity(folder)
    except (ValueError, OSError):
      continue
    if identity is not None:
      identities[int(folder.name)] = identity
  return dict(sorted(identities.items()))


def check_checkpoints(workdir: pathlib.Path, current: RunIdentity) -> None:
  """Checks that the configuration and corpora of a run equal those saved in its checkpoints.

  Args:
    workdir: the run's folder, which need not exist.
    current: the identity of this run, which agrees with these files. The number of steps may differ.

  Raises:
    UserError: a checkpoint was trained with other values.
  """
  for step, identity in read_identities(workdir).items():
    for name in current:
      if changes := find_changes(name, identity[name], current[name], DURATION):
        raise UserError(
          f"{workdir}/checkpoints/{step} was trained with another {name} ({format_changes(changes)}); use the same"
          f" values and restore {name}.json, which was changed, or choose another --workdir"
        )


def check_files(workdir: pathlib.Path, step: int) -> str:
  """Checks that config.json, corpus.json and a vocabulary of the run's own are those of a checkpoint.

  Args:
    workdir: the run's folder.
    step: of the checkpoint, whose files were verified.

  Returns:
    The digest of the vocabulary; "" if an earlier version wrote the checkpoint, so that nothing could be compared.

  Raises:
    UserError: a file was changed, or cannot be read.
  """
  checkpoint = workdir / "checkpoints" / str(step)
  identity = read_identity(checkpoint)
  if identity is None:
    return ""
  for name in identity:
    path = workdir / f"{name}.json"
    if name == "corpus" and not path.exists():  # only training needs it
      continue
    try:
      current = dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, RecursionError) as error:
      raise UserError(f"{path} cannot be read ({error}); restore it: {checkpoint / _FILE} holds the values") from error
    if changes := find_changes(name, identity[name], current, DURATION):
      raise UserError(
        f"{path} was changed since the checkpoint of step {step} was trained ({format_changes(changes)}); restore it:"
        f" {checkpoint / _FILE} holds the values"
      )
  digest, vocabulary = identity["corpus"].get("tokenizer", ""), workdir / "tokenizer.json"
  own_vocabulary = identity["config"]["data"].get("tokenizer") == WORDS
  if own_vocabulary and vocabulary.is_file():  # without it, texts cannot be embedded
    load_recorded_tokenizer(vocabulary, digest)
  return digest


def load_recorded_tokenizer(name_or_path: str | os.PathLike, digest: str) -> Tokenizer:
  """Loads a tokenizer as `load_tokenizer` does, and compares it with that of a run.

  Args:
    name_or_path: of `load_tokenizer`.
    digest: that was recorded by the run; "" if it is unknown.

  Raises:
    UserError: it cannot be loaded, or is another one.
  """
  tokenizer = load_tokenizer(name_or_path)
  if digest not in ("", tokenizer.digest):
    raise UserError(
      f"the tokenizer {os.fspath(name_or_path)!r} was changed since the weights were trained with it; restore it"
    )
  return tokenizer
