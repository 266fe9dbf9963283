"""Language domain gap: how easily two sets of texts can be distinguished in the space of a text encoder.

K-means clusters equally many texts of both sets into two clusters. The gap is the normalised mutual information (NMI)
of cluster and set: 0 if the clusters are independent of the sets, 1 if they are the sets. See section 3.2 of the paper.

Letters: N, M texts, E embedding size.
"""

import dataclasses
import pathlib

import numpy as np
from jaxtyping import Float, Int
from ml_collections import ConfigDict

from clipvip_jax.data.engine.text_files import read_lines
from clipvip_jax.input_pipeline.open_corpus import open_corpus
from clipvip_jax.input_pipeline.record_text import record_texts
from clipvip_jax.utils import atomic_write
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.log import printable

MIN_TEXTS = 100  # per set: with fewer, chance alone gives a gap
_RESTARTS, _ITERATIONS = 10, 100  # of K-means


@dataclasses.dataclass(frozen=True)
class Gap:
  """The gap between two sets A and B.

  Attributes:
    nmi: 0 to 1.
    count: texts per set.
    clusters: 0 or 1, of the texts of A, then of B.
  """

  nmi: float
  count: int
  clusters: Int[np.ndarray, " n"]


def measure_gap(a: Float[np.ndarray, "n e"], b: Float[np.ndarray, "m e"], seed: int = 0) -> Gap:
  """Measures the gap between two sets of features, after drawing as many of the larger set as the smaller has.

  Raises:
    UserError: a set has fewer than MIN_TEXTS.
  """
  count = min(len(a), len(b))
  if count < MIN_TEXTS:
    raise UserError(f"one set has {count} texts; the gap needs at least {MIN_TEXTS} of each")
  rng = np.random.default_rng(seed)
  samples = [features[np.sort(rng.permutation(len(features))[:count])] for features in (a, b)]
  clusters = two_means(np.concatenate(samples), rng)
  return Gap(normalized_mutual_information(np.repeat([0, 1], count), clusters), count, clusters)


def measure_gap_of_halves(features: Float[np.ndarray, "n e"], seed: int = 0) -> Gap | None:
  """Measures the gap between two random halves of one set, which is what chance gives; None if it has too few texts."""
  if len(features) < 2 * MIN_TEXTS:
    return None
  order = np.random.default_rng(seed).permutation(len(features))
  middle = len(order) // 2
  return measure_gap(features[order[:middle]], features[order[middle:]], seed)


def two_means(features: Float[np.ndarray, "n e"], rng: np.random.Generator) -> Int[np.ndarray, " n"]:
  """Runs K-means with two clusters several times; returns the clusters of least squared distance to their centres."""
  from scipy.cluster.vq import kmeans2

  best, lowest_cost = np.zeros(len(features), int), np.inf
  points = np.asarray(features, np.float64)
  if (points == points[0]).all():  # K-means divides by their distance
    return best
  for _ in range(_RESTARTS):
    centres, clusters = kmeans2(points, 2, iter=_ITERATIONS, minit="++", missing="warn", rng=rng)
    cost = float(((points - centres[clusters]) ** 2).sum())
    if cost < lowest_cost:
      best, lowest_cost = clusters, cost
  return best


def normalized_mutual_information(a: Int[np.ndarray, " n"], b: Int[np.ndarray, " n"]) -> float:
  """Returns the mutual information of two labellings over the mean of their entropies; 0 if both are constant."""
  counts = np.zeros((a.max() + 1, b.max() + 1))
  np.add.at(counts, (a, b), 1)
  joint = counts / counts.sum()
  rows, columns = joint.sum(1), joint.sum(0)
  mean = (_entropy(rows) + _entropy(columns)) / 2
  return float(max(0.0, 2 * mean - _entropy(joint.ravel())) / mean) if mean > 0 else 0.0


def _entropy(probabilities: np.ndarray) -> float:
  probabilities = probabilities[probabilities > 0]
  return float(-(probabilities * np.log(probabilities)).sum())


def read_texts(name: str, data_dir: str = "") -> list[str]:
  """Reads a file with one text per line, or the texts of CORPUS[/CONFIG]:SPLIT:FIELD; empty lines are skipped.

  Raises:
    UserError: the file or corpus does not exist, is not text, or has fewer than MIN_TEXTS.
  """
  path = pathlib.Path(name)
  if name.count(":") == 2 and not path.exists():
    corpus_name, split, field = name.split(":")
    texts = _read_corpus_texts(corpus_name, split, field, data_dir)
  elif not path.exists():
    raise UserError(f"{name}: no such file; name a file with one text per line, or CORPUS/CONFIG:SPLIT:FIELD")
  else:
    texts = [line.strip() for line in read_lines(path) if line.strip()]
  if len(texts) < MIN_TEXTS:
    raise UserError(f"{name} has {len(texts)} texts; the gap needs at least {MIN_TEXTS} of each set")
  return texts


def _read_corpus_texts(corpus_name: str, split: str, field: str, data_dir: str) -> list[str]:
  name, _, config = corpus_name.partition("/")
  opened = open_corpus(ConfigDict({"name": name, "config": config, "data_dir": data_dir}), "")
  records = opened.records(split)
  opened.check_fields(split, (field,))
  return [text for index in range(len(records)) for text in record_texts(records[index], field)]


def plot_gap(
  path: pathlib.Path, a: Float[np.ndarray, "n e"], b: Float[np.ndarray, "m e"], names: tuple[str, str], gap: Gap
) -> None:
  """Plots both sets along the two directions of largest variance (PCA).

  Args:
    path: the picture to write.
    a: embeddings of the first set.
    b: embeddings of the second set.
    names: of the sets.
    gap: between them, for the title.

  Raises:
    UserError: the file cannot be written.
  """
  from matplotlib.figure import Figure

  both = np.concatenate([a, b])
  both = both - both.mean(0)
  points = both @ np.linalg.svd(both, full_matrices=False)[2][:2].T
  figure = Figure(figsize=(7, 6), layout="constrained")
  axes = figure.add_subplot()
  for set_points, name in ((points[: len(a)], names[0]), (points[len(a) :], names[1])):
    axes.scatter(set_points[:, 0], set_points[:, 1], s=6, alpha=0.5, label=printable(name))
  axes.set(xticks=[], yticks=[], title=f"NMI {gap.nmi:.3f} over {gap.count} texts of each")
  axes.legend()
  try:
    with atomic_write.output_path(path, "--plot") as temporary:
      figure.savefig(temporary, format=path.suffix.removeprefix(".") or "png")
  except ValueError as error:  # an unknown format
    raise UserError(f"--plot={path} cannot be written ({error}); name another file") from error
