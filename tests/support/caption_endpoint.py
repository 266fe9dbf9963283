"""A fake endpoint of the chat-completions protocol on localhost, with injected faults, and clips that it knows."""

import base64
import collections
import contextlib
import http.server
import json
import socketserver
import threading
import time

import numpy as np

from clipvip_jax.captioning.frame_sources import ClipFrame
from clipvip_jax.data.engine.records import encode_jpeg

MODEL = "vlm-7b"


def picture(number):
  """Returns a small JPEG of its own for each number below 4096."""
  color = [16 * (number >> shift & 15) + 8 for shift in (8, 4, 0)]
  return encode_jpeg(np.full((8, 8, 3), color, np.uint8), 100)


def describe(frames, prompt):
  """An engine MODULE:FUNCTION."""
  return [f"a picture of {frame.shape[1]} columns" for frame in frames]


class Clips:
  """A source of `count` clips, without files; those in `unreadable` cannot be read."""

  def __init__(self, count, unreadable=(), split="train"):
    self.count, self.unreadable, self.split = count, {*unreadable}, split
    self.read = []

  def __len__(self):
    return self.count

  def describe(self):
    return {"clips": self.count}

  def frames(self, numbers):
    for number in numbers:
      self.read.append(number)
      bad = number in self.unreadable
      yield ClipFrame(number, f"clip{number}", self.split, b"" if bad else picture(number), "cut off" if bad else "")


class CaptionEndpoint(socketserver.ThreadingMixIn, http.server.HTTPServer):
  """Answers with the caption of each picture, after `latency` seconds. Use it as a context manager.

  With `at_once`, as many requests wait for one another before any of them is answered.

  Attributes:
    url: for --endpoint.
    fault: called with the number of a request, from 0, and its picture; returns "", a status, an address
      to redirect to, packed bytes, or "model", "garbage", "endless", "hang" or "drop".
    counts: requests by fault, "" for those without.
    most_at_once: the most requests that were open at once.
    authorization: of the last request.
    retry_after: returns the header Retry-After of a 429.
    times: at which requests arrived.
  """

  daemon_threads = True
  request_queue_size = 256

  def __init__(self, captions, latency=0.0, fault=lambda number, picture: "", model=MODEL, at_once=1):
    super().__init__(("127.0.0.1", 0), _Handler)
    self.captions, self.latency, self.fault, self.model = captions, latency, fault, model
    self.url = f"http://127.0.0.1:{self.server_port}/v1"
    self.counts, self.times, self.authorization, self.retry_after = collections.Counter(), [], None, lambda: "0"
    self.barrier, self.ended = threading.Barrier(at_once, timeout=60), threading.Event()
    self.lock, self.open, self.most_at_once, self.number = threading.Lock(), 0, 0, 0

  def __enter__(self):
    threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()
    return self

  def __exit__(self, *_):
    self.ended.set()
    self.shutdown()
    self.server_close()

  def handle_error(self, request, client_address):
    pass  # clients that are killed


def known_captions(count):
  """Returns {picture: caption} of `Clips`."""
  return {picture(number): f"a square of colour {number}" for number in range(count)}


class _Handler(http.server.BaseHTTPRequestHandler):
  protocol_version = "HTTP/1.1"
  disable_nagle_algorithm = True
  server: CaptionEndpoint

  def log_message(self, *_):
    pass

  def do_GET(self):
    self._send(200, json.dumps({"data": [{"id": self.server.model}]}).encode())

  def do_POST(self):
    server = self.server
    body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
    picture = base64.b64decode(body["messages"][0]["content"][1]["image_url"]["url"].partition(",")[2])
    with server.lock:
      number, server.number = server.number, server.number + 1
      server.open += 1
      server.most_at_once = max(server.most_at_once, server.open)
      server.authorization = self.headers.get("Authorization")
      server.times.append(time.monotonic())
      fault = server.fault(number, picture)
      server.counts[fault] += 1
    try:
      server.barrier.wait()
      time.sleep(server.latency)
    finally:
      with server.lock:
        server.open -= 1
    self._answer(fault, body, picture)

  def _answer(self, fault, body, picture):
    if isinstance(fault, bytes):
      return self._send(200, fault, {"Content-Encoding": "gzip"})
    if fault.startswith("http:"):
      return self._send(307, b"", {"Location": f"{fault}{self.path.removeprefix('/v1')}"})
    if fault.isdigit():
      key = self.headers.get("Authorization")
      return self._send(int(fault), json.dumps({"error": {"message": f"no, says {fault} to {key}"}}).encode())
    answer = {
      "model": "another-model" if fault == "model" else self.server.model,
      "choices": [
        {"message": {"role": "assistant", "content": self.server.captions[picture]}, "finish_reason": "stop"}
      ],
    }
    data = json.dumps(answer).encode()
    if fault == "garbage":
      return self._send(200, b'data: {"choi\x00\xff')
    if fault == "endless":
      return self._send(200, b" " * (5 << 20))
    if fault == "hang":
      self.server.ended.wait(60)
    if fault == "drop":
      self.send_response(200)
      self.send_header("Content-Length", str(len(data)))
      self.end_headers()
      self.wfile.write(data[: len(data) // 2])
      self.close_connection = True
      return None
    with contextlib.suppress(ConnectionError):
      self._send(200, data)

  def _send(self, status, data, headers=None):
    self.send_response(status)
    for name, value in (headers or {}).items():
      self.send_header(name, value)
    self.send_header("Content-Type", "application/json")
    self.send_header("Content-Length", str(len(data)))
    if status == 429:
      self.send_header("Retry-After", self.server.retry_after())
    self.end_headers()
    self.wfile.write(data)
