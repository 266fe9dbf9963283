"""Client of endpoints that answer one item per request: many at once, with retries and a rate limit."""

import asyncio
import collections
import dataclasses
import itertools
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any, Generic, Protocol, TypeVar

import aiohttp

from clipvip_jax.captioning.http_faults import MAX_BYTES, Fault, explain_refusal, redact, retry_after
from clipvip_jax.captioning.pacing import Pace, retry_delay
from clipvip_jax.captioning.prefetch import Prefetch
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.log import log, printable

Item = TypeVar("Item")
Result = TypeVar("Result")
_Item = TypeVar("_Item", contravariant=True)
_Result = TypeVar("_Result", covariant=True)

_CHECK_ATTEMPTS, _CHECK_TIMEOUT = 3, 10.0  # seconds
_REPORT_SECONDS = 30.0  # between two reports of faults


class Exchange(Protocol[_Item, _Result]):
  """Requests and answers of a protocol.

  Attributes:
    path: after the base address.
  """

  path: str

  def request(self, item: _Item, /) -> dict[str, Any]:
    """Returns arguments of `ClientSession.post`. Called for each attempt: a form can be sent only once."""

  def parse(self, body: bytes, item: _Item, /) -> _Result:
    """Returns the result in the body of an answer with status 200.

    Raises:
      Fault: it is not an answer of this protocol.
      UserError: no request can succeed, as another model answers.
    """

  def refused(self, detail: str, /) -> _Result:
    """Returns the result of an item that the endpoint does not accept."""

  def failed(self, detail: str, /) -> _Result:
    """Returns the result of an item all of whose requests failed."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClientSettings:
  """How endpoints are asked.

  Attributes:
    urls: base addresses, as in http://localhost:8000/v1; see `endpoint_options.check_url`.
    concurrency: the most requests at once, at all endpoints together.
    requests_per_minute: the most that are sent, to all endpoints together; 0: no limit.
    timeout: seconds for one request.
    retries: of a request that failed.
    key: sent as authorization; "" for none.
    key_variable: name of the environment variable with the key, for error messages.
  """

  urls: tuple[str, ...]
  concurrency: int = 16
  requests_per_minute: float = 0.0
  timeout: float = 120.0
  retries: int = 6
  key: str = dataclasses.field(default="", repr=False)
  key_variable: str = ""


class EndpointClient(Generic[Item, Result]):
  """Sends a request for each item to one of several endpoints.

  Attributes:
    faults: number of failed requests by kind, such as {"HTTP 429": 12, "timeout": 1}.
  """

  def __init__(self, settings: ClientSettings, exchange: Exchange[Item, Result]):
    """Args: `settings`, whose addresses `endpoint_options.check_url` has returned; the protocol."""
    self._settings, self._exchange = settings, exchange
    self.faults: collections.Counter[str] = collections.Counter()
    self._last_report = time.monotonic()

  def check(self) -> None:
    """Asks each endpoint for its models, which all but few can list. Raises UserError if one cannot be reached."""
    asyncio.run(self._check())

  def run(self, items: Iterator[tuple[int, Item]], done: Callable[[int, Result], None]) -> None:
    """Requests results of numbered items.

    Args:
      items: drawn from as answers arrive, by one thread at a time.
      done: called with the number and the result of each item, in any order.

    Raises:
      UserError: no request can succeed: a wrong key, path or model.
    """
    try:
      asyncio.run(self._run(items, done))
    except BaseExceptionGroup as group:  # of tasks; the first error cancels the others
      raise _first_error(group) from None
    finally:
      self._report_faults()

  async def _run(self, items: Iterator[tuple[int, Item]], done: Callable[[int, Result], None]) -> None:
    settings = self._settings
    rate, pauses = Pace(settings.requests_per_minute), {url: Pace(0.0) for url in settings.urls}

    async def work() -> None:
      while (numbered := await prefetch.next()) is not None:
        done(numbered[0], await self._ask(session, rate, pauses, *numbered))

    async with (
      self._session(settings.timeout) as session,
      Prefetch(items, settings.concurrency) as prefetch,
      asyncio.TaskGroup() as group,
    ):
      for _ in range(settings.concurrency):
        group.create_task(work())

  async def _ask(
    self, session: aiohttp.ClientSession, rate: Pace, pauses: dict[str, Pace], number: int, item: Item
  ) -> Result:
    """Repeats a request until it succeeds or all attempts failed, each to the next endpoint that is not paused."""
    settings = self._settings
    for attempt in itertools.count():
      urls = [settings.urls[(number + attempt + i) % len(settings.urls)] for i in range(len(settings.urls))]
      url = min(urls, key=lambda url: max(pauses[url].paused_until, time.monotonic()))
      await pauses[url].wait()
      await rate.wait()
      try:
        return await self._request(session, url, item)
      except Fault as fault:
        self._count(fault)
        if fault.pause:
          pauses[url].pause(fault.pause)
        if attempt >= settings.retries:
          return self._exchange.failed(f"{url}: {fault}")
        await asyncio.sleep(retry_delay(attempt))
    raise AssertionError

  async def _request(self, session: aiohttp.ClientSession, url: str, item: Item) -> Result:
    """Sends one request. Raises Fault, or UserError for what is wrong with every request."""
    settings = self._settings
    try:
      async with session.post(url + self._exchange.path, **self._exchange.request(item), **_options(url)) as response:
        body = await _read(response)
        if 300 <= response.status < 400:
          body = response.headers.get("location", "").encode()
    except TimeoutError as error:
      raise Fault("timeout", f"no answer within {settings.timeout:g} s") from error
    except aiohttp.ClientConnectorError as error:
      raise Fault("no connection", self._redact(error)) from error
    except aiohttp.ClientHttpProxyError as error:
      raise Fault("refusal of the proxy", self._redact(error)) from error
    except aiohttp.ClientResponseError as error:  # what answers does not speak HTTP
      raise Fault("garbage", self._redact(error)) from error
    except (aiohttp.ClientError, OSError) as error:
      raise Fault("dropped connection", self._redact(error)) from error
    try:
      if response.status == 200:
        return self._exchange.parse(body, item)
      return self._exchange.refused(
        explain_refusal(response.status, body, settings.key_variable, settings.key)
      )  # fmt: skip
    except Fault as fault:
      fault.pause = retry_after(response.headers.get("Retry-After", ""), response.headers.get("Date", ""))
      raise
    except UserError as error:
      raise UserError(f"{url} {error}") from None

  async def _check(self) -> None:
    async with self._session(_CHECK_TIMEOUT) as session:
      for url in self._settings.urls:
        await self._check_endpoint(session, url)

  async def _check_endpoint(self, session: aiohttp.ClientSession, url: str) -> None:
    for attempt in range(_CHECK_ATTEMPTS):
      try:
        async with session.get(f"{url}/models", **_options(url)) as response:
          status = response.status
        break
      except (aiohttp.ClientError, OSError) as error:
        if attempt + 1 == _CHECK_ATTEMPTS:
          raise self._no_connection(url, error) from error
        await asyncio.sleep(retry_delay(attempt))
    if status in (401, 403):
      try:
        explain_refusal(status, b"", self._settings.key_variable, self._settings.key)
      except UserError as error:
        raise UserError(f"{url} {error}") from None

  def _no_connection(self, url: str, error: Exception) -> UserError:
    reason, remedy = self._redact(error), "start the server, or check address and network"
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
      reason = printable(getattr(error.certificate_error, "verify_message", reason))
      remedy = "if you trust its certificate, set the environment variable SSL_CERT_FILE to a file with it"
    elif isinstance(error, aiohttp.ClientConnectorSSLError):
      remedy = "the address of a server without a certificate begins with http://"
    return UserError(f"no connection to --endpoint={url} ({reason}); {remedy}")

  def _session(self, timeout: float) -> aiohttp.ClientSession:
    """Returns a session whose requests are bounded by `concurrency` alone, and that keeps no cookies."""
    headers = {"Authorization": f"Bearer {self._settings.key}"} if self._settings.key else {}
    return aiohttp.ClientSession(
      headers=headers,
      timeout=aiohttp.ClientTimeout(total=timeout),
      connector=aiohttp.TCPConnector(limit=0),
      cookie_jar=aiohttp.DummyCookieJar(),
    )

  def _redact(self, error: Exception) -> str:
    return printable(redact(str(error) or type(error).__name__, self._settings.key), 120)

  def _count(self, fault: Fault) -> None:
    self.faults[fault.kind] += 1
    if time.monotonic() - self._last_report >= _REPORT_SECONDS:
      self._report_faults()

  def _report_faults(self) -> None:
    self._last_report = time.monotonic()
    if self.faults:
      counts = ", ".join(f"{count} x {kind}" for kind, count in sorted(self.faults.items()))
      log.warning("failed requests so far, repeated up to %d times: %s", self._settings.retries, counts)


def _options(url: str) -> dict[str, Any]:
  """Returns options of each request: the proxy of the environment, and no redirects.

  `trust_env` of aiohttp would also send passwords of ~/.netrc.
  """
  parsed, proxies = urllib.parse.urlsplit(url), urllib.request.getproxies()
  proxy = None if urllib.request.proxy_bypass(parsed.netloc) else proxies.get(parsed.scheme, proxies.get("all"))
  if proxy:
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    if urllib.parse.urlsplit(proxy).scheme not in ("http", "https"):
      raise UserError(
        f"the proxy of the environment is not an HTTP proxy; set {parsed.scheme}_proxy to one, or no_proxy for the"
        " endpoint"
      )
  return {"proxy": proxy, "allow_redirects": False}


async def _read(response: aiohttp.ClientResponse) -> bytes:
  """Reads a response. Raises Fault if it has more than MAX_BYTES: an endless stream would fill the memory."""
  content = bytearray()
  async for chunk in response.content.iter_any():
    content += chunk
    if len(content) > MAX_BYTES:
      raise Fault("garbage", f"more than {MAX_BYTES >> 20} MiB")
  return bytes(content)


def _first_error(group: BaseExceptionGroup[BaseException]) -> BaseException:
  error: BaseException = group
  while isinstance(error, BaseExceptionGroup):
    error = error.exceptions[0]
  return error
