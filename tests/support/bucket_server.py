"""Emulators of Google Cloud Storage and S3 on localhost, with what the real stores do beyond them, and with faults.

  python bucket_server.py gs|s3

Prints its port and serves until its standard input is closed. Paths that begin with /-/ control it: see `Control`.
"""

import dataclasses
import http.client
import http.server
import io
import json
import logging
import pathlib
import random
import re
import socket
import struct
import sys
import threading
import time
import types
import urllib.parse

KINDS = ("500", "429", "reset", "lost", "slow", "truncated")
ERRORS = {  # status: (reason of Google, code of S3, message of both)
  400: ("invalid", "InvalidRequest", "The request is invalid."),
  401: ("authError", "InvalidAccessKeyId", "Invalid credentials."),
  403: ("forbidden", "AccessDenied", "The caller does not have permission."),
  404: ("notFound", "NoSuchKey", "The specified object does not exist."),
  412: ("conditionNotMet", "PreconditionFailed", "At least one of the pre-conditions you specified did not hold."),
  416: ("requestedRangeNotSatisfiable", "InvalidRange", "The requested range is not satisfiable."),
  429: ("rateLimitExceeded", "SlowDown", "Please reduce your request rate."),
  500: ("backendError", "InternalError", "We encountered an internal error. Please try again."),
  503: ("backendError", "SlowDown", "Please reduce your request rate."),
}
_SLOW_PIECES = 8


@dataclasses.dataclass
class Answer:
  """What a store answers to a request."""

  status: int
  headers: dict[str, str]
  body: bytes = b""


@dataclasses.dataclass
class Faults:
  """The faults of a server, drawn by seed.

  Attributes:
    rate: probability that a request has a fault.
    kinds: what is drawn from: a status; "reset" (of the connection, before the request has an effect); "lost" (reset
      after it had its effect); "slow" and "truncated" bodies.
    match: regular expression that "METHOD path?query" of a request must contain.
    limit: number of faults after which there are none; None: no limit.
    latency: seconds that are added to every request.
    slow_seconds: duration of a slow body.
  """

  seed: int = 0
  rate: float = 0.0
  kinds: tuple[str, ...] = KINDS
  match: str = ""
  limit: int | None = None
  latency: float = 0.0
  slow_seconds: float = 0.2

  def __post_init__(self):
    self._random, self._lock, self._count = random.Random(self.seed), threading.Lock(), 0

  def draw(self, line):
    """Returns the fault of a request; "" for none."""
    with self._lock:
      if not re.search(self.match, line) or (self.limit is not None and self._count >= self.limit):
        return ""
      kind = self._random.choice(self.kinds) if self._random.random() < self.rate else ""
      self._count += bool(kind)
      return kind


def read_multipart(exchange):
  """The parts of an upload with metadata, which the emulator reads line by line as an e-mail; None for others."""
  kind = exchange.headers.get("Content-Type", "")
  if not kind.startswith("multipart/related"):
    return None
  boundary = b"--" + re.search(r'boundary="?([^";]+)', kind)[1].encode()
  body = exchange.rfile.getvalue()
  metadata, content = body[: body.rindex(boundary)].split(boundary, 2)[1:]
  end = b"\r\n" if b"\r\n" in metadata else b"\n"
  content = content.removesuffix(end).partition(2 * end)[2]
  metadata = json.loads(metadata[metadata.index(b"{") :])
  return {"meta": metadata, "content": content, "content-type": "application/octet-stream"}


class Google:
  """gcp-storage-emulator, with preconditions, ranges, listings by offset, generations and messages of errors."""

  def __init__(self):
    from gcp_storage_emulator import server
    from gcp_storage_emulator.storage import Storage

    class Memory(Storage):
      def _write_config_to_file(self):  # all metadata, after each request: only a restart would read it
        pass

    read_data = server._read_data
    # Empty objects are b"", not None.
    server._read_data = lambda exchange, query: read_multipart(exchange) or read_data(exchange, query) or b""
    self._router, self.storage = server.Router, Memory(use_memory_fs=True)
    self._finished = {}  # answers to uploads in parts, by id

  def create(self, name):
    self.storage.create_bucket(name, {"name": name, "softDeletePolicy": {"retentionDurationSeconds": 0}})

  def drop(self, name):
    for key in self.sizes(name):
      self.storage.delete_file(name, key)
    for upload in [key for key, value in self.storage.resumable.items() if value.get("bucket") == name]:
      del self.storage.resumable[upload]  # pending uploads, of writers that were interrupted
    self.storage.delete_bucket(name)

  def sizes(self, name):
    """{object: size in bytes} of a bucket."""
    return {key: int(stored["size"]) for key, stored in self.storage.objects.get(name, {}).items()}

  def read(self, name, key):
    """The content of an object."""
    return self.storage.get_file(name, key)

  def write(self, name, key, content):
    """Writes an object, past all faults."""
    path = f"/upload/storage/v1/b/{name}/o?uploadType=media&name={urllib.parse.quote(key, safe='')}"
    headers = http.client.HTTPMessage()
    headers["Content-Length"] = str(len(content))
    assert self.answer("POST", path, headers, content).status == 200

  def error(self, status, message=""):
    reason, _, text = ERRORS.get(status, ERRORS[400])
    content = {"code": status, "message": message or text, "errors": [{"reason": reason, "message": message or text}]}
    return Answer(status, {"Content-Type": "application/json"}, json.dumps({"error": content}).encode())

  def answer(self, method, path, headers, body):
    split = urllib.parse.urlsplit(path)
    query = dict(urllib.parse.parse_qsl(split.query))
    if query.get("upload_id") in self._finished:
      return self._finished[query["upload_id"]]
    bucket, name = self._target(split.path, query, body)
    if bucket and bucket not in self.storage.buckets:
      return self.error(404, "The specified bucket does not exist.")
    stored = self.storage.objects.get(bucket, {}).get(name)
    if refused := self._precondition(method, query, int(stored["generation"]) if stored else 0):
      return self.error(refused) if refused != 304 else Answer(304, {})
    if upload_id := query.get("upload_id"):
      return self._upload_part(upload_id, method, path, headers, body)
    is_listing = re.search(r"/b/[^/]+/o$", split.path)
    if method == "GET" and stored and (query.get("alt") == "media" or not split.path.startswith("/storage/")):
      return self._download(stored, headers.get("Range"))
    answer = self._emulate(method, path, headers, body)
    if method == "GET" and answer.status == 200 and is_listing:
      return self._page(answer, query)
    return self.error(answer.status) if answer.status >= 400 and not answer.body else answer

  def _target(self, path, query, body):
    """(bucket, object) that a request reads or writes; "" where it names none."""
    parts = re.search(r"/(?:copyTo|rewriteTo)/b/([^/]+)/o/(.+)$", path)
    parts = parts or re.match(r"(?:/\w+)?(?:/storage/v1)?/b/([^/]+)(?:/o(?:/([^/]+))?)?(?:/\w+)?$", path)
    parts = parts or (None if path.startswith(("/batch", "/storage")) else re.match(r"/([^/]+)/(.+)$", path))
    if parts is None:
      return "", ""
    name = urllib.parse.unquote(parts[2] or query.get("name", ""))
    if not name and "upload_id" in query:
      name = self.storage.resumable.get(query["upload_id"], {}).get("name", "")
    elif not name and "uploadType" in query:  # metadata are the body, or its first part
      text = body[body.find(b"{") :].decode(errors="replace")
      name = json.JSONDecoder().raw_decode(text)[0].get("name", "")
    return parts[1], name

  def _precondition(self, method, query, generation):
    """The status by which preconditions refuse a request to an object of that generation (0: there is none)."""
    reads = method in ("GET", "DELETE")
    if reads and not generation:
      return 0  # 404
    if reads and int(query.get("generation", generation)) != generation:
      return 404
    if int(query.get("ifGenerationMatch", generation)) != generation:
      return 412
    if int(query.get("ifGenerationNotMatch", -1)) == generation:
      return 304 if method == "GET" else 412
    return 0

  def _upload_part(self, upload_id, method, path, headers, body):
    """A part of an upload. What arrived before is sent again after an answer was lost, and is ignored."""
    if method == "DELETE":
      return Answer(499, {})
    received = self.storage.get_resumable_byte_count(upload_id)
    sent = re.fullmatch(r"bytes (\d+)-(\d+)/(.+)", headers.get("Content-Range", ""))
    if sent and int(sent[1]) < received:
      body = body[received - int(sent[1]) :]
      if not body:
        return Answer(308, {"Range": f"bytes=0-{received - 1}"})
      headers.replace_header("Content-Range", f"bytes {received}-{sent[2]}/{sent[3]}")
      headers.replace_header("Content-Length", str(len(body)))
    answer = self._emulate(method, path, headers, body)
    if answer.status == 200:
      self._finished[upload_id] = answer
    return answer

  def _emulate(self, method, path, headers, body):
    """The emulator's own answer."""
    exchange = types.SimpleNamespace(path=path, headers=headers, storage=self.storage, wfile=io.BytesIO())
    exchange.rfile, exchange.server = io.BytesIO(body), types.SimpleNamespace(server_address=("127.0.0.1", 0))
    answer = Answer(500, {})
    exchange.send_response = lambda status, _: setattr(answer, "status", status)
    exchange.send_header = answer.headers.__setitem__
    exchange.end_headers = lambda: None
    self._router(exchange).handle(method)
    answer.body = exchange.wfile.getvalue()
    return answer

  def _download(self, stored, byte_range):
    """The content of an object, or a range of it; the emulator copies all of it, and knows no ranges from the end."""
    body = memoryview(self.storage.get_file(stored["bucket"], stored["name"]))
    headers = {
      "Content-Type": stored["contentType"],
      "ETag": f'"{stored["etag"]}"',
      "X-Goog-Generation": stored["generation"],
      "X-Goog-Metageneration": stored["metageneration"],
      "X-Goog-Stored-Content-Length": str(len(body)),
    }
    if not byte_range:
      return Answer(200, {**headers, "X-Goog-Hash": f"crc32c={stored['crc32c']},md5={stored['md5Hash']}"}, body)
    first, last = re.fullmatch(r"bytes=(\d*)-(\d*)", byte_range).groups()
    start = int(first) if first else max(0, len(body) - int(last))
    end = min(int(last) + 1, len(body)) if first and last else len(body)
    if start >= end:
      return self.error(416)
    return Answer(206, {**headers, "Content-Range": f"bytes {start}-{end - 1}/{len(body)}"}, body[start:end])

  def _page(self, answer, query):
    """One page of a listing, between the offsets."""
    content = json.loads(answer.body)
    start, end = query.get("startOffset", ""), query.get("endOffset", "\U0010ffff")
    after, size = query.get("pageToken", ""), int(query.get("maxResults", 1000))
    entries = [(item["name"], item) for item in content.pop("items", [])]
    entries += [(prefix, None) for prefix in content.pop("prefixes", [])]
    entries = sorted(
      (x for x in entries if max(start, after + "\0" if after else "") <= x[0] < end), key=lambda x: x[0]
    )
    page = entries[:size]
    items, prefixes = [item for _, item in page if item], [name for name, item in page if not item]
    content |= ({"items": items} if items else {}) | ({"prefixes": prefixes} if prefixes else {})
    content |= {"nextPageToken": page[-1][0]} if len(entries) > size else {}
    return Answer(200, answer.headers, json.dumps(content).encode())


class S3:
  """moto, which has preconditions."""

  def __init__(self):
    from moto.core import DEFAULT_ACCOUNT_ID
    from moto.moto_server.werkzeug_app import create_backend_app
    from moto.s3.models import s3_backends
    from werkzeug.test import run_wsgi_app

    self._app, self._run = create_backend_app("s3"), run_wsgi_app
    self._backend = s3_backends[DEFAULT_ACCOUNT_ID]["aws"]

  def create(self, name):
    self._backend.create_bucket(name, "us-east-1")

  def drop(self, name):
    keys = self._backend.buckets[name].keys
    for key in keys.values():
      key.dispose()
    keys.clear()
    self._backend.delete_bucket(name)

  def sizes(self, name):
    """{object: size in bytes} of a bucket."""
    return {key.name: key.size for key in self._backend.buckets[name].keys.values()}

  def read(self, name, key):
    """The content of an object."""
    return self._backend.get_object(name, key).value

  def write(self, name, key, content):
    """Writes an object, past all faults."""
    self._backend.put_object(name, key, content)

  def error(self, status, message=""):
    _, code, text = ERRORS[status]
    body = (
      f"<?xml version='1.0' encoding='UTF-8'?><Error><Code>{code}</Code><Message>{message or text}</Message></Error>"
    )
    return Answer(status, {"Content-Type": "application/xml"}, body.encode())

  def answer(self, method, path, headers, body):
    split = urllib.parse.urlsplit(path)
    environ = {
      "REQUEST_METHOD": method,
      "SCRIPT_NAME": "",
      "PATH_INFO": urllib.parse.unquote_to_bytes(split.path).decode("latin-1"),
      "QUERY_STRING": split.query,
      "RAW_URI": path,
      "REQUEST_URI": path,
      "SERVER_NAME": "127.0.0.1",
      "SERVER_PORT": "80",
      "SERVER_PROTOCOL": "HTTP/1.1",
      "REMOTE_ADDR": "127.0.0.1",
      "CONTENT_TYPE": headers.get("Content-Type", ""),
      "CONTENT_LENGTH": str(len(body)),
      "wsgi.version": (1, 0),
      "wsgi.url_scheme": "http",
      "wsgi.input": io.BytesIO(body),
      "wsgi.errors": sys.stderr,
      "wsgi.multithread": True,
      "wsgi.multiprocess": False,
      "wsgi.run_once": False,
    }
    environ |= {"HTTP_" + name.upper().replace("-", "_"): value for name, value in headers.items()}
    content, status, answered = self._run(self._app, environ, buffered=True)
    return Answer(int(status.split()[0]), dict(answered), b"".join(content))


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
    answer = self.server.store.error(int(fault)) if fault.isdigit() else self._answer(body)
    if fault == "lost" or (fault == "truncated" and len(answer.body) < 2):
      return self._reset()
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
