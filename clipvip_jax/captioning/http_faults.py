"""Failed requests to endpoints: meanings of status codes, messages without keys, and pauses. Answers are untrusted."""

import datetime
import email.utils
import json
import re
import time

from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.log import printable

MAX_BYTES = 2**22  # of a response
# Statuses after which the same request may succeed.
_TRANSIENT = (408, 409, 425, 429)
# Statuses that mean the same for every request, and what to do.
_FATAL = {
  401: "the key is missing or wrong: set the environment variable {variable}",
  402: "the account has no credit",
  403: "the key in the environment variable {variable} does not permit this",
  404: "no such model or path: check --model and --endpoint, which often ends with /v1",
  407: "the proxy needs a name and a password: add them to http_proxy or https_proxy, as in http://NAME:PASSWORD@HOST",
  405: "the path does not accept this request: check --endpoint, which often ends with /v1",
}
_REDIRECT = "it redirects: pass its own address with --endpoint"
_SECRETS = re.compile(r"(?i)\b(?:sk|hf|gsk|key|pk)[-_][\w*.-]{4,}|(?<=bearer )\S+|(?<=://)[^/@\s]+@")
_SECONDS = re.compile(r"[0-9]+(\.[0-9]*)?")
_MAX_DETAIL = 160  # characters of an endpoint's message


class Fault(Exception):
  """A request failed, and may succeed if it is repeated.

  Attributes:
    kind: what is counted, as in "HTTP 429".
    detail: of the fault, printable.
    pause: seconds after which the endpoint wants the next request; 0 if it does not say.
  """

  def __init__(self, kind: str, detail: str = "", pause: float = 0.0):
    super().__init__(f"{kind} ({detail})" if detail else kind)
    self.kind, self.detail, self.pause = kind, detail, pause


def explain_refusal(status: int, body: bytes, variable: str, key: str) -> str:
  """Returns why an endpoint refuses this request, but not others: what is sent is wrong, or too large.

  Args:
    status: of HTTP, other than 200.
    body: of the response.
    variable: name of the environment variable with the key.
    key: never part of an error.

  Raises:
    Fault: the endpoint failed.
    UserError: the same happens for every request: a wrong key, path or model.
  """
  detail = _message(body, key)
  answered = f"answered {status}{detail and f' ({detail})'}"
  if status in _FATAL or 300 <= status < 400:
    raise UserError(f"{answered}; {_FATAL.get(status, _REDIRECT).format(variable=variable)}")
  if 400 <= status < 500 and status not in _TRANSIENT:
    return answered
  raise Fault(f"HTTP {status}", detail)


def retry_after(value: str, date: str) -> float:
  """Returns the seconds for which the header Retry-After asks, 0 or more; 0 if it cannot be read.

  Args:
    value: of the header: seconds, or a date in one of the formats of RFC 9110.
    date: when it was sent, by the clock of its sender: the header Date; "" or unreadable for this machine's clock.
  """
  if _SECONDS.fullmatch(value):
    return float(value)
  end, now = _timestamp(value), _timestamp(date)
  return 0.0 if end is None else max(0.0, end - (time.time() if now is None else now))


def _timestamp(date: str) -> float | None:
  try:
    moment = email.utils.parsedate_to_datetime(date)
    return (moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)).timestamp()
  except (ValueError, OverflowError):
    return None


def redact(text: str, key: str) -> str:
  """Replaces the key, and what looks like a key, by asterisks."""
  return _SECRETS.sub("***", text.replace(key, "***") if key else text)


def _message(body: bytes, key: str) -> str:
  """Returns the message in the body of an error, on one line and without keys."""
  text = body[:MAX_BYTES].decode(errors="replace").strip()
  try:
    error = json.loads(text)
    error = error.get("error", error) if isinstance(error, dict) else error
    text = str(error.get("message", error) if isinstance(error, dict) else error)
  except (ValueError, RecursionError):
    pass
  return printable(redact(" ".join(text.split()), key), _MAX_DETAIL)
