"""The OpenAI chat-completions protocol with an image: requests and answers.

vLLM, SGLang, Ollama, llama.cpp and hosted services speak it. What an endpoint sends is untrusted.
"""

import base64
import json
from collections.abc import Mapping
from typing import Any

from clipvip_jax.captioning.engine import FAILED, REFUSED_IMAGE, Answer
from clipvip_jax.captioning.http_faults import Fault
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.log import printable

_MAX_MODEL = 80  # characters of the name of a model


class ChatProtocol:
  """Requests to describe a JPEG image, and their answers; see `EndpointClient`."""

  path = "/chat/completions"

  def __init__(self, model: str, prompt: str, parameters: Mapping[str, Any], answers_as: str):
    """Args: name of the model, question, further fields of each request; name of the model that must answer."""
    self._model, self._prompt, self._parameters, self._answers_as = model, prompt, parameters, answers_as

  def request(self, item: bytes) -> dict[str, Any]:
    """Returns the arguments of a request."""
    image = f"data:image/jpeg;base64,{base64.b64encode(item).decode()}"
    content = [{"type": "text", "text": self._prompt}, {"type": "image_url", "image_url": {"url": image}}]
    return {"json": {"model": self._model, "messages": [{"role": "user", "content": content}], **self._parameters}}

  def parse(self, body: bytes, item: bytes) -> Answer:
    """Returns the answer in the body of a response.

    Raises:
      Fault: it is not an answer of this protocol.
      UserError: another model has answered.
    """
    del item
    return _parse_answer(body, self._answers_as)

  def refused(self, detail: str) -> Answer:
    """Returns the answer for an image that the endpoint does not accept."""
    return Answer(failure=REFUSED_IMAGE, detail=detail)

  def failed(self, detail: str) -> Answer:
    """Returns the answer for an image all of whose requests failed."""
    return Answer(failure=FAILED, detail=detail)


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
