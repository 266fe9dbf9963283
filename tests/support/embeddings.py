"""Random embeddings of a split, and evaluation targets of them."""

import functools

import numpy as np

from clipvip_jax.evaluation.split_embeddings import SplitEmbeddings
from clipvip_jax.evaluation.targets import EvaluationTarget


def random_embeddings(seed=0, count=12, split="test", **changes):
  """`count` clips with one query each, which is near its clip."""
  rng = np.random.default_rng(seed)
  videos = rng.normal(size=(count, 8))
  queries = videos + rng.normal(size=videos.shape)
  videos, queries = ((x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32) for x in (videos, queries))
  fields = {
    "split": split,
    "videos": videos,
    "queries": queries,
    "ids": [f"clip{i}" for i in range(count)],
    "texts": [f"text {i}" for i in range(count)],
    "labels": list(range(count)),
    "twins": [-1] * count,
    "counts": {"expected": count, "missing": 0, "missing_captions": 0},
  }
  return SplitEmbeddings(**{**fields, **changes})


def target(seed=0, name=None, embeddings=None, **about):
  """A target of kept embeddings; `about` replaces its sections."""
  embeddings = embeddings or random_embeddings(seed)
  defaults = {
    "model": {"source": f"run{seed}", "identity": f"identity {seed}"},
    "corpus": {"name": "msrvtt/9k/1.0.0", "pixels": "as drawn"},
    "config": {"data": {"num_frames": 6, "data_dir": f"/disk{seed}"}, "host": {"num_workers": seed}},
    "run": {"seed": seed, "init_from": "", "optimizer": {"learning_rate": 0.002}, "data": {"data_dir": f"/disk{seed}"}},
  }
  sections = {key: value for key, value in {**defaults, **about}.items() if value is not None}
  splits = {embeddings.split: functools.partial(lambda value: value, embeddings)}
  return EvaluationTarget(name or f"run{seed}", sections, splits)
