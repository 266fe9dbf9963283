"""Transcripts of many videos: what resumes, what is tried again, and what parts share."""

import json

import corpora
import pytest
import speech

from clipvip_jax.transcription import transcripts
from clipvip_jax.transcription.audio import RATE
from clipvip_jax.transcription.segments import Speech
from clipvip_jax.transcription.transcripts import SubtitleFiles, Transcripts
from clipvip_jax.transcription.words import Word
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.json_shards import Part

SRT = "1\n00:00:00,000 --> 00:00:02,000\nA file.\n"


class Listener:
  """An engine that hears one word per burst, and returns results of `batch` parts in reverse order."""

  def __init__(self, batch=3, stop_after=None, failing=()):
    self.batch, self.stop_after, self.failing, self.heard = batch, stop_after, failing, []

  def describe(self):
    return {"engine": "listener", "model": "ears"}

  def check(self):
    pass

  def run(self, chunks, done):
    waiting = []
    for number, chunk in chunks:
      if self.stop_after is not None and len(self.heard) >= self.stop_after:
        raise UserError("stop")
      self.heard.append(number)
      spans = speech.hear(chunk.samples)
      failure = "HTTP 500" if len(chunk.samples) // RATE in self.failing else ""
      waiting.append((number, Speech(tuple(Word(a, b, f"w{i}.") for i, (a, b) in enumerate(spans)), 1, failure)))
      if len(waiting) == self.batch:
        while waiting:
          done(*waiting.pop())
    while waiting:
      done(*waiting.pop())


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
  """Twenty files of sound of 2 to 21 seconds with one burst each: two files of transcripts."""
  folder = tmp_path_factory.mktemp("videos")
  paths = []
  for number in range(20):
    samples, _ = speech.place([speech.tone_burst("ten letters")], [0.25 + number])
    paths.append(speech.write_spoken_video(folder / f"{number:02}.mkv", samples, codec="flac", silent_picture=False))
  return paths


def transcribe(videos, out, engine, part="1/1", files=None):
  transcripts = Transcripts(videos, out, files or SubtitleFiles(), engine)
  transcripts.write(Part.parse(part))
  return transcripts


def content(transcripts):
  return {path.name: path.read_bytes() for path in transcripts.folder.glob("*.jsonl")}


def test_words_are_those_of_the_videos(videos, tmp_path):
  transcripts = transcribe(videos, tmp_path / "a.jsonl", Listener())
  for number, transcript in enumerate(transcripts.read()):
    assert [word[:2] for word in transcript.words] == [pytest.approx((number + 0.25, number + 1.02), abs=0.02)]
    assert (transcript.skipped, transcript.imagined) == ("", 1)


def test_resumes_byte_identically_and_two_parts_equal_one(videos, tmp_path):
  complete = content(transcribe(videos, tmp_path / "a.jsonl", Listener()))
  for stop_after in (3, 17, 19):
    out = tmp_path / f"{stop_after}.jsonl"
    with pytest.raises(UserError, match="stop"):
      transcribe(videos, out, Listener(stop_after=stop_after))
    engine = Listener()
    resumed = transcribe(videos, out, engine)
    assert content(resumed) == complete
    assert len(engine.heard) == (4 if stop_after == 19 else 20)  # results of three parts come at once
  first = transcribe(videos, tmp_path / "parts.jsonl", Listener(), "1/2")
  assert first.read() is None
  assert content(transcribe(videos, tmp_path / "parts.jsonl", Listener(), "2/2")) == complete


def test_a_file_that_is_deleted_meanwhile_ends_the_run_with_an_error(videos, tmp_path):
  class Deleting(Listener):
    def run(self, chunks, done):
      super().run(chunks, done)
      next(tmp_path.rglob("transcripts-00000-*")).unlink()

  with pytest.raises(
    UserError, match=r"transcripts-00000-of-00002\.jsonl was deleted by another program; run the same"
  ):
    transcribe(videos, tmp_path / "m.jsonl", Deleting())


def test_skipped_videos_are_named_and_tried_again(videos, tmp_path):
  silent = corpora.write_video(tmp_path / "silent.mp4")
  mixed = [videos[0], silent, videos[4]]
  transcripts = transcribe(mixed, tmp_path / "a.jsonl", Listener(failing=(6,)))
  assert [t.skipped for t in transcripts.read()] == ["", "has no sound", "HTTP 500"]
  assert not transcripts.read()[2].words
  engine = Listener()
  assert [t.skipped for t in transcribe(mixed, tmp_path / "a.jsonl", engine).read()] == ["", "has no sound", ""]
  assert len(engine.heard) == 1


def test_an_outage_of_a_bucket_ends_the_run_and_skips_no_video(videos, tmp_path, monkeypatch):
  def fail(path):
    raise UserError("the bucket cannot be reached")

  monkeypatch.setattr(transcripts, "read_chunks", fail)
  with pytest.raises(UserError, match="the bucket cannot be reached"):
    transcribe(videos, tmp_path / "m.jsonl", Listener())
  monkeypatch.undo()
  assert not any(transcript.skipped for transcript in transcribe(videos, tmp_path / "m.jsonl", Listener()).read())


def test_subtitle_files_come_first(videos, tmp_path):
  folder = tmp_path / "videos"
  folder.mkdir()
  paths = [folder / f"{number}.mkv" for number in range(3)]
  for path in paths:
    path.symlink_to(videos[0])
  (folder / "0.srt").write_text(SRT)
  (folder / "1.srt").write_text("1\n00:00:00,000 --> x\n")
  files = transcribe(paths, tmp_path / "files.jsonl", None).read()
  assert [[word.text for word in t.words] for t in files] == [["A", "file."], [], []]
  assert "1.srt, line 2: expected HH:MM:SS.mmm" in files[1].skipped and files[2].skipped == "has no subtitle file"
  both = transcribe(paths, tmp_path / "both.jsonl", Listener()).read()
  assert [[word.text for word in t.words] for t in both] == [["A", "file."], [], ["w0."]]
  ignored = transcribe(paths, tmp_path / "ignored.jsonl", Listener(), files=SubtitleFiles(use=False)).read()
  assert [[word.text for word in t.words] for t in ignored] == [["w0."]] * 3


def test_the_header_has_what_determines_the_words(videos, tmp_path):
  transcripts = transcribe(videos[:1], tmp_path / "a.jsonl", Listener())
  header = json.loads(next(iter(content(transcripts).values())).split(b"\n")[0])["header"]
  assert (header["engine"], header["model"], header["subtitle_files"]) == ("listener", "ears", True)
  with pytest.raises(UserError, match=r"was written with videos=.*pass another --out"):
    transcribe(videos[1:2], tmp_path / "a.jsonl", Listener())
