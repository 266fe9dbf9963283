"""Engine that asks endpoints of the chat-completions protocol: many requests at once, with retries and a rate limit."""

import asyncio
import collections
import dataclasses
import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx

from clipvip_jax.captioning import chat_protocol
from clipvip_jax.captioning.chat_protocol import Fault
from clipvip_jax.captioning.engine import FAILED, Answer, NumberedFrame
from clipvip_jax.captioning.pacing import Pace, retry_delay
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.log import log, printable

_CHECK_ATTEMPTS, _CHECK_TIMEOUT = 3, 10.0  # seconds
_REPORT_SECONDS = 30.0  # between two reports of faults


@dataclasses.dataclass(frozen=True, kw_only=True)
class EndpointSettings:
  """How endpoints are asked.

  Attributes:
    urls: base addresses, as in http://localhost:8000/v1; see `check_url`.
    model: its name at the endpoints.
    prompt: sent with each frame.
    parameters: of decoding, further fields of each request.
    answers_as: name of the model in answers; "": `model`.
    concurrency: the most requests at once, at all endpoints together.
    requests_per_minute: the most that are sent, to all endpoints together; 0: no limit.
    timeout: seconds for one request.
    retries: of a request that failed.
    key: sent as authorization; "" for none.
    key_variable: name of the environment variable with the key, for error messages.
  """

  urls: tuple[str, ...]
  model: str
  prompt: str
  parameters: dict[str, Any] = dataclasses.field(default_factory=dict)
  answers_as: str = ""
  concurrency: int = 16
  requests_per_minute: float = 0.0
  timeout: float = 120.0
  retries: int = 6
  key: str = dataclasses.field(default="", repr=False)
  key_variable: str = ""


def check_url(url: str) -> str:
  """Returns the base address of an endpoint, without the path of the protocol.

  Raises:
    UserError: it is not http:// or https:// with a host, or contains a password, a key or a fragment.
  """
  try:
    parsed = httpx.URL(url.strip())
  except (httpx.InvalidURL, TypeError) as error:
    raise UserError("--endpoint is not a valid address; pass for example http://localhost:8000/v1") from error
  if parsed.userinfo or parsed.query or parsed.fragment:
    raise UserError(
      f"--endpoint={printable(parsed.host)}: an address must not contain a password, ?query or #fragment; keys come"
      " from an environment variable (--key_variable)"
    )
  if parsed.scheme not in ("http", "https") or not parsed.host:
    raise UserError(f"--endpoint={printable(url, 80)} is not an address; pass for example http://localhost:8000/v1")
  return str(parsed).rstrip("/").removesuffix(chat_protocol.PATH)


class EndpointEngine:
  """Describes frames by requests to endpoints.

  Attributes:
    faults: number of failed requests by kind, such as {"HTTP 429": 12, "timeout": 1}.
  """

  def __init__(self, settings: EndpointSettings):
    """Args: `settings`, whose addresses `check_url` has returned."""
    self._settings = settings
    self.faults: collections.Counter[str] = collections.Counter()
    self._last_report = time.monotonic()

  def describe(self) -> dict[str, Any]:
    """See `Engine`. Addresses are omitted: any endpoint with this model gives the same captions."""
    settings = self._settings
    return {
      "engine": "endpoint", "model": settings.model, "prompt": settings.prompt, "parameters": settings.parameters
    }  # fmt: skip

  def check(self) -> None:
    """Asks each endpoint for its models, which all but few can list. Raises UserError if one cannot be reached."""
    with httpx.Client(headers=self._headers(), timeout=_CHECK_TIMEOUT) as client:
      for url in self._settings.urls:
        self._check_endpoint(client, url)

  def run(self, frames: Iterator[NumberedFrame], done: Callable[[int, Answer], None]) -> None:
    """See `Engine`. Raises UserError for a wrong key, path or model."""
    try:
      asyncio.run(self._run(frames, done))
    except BaseExceptionGroup as group:  # of tasks; the first error cancels the others
      raise _first_error(group) from None
    finally:
      self._report_faults()

  async def _run(self, frames: Iterator[NumberedFrame], done: Callable[[int, Answer], None]) -> None:
    settings = self._settings
    slots, rate = asyncio.Semaphore(settings.concurrency), Pace(settings.requests_per_minute)
    pauses = {url: Pace(0.0) for url in settings.urls}
    limits = httpx.Limits(max_connections=settings.concurrency, max_keepalive_connections=settings.concurrency)

    async def describe(number: int, jpeg: bytes) -> None:
      try:
        answer = await self._describe(client, rate, pauses, number, jpeg)
      finally:
        slots.release()
      done(number, answer)

    async with (
      httpx.AsyncClient(headers=self._headers(), limits=limits, timeout=settings.timeout) as client,
      asyncio.TaskGroup() as group,
    ):
      while True:
        await slots.acquire()
        frame = await asyncio.to_thread(next, frames, None)  # decodes a video, perhaps
        if frame is None:
          break
        group.create_task(describe(*frame))

  async def _describe(
    self, client: httpx.AsyncClient, rate: Pace, pauses: dict[str, Pace], number: int, jpeg: bytes
  ) -> Answer:
    """Sends a request until it succeeds or all attempts failed, each to the next endpoint that is not paused."""
    settings = self._settings
    body = chat_protocol.request_body(settings.model, settings.prompt, settings.parameters, jpeg)
    for attempt in itertools.count():
      urls = [settings.urls[(number + attempt + i) % len(settings.urls)] for i in range(len(settings.urls))]
      url = min(urls, key=lambda url: max(pauses[url].paused_until, time.monotonic()))
      await pauses[url].wait()
      await rate.wait()
      try:
        return await self._request(client, url, body)
      except Fault as fault:
        self._count(fault)
        if fault.pause:
          pauses[url].pause(fault.pause)
        if attempt >= settings.retries:
          return Answer(failure=FAILED, detail=f"{url}: {fault}")
        await asyncio.sleep(retry_delay(attempt))
    raise AssertionError

  async def _request(self, client: httpx.AsyncClient, url: str, body: dict[str, Any]) -> Answer:
    """Sends one request. Raises Fault, or UserError for what is wrong with every request."""
    settings = self._settings
    try:
      async with (
        asyncio.timeout(settings.timeout),  # httpx limits each read, not their sum
        client.stream("POST", url + chat_protocol.PATH, json=body) as response,
      ):
        content = await _read(response)
    except (TimeoutError, httpx.TimeoutException) as error:
      raise Fault("timeout", f"no answer within {settings.timeout:g} s") from error
    except httpx.ConnectError as error:
      raise Fault("no connection", self._redact(error)) from error
    except httpx.DecodingError as error:
      raise Fault("garbage", self._redact(error)) from error
    except (httpx.HTTPError, httpx.StreamError) as error:
      raise Fault("dropped connection", self._redact(error)) from error
    expected = settings.answers_as or settings.model
    try:
      return chat_protocol.parse_response(
        response.status_code, content, expected, settings.key_variable, settings.key
      )  # fmt: skip
    except Fault as fault:
      fault.pause = _retry_after(response.headers.get("retry-after", ""))
      raise
    except UserError as error:
      raise UserError(f"{url} {error}") from None

  def _check_endpoint(self, client: httpx.Client, url: str) -> None:
    for attempt in range(_CHECK_ATTEMPTS):
      try:
        with client.stream("GET", f"{url}/models") as response:
          status = response.status_code
        break
      except httpx.HTTPError as error:
        if attempt + 1 == _CHECK_ATTEMPTS:
          raise UserError(
            f"no connection to --endpoint={url} ({self._redact(error)}); start the server, or check address and network"
          ) from error
        time.sleep(retry_delay(attempt))
    if status in (401, 403):
      try:
        chat_protocol.parse_response(status, b"", "", self._settings.key_variable, self._settings.key)
      except UserError as error:
        raise UserError(f"{url} {error}") from None

  def _headers(self) -> dict[str, str]:
    return {"Authorization": f"Bearer {self._settings.key}"} if self._settings.key else {}

  def _redact(self, error: Exception) -> str:
    return printable(chat_protocol.redact(str(error) or type(error).__name__, self._settings.key), 120)

  def _count(self, fault: Fault) -> None:
    self.faults[fault.kind] += 1
    if time.monotonic() - self._last_report >= _REPORT_SECONDS:
      self._report_faults()

  def _report_faults(self) -> None:
    self._last_report = time.monotonic()
    if self.faults:
      counts = ", ".join(f"{count} x {kind}" for kind, count in sorted(self.faults.items()))
      log.warning("failed requests so far, repeated up to %d times: %s", self._settings.retries, counts)


async def _read(response: httpx.Response) -> bytes:
  """Reads a response. Raises Fault if it has more than MAX_BYTES: an endless stream would fill the memory."""
  content = bytearray()
  async for chunk in response.aiter_bytes():
    content += chunk
    if len(content) > chat_protocol.MAX_BYTES:
      raise Fault("garbage", f"more than {chat_protocol.MAX_BYTES >> 20} MiB")
  return bytes(content)


def _retry_after(value: str) -> float:
  """Returns the seconds in a header Retry-After; 0 for a date, which few services send, or anything else."""
  return float(value) if value.isascii() and value.isdigit() and len(value) < 7 else 0.0


def _first_error(group: BaseExceptionGroup[BaseException]) -> BaseException:
  error: BaseException = group
  while isinstance(error, BaseExceptionGroup):
    error = error.exceptions[0]
  return error
