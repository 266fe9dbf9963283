"""docs/own_videos.md runs from top to bottom as it is, on small videos, and its search finds videos that were held out.

The videos are clips of the embedded corpus: most with a tone as speech, some with a subtitle file, some without sound.
What the page takes from elsewhere is on localhost: servers of speech and captions, which know the corpus' texts, and a
hub with a small CLIP. It has random weights, so that training from it needs a larger learning rate than from OpenAI's.
"""

import dataclasses
import http.client
import json
import os
import re
import shlex
import subprocess
import sys
import urllib.parse

import documented_commands
import hub_stub
import numpy as np
import pytest
import speech
import tiny
from caption_endpoint import CaptionEndpoint
from flax import traverse_util
from project_paths import ROOT
from safetensors.numpy import save

from clipvip_jax.captioning import frame_sources
from clipvip_jax.data.moving_shapes import render, scenes
from clipvip_jax.data.moving_shapes.plan import Plan
from clipvip_jax.inference import load_model, video_index
from clipvip_jax.inference.search import search_index
from clipvip_jax.models import clip_vip
from clipvip_jax.weights import export

COMMANDS = documented_commands.read_page((ROOT / "docs" / "own_videos.md").read_text(encoding="utf-8"))[0]
ENDPOINT = "http://localhost:8000/v1"
SMALL = (
  "--config.data.num_frames=6 --config.data.text_length=40 --config.model.dtype=float32 --config.host.num_workers=0"
)
SHORT = "--config.train.batch_size=32 --config.train.num_steps=200 --config.optimizer.learning_rate=2e-3"


@dataclasses.dataclass(frozen=True)
class Change:
  """What differs from the page in commands that match `pattern`, and why."""

  pattern: str
  why: str
  replaced: tuple[str, str] = ("", "")  # the second part names an attribute of `Walk`
  flags: str = ""


CHANGES = (
  Change(r"\S+ -m clipvip_jax.subtitle ", "a server on another port", (ENDPOINT, "speech_url")),
  Change(r"\S+ -m clipvip_jax.caption ", "a server on another port", (ENDPOINT, "captions_url")),
  Change(
    r"\S+ -m clipvip_jax.main ",
    "a model of 32 pixels and frames of 64, without CLIP's knowledge",
    flags=f"{SMALL} {SHORT}",
  ),
  Change(r"\S+ -m clipvip_jax.evaluate ", "no worker processes for a few clips", flags="--num_workers=0"),
  Change(r"\S+ -m clipvip_jax.search .*--serve", "any free port", flags="--port=0"),
)
LISTED = {r"pip install ": "downloads packages"}


class Walk:
  """A folder in which the page is followed, with the videos and servers that it needs."""

  def __init__(self, folder):
    self.folder, self.clips, self.frame_captions = folder, {}, {}
    self.speech_url = self.captions_url = ""

  def write_videos(self):
    """Writes 144 videos of 4 seconds: three of each of 48 stories."""
    sizes = {"validation": 2, "test": 2, "test_unseen": 2}
    clips = Plan(0, 12, 4, 2, 3, sizes, frames=16).split("train")
    (self.folder / "videos").mkdir()
    for number, clip in enumerate(clips):
      scene = scenes.stage(clip.appearance, clip.story, 16, np.random.default_rng(clip.key))
      path = self.folder / "videos" / f"{number:03}.mp4"
      self.clips[f"videos/{path.name}"] = clip
      times = np.arange(int(3.6 * speech.RATE)) / speech.RATE
      voice = 9000 * np.sin(2 * np.pi * (200 + 12 * number) * times)  # by which the server knows the video
      is_spoken = number % 3 < 2 and clip.subtitle
      samples = speech.place([voice.astype(np.int16)] if is_spoken else [], [0.2] * bool(is_spoken))[0]
      speech.write_spoken_video(path, samples, fps=4, frames=render.render(scene, 64))
      if number % 3 == 2 and clip.subtitle:
        path.with_suffix(".srt").write_text(f"1\n00:00:00,200 --> 00:00:03,800\n{clip.subtitle}\n")

  def hear(self, samples):
    """Returns what is said in a sound."""
    if not samples.any():
      return []
    pitch = np.abs(np.fft.rfft(samples)).argmax() * speech.RATE / len(samples)
    return [self.clips[f"videos/{round((pitch - 200) / 12):03}.mp4"].subtitle]

  def know_frames(self):
    """Prepares the captions of the middle frames; no answer for one held-out clip."""
    items = frame_sources.manifest_items("clips.jsonl")
    refused = next(item.id for item in items if item.split == "validation")
    for frame in frame_sources.VideoFrames(items).frames(range(len(items))):
      clip = self.clips[frame.name.partition("@")[0]]
      self.frame_captions[frame.jpeg] = "" if frame.name == refused else clip.caption or clip.description

  def judge(self):
    """Adds descriptions to half of the lines of judged.jsonl, as a reader does."""
    rows = [json.loads(line) for line in (self.folder / "judged.jsonl").read_text().splitlines()]
    for row in rows[::2]:
      row["text"] = self.clips[row["video"]].description
    (self.folder / "judged.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

  def run(self, command):
    """Runs a command of the page with its changes."""
    for change in CHANGES:
      if re.match(change.pattern, command):
        old, attribute = change.replaced
        command = command.replace(old, getattr(self, attribute)) if old else command
        command = f"{command} {change.flags}".strip()
    if "--serve" in command:
      self.served = self.search_page(shlex.split(command))
    elif command.startswith("grep "):
      *words, _, out = shlex.split(command)
      (self.folder / out).write_bytes(subprocess.run(words, check=True, cwd=self.folder, stdout=subprocess.PIPE).stdout)
      self.judge()
    else:
      documented_commands.run(shlex.split(command), self.folder)
    if command.startswith("python -m clipvip_jax.subtitle "):
      self.know_frames()

  def search_page(self, words):
    """Returns the answer of the page to the description of a held-out video, and a thumbnail."""
    video = self.held_out()[0]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    server = subprocess.Popen(
      [sys.executable, *words[1:]],
      cwd=self.folder,
      env=environment,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
    )
    address = next(match[1] for line in server.stdout if (match := re.search(r"open http://(\S+)/ in a browser", line)))
    connection, answers = http.client.HTTPConnection(address, timeout=60), []
    for path in (f"/?q={urllib.parse.quote(self.clips[video].description)}", "/frame?row=0"):
      connection.request("GET", path)
      answers.append(connection.getresponse().read())
    server.terminate()
    server.communicate()
    return answers

  def rows(self):
    return [json.loads(line) for line in (self.folder / "clips.jsonl").read_text().splitlines()]

  def held_out(self):
    return sorted({row["video"] for row in self.rows() if row.get("split") == "validation"})

  def results(self, name):
    return json.loads((self.folder / name / "results.json").read_text())["splits"]["validation"]


def write_clip():
  """Returns the files of a small CLIP with its own vocabulary, in HuggingFace's layout."""
  config = tiny.config(0, 0)
  config.text.update({"vocab_size": 49408, "positions": 77})
  params = traverse_util.flatten_dict(tiny.random_params(clip_vip.from_config(config)), sep="/")
  heads = {"num_attention_heads": 4}
  return {
    "model.safetensors": save(export.to_layout({k: np.asarray(v) for k, v in params.items()}, "clip", "test")),
    "config.json": json.dumps({"text_config": heads, "vision_config": heads}).encode(),
  }


def is_listed(command):
  return any(re.match(pattern, command) for pattern in LISTED)


def test_every_command_runs_or_is_listed_and_every_change_is_of_a_command():
  assert all(command.split()[0] in ("python", "grep") for command in COMMANDS if not is_listed(command))
  for change in CHANGES:
    assert any(re.match(change.pattern, command) and change.replaced[0] in command for command in COMMANDS)


@pytest.fixture(scope="module")
def walk(tmp_path_factory):
  """The page, followed to its end."""
  folder = tmp_path_factory.mktemp("own_videos")
  walk = Walk(folder)
  with pytest.MonkeyPatch.context() as patch:
    patch.chdir(folder)
    patch.setattr(sys, "argv", ["python"])
    walk.write_videos()
    with (
      hub_stub.serve(folder / "hub", patch) as hub,
      speech.SpeechServer(walk.hear) as ears,
      CaptionEndpoint(walk.frame_captions, model="Qwen/Qwen2.5-VL-7B-Instruct") as eyes,
    ):
      hub.create("openai/clip-vit-base-patch32", write_clip())
      for name, value in {"ENDPOINT": hub.url, "HUB_CACHE": folder / "hub/cache", "HUB_DISABLE_XET": "1"}.items():
        patch.setenv(f"HF_{name}", str(value))  # of processes
      walk.speech_url, walk.captions_url = ears.url, eyes.url
      for command in COMMANDS:
        if not is_listed(command):
          walk.run(command)
      yield walk


@pytest.mark.slow
def test_each_step_leaves_what_the_page_names(walk):
  text = (ROOT / "docs" / "own_videos.md").read_text(encoding="utf-8")
  names = set(re.findall(r"`([\w./]+\.(?:html|jsonl?|safetensors|tsv))`", text))
  assert {"clips.jsonl", "mine.html", "after/report.html", "skipped.tsv"} <= names
  found = {path.relative_to(walk.folder).as_posix() for path in walk.folder.rglob("*")}
  assert [name for name in names if not any(path == name or path.endswith(f"/{name}") for path in found)] == []


@pytest.mark.slow
def test_manifest_has_the_speech_of_all_videos_and_holds_out_a_tenth(walk):
  rows = walk.rows()
  assert [row["video"] for row in rows] == sorted(walk.clips)  # one clip each
  for row in rows:
    clip = walk.clips[row["video"]]
    assert row.get("subtitle", "") == clip.subtitle
    assert (row["start"], row["end"]) == pytest.approx((0.2, 3.8) if clip.subtitle else (0, 4), abs=0.1)
  assert len(walk.held_out()) == 14
  summary = json.loads((walk.folder / "captions" / "summary.json").read_text())
  assert (summary["clips"], summary["captions"], summary["left_out"]) == (144, 143, {"empty": 1})


@pytest.mark.slow
def test_post_pretraining_finds_held_out_clips_that_the_first_model_does_not(walk):
  for before, after, queries in (("before", "after", 13), ("judged_before", "judged_after", 7)):
    results = [walk.results(name) for name in (before, after)]
    assert [(result["size"], result["queries"]) for result in results] == [(14, queries)] * 2
    first, second = (result["plain"]["text_to_video"]["mean_rank"] for result in results)
    assert second < 0.75 * first
  assert walk.results("after_subtitles")["queries"] < 14


@pytest.mark.slow
def test_index_ranks_held_out_videos_among_the_first(walk):
  index = video_index.read_index(walk.folder / "mine.safetensors")
  assert len(index.videos) == 144
  model = load_model.load(str(walk.folder / "after"))
  held_out = walk.held_out()
  hits = search_index(model, index, [walk.clips[video].description for video in held_out], top=144)
  ranks = [
    next(r for r, hit in enumerate(found, 1) if hit.video.partition("@")[0].endswith(video))
    for found, video in zip(hits, held_out, strict=True)
  ]
  assert np.median(ranks) <= 36  # by chance 72


@pytest.mark.slow
def test_page_answers_a_query_with_videos(walk):
  page, thumbnail = walk.served
  assert page.count(b"videos/") == 10  # hits
  assert thumbnail.startswith(b"\xff\xd8")
