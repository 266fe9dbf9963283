"""Requests and answers of the chat-completions protocol."""

import base64
import json

import pytest

from clipvip_jax.captioning.chat_protocol import ChatProtocol, is_same_model
from clipvip_jax.captioning.engine import Answer
from clipvip_jax.captioning.http_faults import Fault
from clipvip_jax.utils.errors import UserError

PROTOCOL = ChatProtocol("m", "What?", {"max_tokens": 5}, "m")


def parse(body):
  return PROTOCOL.parse(body if isinstance(body, bytes) else json.dumps(body).encode(), b"")


def answer(content="a dog", **fields):
  message = {"content": content, **fields.pop("message", {})}
  return {"model": "m", **fields, "choices": [{"message": message, "finish_reason": fields.pop("reason", "stop")}]}


def test_a_request_has_the_picture_the_prompt_and_the_parameters():
  body = PROTOCOL.request(b"\xff\xd8jpeg")["json"]
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
  assert parse(body) == expected


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
    parse(body)


def test_refused_and_failed_images_have_a_reason():
  assert PROTOCOL.refused("answered 400") == Answer(failure="refused_image", detail="answered 400")
  assert PROTOCOL.failed("timeout") == Answer(failure="failed", detail="timeout")


def test_another_model_is_refused():
  with pytest.raises(UserError, match=r"answered with the model 'other', not 'm'; pass its name with --model"):
    parse(answer(model="other"))
  assert is_same_model("gpt-4o-2024-08-06", "gpt-4o") and is_same_model("llava:7b", "llava")
  assert not is_same_model("gpt-4omni", "gpt-4o") and not is_same_model("gpt-4", "gpt-4o")
