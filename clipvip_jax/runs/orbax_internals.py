"""Adapter to private parts of Orbax. The only module that imports orbax.checkpoint._src."""

import importlib
from typing import Any

from clipvip_jax.utils.log import log

_SETTINGS = "orbax.checkpoint._src.serialization.tensorstore_utils"
_CONTEXTS = ("_BASE_TS_CONTEXT", "_DEFAULT_OCDBT_TS_CONTEXT")


def limit_gcs_retries(retries: dict[str, Any]) -> None:
  """Limits TensorStore's repetitions of requests to gs://, for which Orbax has no option: it tries for 15 minutes.

  With a version of Orbax that has other settings, its own limit stays, and a warning says so.

  Args:
    retries: TensorStore's resource gcs_request_retries.
  """
  try:
    settings = importlib.import_module(_SETTINGS)
    contexts = [getattr(settings, name) for name in _CONTEXTS]
  except (ImportError, AttributeError) as error:
    log.warning("this version of Orbax waits up to 15 minutes for a bucket that does not answer (%s)", error)
    return
  for context in contexts:
    context["gcs_request_retries"] = retries
