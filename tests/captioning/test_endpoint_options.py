"""Options of endpoints, shared by two commands."""

import argparse

import pytest

from clipvip_jax.captioning.endpoint_client import ClientSettings
from clipvip_jax.captioning.endpoint_options import LIMITS, add_endpoint_options, client_fields
from clipvip_jax.utils.errors import UserError


def parse(*flags):
  parser = argparse.ArgumentParser()
  add_endpoint_options(parser, "MY_KEY", 8, 600, "a request")
  return parser.parse_args(flags)


def test_defaults_are_those_of_the_command(monkeypatch):
  monkeypatch.delenv("MY_KEY", raising=False)
  options = parse("--endpoint=http://a/v1,http://b/v1/audio/transcriptions")
  settings = ClientSettings(**client_fields(options, "/audio/transcriptions", "MY_KEY"))
  assert settings == ClientSettings(
    urls=("http://a/v1", "http://b/v1"), concurrency=8, timeout=600, retries=6, key="", key_variable="MY_KEY"
  )
  assert all(low <= getattr(settings, name) <= high for name, low, high in LIMITS)


def test_the_key_is_that_of_the_named_variable(monkeypatch):
  monkeypatch.setenv("OTHER", "k")
  options = parse("--endpoint=http://a/v1", "--key_variable=OTHER", "--retries=0")
  fields = client_fields(options, "/p", "MY_KEY")
  assert (fields["key"], fields["key_variable"], fields["retries"]) == ("k", "OTHER", 0)


def test_an_endpoint_is_required():
  with pytest.raises(UserError, match="--endpoint is missing; pass its address"):
    client_fields(parse(), "/p", "MY_KEY")
