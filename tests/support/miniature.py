"""A corpus of 19 random clips named as MSR-VTT, and a plain CLIP with a vocabulary for its texts."""

import json
import shutil

import numpy as np
import simplejpeg
import written_corpus
from project_paths import GOLDEN

from clipvip_jax.input_pipeline.word_tokenizer import WordTokenizer

COUNT = 19  # clips, not a multiple of a batch
COVERAGE = {"train": {"expected": 21, "found": COUNT}}


def queries(number):
  """Returns the texts of a clip; those of clips 0 and 1 are equal in part."""
  return [f"word{max(number, 1)} moves", f"word{number} stops"]


def _records(several_queries):
  rng = np.random.default_rng(0)
  for i in range(COUNT):
    frames = [simplejpeg.encode_jpeg(rng.integers(0, 256, (32, 32, 3), np.uint8)) for _ in range(3)]
    texts = queries(i)[: 1 + (several_queries and i % 2)]
    yield {
      "id": f"clip{i}",
      "frames": frames,
      "description": texts,
      "subtitle": texts[0],
      "caption": "seen" if i else "",
    }


def describe(frames, prompt):
  """Captions frames by their sizes, for `clipvip_jax.caption --engine=miniature:describe`."""
  return [f"{len(frame)} pixels high" for frame in frames]


def write_corpora(folder):
  """Writes msrvtt/9k, one query per clip, and msrvtt/full, several; both have a split "train" only."""
  for config in ("9k", "full"):
    metadata = {"coverage": COVERAGE, "pixels": "as drawn"}
    written_corpus.write(folder, _records(config == "full"), name="msrvtt", config=config, metadata=metadata)
  return folder


def write_clip(folder):
  """Writes a plain CLIP in HuggingFace's layout."""
  shutil.copy(GOLDEN / "clip_tiny.safetensors", folder / "model.safetensors")
  heads = {"num_attention_heads": 4}
  (folder / "config.json").write_text(json.dumps({"text_config": heads, "vision_config": heads}))
  WordTokenizer.train([text for i in range(COUNT) for text in queries(i)], 100).save(folder / "tokenizer.json")
  return folder
