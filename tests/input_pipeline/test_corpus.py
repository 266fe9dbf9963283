"""Corpora: texts of a split, checks of fields and queries, coverage, identity."""

import pytest
import tensorflow_datasets as tfds
import written_corpus

from clipvip_jax.input_pipeline import corpus
from clipvip_jax.input_pipeline.corpus import Corpus, check_protocol
from clipvip_jax.input_pipeline.record_text import record_text, record_texts
from clipvip_jax.utils.errors import UserError

RECORDS = [
  {"id": "a", "frames": [b"x"], "caption": "a cat", "description": ["one", " ", "two"]},
  {"id": "b", "frames": [b"x"], "subtitle": "hello", "description": ["three"]},
  {"id": "c", "frames": [b"x"], "caption": "é", "description": []},
]
COVERAGE = {"train": {"expected": 5, "found": 3, "missing": 1, "undecodable": 1, "too_short": 0}}


def open_written(tmp_path, records=RECORDS, **options):
  return Corpus(tfds.builder_from_directory(written_corpus.write(tmp_path, records, **options)))


def test_texts_of_a_split_are_flattened_with_their_clip_as_label(tmp_path):
  texts = open_written(tmp_path).texts("train")
  assert texts.ids == ["a", "b", "c"]
  assert texts.queries == ["one", "two", "three"] and texts.labels == [0, 0, 1]
  assert texts.captions == [["a cat"], [], ["é"]] and texts.twins == [-1] * 3


def test_texts_of_no_field_are_empty(tmp_path):
  texts = open_written(tmp_path).texts("train", "", "")
  assert texts.queries == texts.labels == [] and texts.captions == [[], [], []]


@pytest.mark.parametrize(
  ("field", "expected"), [("one", ["é"]), ("blank", []), ("several", ["a", "b"]), ("none", []), ("", [])]
)
def test_record_texts_of_single_and_multiple_fields_without_blank_texts(field, expected):
  record = {"one": b"\xc3\xa9", "blank": b" ", "several": [b"a", "b", ""], "none": []}
  assert record_texts(record, field) == expected


def test_record_text_decodes_bytes():
  assert record_text({"id": b"\xc3\xa9"}, "id") == record_text({"id": "é"}, "id") == "é"


def test_counts_records_with_a_text_by_field(tmp_path):
  assert open_written(tmp_path).count_texts("train") == (3, {"caption": 2, "description": 2, "subtitle": 1})


def test_counts_texts_in_evenly_spaced_records_of_a_large_split(tmp_path, monkeypatch):
  monkeypatch.setattr(corpus, "_MAX_EXAMINED", 4)
  records = [{"id": str(i), "frames": [b"x"], "caption": "a" * (i % 3 == 0)} for i in range(10)]
  assert open_written(tmp_path, records).count_texts("train") == (4, {"caption": 4, "description": 0, "subtitle": 0})


def test_clips_without_a_query_are_named_and_a_split_without_any_is_rejected(tmp_path, caplog):
  caplog.set_level("WARNING", "clipvip_jax")
  open_written(tmp_path / "some").check_queries("train", "description", "", "multi")
  assert "1 of 3 clips have no 'description' to use as query, first c; they are distractors" in caplog.text
  records = [{"id": name, "frames": [b"x"], "caption": "a"} for name in "ab"]
  with pytest.raises(UserError, match="no clip has a 'description' to use as query; choose another field or split"):
    open_written(tmp_path / "none", records).check_queries("train", "description", "")


def test_an_unknown_text_field_is_rejected_with_the_existing_ones(tmp_path):
  written = open_written(tmp_path)
  with pytest.raises(UserError, match=r"no text field 'title'; choose one of: caption, description, id, subtitle"):
    written.check_queries("train", "title", "caption")
  with pytest.raises(UserError, match="no text field 'frames'"):
    written.check_fields("train", ["", "frames"])


def test_an_unknown_split_is_rejected_with_the_existing_ones(tmp_path):
  with pytest.raises(UserError, match=r"shapes/1\.0\.0 has no split 'tset'; choose one of: train"):
    open_written(tmp_path).records("tset")


@pytest.mark.parametrize(
  ("protocol", "labels", "message"),
  [
    ("single", [0, 0, 1], r"here: 1 of 2 clips have several queries, first 'a' with 2; --protocol=multi evaluates"),
    ("dual", [0, 1], r"--protocol='dual' is unknown; choose one of: single, multi"),
  ],
)
def test_queries_that_the_protocol_does_not_allow_are_rejected(protocol, labels, message):
  with pytest.raises(UserError, match=message):
    check_protocol(protocol, ["a", "b"], labels, "here", "--protocol")


def test_the_multi_protocol_allows_several_queries_per_clip():
  check_protocol("multi", ["a", "b"], [0, 0, 1], "here", "--protocol")
  check_protocol("single", ["a", "b"], [0, 1], "here", "--protocol")


def test_coverage_counts_missing_clips(tmp_path):
  assert open_written(tmp_path / "1").coverage("train") == {"expected": 3, "missing": 0}
  assert open_written(tmp_path / "2", metadata={"coverage": COVERAGE}).coverage("train") == {
    "expected": 5,
    "missing": 2,
  }


def test_identity_has_name_settings_numbers_of_records_and_content(tmp_path):
  metadata = {
    "settings": {"fps": 3},
    "annotations": "ab",
    "lookups": {"caption": "cd"},
    "records": {"train": "ef"},
    "coverage": COVERAGE,
  }
  identity = open_written(tmp_path, metadata=metadata).identity()
  content = identity.pop("content")
  assert identity == {"name": "shapes/1.0.0", "settings": {"fps": 3}, "records": {"train": 3}}
  assert content.pop("num_bytes")["train"] > 0
  assert content == {"annotations": "ab", "lookups": {"caption": "cd"}, "records": {"train": "ef"}}


def test_other_pixels_or_texts_have_another_identity(tmp_path):
  changed = [{**RECORDS[0], "frames": [b"xyz"]}, *RECORDS[1:]], [{**RECORDS[0], "caption": "a dog"}, *RECORDS[1:]]
  corpora = (RECORDS, "ab"), (changed[0], "ab"), (changed[1], "cd")
  identities = [
    open_written(tmp_path / annotations / str(i), records, metadata={"annotations": annotations}).identity()
    for i, (records, annotations) in enumerate(corpora)
  ]
  assert all(identities.count(identity) == 1 for identity in identities)
