"""Emulator of S3."""

import io
import re
import sys
import urllib.parse

from bucket_faults import ERRORS, Answer


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

  def is_content(self, method, path):
    """Whether a request reads the content of an object."""
    return method == "GET" and bool(re.fullmatch(r"/[^/?]+/[^?]+(\?x-id=GetObject)?", path))

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
