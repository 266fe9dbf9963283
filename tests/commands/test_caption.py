"""The command: sources, engines, kills, keys and bad input."""

import json
import os
import random
import subprocess
import sys
import time

import corpora
import pytest
import written_corpus
from caption_endpoint import MODEL, CaptionEndpoint, known_captions, picture
from ml_collections import ConfigDict
from project_paths import ROOT

from clipvip_jax import caption, data_tool
from clipvip_jax.captioning.frame_sources import CorpusFrames
from clipvip_jax.input_pipeline.open_corpus import open_corpus
from clipvip_jax.input_pipeline.record_text import record_text
from clipvip_jax.utils.errors import UserError

COUNT = 60


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
  """Dataset directory with a corpus of COUNT clips of one frame."""
  folder = tmp_path_factory.mktemp("corpora")
  records = [{"id": f"clip{i}", "frames": [picture(i)]} for i in range(COUNT)]
  written_corpus.write(folder, records, name="video_manifest", config="default")
  return folder


def arguments(data_dir, out, url, *flags):
  source = ["video_manifest", "--config=default", f"--data_dir={data_dir}"]
  return [*source, f"--out={out}", f"--endpoint={url}", f"--model={MODEL}", "--clips_per_file=4", *flags]


def contents(folder):
  return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(".")}


def test_a_corpus_is_captioned(data_dir, tmp_path):
  with CaptionEndpoint(known_captions(COUNT)) as server:
    caption.main(arguments(data_dir, tmp_path / "out", server.url))
    caption.main(arguments(data_dir, tmp_path / "out", server.url))  # complete
  assert server.counts == {"": COUNT}
  lines = (tmp_path / "out" / "captions-00014-of-00015.jsonl").read_text(encoding="utf-8").splitlines()
  assert json.loads(lines[4]) == {"id": "clip59", "split": "train", "caption": "a square of colour 59"}
  header = json.loads(lines[0])["header"]
  assert header["parameters"] == {"temperature": 0, "max_tokens": 100} and header["prompt"].startswith("Describe")


def test_two_shards_equal_one_run_whatever_fails(data_dir, tmp_path, monkeypatch):
  monkeypatch.setattr("clipvip_jax.captioning.pacing._FIRST_DELAY", 0.001)
  faults = random.Random(5)
  with CaptionEndpoint(known_captions(COUNT)) as server:
    caption.main(arguments(data_dir, tmp_path / "one", server.url))
    server.fault = lambda number, _: faults.choice(["429", "500", "garbage", "drop", *[""] * 8])
    for shard in ("2/2", "1/2"):
      caption.main(arguments(data_dir, tmp_path / "two", server.url, f"--shard={shard}", "--retries=40"))
  assert {"429", "500", "garbage", "drop"} < server.counts.keys()
  assert contents(tmp_path / "one") == contents(tmp_path / "two")


@pytest.mark.slow
def test_a_run_that_is_killed_ten_times_writes_the_same_bytes(data_dir, tmp_path):
  choices, faults = random.Random(1), random.Random(2)
  command = [sys.executable, "-m", "clipvip_jax.caption"]
  with CaptionEndpoint(known_captions(COUNT), latency=0.05) as server:
    caption.main(arguments(data_dir, tmp_path / "whole", server.url))
    server.fault = lambda number, _: faults.choice(["429", "500", "drop", "", "", "", ""])
    killed = [*command, *arguments(data_dir, tmp_path / "killed", server.url, "--concurrency=4", "--retries=40")]
    for _ in range(10):
      target = server.number + choices.randint(1, 12)
      process = subprocess.Popen(killed, cwd=ROOT, stdout=subprocess.DEVNULL)
      while server.number < target and process.poll() is None:
        time.sleep(0.001)
      assert process.poll() is None, "ended before it was killed"
      process.kill()
      process.wait()
    subprocess.run(killed, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
  assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


@pytest.mark.slow
def test_captions_of_the_embedded_corpus_come_back_into_an_edition(tmp_path):
  corpus = open_corpus(
    ConfigDict({"name": "moving_shapes", "config": "smoke", "data_dir": str(tmp_path), "prepare": True}), "data"
  )
  source = CorpusFrames(corpus, corpus.splits)
  records = [record for split in corpus.splits for record in corpus.records(split)]
  expected = [record_text(record, "caption") for record in records]
  known = {frame.jpeg: text for frame, text in zip(source.frames(range(len(source))), expected, strict=True)}
  flags = ["moving_shapes", "--config=smoke", f"--data_dir={tmp_path}"]
  with CaptionEndpoint(known) as server:
    caption.main([*flags, f"--out={tmp_path}/out", f"--endpoint={server.url}", f"--model={MODEL}", "--shard=2/2"])
    caption.main([*flags, f"--out={tmp_path}/out", f"--endpoint={server.url}", f"--model={MODEL}"])
  data_tool.main(["add-captions", *flags, f"{tmp_path}/out"])
  edition = open_corpus(
    ConfigDict({"name": "moving_shapes", "config": "smoke+captions", "data_dir": str(tmp_path)}), ""
  )
  texts = [record_text(record, "caption") for split in edition.splits for record in edition.records(split)]
  assert texts == expected and len({*texts}) > 10
  assert edition.metadata["captions"][0]["model"] == MODEL


def test_a_folder_and_a_function(tmp_path, monkeypatch):
  corpora.write_video(tmp_path / "videos" / "a.mp4")
  (tmp_path / "my_engine.py").write_text(
    "def describe(frames, prompt):\n  return [f'{prompt} {f.shape}' for f in frames]"
  )
  monkeypatch.syspath_prepend(tmp_path)
  caption.main([f"{tmp_path}/videos", f"--out={tmp_path}/out", "--engine=my_engine:describe", "--prompt=size"])
  row = json.loads((tmp_path / "out" / "captions-00000-of-00001.jsonl").read_text().splitlines()[1])
  assert row == {"id": "a.mp4", "caption": "size (48, 64, 3)"}


def test_the_key_comes_from_the_environment_alone(data_dir, tmp_path, monkeypatch, capsys):
  monkeypatch.setenv("MY_KEY", "top-secret")
  with CaptionEndpoint(known_captions(COUNT), fault=lambda number, _: "400" if number == 3 else "") as server:
    caption.main(arguments(data_dir, tmp_path / "out", server.url, "--key_variable=MY_KEY"))
    assert server.authorization == "Bearer top-secret"
    server.fault = lambda number, _: "403"
    with pytest.raises(UserError, match="the key in the environment variable MY_KEY does not permit") as caught:
      caption.main(arguments(data_dir, tmp_path / "other", server.url, "--key_variable=MY_KEY"))
  written = b"".join(contents(tmp_path / "out").values()).decode()
  output = capsys.readouterr()
  assert "top-secret" not in written + output.out + output.err + str(caught.value)


@pytest.mark.parametrize(
  ("flags", "words"),
  [
    (["--concurrency=0"], "--concurrency=0 is out of range; use 1 to 1024"),
    (["--timeout=nan"], "--timeout=nan is out of range"),
    (["--shard=3/2"], "--shard=3/2 is not I/N"),
    (["--endpoint=ftp://x"], "--endpoint=ftp://x is not an address"),
    (["--endpoint="], "--endpoint is missing"),
    (["--model="], "--engine=endpoint needs --model"),
    (["--parameters=5"], "--parameters=5 is not an object"),
    (["--parameters={"], "--parameters is not valid JSON"),
    (['--parameters={"stream": true}'], "--parameters must not contain stream"),
    (["--key_variable=NO_SUCH_VARIABLE"], "--key_variable=NO_SUCH_VARIABLE: this environment variable is not set"),
    (["--engine=nothing"], "--engine=nothing is unknown"),
    (["--out=az://bucket/out"], "--out=az://bucket/out is neither a local path nor gs://"),
    (["--split=no"], "has no split 'no'"),
    (["--tokenizer=no.json"], "cannot read the tokenizer"),
  ],
)
def test_bad_options_are_refused(data_dir, tmp_path, flags, words):
  with pytest.raises(UserError, match=words.replace("(", r"\(")):
    caption.main([*arguments(data_dir, tmp_path / "out", "http://127.0.0.1:9/v1"), *flags])
  assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
  ("source", "words"),
  [("./no/folder", "is no folder of videos"), ("no.jsonl", "no.jsonl"), ("no_corpus", "not a corpus")],
)
def test_unknown_sources_are_refused(tmp_path, source, words):
  with pytest.raises(UserError, match=words):
    caption.main([source, f"--out={tmp_path}/out", "--endpoint=http://127.0.0.1:9/v1", "--model=m"])


def test_a_key_with_a_line_end_is_not_shown(data_dir, tmp_path, monkeypatch):
  monkeypatch.setenv("MY_KEY", "top-\nsecret")
  with pytest.raises(UserError, match="MY_KEY has characters that no key has") as caught:
    caption.main(arguments(data_dir, tmp_path / "out", "http://127.0.0.1:9/v1", "--key_variable=MY_KEY"))
  assert "secret" not in str(caught.value)
  assert os.environ["MY_KEY"]
