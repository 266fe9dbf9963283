"""Files of generated captions: which files a path stands for, headers, and ids that depend on the split."""

import json

import pytest

from clipvip_jax.data.engine.caption_files import list_files, read_headers
from clipvip_jax.data.engine.items import Item
from clipvip_jax.data.engine.text_lookup import (
  check_lookups,
  find_text,
  headers,
  is_lmdb,
  lookup_fingerprint,
  lookup_state,
  open_lookup,
)
from clipvip_jax.utils.errors import UserError


@pytest.fixture
def folder(tmp_path):
  """Two files of captions and their summary."""
  for number, model in enumerate(("m", "n")):
    rows = [
      {"header": {"model": model}},
      {"id": "a", "split": f"split{number}", "caption": f"one {number}"},
      {"id": f"b{number}", "split": "train", "caption": "", "left_out": "refusal"},
      {"id": f"c{number}", "caption": "no split", "answer": '"no split"'},
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / f"captions-0000{number}-of-00002.jsonl").write_text(text)
  (tmp_path / "summary.json").write_text("{}")
  return tmp_path


def test_a_folder_and_a_pattern_stand_for_their_files(folder):
  files = sorted(map(str, folder.glob("*.jsonl")))
  assert list_files(str(folder)) == list_files(f"{folder}/captions-*.jsonl") == files
  assert list_files(files[1]) == [files[1]]
  assert list_files(f"{folder}/captions-0000[1-9]*.jsonl") == [files[1]]
  for path in (f"{folder}/other-*.jsonl", f"{folder}/no/such/*.jsonl"):
    with pytest.raises(UserError, match="no files of texts"):
      list_files(path)


def test_captions_are_found_by_id_and_split(folder):
  assert not is_lmdb(str(folder))
  texts = open_lookup(str(folder))
  assert [find_text(texts, "a", split) for split in ("split0", "split1", "split2", "")] == [
    "one 0",
    "one 1",
    None,
    None,
  ]
  assert find_text(texts, "b0", "train") is None  # left out
  assert find_text(texts, "c1", "any") == "no split"


def test_headers_are_kept_once_each(folder):
  assert read_headers(str(folder)) == headers(str(folder)) == [{"model": "m"}, {"model": "n"}]
  assert headers("") == []
  (folder / "plain.jsonl").write_text('{"id": "x", "caption": "a"}\n')
  assert read_headers(str(folder / "plain.jsonl")) == []


def test_a_change_of_any_file_is_noticed(folder):
  before = lookup_fingerprint(str(folder)), lookup_state(str(folder))
  assert (lookup_fingerprint(str(folder)), lookup_state(str(folder))) == before
  with (folder / "captions-00001-of-00002.jsonl").open("a") as file:
    file.write("\n")
  assert lookup_fingerprint(str(folder)) != before[0] and lookup_state(str(folder)) != before[1]


def test_captions_of_other_clips_are_refused_with_an_id_of_each(folder):
  with pytest.raises(UserError, match="its ids are like 'a', those of the clips like 'x'"):
    list(check_lookups(iter([Item("x", "train", "x.mp4")]), {"caption": str(folder)}))
