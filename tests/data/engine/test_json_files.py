"""Readers of JSON and JSON lines, and their keys."""

import bz2
import gzip
import lzma

import pytest

from clipvip_jax.data.engine.json_files import (
  ANNOTATION_KEYS,
  LOOKUP_KEYS,
  excerpt,
  id_and_text,
  read_json,
  read_json_lines,
)
from clipvip_jax.data.engine.text_files import read_lines
from clipvip_jax.utils.errors import UserError


def test_first_key_wins():
  row = {"caption": "c", "text": "t", "video_id": "v", "clip_id": "k"}
  assert id_and_text(row, ANNOTATION_KEYS, "here") == ("k", "t")
  assert id_and_text(row, LOOKUP_KEYS, "here") == ("k", "c")


@pytest.mark.parametrize("row", [{"clip_id": "a"}, {"text": "t"}, ["a", "t"], None])
def test_rejects_rows_without_id_or_text(row):
  with pytest.raises(UserError, match=r"line 4: expected an object with one of clip_id, .* and one of text, .*, got"):
    id_and_text(row, ANNOTATION_KEYS, "line 4")


def test_lines_are_numbered_with_empty_ones(tmp_path):
  path = tmp_path / "a.jsonl"
  path.write_bytes(b'\xef\xbb\xbf{"a": 1}\n\n{"a": 2}')
  assert list(read_json_lines(str(path))) == [(1, {"a": 1}), (3, {"a": 2})]


@pytest.mark.parametrize(
  ("content", "words"),
  [
    ("{}\n{", "line 2: invalid JSON"),
    ("{}\n[1]", "line 2: expected a JSON object"),
    ("[" * 100_000, "line 1: invalid"),
    ('[{"a": 1}]', r"line 1: expected a JSON object .*, got \[{\"a\": 1}\]. The file is a list: write JSON lines, one"),
    ('[\n  {"a": 1}\n]', "line 1: invalid JSON .*; write JSON lines, one object a line"),
    ('{"a": 1, "b": 2, "a": 3}', "line 1: invalid JSON .the key 'a' occurs twice"),
    ('{"a": {"b": 2, "b": 3}}', "line 1: invalid JSON .the key 'b' occurs twice"),
  ],
)
def test_rejects_invalid_lines(tmp_path, content, words):
  (tmp_path / "a.jsonl").write_text(content)
  with pytest.raises(UserError, match=words):
    list(read_json_lines(str(tmp_path / "a.jsonl")))


def test_texts_of_windows_are_named(tmp_path):
  (tmp_path / "a.json").write_bytes(b'{"a": "caf\xe9"}')
  for read in (read_json, lambda path: list(read_json_lines(path)), lambda path: list(read_lines(path))):
    with pytest.raises(UserError, match=r"a\.json.*: not UTF-8 .*; re-encode the file: iconv -f WINDOWS-1252"):
      read(str(tmp_path / "a.json"))


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_wide_encodings_are_named(tmp_path, encoding):
  (tmp_path / "a.json").write_text('{"a": 1}', encoding=encoding)
  for read in (read_json, lambda path: list(read_json_lines(path))):
    with pytest.raises(UserError, match=r"a\.json: the file is UTF-16 or UTF-32, not UTF-8; re-encode it: iconv"):
      read(str(tmp_path / "a.json"))


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_compressed_files_are_named(tmp_path, pack):
  (tmp_path / "a.jsonl").write_bytes(pack(b'{"a": 1}\n' * 99))
  for read in (read_json, lambda path: list(read_json_lines(path)), lambda path: list(read_lines(path))):
    with pytest.raises(UserError, match=r"a\.jsonl: the file is compressed \((gzip|bzip2|xz)\); decompress it: "):
      read(str(tmp_path / "a.jsonl"))


@pytest.mark.parametrize("content", [None, b"{", b"NaN1"])
def test_rejects_unreadable_files(tmp_path, content):
  path = tmp_path / "a.json"
  if content is not None:
    path.write_bytes(content)
  with pytest.raises(UserError, match=r"a\.json: cannot be read as JSON \("):
    read_json(str(path))


def test_values_of_any_size_are_shown_in_short():
  assert excerpt({"é": [1, "x" * 100]}) == '{"é": [1, "' + "x" * 69
  deep = []
  for _ in range(100_000):
    deep = [deep]
  assert excerpt(10**5000) == "a value of type int that is too large to show"
  assert excerpt(deep) == "a value of type list that is too large to show"
