"""Files that a reader of the documentation has: recipes, corpora as their owners give them, and videos of their own."""

import json

import corpora
import documented_commands
import written_corpus
from project_paths import ROOT

from clipvip_jax.data.moving_shapes.moving_shapes_dataset_builder import Builder as MovingShapes

SMALL_MSRVTT = """
from clipvip_jax.configs import msrvtt, post_pretrain

def get_config(arg=None):
  config, small = msrvtt.get_config(arg), post_pretrain.get_config("smoke")
  with config.unlocked():
    config.model = small.model
    config.data.update({"num_frames": 6, "text_length": 28, "tokenizer": "build/demo/tokenizer.json"})
    config.train.update({"batch_size": 8, "epochs": 0, "num_steps": 2, "eval_every": 2, "checkpoint_every": 2})
    config.evaluate.update({"batch_size": 8, "num_examples": 1})
    config.host.update({"num_workers": 0, "log_every": 1})
  return config
"""


def write(folder):
  """Writes all of them in small, under the names that the documentation has for them."""
  (folder / "configs").symlink_to(ROOT / "configs")
  (folder / "small_msrvtt.py").write_text(SMALL_MSRVTT)
  _write_corpora(folder)
  _write_manifest(folder)
  _write_ucf101(folder)
  _write_shards(folder)


def _write_corpora(folder):
  """Writes MSR-VTT in its owner's layout, and two corpora that are built."""
  raw = folder / "MSRVTT"
  for number in range(12):
    corpora.write_video(raw / "videos" / f"video{number}.mp4", count=12, fps=6, seed=number)
  rows = [
    {"clip_id": f"video{number}", "text": [f"square {20 * number + n}" for n in range(20)]} for number in range(12)
  ]
  corpora.write_lines(raw / "train9k.jsonl", rows[:8])
  corpora.write_lines(raw / "test1ka.jsonl", [{**row, "text": row["text"][0]} for row in rows[8:]])
  # More texts than the smoke corpus has: the language gap needs a hundred of each kind.
  texts = [{"subtitle": f"and now the {number}th", "description": [f"a square {number}"]} for number in range(128)]
  records = [{"id": str(number), "frames": [b""], **text} for number, text in enumerate(texts)]
  written_corpus.write(folder / "corpora", records, name="hdvila", config="default")
  version = str(MovingShapes.VERSION)
  written_corpus.write(folder / "texts", records, name="moving_shapes", config="smoke", version=version)


def _write_ucf101(folder):
  """Writes two classes of UCF101 in its owner's layout."""
  lists = folder / "ucfTrainTestlist"
  lists.mkdir()
  (lists / "classInd.txt").write_text("1 ApplyEyeMakeup\n2 ApplyLipstick\n")
  names = [f"{name}/v_{name}_g01_c0{number}.avi" for name in ("ApplyEyeMakeup", "ApplyLipstick") for number in (1, 2)]
  (lists / "testlist01.txt").write_text("\n".join(names))
  for number, name in enumerate(names):
    corpora.write_video((folder / "UCF-101" / name).with_suffix(".mp4"), seed=number)


def _write_manifest(folder):
  """Writes the example of docs/data.md and its videos, and lines for a batch of training clips."""
  _, _, others = documented_commands.read_page((ROOT / "docs" / "data.md").read_text(encoding="utf-8"))
  (example,) = (block for block in others if block[0].startswith('{"video"'))
  rows = [json.loads(line) for line in example]
  spoken = {"start": 0, "end": 2, "subtitle": "look, it jumps", "caption": "a cat on a table"}
  rows += [{**rows[0], **spoken, "video": f"cats/{number}.mp4"} for number in range(4, 12)]
  corpora.write_lines(folder / "mine.jsonl", rows)
  for row in rows:
    (folder / row["video"]).parent.mkdir(exist_ok=True)
    if row["video"].endswith(".webm"):
      corpora.encode(folder / row["video"], corpora.moving_frames(132), "libvpx", rate=6)
    else:
      corpora.write_video(folder / row["video"])
  (folder / "talks/7.srt").write_text("1\n00:00:01,000 --> 00:00:05,000\nSo what we do is this.\n")


def _write_shards(folder):
  """Writes tar files of a video with its texts."""
  video = corpora.write_video(folder / "clip.mp4").read_bytes()
  fields = {"transcript": "look, it jumps", "captions": {"middle": "a cat on a table"}}
  for name in ("train/000", "train/001", "val/000"):
    corpora.write_tar(folder / f"SHARDS/{name}.tar", {"1.mp4": video, "1.txt": "a cat", "1.json": fields})
