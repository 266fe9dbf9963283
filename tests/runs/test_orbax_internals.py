"""Private parts of Orbax: those of the installed version are used; another version is a warning."""

import sys

from clipvip_jax.runs.orbax_internals import limit_gcs_retries

SETTINGS = "orbax.checkpoint._src.serialization.tensorstore_utils"


def test_the_installed_orbax_takes_the_limit(monkeypatch):
  for name in ("_BASE_TS_CONTEXT", "_DEFAULT_OCDBT_TS_CONTEXT"):
    monkeypatch.setattr(f"{SETTINGS}.{name}", {"file_io_concurrency": {"limit": 128}})
  limit_gcs_retries({"max_retries": 3})
  settings = sys.modules[SETTINGS]
  expected = {"file_io_concurrency": {"limit": 128}, "gcs_request_retries": {"max_retries": 3}}
  assert settings._BASE_TS_CONTEXT == settings._DEFAULT_OCDBT_TS_CONTEXT == expected


def test_another_orbax_keeps_its_limit_with_a_warning(monkeypatch, caplog):
  monkeypatch.setitem(sys.modules, SETTINGS, None)
  limit_gcs_retries({"max_retries": 3})
  assert "this version of Orbax waits up to 15 minutes for a bucket that does not answer" in caplog.text
