"""Configuration of the libraries that access object stores: gcsfs, s3fs and TensorStore.

Their defaults retry an unresponsive store for up to an hour, or without limit (TensorStore). Here, a request times out
after `SILENCE_SECONDS` without data, and is repeated a few times. Environment variables that the user has set have
precedence.
"""

import functools
import importlib.util
import logging
import os
from typing import Any

CONNECT_SECONDS = 15
SILENCE_SECONDS = 20
_S3_ATTEMPTS = 2  # of s3fs, which each consist of the attempts of botocore
_BOTO_RETRIES = {"mode": "standard", "total_max_attempts": 3}
# Repetitions of a request by TensorStore, 47 seconds of waiting in all: it has no environment variable for them.
TENSORSTORE_RETRIES = {"max_retries": 6, "initial_delay": "1s", "max_delay": "16s"}

# Read when libraries are imported. etils prefers TensorFlow where it is installed, whose errors have no types; gcsfs
# asks another service of Google's about the kind of each bucket.
os.environ.setdefault("EPATH_USE_TF", "false")
os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
os.environ.setdefault("TENSORSTORE_CURL_CONNECT_TIMEOUT_SECONDS", str(CONNECT_SECONDS))
os.environ.setdefault("TENSORSTORE_CURL_LOW_SPEED_TIME_SECONDS", str(SILENCE_SECONDS))
os.environ.setdefault("TENSORSTORE_CURL_LOW_SPEED_LIMIT_BYTES", "1")


@functools.cache
def configure(scheme: str) -> None:
  """Configures the package of a scheme, "gs" or "s3", for all of its users in this process."""
  import fsspec.config

  options = fsspec.config.conf.setdefault("gcs" if scheme == "gs" else scheme, {})
  options.setdefault("use_listings_cache", False)  # other processes write, too
  if scheme == "gs":
    _configure_gcsfs(options)
  elif importlib.util.find_spec("s3fs") is not None:
    _configure_s3fs(options)


def _configure_gcsfs(options: dict[str, Any]) -> None:
  logging.getLogger("gcsfs").setLevel(logging.CRITICAL)  # it logs tracebacks of the errors that it raises
  import aiohttp

  timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=SILENCE_SECONDS)
  options.setdefault("requests_timeout", timeout)  # that of a session does not apply: gcsfs passes this one


def _configure_s3fs(options: dict[str, Any]) -> None:
  import s3fs

  s3fs.S3FileSystem.retries = _S3_ATTEMPTS
  settings: dict[str, Any] = {"connect_timeout": CONNECT_SECONDS, "read_timeout": SILENCE_SECONDS}
  if not {"AWS_MAX_ATTEMPTS", "AWS_RETRY_MODE"} & os.environ.keys():
    settings["retries"] = _BOTO_RETRIES
  options.setdefault("config_kwargs", settings)
