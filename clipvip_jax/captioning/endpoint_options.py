"""Command-line options of endpoints, which captions and transcription share."""

import argparse
import os
import urllib.parse
from typing import Any

from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.log import printable

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
  if not options.endpoint:
    raise UserError("--endpoint is missing; pass its address, as http://localhost:8000/v1, or another --engine")
  return {
    "urls": tuple(check_url(url, path) for url in options.endpoint.split(",")),
    **{name: getattr(options, name) for name, _, _ in LIMITS},
    "key": read_key(options.key_variable, key_variable),
    "key_variable": options.key_variable or key_variable,
  }


def check_url(url: str, path: str) -> str:
  """Returns the base address of an endpoint, without the path of the protocol.

  Raises:
    UserError: it is not http:// or https:// with a host, or contains a password, a key or a fragment.
  """
  try:
    parsed = urllib.parse.urlsplit(url.strip())
    _ = parsed.port, (parsed.hostname or "").encode("idna")  # raise ValueError
  except ValueError as error:
    raise UserError("--endpoint is not a valid address; pass for example http://localhost:8000/v1") from error
  if parsed.username or parsed.password or parsed.query or parsed.fragment:
    host = printable(parsed.hostname or "")
    raise UserError(
      f"--endpoint={host}: an address must not contain a password, ?query or #fragment; keys come from an environment"
      " variable (--key_variable)"
    )
  if parsed.scheme not in ("http", "https") or not parsed.hostname:
    raise UserError(f"--endpoint={printable(url, 80)} is not an address; pass for example http://localhost:8000/v1")
  return parsed.geturl().rstrip("/").removesuffix(path)


def read_key(variable: str | None, default: str) -> str:
  """Returns the key of the endpoint from the environment; "" if none is set.

  Args:
    variable: name of the environment variable that a flag names.
    default: name without this flag.

  Raises:
    UserError: the variable that a flag names is not set, or its value is not a key.
  """
  key = os.environ.get(variable or default, "").strip()
  if variable and not key:
    raise UserError(f"--key_variable={printable(variable)}: this environment variable is not set; export the key in it")
  if not all("!" <= character <= "~" for character in key):
    raise UserError(
      f"the environment variable {printable(variable or default)} has characters that no key has; set it again"
    )
  return key
