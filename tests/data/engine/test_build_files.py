"""Raw files and corpora in object stores, and files of builds."""

import os
import pathlib
import subprocess
import sys

import corpora
import pytest
from etils import epath
from PIL import Image

from clipvip_jax.data.engine import build_files
from clipvip_jax.data.video_manifest.video_manifest_dataset_builder import Builder
from clipvip_jax.utils import transfers
from clipvip_jax.utils.errors import UserError


def test_reads_manifest_and_videos_from_object_store(bucket, tmp_path):
  for number in range(2):
    corpora.write_video(tmp_path / f"videos/{number}.mp4", seed=number)
  rows = [{"video": f"videos/{n}.mp4", "text": f"clip {n}"} for n in range(2)]
  local = corpora.write_lines(tmp_path / "m.jsonl", rows)
  bucket.upload(tmp_path, "raw")
  builder = corpora.build(Builder, "default", tmp_path / "there", bucket / "raw/m.jsonl")
  found = corpora.read_back(builder, "train")
  assert [record["id"] for record in found] == [row["video"] for row in rows]
  assert found == corpora.read_back(corpora.build(Builder, "default", tmp_path / "plain", local), "train")


def test_videos_of_object_stores(bucket, tmp_path):
  """By address: a video, a folder of frames; a missing one is counted; that of a missing bucket ends the build."""
  corpora.write_video(tmp_path / "raw/v [1].mp4")
  for number in range(3):
    (tmp_path / "raw/frames").mkdir(exist_ok=True)
    Image.fromarray(corpora.moving_frames(1, number)[0]).save(tmp_path / f"raw/frames/{number}.png")
  bucket.upload(tmp_path / "raw", "raw")
  rows = [{"video": bucket / name, "text": "t"} for name in ("raw/v [1].mp4", "raw/frames", "raw/missing.mp4")]
  manifest = corpora.write_lines(tmp_path / "m.jsonl", rows)
  builder = corpora.build(Builder, "default", tmp_path / "there", manifest, max_skipped=0.5)
  assert [record["num_frames"] for record in corpora.read_back(builder, "train")] == [6, 3]
  assert builder.info.metadata["coverage"]["train"]["missing"] == 1
  url = bucket.url.replace("bucket-", "no-such-bucket-")
  manifest = corpora.write_lines(tmp_path / "n.jsonl", [{"video": f"{url}/v.mp4", "text": "t"}])
  with pytest.raises(UserError, match=f"{url}/v.mp4: the bucket no-such-bucket.* does not exist; check its name"):
    corpora.build(Builder, "default", tmp_path / "none", manifest)


def test_file_state_and_atomic_path(bucket, tmp_path):
  for folder in (epath.Path(bucket.url), epath.Path(tmp_path)):
    path = folder / "file"
    assert build_files.file_state(path) == [] and not transfers.exists(path)
    with build_files.atomic_path(path) as temporary:
      assert isinstance(temporary, pathlib.Path)
      temporary.write_text("content")
      assert not path.exists()
    assert build_files.read_text(path) == "content"
    first = build_files.file_state(path)
    assert first[0] == 7 == build_files.file_state(path)[0]
    with pytest.raises(ValueError, match="stopped"), build_files.atomic_path(path) as temporary:
      temporary.write_text("half")
      raise ValueError("stopped")
    assert build_files.read_text(path) == "content"
    path.write_text("changed")
    assert build_files.file_state(path) != first
    build_files.make_folder(folder / "folder")
    build_files.link_or_copy(path, folder / "folder/copy")
    assert build_files.read_text(folder / "folder/copy") == "changed"
    build_files.delete(path)
    build_files.delete(path)
    assert not transfers.exists(path)
    build_files.delete_folder(folder / "folder", first="copy")
    assert not transfers.exists(folder / "folder/copy")


PROGRAM = """
import pathlib, sys
from clipvip_jax.data.engine.build_files import redirect_stderr
with redirect_stderr(pathlib.Path(sys.argv[1])):
  try:
    print("of a library", file=sys.stderr)
  except OSError:
    pass
print("after", file=sys.stderr)
"""


@pytest.mark.parametrize("name", ["log", "/dev/full"])
def test_standard_error_is_written_to_the_file_alone(tmp_path, name):
  environment = {**os.environ, "PYTHONUNBUFFERED": ""}
  command = [sys.executable, "-c", PROGRAM, tmp_path / name]
  done = subprocess.run(command, capture_output=True, text=True, env=environment)
  assert (done.returncode, done.stderr.splitlines()[-1:]) == (0, ["after"])
  assert "library" not in done.stderr
  assert name == "/dev/full" or (tmp_path / name).read_text() == "of a library\n"
