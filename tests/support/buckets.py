"""Buckets of emulated stores: fixtures `gs_bucket`, `s3_bucket`, and `bucket`, which runs a test with both.

A store is a process (bucket_server.py), started by the first test that needs it and shared by all tests of a test
process. Its environment variables make all libraries use it, and are inherited by the commands that a test starts.
"""

import atexit
import contextlib
import functools
import itertools
import json
import os
import pathlib
import subprocess
import sys
import types
import urllib.error
import urllib.parse
import urllib.request

import pytest

STORES = ("gs", "s3")
_SERVER = pathlib.Path(__file__).with_name("bucket_server.py")
_NUMBERS = itertools.count()
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Store:
  """A running emulator.

  Attributes:
    scheme: "gs" or "s3".
    environment: variables by which gcsfs, google-cloud-storage, TensorStore, ArrayRecord and botocore find it; None:
      is not set.
  """

  def __init__(self, scheme):
    self.scheme = scheme
    self._process = subprocess.Popen(
      [sys.executable, "-E", _SERVER, scheme], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    self.url = f"http://127.0.0.1:{int(self._process.stdout.readline())}"
    nothing = str(_SERVER.parent / "no_such_file")  # credentials of whoever runs the tests are not used
    google = ("STORAGE_EMULATOR_HOST", "CLOUD_STORAGE_EMULATOR_ENDPOINT", "TENSORSTORE_GCS_HTTP_URL")
    self.environment = {"NO_PROXY": "127.0.0.1,localhost"} | (
      {
        **dict.fromkeys(google, self.url),
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # asks another API, which is not emulated, for kinds of buckets
        "NO_GCE_CHECK": "true",
        "GOOGLE_AUTH_TOKEN_FOR_TESTING": "testing",  # TensorStore looks for credentials, and logs that there are none
        "GOOGLE_APPLICATION_CREDENTIALS": None,
        "CLOUDSDK_CONFIG": nothing,
      }
      if scheme == "gs"
      else {
        "AWS_ENDPOINT_URL": self.url,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": nothing,
        "AWS_SHARED_CREDENTIALS_FILE": nothing,
        "AWS_PROFILE": None,
      }
    )

  def control(self, method, path, content=None):
    """Calls `bucket_server.Server.control`; returns its bytes."""
    request = urllib.request.Request(f"{self.url}/-/{urllib.parse.quote(path)}", method=method, data=content)
    with _DIRECT.open(request) as response:
      return response.read()

  def close(self):
    self._process.stdin.close()  # ends the process
    self._process.stdout.close()
    self._process.wait()


@functools.cache
def start(scheme):
  """Returns the store of this process, "gs" or "s3"; starts it in the first call."""
  store = Store(scheme)
  atexit.register(store.close)
  return store


class Bucket:
  """An empty bucket.

  Attributes:
    url: "gs://NAME" or "s3://NAME".
  """

  def __init__(self, store):
    self.store, self.name = store, f"bucket-{os.getpid()}-{next(_NUMBERS)}"
    self.url = f"{store.scheme}://{self.name}"
    store.control("PUT", f"buckets/{self.name}")

  def __truediv__(self, name):
    """The URL of an object or folder."""
    return f"{self.url}/{name}"

  def sizes(self):
    """{object: size in bytes} of all objects."""
    return json.loads(self.store.control("GET", f"buckets/{self.name}"))

  def read(self, name):
    """The content of an object, past all faults."""
    return self.store.control("GET", f"buckets/{self.name}/{name}")

  def write(self, name, content):
    """Writes an object, past all faults."""
    self.store.control("PUT", f"buckets/{self.name}/{name}", content)

  def empty(self):
    """Deletes all objects."""
    for method in ("DELETE", "PUT"):
      self.store.control(method, f"buckets/{self.name}")

  def upload(self, folder, name):
    """Writes the files of a local folder below the name of a remote one, past all faults; returns its URL."""
    for path in sorted(pathlib.Path(folder).rglob("*")):
      if path.is_file():
        self.write(f"{name}/{path.relative_to(folder).as_posix()}", path.read_bytes())
    return self / name

  def download(self, name, folder):
    """Writes the objects below the name of a remote folder into a local one, past all faults."""
    for key in self.sizes():
      if key.startswith(f"{name}/" if name else "") and not key.endswith("/"):
        path = pathlib.Path(folder, key.removeprefix(f"{name}/"))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.read(key))

  def requests(self):
    """[("METHOD path?query", fault or "")] of all requests since the bucket was created."""
    return [tuple(x) for x in json.loads(self.store.control("GET", "requests"))]

  def set_faults(self, **fields):
    """Sets the fields of `bucket_server.Faults` from now on; without fields, there are none."""
    self.store.control("POST", "faults", json.dumps(fields).encode())

  @contextlib.contextmanager
  def faults(self, **fields):
    """Injects faults in the block: see `set_faults`."""
    self.set_faults(**fields)
    try:
      yield
    finally:
      self.set_faults()


def _forget_clients():
  """Drops the clients that fsspec caches, with their listings, credentials and endpoints."""
  for module, name in (("gcsfs", "GCSFileSystem"), ("s3fs", "S3FileSystem")):
    if module in sys.modules:
      getattr(sys.modules[module], name).clear_instance_cache()


def with_faults(bucket, action, seeds=range(20), fewest=3, **fields):
  """Calls action(seed, name of a folder) under faults, for all seeds, which must meet `fewest` faults on average."""
  for seed in seeds:
    try:
      with bucket.faults(**{"seed": seed, "rate": 0.25, "slow_seconds": 0.01, **fields}):
        action(seed, f"seed_{seed}")
    except BaseException as error:
      error.add_note(f"seed {seed}")
      raise
  assert sum(bool(fault) for _, fault in bucket.requests()) > fewest * len(seeds)


@contextlib.contextmanager
def fresh(scheme):
  """Yields a fresh `Bucket` of a store, whose environment is set meanwhile: for fixtures of any scope."""
  bucket = Bucket(start(scheme))
  bucket.store.control("DELETE", "requests")
  with pytest.MonkeyPatch.context() as patch:
    for name, value in bucket.store.environment.items():
      if value is None:
        patch.delenv(name, raising=False)
      else:
        patch.setenv(name, value)
    try:
      yield bucket
    finally:
      bucket.set_faults()
      bucket.store.control("DELETE", f"buckets/{bucket.name}")
      _forget_clients()


@pytest.fixture
def gs_bucket():
  """An empty bucket of Google Cloud Storage."""
  with fresh("gs") as bucket:
    yield bucket


@pytest.fixture
def s3_bucket():
  """An empty bucket of S3."""
  with fresh("s3") as bucket:
    yield bucket


@pytest.fixture(params=STORES)
def bucket(request):
  """An empty bucket of each store."""
  with fresh(request.param) as empty:
    yield empty


@pytest.fixture
def quick_retries(monkeypatch):
  """Failed requests are repeated without the seconds in between: by gcsfs, s3fs and `storage`."""
  import asyncio

  import aiobotocore.endpoint
  import gcsfs.retry
  import s3fs.core

  from clipvip_jax.utils import transfers

  for module in (aiobotocore.endpoint, gcsfs.retry, s3fs.core):
    quick = types.SimpleNamespace(**{**vars(asyncio), "sleep": lambda _: asyncio.sleep(0.001)})
    monkeypatch.setattr(module, "asyncio", quick)
  monkeypatch.setattr(transfers, "RETRY_DELAYS", (0.001,) * len(transfers.RETRY_DELAYS))
