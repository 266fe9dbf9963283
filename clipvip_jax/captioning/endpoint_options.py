"""Command-line options of endpoints, which captions and transcription share."""

import argparse
from typing import Any

LIMITS = (
  ("concurrency", 1, 1024),
  ("requests_per_minute", 0, 1e7),
  ("timeout", 0.01, 86_400),
  ("retries", 0, 100),
)


def add_endpoint_options(
  parser: argparse.ArgumentParser, key_variable: str, concurrency: int, timeout: int, timeout_of: str
) -> Any:
  """Adds the options of `LIMITS`, --endpoint and --key_variable, with these defaults.

  Args:
    parser: of the command.
    key_variable: environment variable with the key, unless --key_variable names another.
    concurrency: requests at once.
    timeout: seconds.
    timeout_of: what the timeout is for.

  Returns:
    The group, for further options.
  """
  group = parser.add_argument_group("endpoint")
  add = group.add_argument
  add(
    "--endpoint",
    metavar="URL[,URL...]",
    default="",
    help="base address, such as http://localhost:8000/v1; several share the requests",
  )
  add("--key_variable", metavar="NAME", help=f"environment variable with the API key; default: {key_variable}")
  add("--concurrency", type=int, default=concurrency, help=f"concurrent requests; default: {concurrency}")
  add("--requests_per_minute", type=float, default=0, help="rate limit; default: 0, none")
  add("--timeout", type=float, default=timeout, help=f"seconds for {timeout_of}; default: {timeout}")
  add("--retries", type=int, default=6, help="attempts to repeat a failed request; default: 6")
  return group


def client_fields(options: argparse.Namespace, path: str, key_variable: str) -> dict[str, Any]:
  """Returns the fields of `ClientSettings`.

  Args:
    options: of `add_endpoint_options`.
    path: of the protocol, after the base address.
    key_variable: as in `add_endpoint_options`.

  Raises:
    UserError: no address is given, or one is invalid; or the key is.
  """
  from clipvip_jax.captioning.endpoint_client import check_url, read_key  # late: after the options were checked
  from clipvip_jax.utils.errors import UserError

  if not options.endpoint:
    raise UserError("--endpoint is missing; pass its address, as http://localhost:8000/v1, or another --engine")
  return {
    "urls": tuple(check_url(url, path) for url in options.endpoint.split(",")),
    **{name: getattr(options, name) for name, _, _ in LIMITS},
    "key": read_key(options.key_variable, key_variable),
    "key_variable": options.key_variable or key_variable,
  }
