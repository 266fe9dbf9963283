"""Searches an index of videos by text.

  python -m clipvip_jax.search --index=FILE.safetensors "a dog catches a frisbee" [MORE QUERIES] [--top=10] [--html=OUT.html]

The model is the one that made the index. Exit codes: 0 done; 2 bad input.
"""

import dataclasses
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import simplejpeg

from clipvip_jax.inference import video_index as index_file
from clipvip_jax.inference.video_index import VideoIndex
from clipvip_jax.input_pipeline import read_media
from clipvip_jax.reporting import pages
from clipvip_jax.utils.cli import Parser, run_command
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.log import log, printable

_STRIP, _WIDTH, _HEIGHT = 6, 160, 320  # on the page: frames of a video, and the most that they may measure in pixels


@dataclasses.dataclass(frozen=True)
class Hit:
  """A video and its cosine similarity to the query."""

  video: str
  score: float


def search(model: Any, index: VideoIndex, queries: Sequence[str], top: int) -> list[list[Hit]]:
  """The best videos of each query, best first; of equal ones the first in the index.

  Raises:
    UserError: the index was made with other weights, or `top` is below 1.
  """
  if model.identity != index.identity:
    raise UserError(
      f"the index was made with other weights or frames than {model.source!r} holds now: name its model with --model,"
      " or embed the videos again"
    )
  if top < 1:
    raise UserError(f"--top={top} must be at least 1")
  if index.features.shape[1] != model.config.model.embed_dim:
    raise UserError(
      f"the index holds features of {index.features.shape[1]} numbers, the model gives"
      f" {model.config.model.embed_dim}: embed the videos again"
    )
  scores = model.embed_texts(queries) @ index.features.T
  order = np.argsort(-scores, axis=1, kind="stable")[:, :top]
  return [[Hit(index.videos[i], float(row[i])) for i in best] for row, best in zip(scores, order, strict=True)]


def write_page(path: pathlib.Path, queries: Sequence[str], hits: Sequence[Sequence[Hit]]) -> None:
  """Writes one self-contained page: each query with frames of its videos. A video that is gone is shown as such.

  Raises:
    UserError: the page cannot be written.
  """
  videos = dict.fromkeys(hit.video for found in hits for hit in found)
  strips = dict(read_media.read_all(videos, _frames, os.cpu_count() or 1))
  results = [
    {
      "query": query,
      "hits": [
        {"video": printable(hit.video), "score": f"{hit.score:.3f}", "frames": strips[hit.video]} for hit in found
      ],
    }
    for query, found in zip(queries, hits, strict=True)
  ]
  pages.write_page(path, pages.render("search.html.jinja", results=results), "--html")


def _frames(video: str) -> list[str]:
  """A few frames as data: URIs; none where the video cannot be read any more."""
  try:
    frames = read_media.read_frames(video, _STRIP)
  except UserError:
    return []
  distinct = {id(frame): frame for frame in frames}  # a short video repeats its own
  jpegs = [simplejpeg.encode_jpeg(_small(frame)) for frame in distinct.values()]
  return [pages.jpeg_uri(jpeg) for jpeg in jpegs]


def _small(frame: np.ndarray) -> np.ndarray:
  """[H, W, 3] scaled down, never up, into the strip."""
  import cv2

  height, width = frame.shape[:2]
  scale = min(1, _WIDTH / width, _HEIGHT / height)
  size = max(1, round(width * scale)), max(1, round(height * scale))
  return cv2.resize(np.ascontiguousarray(frame), size, interpolation=cv2.INTER_AREA)


def table(query: str, hits: Sequence[Hit]) -> str:
  """The lines that a person reads."""
  lines = [f"{place:4d}  {hit.score:6.3f}  {printable(hit.video)}" for place, hit in enumerate(hits, 1)]
  return "\n".join([printable(query), *lines])


def main(argv: Sequence[str] | None = None) -> None:
  """Reads options, searches, prints."""
  parser = Parser(__doc__)
  parser.add_argument("queries", metavar="QUERY", nargs="+")
  parser.add_argument("--index", metavar="FILE.safetensors", required=True, type=pathlib.Path, help="what embed wrote")
  parser.add_argument("--model", metavar="SOURCE", help="where the index' model lies now, if elsewhere")
  parser.add_argument("--top", type=int, default=10, help="videos to show for each query (default 10)")
  parser.add_argument("--html", type=pathlib.Path, help="a page to write, with frames of the videos")
  options = parser.parse_args(argv)
  if not all(query.strip() for query in options.queries):
    raise UserError("a query is empty: name what to search for")
  if options.top < 1:
    raise UserError(f"--top={options.top} must be at least 1")
  if options.html and not options.html.resolve().parent.is_dir():
    raise UserError(f"--html={options.html}: its folder does not exist")
  index = index_file.read_index(options.index)
  import clipvip_jax  # late: a wrong option answers before JAX is there

  model = clipvip_jax.load(options.model or index.source)
  hits = search(model, index, options.queries, options.top)
  for query, found in zip(options.queries, hits, strict=True):
    print(table(query, found))
  if options.html:
    write_page(options.html, options.queries, hits)
    log.info("wrote %s", options.html)


if __name__ == "__main__":
  run_command(main)
