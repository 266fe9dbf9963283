"""Engine that asks endpoints of the transcription protocol."""

from collections.abc import Callable, Iterator
from typing import Any

from clipvip_jax.captioning.endpoint_client import ClientSettings, EndpointClient
from clipvip_jax.transcription.engine import NumberedChunk
from clipvip_jax.transcription.segments import Speech
from clipvip_jax.transcription.speech_protocol import SpeechProtocol


class SpeechEndpoint:
  """Recognises speech by requests to endpoints."""

  def __init__(self, settings: ClientSettings, model: str, language: str, parameters: dict[str, Any]):
    """Sends nothing yet.

    Args:
      settings: how endpoints are asked.
      model: its name at the endpoints.
      language: code such as "en"; "": detected.
      parameters: further fields of each request.
    """
    self._description = {"engine": "endpoint", "model": model, "language": language, "parameters": parameters}
    self._client = EndpointClient(settings, SpeechProtocol(model, language, parameters))

  def describe(self) -> dict[str, Any]:
    """See `Engine`. Addresses are omitted: any endpoint with this model gives the same words."""
    return self._description

  def check(self) -> None:
    """See `EndpointClient.check`."""
    self._client.check()

  def run(self, chunks: Iterator[NumberedChunk], done: Callable[[int, Speech], None]) -> None:
    """See `Engine`."""
    self._client.run(chunks, done)
