"""Records of files in object stores."""

import pickle
import re
import shutil

import pytest
from array_record.python.array_record_module import ArrayRecordWriter

from clipvip_jax.input_pipeline import remote_records
from clipvip_jax.input_pipeline.file_cache import FileCache
from clipvip_jax.input_pipeline.remote_records import RecordStore, open_cache
from clipvip_jax.input_pipeline.split_records import SplitRecords
from clipvip_jax.utils import storage
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.log import log

RECORDS = [[bytes([10 * shard + i]) * 200 for i in range(4 + shard)] for shard in range(3)]


@pytest.fixture
def names(bucket, tmp_path):
  """Address and number of records of each file."""
  for shard, records in enumerate(RECORDS):
    writer = ArrayRecordWriter(str(tmp_path / "file"), "group_size:1")
    for record in records:
      writer.write(record)
    writer.close()
    bucket.write(f"c/{shard}.array_record", (tmp_path / "file").read_bytes())
  return [(bucket / f"c/{shard}.array_record", len(records)) for shard, records in enumerate(RECORDS)]


def store(bucket, tmp_path, max_bytes=10**9):
  return RecordStore(bucket / "c", FileCache(tmp_path / "cache", max_bytes))


def test_records_are_those_that_were_written(bucket, names, tmp_path):
  expected = [record for records in RECORDS for record in records]
  sources = [store(bucket, tmp_path).source(names), store(bucket, tmp_path, 300_000).source(names)]
  if bucket.url.startswith("gs://"):
    sources.append(RecordStore(bucket / "c", None).source(names))
  for source in sources:
    source = pickle.loads(pickle.dumps(source))
    assert len(source) == len(expected)
    assert [source[i] for i in range(len(source))] == expected
    assert source.__getitems__([14, 0, 5]) == [expected[14], expected[0], expected[5]]


def test_a_corrupt_copy_is_downloaded_again_and_a_corrupt_object_is_named(bucket, names, tmp_path):
  source = store(bucket, tmp_path).source(names)
  assert source[0] == RECORDS[0][0]
  for path in (tmp_path / "cache").glob("*.array_record"):
    data = bytearray(path.read_bytes())
    data[len(data) // 4] ^= 255
    path.write_bytes(data)
  fresh = store(bucket, tmp_path).source(names)
  assert [fresh[i] for i in range(4)] == RECORDS[0]
  bucket.write("c/1.array_record", b"\0" * 500)
  records = SplitRecords(store(bucket, tmp_path).source(names), "corpus, split train", names)
  with pytest.raises(UserError, match=r"record 4: \w+://\S+/c/1.array_record cannot be read \(.*; restore the file"):
    records[4]


def test_a_missing_object_is_named(bucket, names, tmp_path):
  source = store(bucket, tmp_path).source(names)
  storage.file_system(bucket.url).rm_file(bucket / "c/1.array_record")
  records = SplitRecords(source, "corpus, split train", names)
  with pytest.raises(UserError, match=r"record 4: \S+/c/1.array_record is missing; restore the file, or build"):
    records[4]
  with pytest.raises(UserError, match=r"c/1.array_record is missing"):
    store(bucket, tmp_path).source(names)


def test_what_a_run_reads_needs_a_cache_on_s3_only(tmp_path):
  assert open_cache("", 1.0, "gs://bucket/c", "--cache_") is None
  assert open_cache("", 1.0, "s3://bucket/c", "--cache_").max_bytes == 10**9
  assert open_cache(str(tmp_path), 1.0, "gs://bucket/c", "--cache_").folder == tmp_path


def test_a_split_that_does_not_fit_is_read_with_a_warning_that_says_why(bucket, names, tmp_path, monkeypatch, caplog):
  monkeypatch.setattr(log, "propagate", True)
  sizes = [info.size for info in remote_records._describe_files(bucket / "c", names)]
  limit, expected = max(sizes) + 100, [record for records in RECORDS for record in records]
  for source, message in (
    (lambda: store(bucket, tmp_path, limit), r"data\.cache_gb=.* is less than .*; raise it"),
    (lambda: store(bucket, tmp_path), r"the space of data\.cache_dir=.*/cache in GB=.*; choose a folder with more"),
  ):
    records = source().source(names)
    assert [records[i] for i in range(len(records))] == expected
    assert re.fullmatch(message, caplog.messages[-1])
    held = sum(path.stat().st_size for path in (tmp_path / "cache").glob("*.array_record"))
    usage = shutil._ntuple_diskusage(10**9, 10**9, int((limit - held) / 0.94))
    monkeypatch.setattr(shutil, "disk_usage", lambda _, usage=usage: usage)
