"""Options of endpoints, shared by two commands."""

import argparse

import pytest

from clipvip_jax.captioning.endpoint_client import ClientSettings
from clipvip_jax.captioning.endpoint_options import LIMITS, add_endpoint_options, check_url, client_fields, read_key
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


@pytest.mark.parametrize(
  ("url", "expected"),
  [
    ("http://localhost:8000/v1", "http://localhost:8000/v1"),
    (" https://host/v1/ ", "https://host/v1"),
    ("https://host/v1/chat/completions", "https://host/v1"),
  ],
)
def test_addresses(url, expected):
  assert check_url(url, "/chat/completions") == expected


@pytest.mark.parametrize(
  "url",
  [
    "",
    "localhost:8000",
    "ftp://host/v1",
    "http://",
    "http://me:s3cr3t@host",
    "http://host/?key=s3cr3t",
    "http://h:x/",
    "http://s3cr3t..host/v1",
    f"http://{64 * 'a'}/v1",
    "http://host/#s3cr3t",
  ],
)
def test_other_addresses_are_refused_without_their_secrets(url):
  with pytest.raises(UserError, match="--endpoint") as caught:
    check_url(url, "/chat/completions")
  assert "s3cr3t" not in str(caught.value)


def test_keys_come_from_the_environment(monkeypatch):
  monkeypatch.setenv("MINE", " abc ")
  monkeypatch.delenv("DEFAULT", raising=False)
  assert (read_key("MINE", "DEFAULT"), read_key(None, "DEFAULT"), read_key(None, "MINE")) == ("abc", "", "abc")
  with pytest.raises(UserError, match="--key_variable=DEFAULT: this environment variable is not set"):
    read_key("DEFAULT", "MINE")
  monkeypatch.setenv("MINE", "two words")
  with pytest.raises(UserError, match="MINE has characters that no key has") as caught:
    read_key(None, "MINE")
  assert "two words" not in str(caught.value)
