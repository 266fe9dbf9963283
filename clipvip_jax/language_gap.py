"""How easily two sources of text are told apart by what a text tower makes of them: the paper's language domain gap.

  python -m clipvip_jax.language_gap A B [--model=SOURCE] [--data_dir=DIR] [--plot=FILE.png]

A and B are files with a text a line, or fields of a corpus, as moving_shapes/demo:train:subtitle. Equally many texts of
both are embedded and parted into two clusters by K-means; the gap is the normalised mutual information of cluster and
source: 0 where the clusters know nothing of the source, 1 where they are the sources (section 3.2 of the paper).
Beside it stands the gap between two halves of each source, which is what chance gives. Exit codes: 0 done; 2 bad input.
"""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from clipvip_jax.input_pipeline.corpus import open_corpus, texts
from clipvip_jax.utils.cli import Parser, run_command
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.log import log, printable

LEAST = 100  # texts of a source: fewer give a gap by chance
_RESTARTS, _ROUNDS = 10, 100  # of K-means


@dataclasses.dataclass(frozen=True)
class Gap:
  """nmi: 0 to 1. count: texts of each source. clusters: of the texts of A, then of those of B."""

  nmi: float
  count: int
  clusters: Int[np.ndarray, " n"]


def measure(a: Float[np.ndarray, "n e"], b: Float[np.ndarray, "m e"], seed: int = 0) -> Gap:
  """The gap between two sources of features, as many of the larger one drawn as the smaller one has.

  Raises:
    UserError: fewer than LEAST of one.
  """
  count = min(len(a), len(b))
  if count < LEAST:
    raise UserError(f"a source has {count} texts; at least {LEAST} of each are needed to speak of a gap")
  rng = np.random.default_rng(seed)
  drawn = [features[np.sort(rng.permutation(len(features))[:count])] for features in (a, b)]
  clusters = two_means(np.concatenate(drawn), rng)
  return Gap(normalised_mutual_information(np.repeat([0, 1], count), clusters), count, clusters)


def two_means(features: Float[np.ndarray, "n e"], rng: np.random.Generator) -> Int[np.ndarray, " n"]:
  """The better of several runs of K-means with two clusters, by the squared distances to the centres."""
  from scipy.cluster.vq import kmeans2

  best, least = np.zeros(len(features), int), np.inf
  points = np.asarray(features, np.float64)
  for _ in range(_RESTARTS):
    centres, clusters = kmeans2(points, 2, iter=_ROUNDS, minit="++", missing="warn", rng=rng)
    cost = float(((points - centres[clusters]) ** 2).sum())
    if cost < least:
      best, least = clusters, cost
  return best


def normalised_mutual_information(a: Int[np.ndarray, " n"], b: Int[np.ndarray, " n"]) -> float:
  """Mutual information of two labellings, divided by the mean of their entropies; 0 where both are constant."""
  counts = np.zeros((a.max() + 1, b.max() + 1))
  np.add.at(counts, (a, b), 1)
  joint = counts / counts.sum()
  rows, columns = joint.sum(1), joint.sum(0)
  mean = (_entropy(rows) + _entropy(columns)) / 2
  return float(max(0.0, 2 * mean - _entropy(joint.ravel())) / mean) if mean > 0 else 0.0


def _entropy(shares: np.ndarray) -> float:
  shares = shares[shares > 0]
  return float(-(shares * np.log(shares)).sum())


def halves(features: Float[np.ndarray, "n e"], seed: int = 0) -> Gap | None:
  """The gap between two random halves of one source; None where it has too few texts for that."""
  if len(features) < 2 * LEAST:
    return None
  order = np.random.default_rng(seed).permutation(len(features))
  middle = len(order) // 2
  return measure(features[order[:middle]], features[order[middle:]], seed)


def read_source(name: str, data_dir: str = "") -> list[str]:
  """Texts of a file, one a line, or of CORPUS[/CONFIG]:SPLIT:FIELD; empty ones are passed over.

  Raises:
    UserError: it is not there, is no text, or has fewer than LEAST texts.
  """
  path = pathlib.Path(name)
  if name.count(":") == 2 and not path.exists():
    corpus, split, field = name.split(":")
    found = _of_corpus(corpus, split, field, data_dir)
  else:
    try:
      found = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
      raise UserError(
        f"{name}: neither a file of texts that can be read ({getattr(error, 'strerror', None) or error}) nor"
        " CORPUS/CONFIG:SPLIT:FIELD"
      ) from error
  if len(found) < LEAST:
    raise UserError(f"{name} has {len(found)} texts; at least {LEAST} are needed to speak of a gap")
  return found


def _of_corpus(corpus: str, split: str, field: str, data_dir: str) -> list[str]:
  from ml_collections import ConfigDict

  name, _, config = corpus.partition("/")
  opened = open_corpus(ConfigDict({"name": name, "config": config, "data_dir": data_dir}), "")
  source = opened.source(split)
  opened.check_fields(split, (field,))
  return [text for index in range(len(source)) for text in texts(source[index], field)]


def plot(path: pathlib.Path, a: np.ndarray, b: np.ndarray, names: tuple[str, str], gap: Gap) -> None:
  """Writes a picture of both sources along the two directions in which their features vary most.

  Raises:
    UserError: the file cannot be written.
  """
  from matplotlib.figure import Figure

  both = np.concatenate([a, b])
  both = both - both.mean(0)
  flat = both @ np.linalg.svd(both, full_matrices=False)[2][:2].T
  figure = Figure(figsize=(7, 6), layout="constrained")
  axes = figure.add_subplot()
  for points, name in ((flat[: len(a)], names[0]), (flat[len(a) :], names[1])):
    axes.scatter(points[:, 0], points[:, 1], s=6, alpha=0.5, label=printable(name))
  axes.set(xticks=[], yticks=[], title=f"NMI {gap.nmi:.3f} over {gap.count} texts of each")
  axes.legend()
  try:
    figure.savefig(path)
  except (OSError, ValueError) as error:
    raise UserError(f"--plot={path} cannot be written: {error}") from error


def main(argv: Sequence[str] | None = None) -> None:
  """Reads options, embeds, prints."""
  parser = Parser(__doc__)
  parser.add_argument("sources", metavar="SOURCE", nargs=2)
  parser.add_argument("--model", default="hf://openai/clip-vit-base-patch32", help="SOURCE of weights")
  parser.add_argument("--data_dir", default="", help="where corpora stand")
  parser.add_argument("--plot", type=pathlib.Path, help="a picture to write")
  parser.add_argument("--seed", type=int, default=0)
  options = parser.parse_args(argv)
  if options.seed < 0:
    raise UserError(f"--seed={options.seed} must be at least 0")
  found = [read_source(name, options.data_dir) for name in options.sources]
  import clipvip_jax  # late: a wrong option answers before JAX is there

  report(clipvip_jax.load(options.model), found, options)


def report(model: Any, found: Sequence[Sequence[str]], options: Any) -> None:
  """Prints the gap between the two lists of texts, and that between halves of each."""
  a, b = (model.embed_texts(list(source)) for source in found)
  gap = measure(a, b, options.seed)
  rows: list[tuple[str, Gap | None]] = [(f"{options.sources[0]} against {options.sources[1]}", gap)]
  rows += [(f"halves of {name}", halves(x, options.seed)) for name, x in zip(options.sources, (a, b), strict=True)]
  print(f"{'NMI':>6}{'texts':>8}  sources")
  for name, row in rows:
    if row is not None:
      print(f"{row.nmi:6.3f}{row.count:8d}  {printable(name)}")
  if options.plot:
    plot(options.plot, a, b, tuple(options.sources), gap)
    log.info("wrote %s", options.plot)


if __name__ == "__main__":
  run_command(main)
