"""One line for errors of many types, without tokens."""

import re

import pytest

from clipvip_jax.weights.hub_errors import describe_hub_error, redact


class ConnectError(Exception):
  """As that of httpx."""


class OfflineModeIsEnabled(ConnectionError):
  """As that of huggingface_hub."""


class Answered(Exception):
  """An error with a response, as those of huggingface_hub and of requests."""

  def __init__(self, status, message=None):
    super().__init__("403 Client Error. (Request ID: 1)\n\nCannot access")
    self.response = type("Response", (), {"status_code": status})
    self.server_message = message


def caused(error, cause):
  try:
    raise error from cause
  except type(error) as raised:
    return raised


@pytest.mark.parametrize(
  ("error", "expected"),
  [
    (
      Answered(403),
      "the Hub answered 403; the token does not permit this: check OWNER, and the token at .*",
    ),
    (
      Answered(404, "gone\nfor good"),
      r"the Hub answered 404 \(gone\); no such repository or revision.*",
    ),
    (Answered(503, "x" * 5000), r"the Hub answered 503 \(x{197}\.\.\.\); repeat the command later"),
    (
      caused(RuntimeError("Error while uploading"), Answered(401)),
      "the Hub answered 401; the token is missing.*",
    ),
    (
      caused(ValueError("Got: x"), ConnectError("[Errno 111] \x1b[2Jrefused")),
      r"no .*\(\[E.*\] \\x1b\[2Jrefused\).*",
    ),
    (caused(ValueError("no cache"), OfflineModeIsEnabled("x")), "HF_HUB_OFFLINE forbids connections; unset it"),
    (
      OSError(28, "No space left on device", "/c/x"),
      r".*device: '/c/x'; free space or fix permissions, or set HF_HOME.*",
    ),
    (PermissionError(13, "Permission denied", "/c"), r".*Permission denied: '/c'; free space .*, or set HF_HOME.*"),
    (caused(RuntimeError("hf_xet: Disk quota exceeded"), KeyError(1)), r"hf_xet: Disk quota exceeded; free space .*"),
    (ValueError("\n"), "ValueError"),
    (ValueError("first\nsecond"), "first"),
  ],
)
def test_error_is_one_line(error, expected):
  assert re.fullmatch(expected, describe_hub_error(error))


def test_tokens_and_passwords_are_redacted(monkeypatch):
  monkeypatch.setenv("HF_TOKEN", "oddToken")
  text = "Authorization: Bearer abc.def and oddToken, hf_AbC123xyz at https://me:word@hub/x and https://hub/a@b"
  assert redact(text) == "Authorization: Bearer *** and ***, *** at https://***hub/x and https://hub/a@b"
