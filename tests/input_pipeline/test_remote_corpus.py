"""Metadata of corpora in object stores."""

from clipvip_jax.input_pipeline import remote_corpus
from clipvip_jax.utils import storage


def test_metadata_are_all_files_but_the_records(bucket, tmp_path):
  folder = storage.absolute(bucket / "c/1.0.0")
  bucket.write("c/1.0.0/x-train.array_record-00000-of-00001", b"records")
  bucket.write("c/1.0.0/digests.json", b"{}")
  assert not remote_corpus.is_complete(folder)
  bucket.write(f"c/1.0.0/{remote_corpus.LAST_FILE}", b"{}")
  assert remote_corpus.is_complete(folder)
  remote_corpus.download_metadata(folder, tmp_path / "c")
  assert sorted(path.name for path in (tmp_path / "c").iterdir()) == ["digests.json", "features.json"]
