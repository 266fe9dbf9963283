"""SOURCE, the name of weights on a command line or in a recipe, and the files that it stands for.

| SOURCE | meaning |
|---|---|
| FILE.safetensors, FILE.pt (.pth, .bin, .ckpt) | one file of weights, in the format of its first bytes |
| FILE.index.json | all shards that HuggingFace's index names |
| a folder | HuggingFace's or OpenCLIP's layout: weights and their configuration |
| hf://OWNER/NAME, hf://OWNER/NAME@REVISION | such a folder on the HuggingFace Hub |
| a workdir, or WORKDIR@STEP | a run of this project: its best checkpoint, or that of a step |
| WORKDIR@raw, or WORKDIR@STEP@raw | likewise, without the average of a run with `train.ema` |

Files, folders and workdirs may be in a bucket, as gs://BUCKET/NAME or s3://BUCKET/NAME; local copies of them are read.
"""

import functools
import json
import os
import pathlib
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from clipvip_jax.runs import fetch_run
from clipvip_jax.runs.checkpoint_paths import NOT_READABLE, check_checkpoint_path
from clipvip_jax.utils import bucket_copies, storage, transfers
from clipvip_jax.utils.errors import UserError, first_line
from clipvip_jax.utils.local_paths import expand_user
from clipvip_jax.utils.log import log, printable
from clipvip_jax.weights import tensor_files
from clipvip_jax.weights.hub_errors import describe_hub_error
from clipvip_jax.weights.model_config import TOKENIZER_FILE

HUB = "hf://"
# The first that exists in a folder is read.
_WEIGHT_FILES = (
  "clip_vip.safetensors",
  "model.safetensors",
  "model.safetensors.index.json",
  "open_clip_model.safetensors",
  "open_clip_pytorch_model.bin",
  "pytorch_model.bin",
  "pytorch_model.bin.index.json",
)
# All files of a folder that are read.
FOLDER_FILES = [
  *_WEIGHT_FILES,
  "config.json",
  "preprocessor_config.json",
  "processor_config.json",
  "open_clip_config.json",
  TOKENIZER_FILE,
]
_TIMEOUT = 30  # seconds, of a request
_STEP, _RAW = re.compile(r"(.+)@(\d+)"), "@raw"
# OWNER/NAME as the Hub allows it, and a revision: a branch, a tag, refs/pr/N or a commit.
_REPOSITORY = re.compile(
  r"(?P<name>\w[\w.-]{0,95}/\w[\w.-]{0,95})(?<!\.git)(?<![.-])(@(?P<revision>\w[^\s~^:?*\[\\\x00-\x1f]{0,250}))?",
  re.ASCII,
)


class RunSource(NamedTuple):
  """A run as a source: its folder, the step of a checkpoint (None: the best), and whether its average is ignored.

  The folder of a run in a bucket is a local copy of it, without checkpoints.
  """

  folder: pathlib.Path
  step: int | None = None
  raw: bool = False


def check_source(source: str) -> None:
  """Checks that a source exists and is of a supported kind, without reading it.

  Raises:
    UserError: it does not; the message lists what is allowed.
  """
  source = expand_user(source)
  if source.startswith(HUB):
    return
  storage.check_path(source, "SOURCE")
  if not is_run(source):
    _find_in_bucket(source) if storage.is_remote(source) else weight_file(source)


def weight_file(source: str) -> pathlib.Path:
  """Returns the file of weights at a path, or in the folder at it.

  Raises:
    UserError: there is none.
  """
  path = pathlib.Path(source)
  try:
    path.stat()
  except FileNotFoundError:
    pass
  except (OSError, ValueError) as error:  # a name that is too long or contains NUL
    reason = getattr(error, "strerror", None) or first_line(error)
    raise UserError(f"{printable(source, 160)} is not a readable path ({reason}); correct it") from error
  if path.is_dir():
    file = _file_in_folder(path)
    if file is None and (path / "checkpoints").is_dir():
      raise UserError(
        f"{source!r} has checkpoints, but no config.json of a run that can be read; restore it, or name other weights"
      )
    if file is None:
      raise UserError(
        f"{source!r} contains no weights; expected a run's checkpoints or one of {', '.join(_WEIGHT_FILES)}"
      )
    return file
  if path.is_file() and (tensor_files.is_weights(path) or path.name.endswith(tensor_files.SUFFIXES)):
    return path
  if path.exists() or not path.name.endswith((*tensor_files.SUFFIXES, tensor_files.INDEX_SUFFIX)):
    problem = "" if path.exists() else "; there is nothing of this name"
    raise UserError(
      f"{source!r} is not a source of weights; allowed: files ({', '.join(tensor_files.SUFFIXES)}), folders in"
      f" HuggingFace's layout, {HUB}OWNER/NAME, and workdirs of runs (WORKDIR or WORKDIR@STEP){problem}"
    )
  raise UserError(
    f"{source!r}: no such file; to start from CLIP, pass {HUB}openai/clip-vit-base-patch32 (or -patch16), or the"
    " model.safetensors of that repository"
  )


def _file_in_folder(folder: pathlib.Path) -> pathlib.Path | None:
  return next((folder / name for name in _WEIGHT_FILES if (folder / name).is_file()), None)


def parse_run(source: str) -> RunSource:
  """Parses WORKDIR, WORKDIR@STEP, WORKDIR@raw or WORKDIR@STEP@raw; a path that exists is a WORKDIR."""
  path, step, raw = _split_run(source)
  return RunSource(fetch_run.fetch_files(path), step, raw)


def _split_run(source: str) -> tuple[str, int | None, bool]:
  """Splits a source into WORKDIR, STEP, and whether it ends with @raw."""
  raw = source.endswith(_RAW) and not _exists(source)
  path = source.removesuffix(_RAW) if raw else source
  match = _STEP.fullmatch(path)
  if match and not _exists(path):
    return match[1], int(match[2]), raw
  return path, None, raw


def _exists(path: str) -> bool:
  remote = storage.is_remote(path)
  return transfers.retry(path, storage.absolute(path).exists) if remote else pathlib.Path(path).exists()


def is_run(source: str) -> bool:
  """Returns whether a source is the workdir of a run, with or without a step.

  Raises:
    UserError: its bucket cannot be read, or its checkpoints cannot be read at its path.
  """
  try:
    workdir = _split_run(source)[0]
    config = bucket_copies.fetch_files(workdir, ["config.json"]) / "config.json"
    if not (config.is_file() and fetch_run.has_checkpoints(workdir)):
      return False
    content: Any = json.loads(config.read_text(encoding="utf-8"))
  except (ValueError, OSError, RecursionError):
    return False
  found = isinstance(content, dict) and {"model", "data", "train"} <= content.keys()
  if found and not storage.is_remote(workdir):
    check_checkpoint_path(pathlib.Path(workdir).resolve(), "SOURCE", NOT_READABLE)
  return found


def fetch(source: str) -> str:
  """Downloads a source from its bucket, a run with the checkpoint that is read.

  Returns:
    The source with local paths.

  Raises:
    UserError: the bucket cannot be read, there are no weights, or a checkpoint is corrupt.
  """
  if is_run(source):
    workdir, step, raw = _split_run(source)
    copy = fetch_run.fetch_run(workdir, step)
    return f"{copy}{'' if step is None else f'@{step}'}{_RAW if raw else ''}"
  folder, name = _find_in_bucket(source)
  log.info("downloading %s/%s", printable(folder), printable(name))
  others = [name for name in FOLDER_FILES if name not in _WEIGHT_FILES]
  local = bucket_copies.fetch_files(folder, [*others, name])
  if name.endswith(tensor_files.INDEX_SUFFIX):
    with bucket_copies.errors_by_address():
      shards = tensor_files.shard_names(local / name)
    bucket_copies.fetch_files(folder, [shard for shard in shards if pathlib.PurePosixPath(shard).name == shard])
  return os.fspath(local if folder == source.rstrip("/") else local / name)


def _find_in_bucket(source: str) -> tuple[str, str]:
  """Returns the folder and the name of the file of weights at an address, or in the folder at it."""
  folder, _, name = source.rstrip("/").rpartition("/")
  if not name.endswith((*tensor_files.SUFFIXES, tensor_files.INDEX_SUFFIX)):
    folder = source.rstrip("/")
    name = next((name for name in _WEIGHT_FILES if _exists(f"{folder}/{name}")), "")
  elif not _exists(source):
    raise UserError(f"{source!r}: no such object; check its name")
  if not name:
    raise UserError(
      f"{source!r} contains no weights; expected a run's checkpoints or one of {', '.join(_WEIGHT_FILES)}"
    )
  return folder, name


def split_hub_name(source: str) -> tuple[str, str | None]:
  """Splits HUB/OWNER/NAME@REVISION into OWNER/NAME and the revision, None for that of the main branch.

  Raises:
    UserError: the Hub does not allow such a name.
  """
  match = _REPOSITORY.fullmatch(source.removeprefix(HUB))
  if match is None or "--" in match["name"] or ".." in source:
    raise UserError(
      f"{printable(source, 160)!r} is not a repository of the HuggingFace Hub; expected {HUB}OWNER/NAME or"
      f" {HUB}OWNER/NAME@REVISION, each of letters, digits, '-', '_' and '.'"
    )
  return match["name"], match["revision"]


def download(source: str) -> pathlib.Path:
  """Downloads weights and configuration of HUB/OWNER/NAME into the Hub's cache.

  Returns:
    Their folder.

  Raises:
    UserError: the name is invalid, or the repository cannot be downloaded or contains no weights.
  """
  name, revision = split_hub_name(source)
  try:
    import huggingface_hub
  except ImportError as error:
    raise UserError(f"{source!r} needs a package that is not installed: pip install huggingface_hub") from error
  others = [file for file in FOLDER_FILES if file not in _WEIGHT_FILES]
  fetch = functools.partial(huggingface_hub.snapshot_download, name)
  try:
    for file in _weight_files_on_hub(name, revision):
      folder = pathlib.Path(fetch(revision=revision, allow_patterns=[*others, file]))
      if (folder / file).is_file():
        if file.endswith(tensor_files.INDEX_SUFFIX):
          # A snapshot's folder has the name of its commit: the shards are of the same commit as their index.
          commit = folder.name if re.fullmatch(r"[0-9a-f]{40}", folder.name) else revision
          fetch(revision=commit, allow_patterns=tensor_files.shard_names(folder / file))
        return folder
    raise UserError(f"{source!r} contains no weights; expected one of {', '.join(_WEIGHT_FILES)}")
  except UserError:
    raise
  except Exception as error:  # the package raises many types: network, authentication, missing repository
    raise UserError(f"{source!r} cannot be downloaded: {describe_hub_error(error)}") from error


def _weight_files_on_hub(name: str, revision: str | None) -> Sequence[str]:
  """Returns the file of weights that is read: many repositories repeat their weights in several formats.

  Where the Hub does not answer, returns all names that it may have: snapshot_download explains why, or reads its cache.
  """
  import huggingface_hub

  try:
    info = huggingface_hub.HfApi().model_info(name, revision=revision, timeout=_TIMEOUT)
  except Exception:  # of many types
    return _WEIGHT_FILES
  names = {file.rfilename for file in info.siblings or ()}
  return [file for file in _WEIGHT_FILES if file in names][:1]
