"""Timeouts and retries of the libraries that access object stores."""

import time

import fsspec.config
import pytest

from clipvip_jax.utils import storage, storage_clients, transfers
from clipvip_jax.utils.errors import UserError


@pytest.fixture
def options(monkeypatch):
  """The options of all libraries, which are empty at first."""
  monkeypatch.setattr(fsspec.config, "conf", {})
  storage_clients.configure.cache_clear()
  yield fsspec.config.conf
  storage_clients.configure.cache_clear()


@pytest.mark.usefixtures("quick_retries")
def test_a_store_that_is_silent_is_given_up(bucket, options, monkeypatch, caplog):
  monkeypatch.setattr(storage_clients, "SILENCE_SECONDS", 0.1)
  monkeypatch.setattr(transfers, "RETRY_DELAYS", (0.01,))
  monkeypatch.setattr(transfers, "NOTICE_SECONDS", 0.05)
  caplog.set_level("INFO", "clipvip_jax")
  start = time.monotonic()
  with bucket.faults(rate=1, kinds=["silent"]), pytest.raises(UserError) as error:
    transfers.list_names(storage.absolute(bucket / "run"))
  assert str(error.value) == f"{bucket / 'run'}: the bucket {bucket.name} did not answer in time; check the network"
  assert f"{bucket / 'run'}: has been waiting for the bucket {bucket.name} for 0 seconds" in caplog.text
  assert time.monotonic() - start < 20
  monkeypatch.undo()
  assert transfers.list_names(storage.absolute(bucket / "run")) == []


@pytest.mark.parametrize("variable", ["AWS_MAX_ATTEMPTS", "AWS_RETRY_MODE", ""])
def test_retries_that_the_user_has_set_have_precedence(options, monkeypatch, variable):
  for name in ("AWS_MAX_ATTEMPTS", "AWS_RETRY_MODE"):
    monkeypatch.delenv(name, raising=False)
  if variable:
    monkeypatch.setenv(variable, "7")
  storage_clients.configure("s3")
  assert ("retries" in options["s3"]["config_kwargs"]) == (not variable)
  assert options["s3"]["config_kwargs"]["read_timeout"] == storage_clients.SILENCE_SECONDS
