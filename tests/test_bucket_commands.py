"""Every command of the README that takes a file or folder takes one in a bucket: one table lists them."""

import dataclasses
import importlib
import json
import re
import shlex

import miniature
import pytest
from project_paths import ROOT
from published_run import write_run
from videos import write_videos

from clipvip_jax.utils.errors import UserError


@dataclasses.dataclass(frozen=True)
class Row:
  """A command line with {bucket} in place of local folders, and what it writes there. {local} is a local folder."""

  command: str
  line: str
  writes: tuple[str, ...] = ()


# In this order: later commands read what earlier ones wrote.
ROWS = (
  Row(
    "data_tool",
    "build {local}/mine.jsonl --data_dir={bucket}/corpora --name=mine --workers=1",
    ("corpora/video_manifest/mine/1.0.0/features.json",),
  ),
  Row(
    "data_tool",
    "show video_manifest --config=mine --data_dir={bucket}/corpora --split=test --num_frames=2 --html={bucket}/a.html",
    ("a.html",),
  ),
  Row("convert", "{bucket}/run {bucket}/exported", ("exported/config.json", "exported/clip_vip.safetensors")),
  Row(
    "evaluate",
    "--model={bucket}/clip --dataset=msrvtt/9k --data_dir={bucket}/corpora --split=train --num_frames=2"
    " --cache_dir={local}/cache --batch_size=16 --dtype=float32 --num_workers=0 --workdir={bucket}/evaluation",
    ("evaluation/results.json", "evaluation/report.html"),
  ),
  Row("evaluate", "--embeddings={bucket}/evaluation --workdir={bucket}/again", ("again/results.json",)),
  Row("compare", "{bucket}/evaluation {bucket}/again --html={bucket}/compared.html", ("compared.html",)),
  Row("embed", "--model={bucket}/clip --videos={bucket}/v --out={bucket}/i.safetensors", ("i.safetensors",)),
  Row(
    "search", "--index={bucket}/i.safetensors --model={bucket}/clip moves --html={bucket}/found.html", ("found.html",)
  ),
  Row(
    "classify",
    "--model={bucket}/clip --videos={bucket}/labelled.jsonl --classes={bucket}/classes.txt"
    " --templates={bucket}/templates.txt --workdir={bucket}/classified",
    ("classified/results.json", "classified/report.html", "classified/videos.safetensors"),
  ),
  Row(
    "caption",
    "msrvtt --config=9k --data_dir={bucket}/corpora --out={bucket}/captions --engine=miniature:describe",
    ("captions/captions-00000-of-00001.jsonl", "captions/summary.json"),
  ),
  Row("caption", "{bucket}/v --out={bucket}/described --engine=miniature:describe", ("described/summary.json",)),
  Row(
    "subtitle",
    "{bucket}/v --out={bucket}/spoken.jsonl",
    ("spoken.jsonl", "spoken.jsonl.transcripts/transcripts-00000-of-00001.jsonl"),
  ),
  Row("language_gap", "{bucket}/a.txt {bucket}/b.txt --model={bucket}/clip --plot={bucket}/gap.png", ("gap.png",)),
)
# Commands that other tests run in a bucket, or the reason why none does.
ELSEWHERE = {
  "main": "tests/training/test_bucket_runs.py",
  "study": "tests/training/test_study.py",
  "preflight": "reads no folder",
}


def test_the_table_has_every_command_of_the_readme():
  text = (ROOT / "README.md").read_text(encoding="utf-8")
  (table,) = re.findall(r"\n\| command \|.*\n\|[-| ]+\n((?:\|.*\n)+)", text)
  listed = {name for line in table.splitlines() for name in re.findall(r"`(\w+)`", line.split("|")[1])}
  rows = {row.command for row in ROWS}
  assert len(listed) > 10
  assert rows | ELSEWHERE.keys() == listed, "add a row that runs the command with folders in a bucket"
  assert not rows & ELSEWHERE.keys()
  assert all((ROOT / place).exists() for place in ELSEWHERE.values() if place.startswith("tests/"))


def write_files(local):
  """Writes what the commands read."""
  (local / "clip").mkdir()
  miniature.write_clip(local / "clip")
  miniature.write_corpora(local / "corpora")
  write_run(local / "run")
  write_videos(local / "v", 3)
  for number in range(3):
    (local / f"v/{number:03d}.srt").write_text("1\n00:00:00,000 --> 00:00:04,000\nThis is said.\n")
  (local / "classes.txt").write_text("word1\nword2\n")
  (local / "templates.txt").write_text("{} moves\n")
  rows = [{"video": f"v/{number:03d}.mp4", "label": f"word{1 + number % 2}"} for number in range(3)]
  (local / "labelled.jsonl").write_text("\n".join(map(json.dumps, rows)))
  rows = [{"video": f"v/{number:03d}.mp4", "text": f"word{number}", "split": "test"} for number in range(3)]
  (local / "mine.jsonl").write_text("\n".join(map(json.dumps, rows)))
  for name in "ab":
    (local / f"{name}.txt").write_text("\n".join(f"word{number} {name}" for number in range(128)))


def arguments(line, **folders):
  return shlex.split(line.format(**folders))


@pytest.mark.slow
def test_commands_read_and_write_buckets(bucket, tmp_path):
  write_files(tmp_path)
  bucket.upload(tmp_path, "x")
  url = bucket / "x"
  for row in ROWS:
    missing = {f"x/{name}" for name in row.writes} - bucket.sizes().keys()
    assert len(missing) == len(row.writes), row
    importlib.import_module(f"clipvip_jax.{row.command}").main(arguments(row.line, bucket=url, local=tmp_path))
    sizes = bucket.sizes()
    assert all(sizes[f"x/{name}"] > 0 for name in row.writes), row
  local = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
  assert not local & {name for row in ROWS for name in row.writes}, "written to the local folder"


each_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.command}_{row.writes[0]}")


@each_row
def test_buckets_that_do_not_exist_are_reported(gs_bucket, row, tmp_path):
  write_videos(tmp_path / "v", 1)
  line = arguments(row.line, bucket=f"gs://no-{gs_bucket.name}", local=tmp_path)
  with pytest.raises(UserError, match=rf"the bucket no-{gs_bucket.name} does not exist; ") as error:
    importlib.import_module(f"clipvip_jax.{row.command}").main(line)
  assert "\n" not in str(error.value)


@each_row
def test_other_schemes_are_refused(row, tmp_path):
  with pytest.raises(UserError, match=r"ftp://host/.* is neither a local path nor "):
    importlib.import_module(f"clipvip_jax.{row.command}").main(
      arguments(row.line, bucket="ftp://host/x", local=tmp_path)
    )
