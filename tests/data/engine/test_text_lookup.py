"""Lookups of texts in LMDB and JSON."""

import json

import lmdb
import pytest

from clipvip_jax.data.engine.items import Item
from clipvip_jax.data.engine.text_lookup import check_lookups, find_text, lookup_fingerprint, open_lookup
from clipvip_jax.utils.errors import UserError

TEXTS = {"a": "one", "b": "two\n"}


def write_lookup(path):
  if path.suffix == ".lmdb":
    with lmdb.open(str(path), map_size=2**20) as environment, environment.begin(write=True) as transaction:
      for key, text in TEXTS.items():
        transaction.put(key.encode(), text.encode())
    return str(path)
  rows = [{"image_id": key, "caption": text} for key, text in TEXTS.items()]
  content = {
    "map.json": json.dumps(TEXTS),
    "list.json": json.dumps(rows),
    "lines.jsonl": "\n".join(map(json.dumps, rows)),
  }
  path.write_text(content[path.name])
  return str(path)


@pytest.mark.parametrize("name", ["map.json", "list.json", "lines.jsonl", "texts.lmdb"])
def test_all_formats_give_the_same_texts(tmp_path, name):
  lookup = open_lookup(write_lookup(tmp_path / name))
  assert sorted(lookup) == ["a", "b"]
  assert [lookup.get(key) for key in ("a", "b", "c")] == ["one", "two", None]


def test_key_longer_than_the_limit_of_lmdb_is_unknown(tmp_path):
  assert open_lookup(write_lookup(tmp_path / "texts.lmdb")).get("a" * 10_000) is None


def test_rejects_missing_file(tmp_path):
  with pytest.raises(UserError, match=r"no\.json: no such file; name an LMDB, a \.json or a \.jsonl file"):
    open_lookup(str(tmp_path / "no.json"))


def test_rejects_json_of_another_form(tmp_path):
  (tmp_path / "a.json").write_text('"text"')
  with pytest.raises(UserError, match=r"a\.json: expected .*, got \"text\""):
    open_lookup(str(tmp_path / "a.json"))


@pytest.mark.parametrize(
  ("name", "content", "words"),
  [
    ("map.json", '{"x": "first", "x": "second"}', "the key 'x' occurs twice"),
    (
      "list.json",
      '[{"image_id": "x", "caption": "a"}, {"image_id": "x", "caption": "b"}]',
      "entry 2: the clip 'x' has",
    ),
    ("lines.jsonl", '{"id": "x", "text": "a"}\n{"id": "x", "text": "b"}', "entry 2: the clip 'x' has another text"),
    ("lines.jsonl", '{"id": "x", "text": "a", "text": "b"}', "line 1: invalid JSON .the key 'text' occurs twice"),
  ],
)
def test_two_texts_of_a_clip_are_rejected(tmp_path, name, content, words):
  (tmp_path / name).write_text(content)
  with pytest.raises(UserError, match=words):
    open_lookup(str(tmp_path / name))


def test_the_same_text_twice_is_one_text(tmp_path):
  (tmp_path / "map.json").write_text('{"x": "a", "x": "a"}')
  assert open_lookup(str(tmp_path / "map.json")) == {"x": "a"}


@pytest.mark.parametrize("stored", ["caf\u00e9", "cafe\u0301"])
@pytest.mark.parametrize("asked", ["caf\u00e9", "cafe\u0301"])
def test_ids_match_in_either_unicode_form(tmp_path, stored, asked):
  (tmp_path / "map.json").write_text(json.dumps({stored: "a", "other": "b"}))
  assert find_text(open_lookup(str(tmp_path / "map.json")), asked) == "a"
  assert find_text(open_lookup(str(tmp_path / "map.json")), "th\u00e9") is None


def test_check_requires_a_text_for_one_of_the_first_clips(tmp_path):
  path = write_lookup(tmp_path / "map.json")
  items = [Item(name, "train", "v.mp4") for name in ("z", "b")]
  assert list(check_lookups(iter(items), {"caption": path})) == items
  with pytest.raises(UserError, match=r"no caption for any of the first 1 clips; its ids are like 'a', .* like 'z'"):
    list(check_lookups(iter(items[:1]), {"caption": path}))


def test_fingerprint_changes_with_the_content(tmp_path):
  path = write_lookup(tmp_path / "map.json")
  before = lookup_fingerprint(path)
  assert lookup_fingerprint(path) == before
  (tmp_path / "map.json").write_text(json.dumps({**TEXTS, "a": "new"}))
  assert lookup_fingerprint(path) != before
