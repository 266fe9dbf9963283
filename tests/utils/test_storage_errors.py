"""Errors of the libraries for object stores, and what is said about them."""

import socket

import aiohttp
import botocore.exceptions
import fsspec.exceptions
import gcsfs.retry
import google.auth.exceptions
import pytest

from clipvip_jax.utils import storage, storage_errors, transfers
from clipvip_jax.utils.errors import UserError


def amazon(code, status):
  response = {"Error": {"Code": code, "Message": "a secret"}, "ResponseMetadata": {"HTTPStatusCode": status}}
  return botocore.exceptions.ClientError(response, "PutObject")


@pytest.mark.parametrize(
  ("error", "reason", "transient"),
  [
    (gcsfs.retry.HttpError({"code": 401, "message": "a secret"}), "needs credentials", False),
    (google.auth.exceptions.DefaultCredentialsError("a secret"), "needs credentials", False),
    (botocore.exceptions.NoCredentialsError(), "needs credentials", False),
    (amazon("InvalidAccessKeyId", 403), "needs credentials", False),
    (ValueError("UNAUTHENTICATED: a secret"), "needs credentials", False),
    (OSError("Forbidden: b/bucket/o\na secret"), "permits no access", False),
    (PermissionError("a secret"), "permits no access", False),
    (amazon("AccessDenied", 403), "permits no access", False),
    (ValueError("PERMISSION_DENIED: a secret"), "permits no access", False),
    (amazon("NoSuchBucket", 404), "does not exist", False),
    (amazon("PermanentRedirect", 301), "is in another region", False),
    (amazon("InvalidRequest", 400), "refuses a request as invalid", False),
    (ValueError("Bad Request: https://a secret"), "refuses a request as invalid", False),
    (amazon("BadDigest", 400), "returned other bytes", True),
    (amazon("NotImplemented", 501), "has no conditional writes", False),
    (gcsfs.retry.HttpError({"code": "429", "message": "a secret"}), "refuses requests", True),
    (gcsfs.retry.HttpError({"code": 503, "message": "a secret"}), "refuses requests", True),
    (amazon("SlowDown", 503), "refuses requests", True),
    (ValueError("UNAVAILABLE: a secret"), "refuses requests", True),
    (TimeoutError(), "did not answer in time", True),
    (fsspec.exceptions.FSTimeoutError(), "did not answer in time", True),
    (aiohttp.ServerTimeoutError(), "did not answer in time", True),
    (botocore.exceptions.ReadTimeoutError(endpoint_url="a secret"), "did not answer in time", True),
    (ValueError("DEADLINE_EXCEEDED: a secret"), "did not answer in time", True),
    (aiohttp.ServerDisconnectedError(), "cannot be reached", True),
    (aiohttp.ClientPayloadError(), "cannot be reached", True),
    (socket.gaierror(-2, "a secret"), "cannot be reached", True),
    (botocore.exceptions.EndpointConnectionError(endpoint_url="a secret"), "cannot be reached", True),
    (storage_errors.TransferError("x"), "returned other bytes", True),
  ],
  ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
@pytest.mark.parametrize("scheme", ["gs", "s3"])
def test_each_error_has_a_reason_in_one_line_without_the_text_of_the_library(error, reason, transient, scheme):
  problem = storage_errors.diagnose(error, scheme)
  assert problem.reason.startswith(reason) and problem.transient == transient
  wrapped = OSError("translated")
  wrapped.__cause__ = error
  assert storage_errors.diagnose(wrapped, scheme) == problem
  with pytest.raises(UserError) as reported, storage.explain_errors(f"{scheme}://bucket/run", "--workdir"):
    raise error
  text = str(reported.value)
  assert text == f"--workdir={scheme}://bucket/run: the bucket bucket {problem.reason}; {problem.remedy}"
  assert "secret" not in text and "\n" not in text


@pytest.mark.parametrize(
  "error", [ValueError("shape"), KeyError("x"), PermissionError(13, "Permission denied", "/file"), OSError(28, "full")]
)
def test_other_errors_have_none(error):
  assert storage_errors.diagnose(error, "gs") is None


def test_a_failed_precondition_is_recognized():
  assert storage_errors.is_precondition_failure(FileExistsError("b/bucket/o"))
  assert storage_errors.is_precondition_failure(amazon("PreconditionFailed", 412))
  assert not storage_errors.is_precondition_failure(amazon("AccessDenied", 403))


def test_denied_access_is_reported(bucket, tmp_path, quick_retries):
  (tmp_path / "file").write_bytes(b"x")
  for kind, reason in (("403", "permits no access"), ("401", "needs credentials")):
    with bucket.faults(rate=1.0, kinds=(kind,)), pytest.raises(UserError, match=reason):
      transfers.upload(tmp_path / "file", storage.absolute(bucket / "file"))


def test_a_store_that_cannot_be_reached_is_reported(bucket, monkeypatch, quick_retries):
  monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:9")
  monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
  type(storage.file_system(bucket.url)).clear_instance_cache()
  with pytest.raises(
    UserError, match=rf"^--workdir={bucket.url}: the bucket {bucket.name} cannot be reached; check the"
  ):
    storage.check_bucket(bucket.url, "--workdir")
