"""The emulated stores: what the libraries write is read back, preconditions and faults are those of the real ones."""

import concurrent.futures
import contextlib
import http.client
import os
import subprocess
import sys
import time
import urllib.parse

import fsspec
import numpy as np
import pytest
import tensorstore as ts
from array_record.python import array_record_module
from buckets import STORES, fresh

# What parsers of uploads could mistake for their own.
CONTENT = b"\r\n\n" + bytes(range(256)) * 40 + b"\r\n--==0==\r\n--==0==--\r"

# The emulator checks that a request is signed, and not how.
SIGNED = "AWS4-HMAC-SHA256 Credential=testing/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=none"


def request(bucket, method, name="", body=None, query="", **headers):
  """Sends one request about an object as the store's own API takes it; returns (status, headers, body)."""
  key = urllib.parse.quote(name, safe="")
  if bucket.store.scheme == "s3":
    path = f"/{bucket.name}/{key}"
    headers["Authorization"] = SIGNED
  elif body is not None:
    method, path = "POST", f"/upload/storage/v1/b/{bucket.name}/o"
    query = f"uploadType=media&name={key}&{query}"
  else:
    path = f"/storage/v1/b/{bucket.name}/o/{key}"
    query += "&alt=media" * (method == "GET")
  connection = http.client.HTTPConnection(bucket.store.url.removeprefix("http://"), timeout=10)
  with contextlib.closing(connection):
    connection.request(method, f"{path}?{query}", body, headers)
    response = connection.getresponse()
    return response.status, response.headers, response.read()


def test_content_is_read_back(bucket):
  files = fsspec.filesystem(bucket.store.scheme)
  for name in ("a b/ü%2F+", "a b/c", "big"):
    files.pipe(bucket / name, CONTENT * (600 if name == "big" else 1))  # a big one is uploaded in parts
    assert files.cat(bucket / name) == bucket.read(name)
  assert bucket.read("a b/c") == CONTENT
  assert bucket.sizes() == {"a b/c": len(CONTENT), "a b/ü%2F+": len(CONTENT), "big": 600 * len(CONTENT)}
  assert files.cat_file(bucket / "big", start=7, end=300) == CONTENT[7:300]
  assert sorted(files.ls(bucket / "a b", detail=False)) == [f"{bucket.name}/a b/c", f"{bucket.name}/a b/ü%2F+"]
  files.rm(bucket / "a b", recursive=True)
  assert list(bucket.sizes()) == ["big"]


def test_processes_share_the_bucket(bucket):
  code = f"import fsspec; fsspec.open('{bucket}/x', 'wb').open().close()".replace(str(bucket), bucket.url)
  subprocess.run([sys.executable, "-c", code], check=True)
  assert bucket.sizes() == {"x": 0}


@pytest.mark.parametrize("scheme", STORES)
def test_buckets_are_fresh_and_their_environment_ends(scheme):
  with fresh(scheme) as first, fresh(scheme) as second:
    first.write("x", b"1")
    assert second.sizes() == {}
    assert fsspec.filesystem(scheme).exists(first / "x")
  assert "STORAGE_EMULATOR_HOST" not in os.environ
  assert "AWS_ENDPOINT_URL" not in os.environ


def test_folders_are_copied(bucket, tmp_path):
  (tmp_path / "from/sub").mkdir(parents=True)
  (tmp_path / "from/sub/x").write_bytes(CONTENT)
  (tmp_path / "from/empty").touch()
  assert bucket.upload(tmp_path / "from", "folder") == f"{bucket.url}/folder"
  bucket.download("folder", tmp_path / "to")
  assert (tmp_path / "to/sub/x").read_bytes() == CONTENT
  assert (tmp_path / "to/empty").read_bytes() == b""


def test_preconditions_of_gs(gs_bucket):
  files = fsspec.filesystem("gs")
  files.pipe_file(gs_bucket / "x", b"1", mode="create")
  with pytest.raises(FileExistsError):
    files.pipe_file(gs_bucket / "x", b"2", mode="create")
  generation = files.info(gs_bucket / "x")["generation"]
  assert request(gs_bucket, "PUT", "x", b"2", f"ifGenerationMatch={generation}")[0] == 200
  assert request(gs_bucket, "PUT", "x", b"3", f"ifGenerationMatch={generation}")[0] == 412
  assert request(gs_bucket, "DELETE", "x", query=f"ifGenerationMatch={generation}")[0] == 412
  assert request(gs_bucket, "GET", "x", query=f"generation={generation}")[0] == 404
  status, headers, body = request(gs_bucket, "GET", "x")
  assert (status, body) == (200, b"2")
  current = headers["X-Goog-Generation"]
  assert current != generation
  assert request(gs_bucket, "GET", "x", query=f"ifGenerationNotMatch={current}")[0] == 304
  assert request(gs_bucket, "DELETE", "x", query=f"ifGenerationMatch={current}")[0] == 200
  assert gs_bucket.sizes() == {}


def test_preconditions_of_s3(s3_bucket):
  status, headers, _ = request(s3_bucket, "PUT", "x", b"1", **{"If-None-Match": "*"})
  assert status == 200
  etag = headers["ETag"]
  assert request(s3_bucket, "PUT", "x", b"2", **{"If-None-Match": "*"})[0] == 412
  assert request(s3_bucket, "PUT", "x", b"2", **{"If-Match": etag})[0] == 200
  assert request(s3_bucket, "PUT", "x", b"3", **{"If-Match": etag})[0] == 412
  assert request(s3_bucket, "DELETE", "x", **{"If-Match": etag})[0] == 412
  assert s3_bucket.read("x") == b"2"
  assert request(s3_bucket, "DELETE", "x", **{"If-Match": request(s3_bucket, "GET", "x")[1]["ETag"]})[0] == 204
  assert s3_bucket.sizes() == {}


def test_one_of_many_creates(bucket):
  query, headers = ("ifGenerationMatch=0", {}) if bucket.store.scheme == "gs" else ("", {"If-None-Match": "*"})
  with concurrent.futures.ThreadPoolExecutor(8) as pool:
    statuses = list(pool.map(lambda i: request(bucket, "PUT", "x", b"%d" % i, query, **headers)[0], range(16)))
  assert sorted(statuses) == [200] + [412] * 15
  assert bucket.read("x") == b"%d" % statuses.index(200)


@pytest.mark.parametrize("kind", ["500", "reset", "lost", "slow"])
def test_parts_of_an_upload_are_sent_again(gs_bucket, quick_retries, tmp_path, kind):
  (tmp_path / "x").write_bytes(CONTENT * 700)
  with gs_bucket.faults(rate=0.5, kinds=[kind], seed=2, match="upload_id=", slow_seconds=0.01):
    fsspec.filesystem("gs").put_file(str(tmp_path / "x"), gs_bucket / "x", chunksize=2**20)
  assert gs_bucket.read("x") == CONTENT * 700
  assert [fault for _, fault in gs_bucket.requests()].count(kind) > 2


def test_tensorstore_writes_lists_and_deletes(gs_bucket):
  spec = {"driver": "gcs", "bucket": gs_bucket.name, "path": "arrays/"}
  values = np.arange(12, dtype=np.float32)
  create = {"metadata": {"shape": [12], "chunks": [5], "dtype": "<f4"}, "create": True}
  array = ts.open({"driver": "zarr", "kvstore": {**spec, "path": "arrays/a/"}, **create}).result()
  array.write(values).result()
  np.testing.assert_array_equal(array.read().result(), values)
  gs_bucket.write("other", b"not in the store")
  store = ts.KvStore.open(spec).result()
  assert sorted(store.list().result()) == [b"a/.zarray", b"a/0", b"a/1", b"a/2"]
  first = store.write("b", b"1").result().generation
  second = store.write("b", b"2", if_equal=first).result().generation
  store.write("b", b"3", if_equal=first).result()
  assert second != first
  assert gs_bucket.read("arrays/b") == b"2"
  store.delete_range(ts.KvStore.KeyRange("a/", "a0")).result()
  assert gs_bucket.sizes() == {"arrays/b": 1, "other": len(b"not in the store")}


def test_array_record_reads(gs_bucket, tmp_path):
  records = [b"%05d" % i * 1000 for i in range(300)]
  writer = array_record_module.ArrayRecordWriter(str(tmp_path / "x"), "group_size:1,uncompressed")
  for record in records:
    writer.write(record)
  writer.close()
  gs_bucket.write("x", (tmp_path / "x").read_bytes())
  reader = array_record_module.ArrayRecordReader(gs_bucket / "x")
  assert reader.read([299, 0, 7]) == [records[299], records[0], records[7]]
  reader.close()


@pytest.mark.parametrize("status", [401, 403, 429, 500, 503])
def test_faults_are_statuses(bucket, status):
  bucket.write("x", CONTENT)
  with bucket.faults(rate=1, kinds=[str(status)]):
    assert request(bucket, "GET", "x")[0] == status
  assert request(bucket, "GET", "x")[::2] == (200, CONTENT)
  assert [fault for _, fault in bucket.requests()] == [str(status), ""]


@pytest.mark.parametrize("kind, has_effect", [("reset", False), ("lost", True)])
def test_faults_reset_connections(bucket, kind, has_effect):
  with bucket.faults(rate=1, kinds=[kind]), pytest.raises(ConnectionResetError):
    request(bucket, "PUT", "x", CONTENT)
  assert ("x" in bucket.sizes()) == has_effect


def test_faults_truncate_and_slow_down(bucket):
  bucket.write("x", CONTENT)
  with bucket.faults(rate=1, kinds=["truncated"]), pytest.raises(http.client.IncompleteRead) as error:
    request(bucket, "GET", "x")
  assert error.value.partial == CONTENT[: len(CONTENT) // 2]
  for fields, seconds in (({"rate": 1, "kinds": ["slow"], "slow_seconds": 0.2}, 0.2), ({"latency": 0.1}, 0.1)):
    start = time.monotonic()
    with bucket.faults(**fields):
      assert request(bucket, "GET", "x")[2] == CONTENT
    assert time.monotonic() - start >= seconds


def test_faults_are_drawn_by_seed(gs_bucket):
  drawn = []
  for seed in (0, 0, 1):
    with gs_bucket.faults(seed=seed, rate=0.5, kinds=["500", "429"], match="GET .*x", limit=5):
      drawn.append([request(gs_bucket, method, "x")[0] for method in ("GET", "DELETE") for _ in range(20)])
  assert drawn[0] == drawn[1] != drawn[2]
  assert set(drawn[0][:20]) == {404, 429, 500}
  assert drawn[0].count(404) == 40 - 5


def test_retries_hide_faults(bucket, quick_retries):
  files = fsspec.filesystem(bucket.store.scheme)
  start = time.monotonic()
  with bucket.faults(seed=1, rate=0.3, slow_seconds=0.01):
    for i in range(12):
      files.pipe(f"{bucket.url}/{i}", CONTENT)
  for i in range(12):
    assert bucket.read(str(i)) == CONTENT
  assert sum(bool(fault) for _, fault in bucket.requests()) > 5
  assert time.monotonic() - start < 5
