"""Engine that asks endpoints of the chat-completions protocol."""

import collections
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

from clipvip_jax.captioning.chat_protocol import ChatProtocol
from clipvip_jax.captioning.endpoint_client import ClientSettings, EndpointClient
from clipvip_jax.captioning.engine import Answer, NumberedFrame


@dataclasses.dataclass(frozen=True, kw_only=True)
class EndpointSettings(ClientSettings):
  """How endpoints are asked, and what.

  Attributes:
    model: its name at the endpoints.
    prompt: sent with each frame.
    parameters: of decoding, further fields of each request.
    answers_as: name of the model in answers; "": `model`.
  """

  model: str
  prompt: str
  parameters: dict[str, Any] = dataclasses.field(default_factory=dict)
  answers_as: str = ""


class EndpointEngine:
  """Describes frames by requests to endpoints."""

  def __init__(self, settings: EndpointSettings):
    """Args: `settings`, whose addresses `endpoint_options.check_url` has returned."""
    self._settings = settings
    exchange = ChatProtocol(settings.model, settings.prompt, settings.parameters, settings.answers_as or settings.model)
    self._client = EndpointClient(settings, exchange)

  @property
  def faults(self) -> collections.Counter[str]:
    """See `EndpointClient`."""
    return self._client.faults

  def describe(self) -> dict[str, Any]:
    """See `Engine`. Addresses are omitted: any endpoint with this model gives the same captions."""
    settings = self._settings
    return {
      "engine": "endpoint", "model": settings.model, "prompt": settings.prompt, "parameters": settings.parameters
    }  # fmt: skip

  def check(self) -> None:
    """See `EndpointClient.check`."""
    self._client.check()

  def run(self, frames: Iterator[NumberedFrame], done: Callable[[int, Answer], None]) -> None:
    """See `Engine`. Raises UserError for a wrong key, path or model."""
    self._client.run(frames, done)
