"""Writes to an object of a store that take place only if no other process has written it since.

A token stands for the content of an object: its generation (gs://) or its ETag (s3://). Contents must be unique, as by
a random number in them: the answer to a write may be lost, and the same content then shows that it took place.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

from clipvip_jax.utils.storage import file_system
from clipvip_jax.utils.storage_errors import TransferError, is_precondition_failure
from clipvip_jax.utils.transfers import retry

if TYPE_CHECKING:
  from etils import epath

_ATTEMPTS = 5


def read(path: epath.Path) -> tuple[bytes, str] | None:
  """Returns content and token of an object; None if there is none.

  Raises:
    UserError: the store refuses, or cannot be reached.
  """

  def attempt() -> tuple[bytes, str]:
    system, name = file_system(path), os.fspath(path)
    for _ in range(_ATTEMPTS):
      info = system.info(name)
      content = system.cat_file(name)
      if _token(system.info(name)) == _token(info):  # no other process has written between the requests
        if len(content) != info["size"]:
          raise TransferError(f"{name} has another size")
        return content, _token(info)
    raise TransferError(f"{name} changes all the time")

  try:
    return retry(path, attempt)
  except FileNotFoundError:
    return None


def create_exclusive(path: epath.Path, content: bytes) -> str | None:
  """Creates an object. Returns its token; None if it exists already with another content.

  Raises:
    UserError: the store refuses, or cannot be reached.
  """
  return _write(path, content, None)


def replace(path: epath.Path, content: bytes, token: str) -> str | None:
  """Replaces the content that `token` stands for. Returns the new token; None if the object has another content.

  Raises:
    UserError: the store refuses, or cannot be reached.
  """
  return _write(path, content, token)


def delete(path: epath.Path, token: str) -> bool:
  """Deletes an object if it has the content that `token` stands for. Returns whether it has been deleted.

  Raises:
    UserError: the store refuses, or cannot be reached.
  """
  system = file_system(path)
  bucket, _, key = os.fspath(path).split("://", 1)[1].partition("/")

  def attempt() -> None:
    if hasattr(system, "call_s3"):
      system.call_s3("delete_object", Bucket=bucket, Key=key, IfMatch=token)
    else:
      system.call("DELETE", "b/{}/o/{}", bucket, key, ifGenerationMatch=token)

  try:
    retry(path, attempt)
  except Exception as error:
    if not isinstance(error, FileNotFoundError) and not is_precondition_failure(error):
      raise
    return False
  return True


def _write(path: epath.Path, content: bytes, token: str | None) -> str | None:
  system = file_system(path)
  bucket, _, key = os.fspath(path).split("://", 1)[1].partition("/")

  def attempt() -> str:
    if hasattr(system, "call_s3"):
      condition = {"IfNoneMatch": "*"} if token is None else {"IfMatch": token}
      return str(system.call_s3("put_object", Bucket=bucket, Key=key, Body=content, **condition)["ETag"])
    url = system.base.replace("/storage/v1/", "/upload/storage/v1/") + "b/{}/o"
    options = {"uploadType": "media", "name": key, "ifGenerationMatch": token or "0"}
    headers = {"Content-Type": "application/octet-stream"}
    _, answer = system.call("POST", url, bucket, data=content, headers=headers, **options)
    return str(json.loads(answer)["generation"])

  try:
    return retry(path, attempt)
  except Exception as error:
    missing = isinstance(error, FileNotFoundError) and token is not None
    if not missing and not is_precondition_failure(error):
      raise
  stored = read(path)
  return stored[1] if stored is not None and stored[0] == content else None


def _token(info: dict[str, object]) -> str:
  return str(info["generation"] if "generation" in info else info["ETag"])
