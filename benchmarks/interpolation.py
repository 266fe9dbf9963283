"""Retrieval of videos and of still images by several weights, and by interpolations between the first two.

  python -m benchmarks.interpolation SOURCE... --data_dir=DIR [--alphas 0.25 0.5 0.75] [--split=test_unseen]

Videos: clips by their descriptions. Still images: middle frames by their captions, of the clips that have one. Prints
a Markdown table in percent. Parameters that one source lacks are taken from the other.
"""

import argparse
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from clipvip_jax.configs import post_pretrain
from clipvip_jax.evaluation import retrieval
from clipvip_jax.inference import embedding_model, load_model
from clipvip_jax.inference.interpolation import interpolate
from clipvip_jax.input_pipeline.corpus import Corpus
from clipvip_jax.input_pipeline.frame_sampling import middle_frame, uniform_frames
from clipvip_jax.input_pipeline.jpeg_decoder import decode_jpeg
from clipvip_jax.input_pipeline.open_corpus import open_corpus
from clipvip_jax.input_pipeline.record_text import record_texts
from clipvip_jax.weights.sources import Weights, read_weights


def recalls(weights: Weights, corpus: Corpus, split: str) -> list[float]:
  """Returns R@1 and R@5 of text-to-video retrieval, then of text-to-image retrieval."""
  records = list(corpus.records(split))
  clips = [[decode_jpeg(frame) for frame in record["frames"]] for record in records]
  model = load_model.from_weights(weights)
  num_frames = model.config.data.num_frames
  videos = [np.stack([clip[i] for i in uniform_frames(len(clip), num_frames)]) for clip in clips]
  results = _measure(model, videos, [record_texts(record, "description")[0] for record in records])
  captions = [next(iter(record_texts(record, "caption")), "") for record in records]
  stills = [clip[middle_frame(len(clip))][None] for clip in clips]
  captioned = [index for index, caption in enumerate(captions) if caption]
  model = load_model.from_weights(weights, num_frames=1)
  return results + _measure(model, [stills[i] for i in captioned], [captions[i] for i in captioned])


def _measure(
  model: embedding_model.EmbeddingModel, videos: Sequence[Float[np.ndarray, "t h w 3"]], texts: Sequence[str]
) -> list[float]:
  similarity = model.embed_texts(texts) @ model.embed_videos(videos).T
  metrics = retrieval.rank_metrics(retrieval.text_to_video_ranks(similarity))
  return [metrics["R@1"], metrics["R@5"]]


def main() -> None:
  """Prints the table."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("sources", metavar="SOURCE", nargs="+")
  parser.add_argument("--alphas", type=float, nargs="*", default=[])
  parser.add_argument("--data_dir", required=True)
  parser.add_argument("--split", default="test_unseen")
  options = parser.parse_args()
  section = post_pretrain.get_config("demo").data.copy_and_resolve_references()
  with section.unlocked():
    section.data_dir = options.data_dir
  corpus = open_corpus(section)
  read = [read_weights(source) for source in options.sources]
  rows = [*read, *(interpolate(*read[:2], alpha, keep_unshared=True) for alpha in options.alphas)]
  print("| weights | video R@1 | video R@5 | image R@1 | image R@5 |\n|---|---|---|---|---|")
  for weights in rows:
    values = recalls(weights, corpus, options.split)
    print(f"| {weights.source} | {' | '.join(f'{100 * value:.1f}' for value in values)} |", flush=True)


if __name__ == "__main__":
  main()
