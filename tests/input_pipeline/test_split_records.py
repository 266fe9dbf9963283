"""Records of a split: random access, and corrupt or missing files, which are named."""

import pickle

import numpy as np
import pytest
import tensorflow_datasets as tfds
import written_corpus

from clipvip_jax.input_pipeline.corpus import Corpus
from clipvip_jax.input_pipeline.split_records import SplitRecords
from clipvip_jax.utils.errors import UserError

COUNT = 150  # in three files of at most 64


@pytest.fixture
def folder(tmp_path):
  rng = np.random.default_rng(0)
  records = [{"id": f"clip{i}", "frames": [rng.bytes(300)], "caption": f"text {i}"} for i in range(COUNT)]
  return written_corpus.write(tmp_path, records)


def open_records(folder):
  return Corpus(tfds.builder_from_directory(folder)).records("train")


def files(folder):
  return sorted(folder.glob("*array_record*"))


def test_reads_by_index_slice_and_iteration_also_after_pickling(folder):
  records = pickle.loads(pickle.dumps(open_records(folder)))
  assert len(records) == len(list(records)) == COUNT
  assert records[-1]["id"] == records[COUNT - 1]["id"] == b"clip149"
  assert [record["id"] for record in records[70:72]] == [b"clip70", b"clip71"]
  with pytest.raises(IndexError):
    records[COUNT]


def read_all(records):
  """{index: error} of the records that cannot be read; the others must be right."""
  errors = {}
  for index in range(len(records)):
    try:
      assert records[index]["caption"] == b"text %d" % index
    except UserError as error:
      errors[index] = str(error)
  return errors


def test_a_missing_file_is_named_with_the_first_record_that_is_in_it(folder):
  files(folder)[1].unlink()
  errors = read_all(open_records(folder))
  first = min(errors)
  message = f"shapes/1.0.0, split train, record {first}: {folder}"
  assert 0 < first < max(errors) < COUNT - 1 and errors[first].startswith(message)
  assert "record-00001 is missing; restore the file, or build the corpus again" in errors[first]


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["flip", "cut", "zeros", "empty"])
@pytest.mark.parametrize("seed", range(3))
def test_a_corrupt_file_gives_one_line_and_never_a_wrong_record(folder, damage, seed):
  path, rng = files(folder)[-1], np.random.default_rng(seed)
  content = bytearray(path.read_bytes())
  position = int(rng.integers(len(content) // 4, 3 * len(content) // 4))
  if damage == "flip":
    content[position] ^= 1 << rng.integers(8)
  elif damage == "zeros":
    content[position : position + 512] = bytes(512)
  path.write_bytes({"cut": content[:position], "empty": b""}.get(damage, content))
  errors = read_all(open_records(folder))
  assert errors or damage in ("flip", "zeros"), "padding may change"
  for index, error in errors.items():
    assert error.startswith(f"shapes/1.0.0, split train, record {index}: {path} cannot be read (") and "\n" not in error


def test_errors_of_any_type_become_one_line(tmp_path):
  class Source(list):
    def __getitem__(self, index):
      raise RuntimeError("first line\nsecond line")

  (tmp_path / "b").touch()
  records = SplitRecords(Source([0, 0, 0]), "here", [("a", 1), (str(tmp_path / "b"), 2)])
  with pytest.raises(UserError, match=r"^here, record 0: a is missing; restore"):
    records[0]
  with pytest.raises(UserError, match=r"^here, record 1: .*/b cannot be read \(first line\); restore"):
    records[1]
