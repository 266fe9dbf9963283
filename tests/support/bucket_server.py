"""Emulators of Google Cloud Storage and S3 on localhost, with what the real stores do beyond them, and with faults.

  python bucket_server.py gs|s3

Prints its port and serves until its standard input is closed. Paths that begin with /-/ control it: see
`Server.control`.
"""

import http.server
import json
import logging
import pathlib
import socket
import struct
import sys
import threading
import time
import urllib.parse

from bucket_faults import Answer, Faults
from gs_emulator import Google
from s3_emulator import S3

_SLOW_PIECES = 8


class Server(http.server.ThreadingHTTPServer):
  """A store with its faults and the requests that it received."""

  daemon_threads = True
  request_queue_size = 128

  def __init__(self, store):
    super().__init__(("127.0.0.1", 0), Handler)
    self.store, self.faults = store, Faults()
    self.requests, self._lock = [], threading.Lock()

  def handle_error(self, request, address):
    if not isinstance(sys.exc_info()[1], ConnectionError):  # clients that are killed, or give up
      super().handle_error(request, address)

  def answer(self, *request):
    """The store's answer. One request at a time: the emulators are not thread-safe, and preconditions are atomic."""
    with self._lock:
      return self.store.answer(*request)

  def control(self, method, path, body):
    """The control of the server.

    POST /-/faults: sets `Faults`. GET or DELETE /-/requests: [[METHOD path?query, fault]] of all requests, or forgets
    them. PUT, DELETE or GET /-/buckets/NAME: creates or drops a bucket, or returns {object: size}. GET or PUT
    /-/buckets/NAME/OBJECT: content of an object, past all faults.
    """
    _, _, topic, *rest = urllib.parse.unquote(path).split("/", 4)
    with self._lock:
      match [method, topic, *rest]:
        case ["POST", "faults"]:
          self.faults = Faults(**json.loads(body))
        case ["GET", "requests"]:
          return Answer(200, {}, json.dumps(self.requests).encode())
        case ["DELETE", "requests"]:
          self.requests = []
        case ["PUT", "buckets", name]:
          self.store.create(name)
        case ["DELETE", "buckets", name]:
          self.store.drop(name)
        case ["GET", "buckets", name]:
          return Answer(200, {}, json.dumps(dict(sorted(self.store.sizes(name).items()))).encode())
        case ["GET", "buckets", name, key]:
          return Answer(200, {}, self.store.read(name, key))
        case ["PUT", "buckets", name, key]:
          self.store.write(name, key, body)
        case _:
          return Answer(404, {})
    return Answer(200, {})


class Handler(http.server.BaseHTTPRequestHandler):
  """Answers the requests of a connection, one after the other."""

  protocol_version = "HTTP/1.1"
  disable_nagle_algorithm = True
  wbufsize = 1 << 16
  server: Server

  def log_message(self, *_):
    pass

  def do_GET(self):
    body = self._body()
    if self.path.startswith("/-/"):
      return self._send(self.server.control(self.command, self.path, body))
    faults = self.server.faults
    time.sleep(faults.latency)
    fault = faults.draw(f"{self.command} {self.path}")
    self.server.requests.append([f"{self.command} {self.path}", fault])
    if fault == "reset":
      return self._reset()
    if fault == "silent":
      return self._wait_while(faults)
    answer = self.server.store.error(int(fault)) if fault.isdigit() else self._answer(body)
    if fault == "lost" or (fault == "truncated" and len(answer.body) < 2):
      return self._reset()
    if fault == "short" and self.server.store.is_content(self.command, self.path) and answer.status < 300:
      answer.body = answer.body[: len(answer.body) * 2 // 3]
    return self._send(answer, fault, faults.slow_seconds)

  def handle_expect_100(self):
    super().handle_expect_100()
    self.wfile.flush()
    return True

  do_POST = do_PUT = do_HEAD = do_DELETE = do_PATCH = do_GET

  def _body(self):
    """The body of the request; its headers then have its length."""
    if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
      return self.rfile.read(int(self.headers.get("Content-Length") or 0))
    body = b""
    while size := int(self.rfile.readline().split(b";")[0], 16):
      body += self.rfile.read(size)
      self.rfile.readline()
    self.rfile.readline()
    del self.headers["Transfer-Encoding"]
    self.headers["Content-Length"] = str(len(body))
    return body

  def _answer(self, body):
    try:
      return self.server.answer(self.command, self.path, self.headers, body)
    except Exception as error:  # of the emulator
      print(f"{self.command} {self.path}: {error!r}", file=sys.stderr, flush=True)
      return self.server.store.error(500)

  def _wait_while(self, faults):
    """Gives no answer while these are the faults of the server."""
    self.close_connection = True
    while self.server.faults is faults:
      time.sleep(0.05)

  def _reset(self):
    """Aborts the connection."""
    self.close_connection = True
    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    socket.close(self.connection.detach())

  def _send(self, answer, fault="", seconds=0.0):
    self.send_response(answer.status)
    names = {name.lower() for name in answer.headers}
    for name, value in answer.headers.items():
      if name.lower() not in ("content-length", "transfer-encoding", "connection", "server", "date"):
        self.send_header(name, value)
    is_head = self.command == "HEAD" and "content-length" in names
    length = (
      next(v for k, v in answer.headers.items() if k.lower() == "content-length") if is_head else len(answer.body)
    )
    if answer.status not in (204, 304):
      self.send_header("Content-Length", str(length))
    self.end_headers()
    body = b"" if self.command == "HEAD" or answer.status in (204, 304) else answer.body
    if fault == "truncated":
      self.close_connection = True
      body = body[: len(body) // 2]
    pieces = _SLOW_PIECES if fault == "slow" else 1
    size = -(-len(body) // pieces) or 1
    for start in range(0, len(body), size):
      if fault == "slow":
        self.wfile.flush()
        time.sleep(seconds / pieces)
      self.wfile.write(body[start : start + size])


def main():
  logging.disable()  # the emulators report objects that do not exist as errors
  server = Server({"gs": Google, "s3": S3}[sys.argv[1]]())
  threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.5}, daemon=True).start()
  print(server.server_port, flush=True)
  sys.stdin.read()  # until the process that started it ends


if __name__ == "__main__":
  sys.path.remove(str(pathlib.Path(__file__).parent))  # modules of tests are not those of the emulators
  main()
