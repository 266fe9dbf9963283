"""JSON next to weights: repeated keys, placeholders of a failed download and other encodings are refused."""

import os
import pathlib

import pytest

from clipvip_jax.utils.errors import UserError
from clipvip_jax.weights import json_object


@pytest.mark.parametrize("text", ['{"a": 1, "a": 1}', '{"b": {"a": 1, "c": 2, "a": 3}}', b'[{"a": 1, "a": 2}]'])
def test_repeated_key_is_refused(text):
  with pytest.raises(ValueError, match="contains 'a' twice"):
    json_object.parse(text)


def test_file_is_read(tmp_path):
  (tmp_path / "x.json").write_text('{"a": "é"}', encoding="utf-8")
  assert json_object.read(tmp_path / "x.json") == {"a": "é"}


@pytest.mark.parametrize(
  ("content", "message"),
  [("version https://git-lfs.github.com/spec/v1\n", "this is a Git LFS pointer"), ("<html></html>", "a web page")],
)
def test_placeholder_is_refused(tmp_path, content, message):
  (tmp_path / "x.json").write_text(content)
  with pytest.raises(UserError, match=message):
    json_object.read(tmp_path / "x.json")


def test_other_encoding_is_refused(tmp_path):
  (tmp_path / "x.json").write_text("{}", encoding="utf-16")
  with pytest.raises(ValueError, match="utf-8"):
    json_object.read(tmp_path / "x.json")


def test_a_file_that_cannot_be_read_is_refused_with_the_reason(tmp_path):
  with pytest.raises(UserError, match=r"the file cannot be read \(Is a directory\); check its permissions"):
    json_object.read(tmp_path)


@pytest.mark.parametrize("make", [pathlib.Path.mkdir, lambda path: path.symlink_to("missing.json"), os.mkfifo])
def test_what_has_the_name_of_a_file_and_is_none_is_not_ignored(tmp_path, make):
  path = tmp_path / "x.json"
  assert not json_object.exists(path)
  make(path)
  with pytest.raises(UserError, match=r"x\.json is not a file, but a folder or a broken link; remove it, or restore"):
    json_object.exists(path)
