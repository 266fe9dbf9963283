"""What each status of an endpoint means, and messages without keys."""

import json

import pytest

from clipvip_jax.captioning.http_faults import Fault, explain_refusal
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
