"""HTML page of search results: each query with frames of its videos."""

import os
import pathlib
from collections.abc import Sequence

import simplejpeg

from clipvip_jax.inference.search import Hit, format_moment
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
  distinct = {_clip(hit): hit for query_hits in hits for hit in query_hits}
  frames = {
    _clip(hit): uris for hit, uris in read_media.map_in_threads(distinct.values(), _frame_uris, os.cpu_count() or 1)
  }
  results = [
    {"query": query, "hits": [{**describe(hit), "frames": frames[_clip(hit)]} for hit in query_hits]}
    for query, query_hits in zip(queries, hits, strict=True)
  ]
  pages.write_page(path, pages.render("search.html.jinja", results=results), "--html")


def describe(hit: Hit) -> dict[str, str]:
  """Returns the texts of a hit for a page: video, moment and score."""
  return {"video": printable(hit.video), "moment": format_moment(hit), "score": f"{hit.score:.3f}"}


def _clip(hit: Hit) -> tuple[str, float | None, float | None]:
  return hit.video, hit.start, hit.end


def _frame_uris(hit: Hit) -> list[str]:
  return [pages.jpeg_uri(jpeg) for jpeg in read_jpegs(hit, _NUM_FRAMES)]


def read_jpegs(hit: Hit, num_frames: int) -> list[bytes]:
  """Returns evenly spaced small frames without repetitions; none if the video cannot be read."""
  try:
    frames = read_media.read_frames(hit.video, num_frames, (hit.start, hit.end))
  except UserError:
    return []
  distinct = {id(frame): frame for frame in frames}  # a short video repeats frames
  small = (shrink_to_fit(frame, max_height=MAX_HEIGHT, max_width=MAX_WIDTH) for frame in distinct.values())
  return [simplejpeg.encode_jpeg(frame) for frame in small]
