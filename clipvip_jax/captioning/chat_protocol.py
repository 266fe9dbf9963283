"""The OpenAI chat-completions protocol with an image: requests, answers, and what each status code means.

vLLM, SGLang, Ollama, llama.cpp and hosted services speak it. What an endpoint sends is untrusted.
"""

import base64
import json
import re
from collections.abc import Mapping
from typing import Any

from clipvip_jax.captioning.engine import REFUSED_IMAGE, Answer
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.log import printable

PATH = "/chat/completions"
MAX_BYTES = 2**22  # of a response
# Statuses after which the same request may succeed.
_TRANSIENT = (408, 409, 425, 429)
# Statuses that mean the same for every frame, and what to do.
_FATAL = {
  401: "the key is missing or wrong: set the environment variable {variable}",
  402: "the account has no credit",
  403: "the key in the environment variable {variable} does not permit this",
  404: "no such model or path: check --model and --endpoint, which often ends with /v1",
  405: "the path does not accept this request: check --endpoint, which often ends with /v1",
}
_REDIRECT = "it redirects: pass its own address with --endpoint"
_SECRETS = re.compile(r"(?i)\b(?:sk|hf|gsk|key|pk)[-_][\w*.-]{4,}|(?<=bearer )\S+|(?<=://)[^/@\s]+@")
_MAX_DETAIL = 160  # characters of an endpoint's message
_MAX_MODEL = 80  # characters of the name of a model


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


def request_body(model: str, prompt: str, parameters: Mapping[str, Any], jpeg: bytes) -> dict[str, Any]:
  """Returns the JSON body of a request to describe a JPEG image."""
  image = f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"
  content = [{"type": "text", "text": prompt}, {"type": "image_url", "image_url": {"url": image}}]
  return {"model": model, "messages": [{"role": "user", "content": content}], **parameters}


def parse_response(status: int, body: bytes, expected_model: str, variable: str, key: str) -> Answer:
  """Returns the answer in a response.

  Args:
    status: of HTTP.
    body: of the response.
    expected_model: the model that must have answered.
    variable: name of the environment variable with the key.
    key: never part of an error.

  Raises:
    Fault: the endpoint failed, or the response is not an answer of this protocol.
    UserError: the same happens for every frame: a wrong key, path or model.
  """
  if status == 200:
    return _parse_answer(body, expected_model)
  detail = _message(body, key)
  answered = f"answered {status}{detail and f' ({detail})'}"
  if status in _FATAL or 300 <= status < 400:
    raise UserError(f"{answered}; {_FATAL.get(status, _REDIRECT).format(variable=variable)}")
  if 400 <= status < 500 and status not in _TRANSIENT:
    return Answer(failure=REFUSED_IMAGE, detail=answered)
  raise Fault(f"HTTP {status}", detail)


def _parse_answer(body: bytes, expected_model: str) -> Answer:
  try:
    content = json.loads(body)
    choice = content["choices"][0]
    message = choice["message"]
    text, refusal = _text(message.get("content")), message.get("refusal")
    reason, model = choice.get("finish_reason"), content.get("model")
  except (ValueError, RecursionError, LookupError, TypeError, AttributeError) as error:
    raise Fault("garbage", f"not an answer of chat completions: {printable(body[:60])}") from error
  if isinstance(model, str) and not is_same_model(model, expected_model):
    raise UserError(
      f"answered with the model {printable(model, _MAX_MODEL)!r}, not {printable(expected_model, _MAX_MODEL)!r}; pass"
      " its name with --model, or, if both are the same, with --answers_as"
    )
  return Answer(text, incomplete=reason == "length", refusal=bool(refusal) or reason == "content_filter")


def _text(content: Any) -> str:
  """Returns the text of a message, a string or a list of parts. Raises TypeError for anything else."""
  if isinstance(content, list):
    return "".join(part["text"] for part in content if part.get("type") == "text")
  if content is None:  # of a refusal
    return ""
  if not isinstance(content, str):
    raise TypeError("content")
  return content


def is_same_model(answered: str, expected: str) -> bool:
  """Returns whether a name is that of the expected model, or of a version of it: services add a date or a tag."""
  return answered == expected or answered.startswith((f"{expected}-", f"{expected}:", f"{expected}@"))


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
