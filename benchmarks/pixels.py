"""Features and retrieval with `data.pixels=uint8` against float32.

  python -m benchmarks.pixels [SOURCE... --dataset=NAME/CONFIG --data_dir=DIR] [--split=test_unseen]

For each SOURCE: a split of a corpus, embedded with both. Without SOURCE: B/32 with random weights, on clips of
`benchmarks.throughput`, in float32 and in bfloat16. Prints a Markdown table: cosine distances between the features of a
clip with both, their mean and largest; the mean distance between features of different clips, for comparison; and R@1
of text-to-video retrieval with both, in percent.
"""

import pathlib
import tempfile
from collections.abc import Iterator, Sequence

import jax
import numpy as np
from jaxtyping import Float

from benchmarks import throughput
from benchmarks.train_step import random_params
from clipvip_jax.configs import post_pretrain
from clipvip_jax.evaluation import targets
from clipvip_jax.evaluation.evaluator import measure_retrieval
from clipvip_jax.input_pipeline.batching import RecordKey
from clipvip_jax.input_pipeline.device_normalization import normalize
from clipvip_jax.input_pipeline.preprocessing import PIXELS
from clipvip_jax.input_pipeline.throughput import training_batcher
from clipvip_jax.models import clip_vip
from clipvip_jax.utils.cli import Parser, run_command

_CLIPS = 8  # of random weights

Features = Float[np.ndarray, "v e"]


def distances(first: Features, second: Features) -> list[float]:
  """Returns the mean and the largest cosine distance of rows, and the mean distance of different rows of `first`."""
  first, second = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (first.astype(np.float64), second))
  own = np.square(first - second).sum(axis=1) / 2  # without the cancellation of 1 - cosine
  others = (1 - first @ first.T)[~np.eye(len(first), dtype=bool)]
  return [own.mean(), own.max(), others.mean()]


def random_weights() -> Iterator[tuple[str, list[float]]]:
  """Yields the name of a row and the distances of random weights."""
  config = post_pretrain.get_config("b32").model.copy_and_resolve_references()
  params = random_params(clip_vip.parameter_shapes(config))
  with tempfile.TemporaryDirectory() as folder:
    throughput.write_corpus(pathlib.Path(folder), _CLIPS)
    corpus = throughput.open_corpus(folder)
    keys = [RecordKey(0, index) for index in range(_CLIPS)]
    videos = {pixels: training_batcher(corpus, "train", pixels=pixels).batch(keys)["video"] for pixels in PIXELS}
  for dtype in clip_vip.DTYPES:
    config.unlock()
    config.dtype = dtype
    net = clip_vip.from_config(config)
    embed = jax.jit(lambda video, net=net: net.apply({"params": params}, normalize(video), method="embed_video"))
    exact, rounded = (np.concatenate([embed(video[None]) for video in videos[pixels]]) for pixels in PIXELS)
    yield f"random B/32, {dtype}", distances(exact, rounded)


def trained_weights(source: str, dataset: str, data_dir: str, split: str) -> tuple[list[float], list[float]]:
  """Returns the distances of the clips of a split, and R@1 with float32 and with uint8."""
  embeddings = []
  for pixels in PIXELS:
    options = targets.EvaluationOptions(dataset, data_dir=data_dir, split=split, pixels=pixels, num_workers=0)
    embeddings.append(targets.from_model(source, options).splits[split]())
  recalls = [measure_retrieval(result).metrics["plain"]["text_to_video"]["R@1"] for result in embeddings]
  return distances(*(result.videos for result in embeddings)), recalls


def main(argv: Sequence[str] | None = None) -> None:
  """Prints the table."""
  parser = Parser(__doc__)
  parser.add_argument("sources", metavar="SOURCE", nargs="*")
  parser.add_argument("--dataset", default="moving_shapes/demo")
  parser.add_argument("--data_dir", default="")
  parser.add_argument("--split", default="test_unseen")
  options = parser.parse_args(argv)
  print("| weights | mean distance | largest | different clips | R@1, float32 | R@1, uint8 |")
  print("|---|---|---|---|---|---|")
  if not options.sources:
    for name, values in random_weights():
      print(f"| {name} | {' | '.join(f'{value:.1e}' for value in values)} | | |", flush=True)
  for source in options.sources:
    values, recalls = trained_weights(source, options.dataset, options.data_dir, options.split)
    cells = [f"{value:.1e}" for value in values] + [f"{100 * recall:.1f}" for recall in recalls]
    print(f"| {source} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
  run_command(main)
