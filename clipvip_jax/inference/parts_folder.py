"""The folder of the finished parts of an index: locked by the process that builds it, and for one job only."""

import contextlib
import pathlib
from collections.abc import Iterator, Mapping

from clipvip_jax.runs import workdir
from clipvip_jax.utils import config_tree
from clipvip_jax.utils.atomic_write import write_problem
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.file_lock import LockHeldError, LocksUnsupportedError, file_lock
from clipvip_jax.utils.log import log


@contextlib.contextmanager
def claim_parts(folder: pathlib.Path, job: Mapping[str, str | int], flag: str) -> Iterator[pathlib.Path]:
  """Locks the folder, which is created if absent, inside a `with` block.

  Args:
    folder: of the parts.
    job: what is embedded, by name.
    flag: the option that chose the index, for messages.

  Yields:
    The file in it that records the job.

  Raises:
    UserError: another process holds the lock, the folder has the parts of another job, or it cannot be written.
  """
  with contextlib.ExitStack() as stack:
    try:
      folder.mkdir(parents=True, exist_ok=True)
      try:
        stack.enter_context(file_lock(folder / "lock"))
      except LocksUnsupportedError:
        log.warning("%s is on a file system without locks; make sure that no second process embeds to it", folder)
      remedy = f"; or delete {folder}, to embed all again"
      workdir.check_same(folder, "job", job, flag=flag, remedy=remedy)
      config_tree.write_json(folder / "job.json", job)
    except LockHeldError as error:
      raise UserError(f"{folder} is in use by another process; wait until it ends, or name another {flag}") from error
    except OSError as error:
      raise UserError(f"{folder} {write_problem(error, f'name another {flag}')}") from error
    yield folder / "job.json"
