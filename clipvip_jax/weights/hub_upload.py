"""Upload of an exported folder to a repository of the HuggingFace Hub, in one commit."""

import contextlib
import dataclasses
import pathlib
import re
import tempfile
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.log import log, printable
from clipvip_jax.utils.versions import __version__
from clipvip_jax.weights import json_object
from clipvip_jax.weights.config_files import OWN_SECTION
from clipvip_jax.weights.export import LAYOUTS
from clipvip_jax.weights.hub_errors import describe_hub_error
from clipvip_jax.weights.source_paths import FOLDER_FILES, HUB, split_hub_name

if TYPE_CHECKING:
  from huggingface_hub import HfApi

CARD = "README.md"
_TIMEOUT = 30  # seconds, of the first request
_MAX_CONFIG_BYTES = 1 << 20
_COMMIT = re.compile(r"[0-9a-f]{40}")
_CREATED_WITH = {".gitattributes"}  # files of a new repository
_CONFIGS = {config for _, config in LAYOUTS.values()}


@dataclasses.dataclass(frozen=True)
class Destination:
  """A branch of a repository that may be written.

  Attributes:
    name: OWNER/NAME.
    branch: None for the main branch.
    exists: whether the repository exists.
    is_new_branch: whether the branch is still to be created.
    commit: the newest commit of the branch, or of the one that it starts from; None if there is none.
    files: names of the files in that commit.
  """

  name: str
  branch: str | None
  exists: bool = False
  is_new_branch: bool = False
  commit: str | None = None
  files: Sequence[str] = ()

  @property
  def url(self) -> str:
    """hf://OWNER/NAME or hf://OWNER/NAME@BRANCH, a SOURCE."""
    return f"{HUB}{self.name}" + (f"@{self.branch}" if self.branch else "")


def split_target(target: str) -> tuple[str, str | None]:
  """Splits hf://OWNER/NAME@BRANCH into OWNER/NAME and the branch, None for the main branch.

  Raises:
    UserError: the Hub does not allow such a name, or it names a commit.
  """
  name, branch = split_hub_name(target)
  if branch and _COMMIT.fullmatch(branch):
    raise UserError(f"{target!r} names a commit, which cannot change; use {HUB}{name} or {HUB}{name}@BRANCH")
  return name, branch


def find_destination(target: str, *, private: bool, overwrite: bool) -> Destination:
  """Looks a target up on the Hub and checks that it may be written; changes nothing.

  Args:
    target: hf://OWNER/NAME or hf://OWNER/NAME@BRANCH.
    private: whether the repository must be private.
    overwrite: whether a repository may hold files that are not an export of this project.

  Raises:
    UserError: the name is invalid, there is no token, the Hub refuses it or cannot be reached, or the repository is
      public or holds other files.
  """
  name, branch = split_target(target)
  api = _api(target)
  from huggingface_hub import errors

  with _explain(target):
    try:
      info = api.model_info(name, timeout=_TIMEOUT)
    except errors.RepositoryNotFoundError as error:
      if error.response.status_code != 404:  # without access, it may exist
        raise
      return Destination(name, branch, is_new_branch=branch is not None)
    is_new_branch = False
    if branch:
      try:
        info = api.model_info(name, revision=branch, timeout=_TIMEOUT)
      except errors.RevisionNotFoundError:
        is_new_branch = True
    files = [str(file.rfilename) for file in info.siblings or ()]
    destination = Destination(name, branch, True, is_new_branch, info.sha, files)
    if private and info.private is False:
      raise UserError(f"{target} is public, contrary to --private; make it private there, or use another name")
    _check_files(api, destination, overwrite=overwrite)
  return destination


def _check_files(api: "HfApi", destination: Destination, *, overwrite: bool) -> None:
  """Checks that a commit replaces nothing but an earlier export, and that the Hub does not ignore files of it."""
  others = sorted(set(destination.files) - _CREATED_WITH)
  if ".gitignore" in others:
    raise UserError(f"{destination.url} has a .gitignore, which may exclude exported files; delete it there")
  if others and not overwrite and not _is_export(api, destination):
    shown = printable(", ".join(others), 120)
    raise UserError(
      f"{destination.url} holds other files ({shown}) than an export of this project; use another name, or add"
      " --overwrite"
    )


def _is_export(api: "HfApi", destination: Destination) -> bool:
  """Returns whether a configuration in the repository has the section that this project writes."""
  with tempfile.TemporaryDirectory() as folder:
    for file in sorted(_CONFIGS & set(destination.files)):
      entries = api.get_paths_info(destination.name, [file], revision=destination.commit)
      if any(getattr(entry, "size", 0) > _MAX_CONFIG_BYTES for entry in entries):
        continue
      path = api.hf_hub_download(destination.name, file, revision=destination.commit, cache_dir=folder)
      with contextlib.suppress(ValueError, RecursionError):
        config: Any = json_object.parse(pathlib.Path(path).read_bytes())
        if isinstance(config, dict) and isinstance(config.get(OWN_SECTION), dict):
          return True
  return False


def upload(folder: pathlib.Path, destination: Destination, *, private: bool, message: str) -> str:
  """Commits all files of a folder, and deletes files that would be read instead of or with them.

  Args:
    folder: the export, with its model card.
    destination: from `find_destination`.
    private: whether a new repository is private.
    message: of the commit.

  Returns:
    The URL of the commit.

  Raises:
    UserError: the Hub refuses it, cannot be reached, or the branch has changed since it was looked up.
  """
  import huggingface_hub

  api = _api(destination.url)
  files = sorted(path.name for path in folder.iterdir())
  obsolete = [name for name in FOLDER_FILES if name in destination.files and name not in files]
  operations: list[Any] = [huggingface_hub.CommitOperationAdd(name, folder / name) for name in files]
  operations += [huggingface_hub.CommitOperationDelete(name) for name in obsolete]
  with _explain(destination.url):
    card = (folder / CARD).read_text(encoding="utf-8")
    huggingface_hub.ModelCard(card).validate()  # before a repository is created
    if not destination.exists:
      api.create_repo(destination.name, private=private or None)  # one that exists by now may be public
    if destination.branch and destination.is_new_branch:
      api.create_branch(destination.name, branch=destination.branch, revision=destination.commit, exist_ok=True)
    commit = api.create_commit(
      destination.name,
      operations,
      commit_message=message,
      revision=destination.branch,
      parent_commit=destination.commit,
    )
  if obsolete:
    log.info("deleted %s, which would be read instead of or with the new files", ", ".join(obsolete))
  return printable(commit.commit_url, 200)


def _api(target: str) -> "HfApi":
  """Returns a client with the user's token.

  Raises:
    UserError: the package or a token is missing.
  """
  try:
    import huggingface_hub
  except ImportError as error:
    raise UserError(f"{target!r} needs a package that is not installed: pip install huggingface_hub") from error
  with _explain(target):
    token = huggingface_hub.get_token()
  if not token:
    raise UserError(
      f"{target}: no token of the HuggingFace Hub; log in with `hf auth login`, or set HF_TOKEN to a token with write"
      " access from https://huggingface.co/settings/tokens"
    )
  return huggingface_hub.HfApi(token=token, library_name="clipvip_jax", library_version=__version__)


@contextlib.contextmanager
def _explain(target: str) -> Iterator[None]:
  """Converts an error of huggingface_hub, which raises many types, to a UserError of one line."""
  try:
    yield
  except UserError:
    raise
  except Exception as error:
    raise UserError(f"{target} cannot be written: {describe_hub_error(error)}") from error
