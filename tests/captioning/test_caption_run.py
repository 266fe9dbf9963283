"""Runs over all clips: files, what resumes, and which clips have no caption."""

import json
import random

import pytest
from caption_endpoint import Clips, known_captions, picture

from clipvip_jax.captioning.caption_run import RunSettings, caption_clips
from clipvip_jax.captioning.engine import Answer
from clipvip_jax.input_pipeline.clip_tokenizer import ClipTokenizer
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.json_shards import Part

TOKENIZER = ClipTokenizer()


class Killed(BaseException):
  pass


class ScriptedEngine:
  """Answers in random order; `answers` replaces captions by picture; ends with `Killed` after `limit` answers."""

  def __init__(self, count, answers=None, limit=10**9, model="m", seed=0):
    self.captions = {**known_captions(count), **(answers or {})}
    self.limit, self.model, self.random = limit, model, random.Random(seed)
    self.checked = self.described = 0

  def describe(self):
    return {"engine": "scripted", "model": self.model, "prompt": "é?"}

  def check(self):
    self.checked += 1

  def run(self, frames, done):
    waiting = []
    for frame in frames:
      waiting.append(frame)
      if len(waiting) == 8:
        self.answer(waiting.pop(self.random.randrange(8)), done)
    self.random.shuffle(waiting)
    for frame in waiting:
      self.answer(frame, done)

  def answer(self, frame, done):
    if self.described == self.limit:
      raise Killed
    self.described += 1
    number, image = frame
    answer = self.captions[image]
    done(number, answer if isinstance(answer, Answer) else Answer(answer))


def run(out, clips, engine, **settings):
  settings = {"tokenizer": TOKENIZER, "text_length": 20, "clips_per_file": 4, **settings}
  return caption_clips(clips, engine, RunSettings(out=out, **settings))


def contents(folder):
  return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(".")}


def rows(folder):
  texts = [path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.jsonl"))]
  return [json.loads(line) for text in texts for line in text.split("\n")[1:-1]]


def test_captions_have_the_order_of_the_clips(tmp_path):
  summary = run(tmp_path, Clips(10), ScriptedEngine(10))
  assert rows(tmp_path) == [
    {"id": f"clip{i}", "split": "train", "caption": f"a square of colour {i}"} for i in range(10)
  ]
  assert str(summary) == "captions of 10 of 10 clips"
  header = json.loads((tmp_path / "captions-00000-of-00003.jsonl").read_text(encoding="utf-8").split("\n")[0])["header"]
  assert {"engine": "scripted", "model": "m", "prompt": "é?", "source": {"clips": 10}}.items() <= header.items()
  assert header["cleaning"]["text_length"] == 20 and header["version"]


def test_interrupted_runs_write_the_bytes_of_an_uninterrupted_one(tmp_path):
  run(tmp_path / "whole", Clips(50), ScriptedEngine(50))
  kills = 0
  for attempt in range(100):
    try:
      run(tmp_path / "killed", Clips(50), ScriptedEngine(50, limit=15, seed=attempt))
      break
    except Killed:
      kills += 1
  assert kills >= 4
  assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
  clips, engine = Clips(50), ScriptedEngine(50)
  run(tmp_path / "killed", clips, engine)
  assert not clips.read and not engine.checked  # complete: neither frames nor the engine are needed


def test_a_file_that_is_deleted_meanwhile_ends_the_run_with_an_error(tmp_path):
  class Deleting(ScriptedEngine):
    def run(self, frames, done):
      super().run(frames, done)
      next(tmp_path.glob("captions-00001-*")).unlink()

  with pytest.raises(UserError, match=r"captions-00001-of-00003\.jsonl was deleted by another program; run the same"):
    run(tmp_path, Clips(9), Deleting(9))
  run(tmp_path, Clips(9), ScriptedEngine(9))
  assert len(rows(tmp_path)) == 9


def test_parts_write_the_files_of_one_run(tmp_path):
  run(tmp_path / "one", Clips(23), ScriptedEngine(23))
  counts = [run(tmp_path / "parts", Clips(23), ScriptedEngine(23), part=Part(i, 3)).clips for i in (3, 1, 2)]
  assert sum(counts) == 23 and all(counts)
  assert contents(tmp_path / "parts") == contents(tmp_path / "one")


def test_clips_without_a_caption_are_counted_by_reason(tmp_path):
  answers = {
    picture(1): "I'm sorry, I can't.",
    picture(2): Answer(refusal=True),
    picture(3): Answer(failure="refused_image", detail="answered 400"),
    picture(4): " ",
    picture(5): "no no no no no no",
    picture(6): 'The image shows "a cat".',
  }
  with pytest.raises(UserError, match=r"captions of 2 of 8 clips; left out: .*more than 10.0% have none"):
    run(tmp_path, Clips(8, unreadable=[0]), ScriptedEngine(8, answers), max_skipped=0.1)
  written = contents(tmp_path)
  summary = run(tmp_path, Clips(8, unreadable=[0]), ScriptedEngine(8, answers), max_skipped=1)
  assert summary.left_out == {"empty": 1, "endless_repeats": 1, "refusal": 2, "refused_image": 1, "unreadable": 1}
  assert summary.changed == {"prefix": 1} and summary.captions == 2
  assert contents(tmp_path) == written
  saved = json.loads(written["summary.json"])
  assert (saved["captions"], saved["left_out"]["refusal"]) == (2, 2)
  assert rows(tmp_path)[6]["caption"] == '"a cat".' and rows(tmp_path)[6]["answer"] == 'The image shows "a cat".'
  assert rows(tmp_path)[1] == {
    "id": "clip1", "split": "train", "caption": "", "left_out": "refusal", "answer": "I'm sorry, I can't."
  }  # fmt: skip


def test_clips_without_an_answer_are_tried_again(tmp_path):
  run(tmp_path / "good", Clips(12), ScriptedEngine(12))
  failed = {picture(7): Answer(failure="failed"), picture(8): Answer(failure="refused_image", detail="answered 400")}
  run(tmp_path / "out", Clips(12, unreadable=[2]), ScriptedEngine(12, failed), max_skipped=0.5)
  assert [row["id"] for row in rows(tmp_path / "out") if not row["caption"]] == ["clip2", "clip7", "clip8"]
  clips = Clips(12)
  run(tmp_path / "out", clips, ScriptedEngine(12))
  assert clips.read == [2, 7, 8]
  assert contents(tmp_path / "out") == contents(tmp_path / "good")


def test_a_run_ends_when_nothing_is_answered(tmp_path):
  down = {picture(i): Answer(failure="failed", detail="http://host: HTTP 503") for i in range(60)}
  clips = Clips(200)
  with pytest.raises(UserError, match=r"no answer for 20 clips in succession, the last time: http://host: HTTP 503"):
    run(tmp_path, clips, ScriptedEngine(200, down))
  assert len(clips.read) < 40


def test_captions_of_other_clips_or_settings_are_refused(tmp_path):
  run(tmp_path, Clips(10), ScriptedEngine(10))
  with pytest.raises(UserError, match='was written with model="m", not "n"; pass another --out'):
    run(tmp_path, Clips(10), ScriptedEngine(10, model="n"))
  with pytest.raises(UserError, match="was written with cleaning="):
    run(tmp_path, Clips(10), ScriptedEngine(10), text_length=30)
  with pytest.raises(UserError, match="belongs to an output of 3 files, this one has 5"):
    run(tmp_path, Clips(20), ScriptedEngine(20))
  with pytest.raises(UserError, match="there are no clips"):
    run(tmp_path, Clips(0), ScriptedEngine(0))


def test_hostile_answers_stay_on_their_line(tmp_path):
  answers = {picture(0): 'a\n{"id": "x"}\u2028\x1b[31m\ud800 dog', picture(1): "é\u202e"}
  run(tmp_path, Clips(2), ScriptedEngine(2, answers))
  assert [row["id"] for row in rows(tmp_path)] == ["clip0", "clip1"]
  assert rows(tmp_path)[0]["caption"] == 'a {"id": "x"} [31m dog'
