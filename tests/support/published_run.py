"""A run with two checkpoints, a vocabulary and results, written without training."""

import json

import numpy as np
import tiny
from ml_collections import ConfigDict

from clipvip_jax.evaluation import retrieval
from clipvip_jax.input_pipeline.word_tokenizer import WordTokenizer
from clipvip_jax.models import clip_vip
from clipvip_jax.runs.checkpoint import Checkpoints
from clipvip_jax.runs.train_state import TrainState
from clipvip_jax.utils import config_tree

STEPS = (3, 6)  # the second is the best
CORPUS = "shapes | <b>`x`</b>\n---/smoke/1.0.0"  # from a file of someone else


def results(best_step=STEPS[1]):
  similarity = np.random.default_rng(0).normal(size=(16, 16)) + 2 * np.eye(16)
  metrics = {"size": 16, **retrieval.evaluate(similarity), "twins": {"accuracy": 0.75, "count": 16}}
  return {
    "splits": {"test": metrics},
    "step": 6,
    "best_step": best_step,
    "best_by": "plain text-to-video R@1 on validation",
    "corpus": {"name": CORPUS, "mix": {"web": {"name": "webvid/2m/1.0.0"}}},
    "evaluated": {"name": CORPUS},
    "initial_weights": {"source": "hf://openai/clip-vit-base-patch32@main", "sha256": "0" * 64},
    "versions": {"jax": "0.10.2"},
  }


def write_run(folder, **model):
  """Writes WORKDIR of a run with `tiny.config(**model)`; returns it."""
  config = ConfigDict(
    {
      "model": tiny.config(**model),
      "data": {
        "num_frames": 6,
        "text_length": 9,
        "tokenizer": "words",
        "crop": "squash",
        "data_dir": "/home/alice/corpora",
      },
      "train": {"batch_size": 16},
      "host": {"num_workers": 2},
      "init_from": "/home/alice/weights/start.pt",
      "loss": "vs",
      "seed": 7,
    }
  )
  folder.mkdir(parents=True)
  config_tree.write_json(folder / "config.json", config_tree.to_json_dict(config))
  WordTokenizer.train(["a red square moves up"], 100).save(folder / "tokenizer.json")
  checkpoints = Checkpoints(folder / "checkpoints", 2)
  for number, step in enumerate(STEPS):
    params = tiny.random_params(clip_vip.from_config(config.model), seed=number)
    checkpoints.save(TrainState(np.int32(step), params, {}), {"next_record": step})
    checkpoints.set_score(step, float(number))
  checkpoints.close()
  content = {**results(), "config": config_tree.to_json_dict(config)}
  (folder / "results.json").write_text(json.dumps(content))
  return folder
