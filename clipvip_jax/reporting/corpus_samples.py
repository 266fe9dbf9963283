"""A page of a corpus' clips as training sees them."""

import pathlib
from typing import Any

import numpy as np

from clipvip_jax.input_pipeline.corpus import Corpus, text, texts
from clipvip_jax.input_pipeline.frame_sampling import jittered_frames, middle_frame
from clipvip_jax.reporting import pages
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.log import printable

_TEXT_FIELDS = ("subtitle", "caption", "description")
_LONGEST = 600  # characters of a text


def write_samples(path: pathlib.Path, corpus: Corpus, split: str, *, count: int, num_frames: int, seed: int) -> None:
  """Writes one self-contained page: frames as drawn in the first epoch, and the texts with their lengths.

  Args:
    path: the page.
    corpus: see `corpus.open_corpus`.
    split: of it.
    count: clips, evenly spread over the split.
    num_frames: T.
    seed: of the run.

  Raises:
    UserError: no such split, or the page cannot be written.
  """
  source = corpus.source(split)
  chosen = np.unique(np.linspace(0, len(source) - 1, count).astype(int)).tolist() if len(source) else []
  counts = sorted(
    corpus.metadata.get("coverage", {}).get(split, {}).items(), key=lambda count: count[0] not in ("expected", "found")
  )
  page = pages.render(
    "samples.html.jinja",
    corpus=corpus.name,
    split=split,
    pixels=corpus.metadata.get("pixels", "Pixels: not said"),
    coverage=", ".join(f"{value} {name.replace('_', ' ')}" for name, value in counts if value),
    epoch=0,
    samples=[_sample(_record(corpus, source, index), index, num_frames, seed) for index in chosen],
  )
  pages.write_page(path, page, "--html")


def _record(corpus: Corpus, source: Any, index: int) -> dict[str, Any]:
  try:
    return source[index]
  except (RuntimeError, ValueError) as error:  # a file that is gone or cut
    raise UserError(f"{corpus.name}: record {index} cannot be read ({error}); build the corpus again") from error


def _sample(record: dict[str, Any], index: int, num_frames: int, seed: int) -> dict[str, Any]:
  import simplejpeg

  frames = record["frames"]
  drawn = jittered_frames(len(frames), num_frames, np.random.default_rng((seed, 0, index)))
  height, width = simplejpeg.decode_jpeg_header(frames[0])[:2]
  return {
    "id": printable(text(record, "id")),
    "frames": [pages.jpeg_uri(frames[i]) for i in drawn],
    "middle": pages.jpeg_uri(frames[middle_frame(len(frames))]),
    "chosen": ", ".join(str(i) for i in drawn),
    "num_frames": len(frames),
    "size": f"{width} x {height}",
    "texts": [(name, value) for field in _TEXT_FIELDS for name, value in _rows(record, field)],
  }


def _rows(record: dict[str, Any], field: str) -> list[tuple[str, str]]:
  found = texts(record, field)
  if not found:
    return [(field, "(none)")]
  rows = [(field if len(found) == 1 else f"{field} {n}", words) for n, words in enumerate(found, 1)]
  return [
    (name, f"{words[:_LONGEST]}{'…' * (len(words) > _LONGEST)} (words: {len(words.split())})") for name, words in rows
  ]
