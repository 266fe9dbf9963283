"""What each response of an endpoint means."""

import base64
import json

import pytest

from clipvip_jax.captioning.chat_protocol import Fault, is_same_model, parse_response, request_body
from clipvip_jax.captioning.engine import Answer
from clipvip_jax.utils.errors import UserError


def parse(status, body, model="m", key="top-secret"):
  body = body if isinstance(body, bytes) else json.dumps(body).encode()
  return parse_response(status, body, model, "VARIABLE", key)


def answer(content="a dog", **fields):
  message = {"content": content, **fields.pop("message", {})}
  return {"model": "m", **fields, "choices": [{"message": message, "finish_reason": fields.pop("reason", "stop")}]}


def test_a_request_has_the_picture_the_prompt_and_the_parameters():
  body = request_body("m", "What?", {"max_tokens": 5}, b"\xff\xd8jpeg")
  text, image = body["messages"][0]["content"]
  assert (body["model"], body["max_tokens"], text["text"]) == ("m", 5, "What?")
  assert base64.b64decode(image["image_url"]["url"].removeprefix("data:image/jpeg;base64,")) == b"\xff\xd8jpeg"


@pytest.mark.parametrize(
  ("body", "expected"),
  [
    (answer(), Answer("a dog")),
    (answer([{"type": "text", "text": "a "}, {"type": "text", "text": "dog"}]), Answer("a dog")),
    (answer(reason="length"), Answer("a dog", incomplete=True)),
    (answer("", reason="content_filter"), Answer("", refusal=True)),
    (answer(None, message={"refusal": "no"}), Answer("", refusal=True)),
    ({"choices": answer()["choices"]}, Answer("a dog")),  # some servers do not name the model
  ],
)
def test_answers(body, expected):
  assert parse(200, body) == expected


@pytest.mark.parametrize(
  "body",
  [
    b"",
    b"\xff\xfe",
    b"[" * 100_000,
    b'{"choices": [{"message": {"content": "a do',
    b"data: {}\n\n",
    b"null",
    {"choices": []},
    {"choices": {}},
    {"choices": [{"message": "a dog"}]},
    {"choices": [{"message": {"content": 5}}]},
    {"choices": [{"message": {"content": [{"type": "text", "text": 5}]}}]},
    {"choices": [{"message": {"content": ["a dog"]}}]},
    {"error": {"message": "overloaded"}},
  ],
)
def test_garbage_is_a_fault(body):
  with pytest.raises(Fault, match="garbage"):
    parse(200, body)


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 529])
def test_passing_faults_are_named_by_their_status(status):
  with pytest.raises(Fault) as caught:
    parse(status, {"error": {"message": "busy\nnow"}})
  assert (caught.value.kind, caught.value.detail) == (f"HTTP {status}", "busy now")


@pytest.mark.parametrize("status", [400, 413, 415, 422])
def test_a_refused_image_is_an_answer(status):
  result = parse(status, {"error": "image is too small"})
  assert (result.failure, result.detail) == ("refused_image", f"answered {status} (image is too small)")


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
    parse(status, b"")


@pytest.mark.parametrize("status", [400, 401, 500])
def test_a_key_that_the_endpoint_repeats_is_not_repeated(status):
  body = {"error": {"message": "wrong key top-secret, Bearer abc.def, sk-proj-123456789 or http://me:pass@host"}}
  try:
    text = parse(status, body).detail
  except (Fault, UserError) as error:
    text = str(error)
  assert "wrong key ***" in text
  assert not any(secret in text for secret in ("top-secret", "abc.def", "123456789", "pass@"))


def test_another_model_is_refused():
  with pytest.raises(UserError, match=r"answered with the model 'other', not 'm'; pass its name with --model"):
    parse(200, answer(model="other"))
  assert is_same_model("gpt-4o-2024-08-06", "gpt-4o") and is_same_model("llava:7b", "llava")
  assert not is_same_model("gpt-4omni", "gpt-4o") and not is_same_model("gpt-4", "gpt-4o")
