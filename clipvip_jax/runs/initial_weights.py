"""initial_weights.json: the SOURCE of the weights that a run started from, and their digest.

A run that resumes without a checkpoint loads its initial weights again, which may have been replaced meanwhile.
"""

import concurrent.futures
import hashlib
import json
import pathlib
from collections.abc import Mapping

import numpy as np

from clipvip_jax.utils import config_tree
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.log import log

NAME = "initial_weights.json"


def digest_params(params: Mapping[str, np.ndarray]) -> str:
  """Returns the SHA-256 digest of names, types, shapes and values of {parameter name: array}, in hexadecimal digits."""

  def digest(name: str) -> str:
    x = np.asarray(params[name])
    return f"{name} {x.dtype} {x.shape} {hashlib.sha256(x.tobytes()).hexdigest()}\n"

  with concurrent.futures.ThreadPoolExecutor() as pool:
    return hashlib.sha256("".join(pool.map(digest, sorted(params))).encode()).hexdigest()


def check_initial_weights(workdir: pathlib.Path, source: str, params: Mapping[str, np.ndarray]) -> None:
  """Compares initial weights with those that a run started from, if they were recorded.

  Args:
    workdir: the run's folder.
    source: config.init_from.
    params: {parameter name: array} of the source.

  Raises:
    UserError: they differ.
  """
  recorded = read_initial_weights(workdir)
  if recorded and recorded["sha256"] != (digest := digest_params(params)):
    raise UserError(
      f"{workdir}: init_from={source!r} has other weights (SHA-256 {digest[:12]}...) than when the run started"
      f" ({recorded['sha256'][:12]}...); restore them, or choose another --workdir"
    )


def record_initial_weights(workdir: pathlib.Path, source: str, params: Mapping[str, np.ndarray]) -> None:
  """Writes the file; arguments are those of `check_initial_weights`.

  Raises:
    OSError: it cannot be written.
  """
  config_tree.write_json(workdir / NAME, {"source": source, "sha256": digest_params(params)})


def read_initial_weights(workdir: pathlib.Path) -> dict[str, str]:
  """Returns {"source", "sha256"}; {} if the run started from random weights, or the file is corrupt."""
  try:
    entry = json.loads((workdir / NAME).read_text(encoding="utf-8"))
    return {"source": str(entry["source"]), "sha256": str(entry["sha256"])}
  except FileNotFoundError:
    return {}
  except (OSError, ValueError, TypeError, KeyError, RecursionError):
    log.warning("%s is corrupt; whether the initial weights were replaced is unknown", workdir / NAME)
    return {}
