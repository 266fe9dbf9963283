"""Web page for search in a video index: a query field, and thumbnails of the videos that were found.

| address | content |
|---|---|
| /?q=QUERY&where=CONDITION | the page, with the hits of the query if there is one |
| /frame?row=N | a frame of row N of the index, as JPEG |

No address names a file: only videos of the index are read. Requests whose Host header names neither this machine nor
the chosen address are refused, so that no other web site can reach the server through a name that it controls.
"""

import contextlib
import functools
import http.server
import socket
import sys
import threading
import urllib.parse
from collections.abc import Callable, Sequence
from typing import Any

from clipvip_jax.inference.search import Hit
from clipvip_jax.inference.video_index import VideoIndex
from clipvip_jax.reporting import pages, search_page
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.log import printable

Search = Callable[[str, str], Sequence[Hit]]  # of a query and a condition ("": none)

LOCALHOST = "127.0.0.1"
_LOCAL_NAMES = ("localhost", LOCALHOST, "::1")
_ANY_ADDRESS = {"0.0.0.0": LOCALHOST, "::": "::1"}  # all interfaces: that which this machine opens
_CACHED_FRAMES = 1024
_MAX_DECODERS = 4  # videos that are decoded at a time
_MAX_TEXT = 1000  # characters of a query
_TIMEOUT = 30.0  # seconds that a client may take to send its request
_HEADERS = {
  "Cache-Control": "no-store",
  "Cross-Origin-Resource-Policy": "same-origin",
  "Referrer-Policy": "no-referrer",
  "X-Content-Type-Options": "nosniff",
  "X-Frame-Options": "DENY",
}


class SearchServer(http.server.ThreadingHTTPServer):
  """HTTP server that is bound to its port, and answers once `serve` is called."""

  daemon_threads = True
  request_queue_size = 128  # connections that wait to be accepted; further ones wait for seconds

  def __init__(self, host: str = LOCALHOST, port: int = 0):
    """Binds the address.

    Args:
      host: name or address of an interface of this machine.
      port: 0 for any that is free.

    Raises:
      UserError: the port is in use, or the address is not of this machine.
    """
    if not 0 <= port < 2**16:
      raise UserError(f"--port={port} must be between 0 and 65535")
    self.host = host
    self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
      super().__init__((host, port), _Handler)
    except (OSError, UnicodeError, TypeError) as error:  # TypeError: a name that cannot be encoded
      reason = getattr(error, "strerror", None) or error
      raise UserError(
        f"--port={port} on {printable(host, 160)} cannot be opened ({reason}); choose another --port or --host"
      ) from error

  @property
  def url(self) -> str:
    """Address of the page, which a browser on this machine opens."""
    name = _ANY_ADDRESS.get(str(self.server_address[0]), self.host)
    name = f"[{name}]" if ":" in name else name
    return f"http://{name}:{self.server_address[1]}/"

  def serve(self, search: Search, index: VideoIndex) -> None:
    """Answers requests until `shutdown` is called or the process is interrupted.

    Args:
      search: is called by one thread at a time; its UserErrors are shown on the page.
      index: of the videos.
    """
    self.search, self.index = search, index
    self.search_lock, self._decoders = threading.Lock(), threading.BoundedSemaphore(_MAX_DECODERS)
    self.frame = functools.lru_cache(_CACHED_FRAMES)(self._read_frame)
    self.serve_forever()

  def _read_frame(self, row: int) -> bytes:
    """Returns a frame as JPEG; raises LookupError, which is not cached, if the video cannot be read now."""
    clip = self.index.clip(row)
    with self._decoders:
      frames = search_page.read_jpegs(Hit(clip.path, 0.0, clip.start, clip.end), 3)
    if not frames:
      raise LookupError(row)
    return frames[len(frames) // 2]

  def handle_error(self, request: Any, client_address: Any) -> None:
    """Ignores clients that close the connection early, as a browser does when its user goes to another page."""
    if not isinstance(sys.exc_info()[1], ConnectionError | TimeoutError):
      super().handle_error(request, client_address)

  def accepts(self, host: str | None) -> bool:
    """Returns whether a request with this Host header is meant for this server."""
    name = urllib.parse.urlsplit(f"//{host or ''}").hostname
    address = str(self.server_address[0])  # spelt as browsers do
    return address in _ANY_ADDRESS or name in (*_LOCAL_NAMES, self.host.lower(), address)


class _Handler(http.server.BaseHTTPRequestHandler):
  server: SearchServer
  server_version, sys_version = "clipvip", ""
  protocol_version = "HTTP/1.1"
  timeout = _TIMEOUT

  def do_HEAD(self) -> None:
    """Answers as to GET, without the content."""
    self.do_GET()

  def do_GET(self) -> None:
    try:
      accepted, parts = self.server.accepts(self.headers.get("Host")), urllib.parse.urlsplit(self.path)
    except ValueError:
      return self._respond(400, "text/plain", b"the address cannot be read")
    values = {name: texts[-1] for name, texts in urllib.parse.parse_qs(parts.query).items()}
    if not accepted:
      return self._respond(403, "text/plain", b"this name does not belong to the server; open its own address")
    if parts.path == "/":
      return self._send_page(values.get("q", "").strip()[:_MAX_TEXT], values.get("where", "").strip()[:_MAX_TEXT])
    if parts.path == "/frame":
      return self._send_frame(values.get("row", ""))
    return self._respond(404, "text/plain", b"no such page")

  def _send_page(self, query: str, where: str) -> None:
    hits, message, status = list[Hit](), "", 200
    try:
      if query:
        with self.server.search_lock:
          hits = list(self.server.search(query, where))
        message = "" if hits else "No video of the index matches the filter."
    except UserError as error:
      message, status = f"{error}.", 400
    index = self.server.index
    values: dict[str, Any] = {"query": query, "where": where, "message": message}
    values |= {"num_videos": len(index.videos), "moments": bool(index.segments)}
    values["hits"] = [{**search_page.describe(hit), "row": hit.row} for hit in hits]
    page = pages.render("search_form.html.jinja", **values)
    self._respond(status, "text/html; charset=utf-8", page.encode(errors="replace"))

  def _send_frame(self, row: str) -> None:
    with contextlib.suppress(LookupError):
      if row.isascii() and row.isdecimal() and len(row) < 16 and int(row) < len(self.server.index.videos):
        return self._respond(200, "image/jpeg", self.server.frame(int(row)))
    return self._respond(404, "text/plain", b"no such frame")

  def _respond(self, status: int, content_type: str, content: bytes) -> None:
    self.send_response(status)
    for name, value in {**_HEADERS, "Content-Type": content_type, "Content-Length": str(len(content))}.items():
      self.send_header(name, value)
    self.end_headers()
    if self.command != "HEAD":
      self.wfile.write(content)

  def log_message(self, format: str, *args: object) -> None:
    """Omits the line per request that the base class prints."""
