"""Emulator of Google Cloud Storage."""

import http.client
import io
import json
import re
import types
import urllib.parse

from bucket_faults import ERRORS, Answer


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

  def is_content(self, method, path):
    """Whether a request reads the content of an object."""
    return method == "GET" and ("alt=media" in path or not re.match("/(storage|batch|upload)/", path))

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
