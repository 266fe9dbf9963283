"""What each status of an endpoint means, messages without keys, and pauses."""

import email.utils
import json
import types

import pytest

from clipvip_jax.captioning import http_faults
from clipvip_jax.captioning.http_faults import Fault, explain_refusal, retry_after
from clipvip_jax.utils.errors import UserError


def explain(status, body):
  return explain_refusal(
    status, body if isinstance(body, bytes) else json.dumps(body).encode(), "VARIABLE", "top-secret"
  )


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 529])
def test_passing_faults_are_named_by_their_status(status):
  with pytest.raises(Fault) as caught:
    explain(status, {"error": {"message": "busy\nnow"}})
  assert (caught.value.kind, caught.value.detail) == (f"HTTP {status}", "busy now")


@pytest.mark.parametrize("status", [400, 413, 415, 422])
def test_a_refused_item_has_a_reason(status):
  assert explain(status, {"error": "image is too small"}) == f"answered {status} (image is too small)"


@pytest.mark.parametrize(
  ("status", "words"),
  [
    (401, "key is missing or wrong: set the environment variable VARIABLE"),
    (404, "check --model"),
    (307, "own address"),
  ],
)
def test_faults_of_every_request_end_the_run(status, words):
  with pytest.raises(UserError, match=words):
    explain(status, b"")


@pytest.mark.parametrize("status", [400, 401, 500])
def test_a_key_that_the_endpoint_repeats_is_not_repeated(status):
  body = {"error": {"message": "wrong key top-secret, Bearer abc.def, sk-proj-123456789 or http://me:pass@host"}}
  try:
    text = explain(status, body)
  except (Fault, UserError) as error:
    text = str(error)
  assert "wrong key ***" in text
  assert not any(secret in text for secret in ("top-secret", "abc.def", "123456789", "pass@"))


DATE = "Sun, 06 Nov 1994 08:49:37 GMT"


@pytest.mark.parametrize(
  ("value", "seconds"),
  [
    ("0", 0),
    ("20", 20),
    ("1.5", 1.5),
    ("2.", 2),
    ("100000000", 1e8),
    ("Sun, 06 Nov 1994 08:50:37 GMT", 60),
    ("Sunday, 06-Nov-94 08:50:37 GMT", 60),
    ("Sun Nov  6 08:50:37 1994", 60),
    ("Sun, 06 Nov 1994 09:50:37 +0100", 60),
    ("Sun, 06 Nov 1994 08:48:37 GMT", 0),
    *((value, 0) for value in ("", "-5", "+5", "nan", "inf", "1e3", "1_0", "5 s", "\u0665", "soon", "99 Foo 1994")),
    ("Sun, 06 Nov 99999999999999999999 08:50:37 GMT", 0),
    ("Sun, 06 Nov 1994 08:50:37 +9999999", 0),
  ],
)
def test_pauses_are_seconds_or_dates_and_never_negative(value, seconds):
  assert retry_after(value, DATE) == seconds


@pytest.mark.parametrize("date", ["", "today"])
def test_pauses_until_a_date_count_from_this_clock_without_another(monkeypatch, date):
  now = 1_800_000_000.25
  monkeypatch.setattr(http_faults, "time", types.SimpleNamespace(time=lambda: now))
  assert retry_after(email.utils.formatdate(now + 30, usegmt=True), date) == 29.75
  assert retry_after(DATE, date) == 0
