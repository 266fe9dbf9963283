"""HTML page of search results: each query with frames of its videos."""

import os
import pathlib
from collections.abc import Sequence

import simplejpeg

from clipvip_jax.inference.search import Hit
from clipvip_jax.input_pipeline import read_media
from clipvip_jax.input_pipeline.image_files import shrink_to_fit
from clipvip_jax.reporting import pages
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.log import printable

_NUM_FRAMES = 6  # per video
MAX_WIDTH, MAX_HEIGHT = 160, 320  # of a frame, in pixels


def write_search_page(path: pathlib.Path, queries: Sequence[str], hits: Sequence[Sequence[Hit]]) -> None:
  """Writes one self-contained page; a video that can no longer be read is marked as such.

  Args:
    path: the HTML file.
    queries: one text per query.
    hits: of each query, best first.

  Raises:
    UserError: the page cannot be written.
  """
  videos = dict.fromkeys(hit.video for query_hits in hits for hit in query_hits)
  frames = dict(read_media.map_in_threads(videos, _frame_uris, os.cpu_count() or 1))
  results = [
    {
      "query": query,
      "hits": [
        {"video": printable(hit.video), "score": f"{hit.score:.3f}", "frames": frames[hit.video]} for hit in query_hits
      ],
    }
    for query, query_hits in zip(queries, hits, strict=True)
  ]
  pages.write_page(path, pages.render("search.html.jinja", results=results), "--html")


def _frame_uris(video: str) -> list[str]:
  """Returns frames as data: URIs, without repetitions; none if the video cannot be read."""
  try:
    frames = read_media.read_frames(video, _NUM_FRAMES)
  except UserError:
    return []
  distinct = {id(frame): frame for frame in frames}  # a video shorter than _NUM_FRAMES repeats frames
  small = (shrink_to_fit(frame, max_height=MAX_HEIGHT, max_width=MAX_WIDTH) for frame in distinct.values())
  return [pages.jpeg_uri(simplejpeg.encode_jpeg(frame)) for frame in small]
