"""Errors of the HuggingFace Hub in one line: what it answered and what to do, without tokens."""

import os
import re
from collections.abc import Iterator

from clipvip_jax.utils.atomic_write import disk_error_reason
from clipvip_jax.utils.errors import first_line
from clipvip_jax.utils.log import printable

_LIMIT = 200  # characters of a server's message
_LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"
_ACTIONS = {
  400: "fix what it names",
  401: f"the token is missing or invalid: {_LOG_IN}",
  403: "the token does not permit this: check OWNER, and the token at https://huggingface.co/settings/tokens",
  404: f"no such repository or revision, or it is private: check the name, or {_LOG_IN}",
  409: "the repository changed meanwhile: repeat the command",
  412: "the repository changed meanwhile: repeat the command",
  413: "the files are too large for the Hub",
  429: "too many requests: repeat the command later",
}
_NO_CONNECTION = re.compile(r".*(Connect|Network|Timeout|Proxy|SSL).*")  # names of errors of httpx and requests
_SECRETS = re.compile(r"hf_\w{4,}|(?<=://)[^/@\s]+@|(?i:(?<=bearer )\S+)")


def describe_hub_error(error: BaseException) -> str:
  """Returns one line of printable text without tokens: what failed and what to do.

  Args:
    error: of huggingface_hub, which raises many types; those that caused it are considered, too.
  """
  for cause in _causes(error):
    response = getattr(cause, "response", None)
    status = getattr(response, "status_code", None)
    if isinstance(status, int):
      message = _one_line(getattr(cause, "server_message", None) or "")
      action = _ACTIONS.get(status, "repeat the command later" if status >= 500 else "check the name and the token")
      return f"the Hub answered {status}{message and f' ({message})'}; {action}"
  for cause in _causes(error):
    if type(cause).__name__ == "OfflineModeIsEnabled":
      return "HF_HUB_OFFLINE forbids connections; unset it"
    if _NO_CONNECTION.fullmatch(type(cause).__name__):
      return f"no connection to the Hub ({_one_line(str(cause)) or type(cause).__name__}); check the network"
  text = _one_line(first_line(error))
  if disk_error_reason(error) or any(isinstance(cause, PermissionError) for cause in _causes(error)):
    return f"{text}; free space or fix permissions, or set HF_HOME (of an upload, TMPDIR) to another folder"
  return text


def redact(text: str) -> str:
  """Replaces tokens of the Hub, other authorization, and passwords in URLs by asterisks."""
  for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
    if token := os.environ.get(name, "").strip():
      text = text.replace(token, "***")
  return _SECRETS.sub("***", text)


def _one_line(text: str) -> str:
  lines = text.strip().splitlines()
  return printable(redact(lines[0]), _LIMIT) if lines else ""


def _causes(error: BaseException | None) -> Iterator[BaseException]:
  """Yields an error and those that it was raised from."""
  while error is not None:
    yield error
    error = error.__cause__ or error.__context__
