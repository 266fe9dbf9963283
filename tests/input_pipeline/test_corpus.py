"""Opening corpora where they lie, their texts, and what they say is missing."""

import pytest
import tensorflow_datasets as tfds
import written_corpus
from ml_collections import ConfigDict

from clipvip_jax.input_pipeline import corpus
from clipvip_jax.input_pipeline.corpus import Corpus, open_corpus, texts
from clipvip_jax.utils.errors import UserError

RECORDS = [
  {"id": "a", "frames": [b"x"], "caption": "a cat", "description": ["one", " ", "two"]},
  {"id": "b", "frames": [b"x"], "subtitle": "hello", "description": ["three"]},
  {"id": "c", "frames": [b"x"], "caption": "é", "description": []},
]
COVERAGE = {"train": {"expected": 5, "found": 3, "missing": 1, "undecodable": 1, "too_short": 0}}


class FromFiles:
  """A builder that needs its owner's files."""

  builder_configs = {"official": None}  # noqa: RUF012


@pytest.fixture
def made_from_files(monkeypatch):
  monkeypatch.setattr(corpus, "builder_class", lambda *_: FromFiles)


def named(data_dir, **fields):
  return ConfigDict({"name": "shapes", "config": "", "data_dir": str(data_dir), **fields})


def opened(tmp_path, **options):
  return Corpus(tfds.builder_from_directory(written_corpus.write(tmp_path, RECORDS, **options)))


def test_texts_of_a_clip_are_flattened_with_its_number(tmp_path):
  found = opened(tmp_path).texts("train")
  assert found.ids == ["a", "b", "c"]
  assert found.queries == ["one", "two", "three"] and found.labels == [0, 0, 1]
  assert found.captions == [["a cat"], [], ["é"]] and found.twins == [-1] * 3


def test_a_field_holds_one_text_or_several_as_bytes_or_strings_and_the_empty_field_none():
  record = {"one": b"\xc3\xa9", "none": b" ", "several": [b"a", "b", ""], "no": []}
  assert [texts(record, field) for field in ("one", "none", "several", "no", "")] == [["é"], [], ["a", "b"], [], []]


def test_clips_without_a_query_are_refused_by_name(tmp_path):
  with pytest.raises(UserError, match=r"1 clips have no 'description' to search with: \['c'\]"):
    opened(tmp_path).check_queries("train", "description", "")
  with pytest.raises(UserError, match="no text 'title'; they have: "):
    opened(tmp_path / "2").check_queries("train", "title", "caption")


def test_coverage_says_how_many_clips_are_missing(tmp_path):
  assert opened(tmp_path / "1").coverage("train") == {"expected": 3, "missing": 0}
  assert opened(tmp_path / "2", metadata={"coverage": COVERAGE}).coverage("train") == {"expected": 5, "missing": 2}


def test_a_corpus_under_a_name_of_its_own_is_opened_in_its_newest_version(tmp_path, made_from_files):
  for version in ("1.9.0", "1.10.0"):
    written_corpus.write(tmp_path, RECORDS, config="mine", version=version, metadata={"settings": {"fps": 3}})
  (tmp_path / "shapes" / "mine" / "2.0.0.building").mkdir()
  (tmp_path / "shapes" / "mine" / "3.0.0").mkdir()
  found = open_corpus(named(tmp_path, config="mine"))
  assert found.name == "shapes/mine/1.10.0"
  assert found.identity() == {"name": found.name, "settings": {"fps": 3}, "records": {"train": 3}}
  assert texts(found.source("train")[0], "description") == ["one", "two"]


def test_without_a_configuration_the_builders_first_is_opened(tmp_path, made_from_files):
  written_corpus.write(tmp_path, RECORDS, config="official")
  assert open_corpus(named(tmp_path)).name == "shapes/official/1.0.0"


def test_what_is_nowhere_is_refused_with_what_there_is_and_how_to_build(tmp_path, made_from_files):
  written_corpus.write(tmp_path, RECORDS, config="mine")
  build = rf"python -m clipvip_jax\.data_tool build shapes --data_dir={tmp_path}"
  with pytest.raises(UserError, match=rf"data\.config='my'.*there: mine; known to its builder: official.*{build}"):
    open_corpus(named(tmp_path, config="my"))
  with pytest.raises(UserError, match=r"mix\.video\.config='official'.*--config\.mix\.video\.data_dir=DIR"):
    open_corpus(named(tmp_path), "mix.video")
  with pytest.raises(UserError, match=rf"data\.prepare=True.*is made from files: {build}"):
    open_corpus(named(tmp_path, prepare=True))


def test_an_unknown_corpus_is_refused_with_those_that_there_are(tmp_path):
  with pytest.raises(UserError, match=r"mix\.x\.name='shape' is no corpus in data/; there are: .*moving_shapes"):
    open_corpus(named(tmp_path, name="shape"), "mix.x")
