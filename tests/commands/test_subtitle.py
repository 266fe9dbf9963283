"""The command from videos with sound to a manifest that a build takes."""

import json
import os
import signal
import subprocess
import sys

import corpora
import pytest
import speech

from clipvip_jax import subtitle
from clipvip_jax.data.video_manifest.video_manifest_dataset_builder import Builder
from clipvip_jax.utils.errors import UserError

PAUSES = (0.4, 0.8, 1.0, 0.7, 3.0)


def spoken(voice):
  """Returns (samples, {sentence: (start, end)})."""
  samples, spans = speech.place([voice(text) for text in speech.SENTENCES], PAUSES)
  return samples, dict(zip(speech.SENTENCES, spans, strict=True))


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
  """Two videos with the same sentences."""
  folder = tmp_path_factory.mktemp("videos")
  for name in ("a", "b"):
    speech.write_spoken_video(folder / f"{name}.mp4", spoken(speech.tone_burst)[0])
  return folder


def run(folder, out, *flags):
  """Returns the rows of the manifest."""
  subtitle.main([str(folder), f"--out={out}", *flags])
  return [json.loads(line) for line in out.read_text().splitlines()]


def check_spans(rows, spans):
  """Checks that each clip is some sentences, from the start of the first to the end of the last, to 0.1 s."""
  said = ""
  for row in rows:
    sentences = [text for text in speech.SENTENCES if text in row["subtitle"]]
    assert row["subtitle"] == " ".join(sentences)
    assert (row["start"], row["end"]) == pytest.approx((spans[sentences[0]][0], spans[sentences[-1]][1]), abs=0.1)
    said += row["subtitle"] + " "
  return said.strip()


@pytest.mark.parametrize("voice", ["tone", "espeak"])
def test_sound_becomes_clips_of_sentences_that_a_build_takes(tmp_path, voice):
  if voice == "espeak":
    pytest.importorskip("espeakng_loader")
  samples, spans = spoken(speech.tone_burst if voice == "tone" else speech.espeak)
  speech.write_spoken_video(tmp_path / "v.mp4", samples)
  with speech.SpeechServer(min_pause=0.5) as server:
    flags = [f"--endpoint={server.url}", "--model=whisper-1", "--min_seconds=2", "--max_seconds=6"]
    rows = run(tmp_path, tmp_path / "m.jsonl", *flags)
  said = check_spans(rows, spans)
  assert said == " ".join(speech.SENTENCES[:4])  # the last one is too short, and far from the others
  assert len(rows) >= 2 and all(2 <= row["end"] - row["start"] <= 6 for row in rows)
  ((fields, authorization),) = server.requests
  assert fields["model"] == ["whisper-1"] and authorization is None
  builder = corpora.build(Builder, "default", tmp_path / "corpora", tmp_path / "m.jsonl")
  records = corpora.read_back(builder, "train")
  assert [record["subtitle"] for record in records] == [row["subtitle"] for row in rows]
  assert [record["num_frames"] for record in records] == pytest.approx(
    [3 * (row["end"] - row["start"]) for row in rows], abs=1.01
  )


def time(seconds, mark):
  milliseconds = round(1000 * seconds)
  return f"00:00:{milliseconds // 1000:02}{mark}{milliseconds % 1000:03}"


@pytest.mark.parametrize("suffix", [".srt", ".vtt"])
def test_subtitle_files_become_clips(tmp_path, videos, suffix, caplog):
  caplog.set_level("INFO", "clipvip_jax")
  spans = spoken(speech.tone_burst)[1]
  mark = "," if suffix == ".srt" else "."
  cues = [f"{n}\n{time(a, mark)} --> {time(b, mark)}\n{text}\n" for n, (text, (a, b)) in enumerate(spans.items())]
  for name in ("a", "b"):
    (tmp_path / f"{name}.mp4").symlink_to(videos / f"{name}.mp4")
    (tmp_path / f"{name}{suffix}").write_text("\n".join(["WEBVTT\n" * (suffix == ".vtt"), *cues]))
  rows = run(tmp_path, tmp_path / "m.jsonl", "--min_seconds=0.5", "--max_seconds=6")
  assert [row["video"] for row in rows] == ["a.mp4"] * 5 + ["b.mp4"] * 5
  assert check_spans(rows[:5], spans) == " ".join(speech.SENTENCES)
  assert "ignored" not in caplog.text  # the files are read
  assert len(run(tmp_path, tmp_path / "m.jsonl", "--cut=none")) == 2  # from the same transcripts


def test_videos_without_subtitle_files_become_clips_of_which_some_are_held_out(tmp_path, videos):
  rows = run(videos, tmp_path / "m.jsonl", "--silent_seconds=4", "--validation=0.5")
  assert {row.get("split") for row in rows if row["video"].endswith("a.mp4")} != {
    row.get("split") for row in rows if row["video"].endswith("b.mp4")
  }
  assert {row.get("split") for row in rows} == {None, "validation"}
  assert all("subtitle" not in row and 2 <= row["end"] - row["start"] <= 6 for row in rows)


def test_two_shards_equal_one_and_faults_are_repeated(tmp_path, videos):
  listed = tmp_path / "list.txt"
  listed.write_text("".join(f"{videos}/{name}.mp4\n" for name in ("a", "b")))
  with speech.SpeechServer(fault=lambda number: ("", "garbage", "503")[number % 3]) as server:
    flags = [f"--endpoint={server.url}", "--model=m", "--key_variable=MY_KEY", "--min_seconds=0.5"]
    with pytest.MonkeyPatch.context() as patch:
      patch.setenv("MY_KEY", "top-secret")
      patch.setattr("clipvip_jax.captioning.pacing._FIRST_DELAY", 0.001)
      subtitle.main([str(listed), f"--out={tmp_path}/parts.jsonl", "--shard=2/2", *flags])
      subtitle.main([str(listed), f"--out={tmp_path}/parts.jsonl", "--shard=1/2", *flags])
      subtitle.main([str(listed), f"--out={tmp_path}/one.jsonl", *flags])
  assert (tmp_path / "parts.jsonl").read_bytes() == (tmp_path / "one.jsonl").read_bytes()
  assert {authorization for _, authorization in server.requests} == {"Bearer top-secret"}
  written = b"".join(path.read_bytes() for path in tmp_path.rglob("*.jsonl"))
  assert b"top-secret" not in written and b"whisper" not in written


@pytest.mark.parametrize(
  ("fault", "words"),
  [
    (
      "401",
      r"/v1 answered 401 \(no, Bearer \*\*\*\); the key is missing or wrong: set the environment variable MY_KEY",
    ),
    ("404", "/v1 answered 404"),
    ("text", "answered without times of segments"),
    ("413", r"2 of 2 videos were skipped, first .*a\.mp4: answered 413"),
    ("500", r"2 of 2 videos were skipped, first .*a\.mp4: http://.*HTTP 500"),
  ],
)
def test_faults_of_an_endpoint_take_one_line_without_the_key(tmp_path, videos, monkeypatch, caplog, fault, words):
  monkeypatch.setenv("MY_KEY", "top-secret")
  with speech.SpeechServer(fault=lambda number: fault) as server, pytest.raises(UserError, match=words) as caught:
    run(videos, tmp_path / "m.jsonl", f"--endpoint={server.url}", "--model=m", "--key_variable=MY_KEY", "--retries=0")
  assert "top-secret" not in str(caught.value) + caplog.text and "\n" not in str(caught.value)
  assert not (tmp_path / "m.jsonl").exists()


@pytest.mark.parametrize(
  ("flags", "words"),
  [
    (["--model=m"], "need an engine; set --endpoint=URL, or --engine=faster-whisper"),
    (["--engine=endpoint", "--model=m"], "--endpoint is missing"),
    (["--endpoint=http://localhost:1/v1"], "--engine=endpoint needs --model"),
    (["--endpoint=http://me:s3cr3t@host/v1", "--model=m"], "must not contain a password"),
    (["--endpoint=http://h/v1", "--model=m", "--key_variable=NOT_SET"], "this environment variable is not set"),
    (["--shard=3/2"], "is not I/N"),
    (["--min_seconds=9", "--max_seconds=3"], "the first at most the second"),
    (["--max_skipped=2"], "--max_skipped=2.0 is out of range"),
    (["--validation=-1"], "--validation=-1.0 is out of range"),
    (["--silent_seconds=-1"], "--silent_seconds=-1 must be 0, or at least"),
    (["--silent_seconds=5", "--validation=1"], "--validation=1 of 2 videos leaves none for training"),
    (["--engine=magic"], "invalid choice: 'magic'"),
    (["--out=m.txt"], "must end with .jsonl"),
    (["--out=az://bucket/m.jsonl"], "is neither a local path nor gs://"),
    ([], r"2 of 2 videos were skipped, first .*a.mp4: has no subtitle file.* keep those .* with --silent_seconds=10"),
  ],
)
def test_bad_options_are_refused(tmp_path, videos, flags, words):
  with pytest.raises(UserError, match=words) as caught:
    subtitle.main([str(videos), f"--out={tmp_path}/m.jsonl", *flags])
  assert "s3cr3t" not in str(caught.value)
  assert not (tmp_path / "m.jsonl").exists()


@pytest.mark.slow
def test_a_killed_command_resumes_byte_identically(tmp_path):
  """Killed at three moments: 40 videos in three files of transcripts."""
  folder = tmp_path / "videos"
  folder.mkdir()
  samples, _ = speech.place([speech.tone_burst(speech.SENTENCES[2])], [0.3])
  path = speech.write_spoken_video(tmp_path / "v.mkv", samples, codec="flac", silent_picture=False)
  for number in range(40):
    (folder / f"{number:02}.mkv").write_bytes(path.read_bytes())
  environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
  with speech.SpeechServer(texts=speech.SENTENCES[2:]) as server:
    command = [sys.executable, "-m", "clipvip_jax.subtitle", str(folder), f"--endpoint={server.url}", "--model=m"]
    command += ["--concurrency=2"]
    run(folder, tmp_path / "one.jsonl", *command[4:])
    for moment in (5, 20, 38):
      start = len(server.requests)
      child = subprocess.Popen([*command, f"--out={tmp_path}/m.jsonl"], env=environment, stdout=subprocess.DEVNULL)
      while child.poll() is None and len(server.requests) - start < moment:
        pass
      child.send_signal(signal.SIGKILL)
      child.wait()
    subprocess.run([*command, f"--out={tmp_path}/m.jsonl"], env=environment, check=True, stdout=subprocess.DEVNULL)
  assert (tmp_path / "m.jsonl").read_bytes() == (tmp_path / "one.jsonl").read_bytes()
  names = sorted(path.name for path in (tmp_path / "one.jsonl.transcripts").glob("*.jsonl"))
  assert len(names) == 3
  for name in names:
    assert (tmp_path / "m.jsonl.transcripts" / name).read_bytes() == (
      tmp_path / "one.jsonl.transcripts" / name
    ).read_bytes()
