"""JSON next to weights: repeated keys, placeholders of a failed download and other encodings are refused."""

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
