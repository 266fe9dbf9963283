"""Locating and opening corpora."""

import errno
import os
import shutil

import pytest
import written_corpus
from ml_collections import ConfigDict

from clipvip_jax.input_pipeline import open_corpus as open_corpus_module
from clipvip_jax.input_pipeline.open_corpus import builder_class, open_corpus
from clipvip_jax.input_pipeline.record_text import record_texts
from clipvip_jax.utils import file_digests
from clipvip_jax.utils.errors import UserError

RECORDS = [{"id": name, "frames": [b"x"], "description": [name]} for name in "abc"]


class BuilderFromFiles:
  """A builder that needs its owner's files."""

  builder_configs = {"official": None}  # noqa: RUF012


@pytest.fixture
def built_from_files(monkeypatch):
  monkeypatch.setattr(open_corpus_module, "builder_class", lambda *_: BuilderFromFiles)


def corpus_config(data_dir, **fields):
  return ConfigDict({"name": "shapes", "config": "", "data_dir": str(data_dir), **fields})


def test_opens_the_newest_version_of_an_unregistered_configuration(tmp_path, built_from_files):
  for version in ("1.9.0", "1.10.0"):
    written_corpus.write(tmp_path, RECORDS, config="mine", version=version)
  (tmp_path / "shapes" / "mine" / "2.0.0.building").mkdir()
  (tmp_path / "shapes" / "mine" / "3.0.0").mkdir()
  corpus = open_corpus(corpus_config(tmp_path, config="mine"))
  assert corpus.name == "shapes/mine/1.10.0"
  assert record_texts(corpus.records("train")[0], "description") == ["a"]


def test_opens_the_builders_first_configuration_by_default(tmp_path, built_from_files):
  written_corpus.write(tmp_path, RECORDS, config="official")
  assert open_corpus(corpus_config(tmp_path)).name == "shapes/official/1.0.0"


def test_a_missing_configuration_is_rejected_with_the_built_ones_and_the_build_command(tmp_path, built_from_files):
  written_corpus.write(tmp_path, RECORDS, config="mine")
  build = rf"python -m clipvip_jax\.data_tool build shapes --data_dir={tmp_path}"
  with pytest.raises(UserError, match=rf"data\.config='my'.*built: mine; registered: official.*build it: {build}"):
    open_corpus(corpus_config(tmp_path, config="my"))
  with pytest.raises(UserError, match=r"mix\.video\.config='official'.*--config\.mix\.video\.data_dir=DIR"):
    open_corpus(corpus_config(tmp_path), "mix.video")
  with pytest.raises(UserError, match=r"configuration='official' of corpus shapes.*--data_dir=DIR"):
    open_corpus(corpus_config(tmp_path), "")
  with pytest.raises(UserError, match=rf"data\.prepare=True cannot build .*build it from files: {build}"):
    open_corpus(corpus_config(tmp_path, prepare=True))


def test_an_unknown_corpus_is_rejected_with_the_known_ones(tmp_path):
  with pytest.raises(UserError, match=r"mix\.x\.name='shape' is not a corpus in data/; choose one of: .*moving_shapes"):
    open_corpus(corpus_config(tmp_path, name="shape"), "mix.x")
  with pytest.raises(UserError, match=r"corpus='engine' is not a corpus in data/; choose one of: (?!.*engine)"):
    builder_class("engine", "")


def test_bad_addresses_are_rejected_in_one_line(bucket):
  other = bucket.url.replace("bucket-", "no-such-bucket-")
  for data_dir, message in (
    ("hdfs://bucket/corpora", "is neither a local path nor gs://BUCKET/NAME or s3://BUCKET/NAME; pass one of them"),
    (f"{other}/corpora", "the bucket no-such-bucket-.* does not exist; check its name, or create it"),
  ):
    with pytest.raises(UserError, match=rf"^--config\.data\.data_dir={data_dir}:? {message}$"):
      open_corpus(corpus_config(data_dir))
  with pytest.raises(UserError, match=rf"of corpus msrvtt is not in {bucket.url}/corpora \(built: none"):
    open_corpus(corpus_config(bucket / "corpora", name="msrvtt"))
  with bucket.faults(rate=1, kinds=("403",)), pytest.raises(UserError, match="permits no access with these creden"):
    open_corpus(corpus_config(bucket / "corpora"))


@pytest.mark.parametrize(("field", "value"), [("cache_gb", 0.0), ("cache_dir", "s3://bucket/cache")])
def test_bad_caches_are_rejected(gs_bucket, field, value):
  config = corpus_config(gs_bucket / "corpora")
  config[field] = value
  with pytest.raises(UserError, match=rf"--config\.data\.{field}={value}"):
    open_corpus(config)


def test_a_generated_corpus_that_is_not_built_names_the_option_that_builds_it(tmp_path):
  config = corpus_config(tmp_path, name="moving_shapes", config="smoke", prepare=False)
  with pytest.raises(UserError, match=r"moving_shapes/smoke/.* is not in .*--config\.data\.prepare=True"):
    open_corpus(config)


@pytest.mark.parametrize("name", ["data[1]", "data*"])
def test_a_dataset_directory_may_have_the_characters_of_patterns(tmp_path, name):
  fields = {"name": "moving_shapes", "config": "smoke"}
  open_corpus(corpus_config(tmp_path / "data1", prepare=True, **fields))
  shutil.copytree(tmp_path / "data1" / "moving_shapes", tmp_path / name / "moving_shapes")
  assert len(open_corpus(corpus_config(tmp_path / name, prepare=False, **fields)).records("train")) == 64
  shutil.rmtree(tmp_path / name)
  with pytest.raises(UserError, match="is not in"):  # though the pattern matches data1
    open_corpus(corpus_config(tmp_path / name, prepare=False, **fields))


def test_a_corrupt_corpus_is_rejected_with_its_folder(tmp_path, built_from_files):
  folder = written_corpus.write(tmp_path, RECORDS, config="official")
  (folder / "dataset_info.json").write_text("{")
  with pytest.raises(UserError, match=rf"{folder} is corrupt \(.*delete it and build the corpus again"):
    open_corpus(corpus_config(tmp_path))


@pytest.mark.parametrize("name", ["dataset_info.json", "features.json"])
def test_metadata_that_do_not_match_their_digest_are_rejected(tmp_path, built_from_files, name):
  folder = written_corpus.write(tmp_path, RECORDS, config="official")
  file_digests.write_digests(folder)
  assert open_corpus(corpus_config(tmp_path)).name == "shapes/official/1.0.0"
  (folder / name).write_text((folder / name).read_text() + " ")
  with pytest.raises(UserError, match=rf"{folder} is corrupt \(ValueError: {name} does not match its digest\); delete"):
    open_corpus(corpus_config(tmp_path))


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.EMFILE])
def test_a_corpus_that_cannot_be_read_here_is_not_called_corrupt(tmp_path, built_from_files, monkeypatch, number):
  folder = written_corpus.write(tmp_path, RECORDS, config="official")

  def fail(path):
    raise OSError(number, os.strerror(number), str(path / "digests.json"))

  monkeypatch.setattr(file_digests, "check_digests", fail)
  with pytest.raises(UserError) as refused:
    open_corpus(corpus_config(tmp_path))
  assert f"{folder} cannot be read (" in str(refused.value) and os.strerror(number) in str(refused.value)
  assert "delete" not in str(refused.value)
